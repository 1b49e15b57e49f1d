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
	a.listen(t)
	b.listen(t)
	for _, tt := range []struct {
		name                   string
		outerA, outerB, movedA netip.Addr
		workers                int
		native                 bool
	}{
		{"over IPv4", outerA, outerB, movedA, 1, false},
		{"over IPv6", outerA6, outerB6, movedA6, 1, false},
		{"over IPv4, native", outerA, outerB, movedA, 1, true},
		{"over IPv6, native", outerA6, outerB6, movedA6, 1, true},
		{"several workers", outerA, outerB, movedA, 16, false},
	} {
		if testing.Short() && tt.outerA.Is6() {
			continue // what differs is not what runs side by side
		}
		t.Run(tt.name, func(t *testing.T) {
			planetest.Run(t, func(t *testing.T) *planetest.Pair {
				p := &planetest.Pair{
					A: side(t, a, tt.outerA, tt.workers), B: side(t, b, tt.outerB, tt.workers),
					Wire: a.wire(t), Native: tt.native,
				}
				p.Rebind = func() (netip.AddrPort, error) {
					move := dataplane.UpdateEndpoints{
						Tunnel: p.A.Plane.Counters()[0].Tunnel, Local: netip.AddrPortFrom(tt.movedA, DefaultPort), Remote: p.B.Outer,
					}
					if tt.native {
						move.Local, move.Remote = netip.AddrPortFrom(tt.movedA, 0), netip.AddrPortFrom(tt.outerB, 0)
					}
					return move.Local, p.A.Plane.Apply([]dataplane.Op{move})[0]
				}
				return p
			})
		})
	}
}

// wire is what the planes of the suite have between them.
func (ns *namespace) wire(t *testing.T) (tap *planetest.Tap) {
	t.Helper()
	var err error
	ns.do(func() { tap, err = planetest.OpenTap("wire") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	return tap
}

// TestTapSeesClear: the suite finds nothing in clear because there is nothing.
func TestTapSeesClear(t *testing.T) {
	a, b := joined(t)
	tap := a.wire(t)
	b.listen(t)
	for i, to := range []netip.Addr{outerB, outerB6} {
		a.do(func() {
			c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 4321)))
			if err == nil {
				defer c.Close()
				_, err = c.Write([]byte("planetest in clear"))
			}
			if err != nil {
				t.Error(err)
			}
		})
		if err := eventually(func() bool { inClear, protected := tap.Legible(); return inClear == i+1 && protected == 0 }); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
	}
	if n := tap.Sent(); n != 0 {
		t.Errorf("%d packets in clear are taken for ESP", n)
	}
}

// listen has programs at the ports of the suite, lest the host say that there are none:
// what transport mode protects is for the host itself.
func (ns *namespace) listen(t *testing.T) {
	t.Helper()
	for _, port := range []int{1234, 4321} {
		ns.do(func() {
			c, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { c.Close() })
		})
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
			return eventually(func() bool { return p.handled() != before }) // less if an SA has gone
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
