package memory_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
)

var (
	addrA = netip.MustParseAddrPort("192.0.2.1:4500")
	addrB = netip.MustParseAddrPort("192.0.2.2:4500")
)

func TestConformance(t *testing.T) {
	planetest.Run(t, func(t *testing.T) *planetest.Pair {
		sw := memory.NewSwitch()
		a, b := memory.New(sw, addrA), memory.New(sw, addrB)
		t.Cleanup(func() { a.Close(); b.Close() })
		return &planetest.Pair{
			A: planetest.Side{Plane: a, Outer: addrA, Send: a.Send, Received: a.Packets()},
			B: planetest.Side{Plane: b, Outer: addrB, Send: b.Send, Received: b.Packets()},
			Replay: func() error {
				if !sw.Replay(addrB) {
					return errors.New("nothing to replay")
				}
				return nil
			},
			Rebind: func() (netip.AddrPort, error) {
				moved := netip.MustParseAddrPort("198.51.100.7:32001")
				sw.SetFilter(memory.NAT(addrA, moved))
				return moved, nil
			},
		}
	})
}

func TestFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := memory.New(sw, addrA), memory.New(sw, addrB)
		defer a.Close()
		defer b.Close()
		arrived := make(chan time.Duration, 8)
		start := time.Now()
		if _, err := b.Listen(func(dataplane.IKEDatagram) { arrived <- time.Since(start) }); err != nil {
			t.Fatal(err)
		}
		sender, err := a.Listen(func(dataplane.IKEDatagram) {})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []memory.Filter{
			memory.Perfect, memory.Lose, memory.Latency(30 * time.Millisecond),
			func(*memory.Datagram) []time.Duration { return []time.Duration{10 * time.Millisecond, time.Second} },
		} {
			sw.SetFilter(f)
			if err := sender.SendIKE(addrA, addrB, []byte("message")); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []time.Duration{0, 10 * time.Millisecond, 30 * time.Millisecond, time.Second} {
			if got := <-arrived; got != want {
				t.Errorf("a message arrived after %v, want %v", got, want)
			}
		}
	})
}

func TestFault(t *testing.T) {
	p := memory.New(memory.NewSwitch(), addrA)
	defer p.Close()
	broken := errors.New("no memory")
	p.SetFault(func(dataplane.Op) error { return broken })
	op := dataplane.RemovePolicy{Tunnel: "t", Child: "c"}
	if got := p.Apply([]dataplane.Op{op})[0]; !errors.Is(got, broken) {
		t.Errorf("Apply = %v, want %v", got, broken)
	}
	if len(p.Log()) != 0 {
		t.Error("an operation that failed is in the log")
	}
	p.SetFault(nil)
	if got := p.Apply([]dataplane.Op{op})[0]; got != nil {
		t.Errorf("Apply = %v", got)
	}
}
