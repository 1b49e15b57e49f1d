package userspace

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
)

func TestConformance(t *testing.T) {
	a, b := joined(t)
	run := func(outerA, outerB, movedA netip.Addr, workers int) func(*testing.T) {
		return func(t *testing.T) {
			planetest.Run(t, func(t *testing.T) *planetest.Pair {
				p := &planetest.Pair{A: side(t, a, outerA, workers), B: side(t, b, outerB, workers)}
				p.Replay = replayer(t, a, b, p.B.Outer)
				p.Rebind = func() (netip.AddrPort, error) {
					moved := netip.AddrPortFrom(movedA, DefaultPort)
					tunnel := p.A.Plane.Counters()[0].Tunnel
					return moved, p.A.Plane.Apply([]dataplane.Op{
						dataplane.UpdateEndpoints{Tunnel: tunnel, Local: moved, Remote: p.B.Outer},
					})[0]
				}
				return p
			})
		}
	}
	t.Run("over IPv4", run(outerA, outerB, movedA, 1))
	t.Run("over IPv6", run(outerA6, outerB6, movedA6, 1))
	t.Run("several workers", run(outerA, outerB, movedA, 3))
}

// replayer records the ESP packets that reach port 4500 in namespace to. What
// it returns sends the last one there again, out of namespace from.
func replayer(t *testing.T, from, to *namespace, target netip.AddrPort) func() error {
	wire := to.tap(t, "wire")
	var conn *net.UDPConn
	var err error
	from.do(func() { conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return func() error {
		var last []byte
		late := time.After(patience) // the tap may be behind the planes
		for last == nil || len(wire.packets) > 0 {
			select {
			case b := <-wire.packets:
				if esp := espOf(b); esp != nil {
					last = esp
				}
				continue
			case <-late:
			}
			break
		}
		if last == nil {
			return errors.New("no ESP packet was recorded")
		}
		_, err := conn.Write(last)
		return err
	}
}

// espOf returns the ESP packet in an IP packet, nil if there is none.
func espOf(b []byte) []byte {
	var in inner
	if !in.parse(b) || in.protocol != protoUDP || in.dstPort != DefaultPort || in.length < in.transport+16 {
		return nil
	}
	payload := b[in.transport+8 : in.length]
	if binary.BigEndian.Uint32(payload) == 0 {
		return nil
	}
	return payload
}

// side is one plane with a host behind it.
func side(t *testing.T, ns *namespace, outer netip.Addr, workers int) planetest.Side {
	p := ns.plane(t, Config{Workers: workers})
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

// handled counts the packets that the transmitter sent, dropped or has wait.
func (p *Plane) handled() uint64 {
	d := p.Drops()
	n := d.NoPolicy + d.NoSA + d.Expired + d.OutMalformed + d.Unfit + d.Discarded + p.stats.waited.Load()
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
