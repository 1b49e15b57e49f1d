package userspace

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
)

func TestConformance(t *testing.T) {
	a, b := joined(t)
	t.Run("over IPv4", func(t *testing.T) {
		planetest.Run(t, func(t *testing.T) *planetest.Pair {
			return &planetest.Pair{A: side(t, a, outerA), B: side(t, b, outerB)}
		})
	})
	t.Run("over IPv6", func(t *testing.T) {
		planetest.Run(t, func(t *testing.T) *planetest.Pair {
			return &planetest.Pair{A: side(t, a, outerA6), B: side(t, b, outerB6)}
		})
	})
}

// side is one plane with a host behind it.
func side(t *testing.T, ns *namespace, outer netip.Addr) planetest.Side {
	p := ns.plane(t, Config{})
	host := ns.tap(t, p.Interface())
	return planetest.Side{
		Plane: p, Outer: netip.AddrPortFrom(outer, DefaultPort), Received: host.packets,
		// The plane reads its interface when it can. The suite changes it
		// right after a packet, so Send waits until this one was handled.
		Send: func(b []byte) error {
			before := p.handled()
			if err := host.send(b); err != nil {
				return err
			}
			return eventually(func() bool { return p.handled() > before })
		},
	}
}

// handled counts the packets that the transmitter sent or dropped.
func (p *Plane) handled() uint64 {
	d := p.Drops()
	n := d.NoPolicy + d.NoSA + d.Expired + d.OutMalformed
	for _, c := range p.Counters() {
		if c.Direction == dataplane.Outbound {
			n += c.Packets
		}
	}
	return n
}

// eventually waits for a condition.
func eventually(ok func() bool) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return errors.New("the condition did not come about in time")
		}
	}
	return nil
}
