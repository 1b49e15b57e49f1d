package memory_test

import (
	"errors"
	"net/netip"
	"sync"
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
	for name, native := range map[string]bool{"in UDP": false, "native": true} {
		lacks := planetest.Lack(0)
		if native {
			lacks = planetest.Encapsulation
		}
		t.Run(name, func(t *testing.T) {
			planetest.RunWithout(t, lacks, func(t *testing.T) *planetest.Pair {
				sw := memory.NewSwitch()
				a, b := memory.New(sw, addrA), memory.New(sw, addrB)
				t.Cleanup(func() { a.Close(); b.Close() })
				wire := &wire{sw: sw}
				wire.record(memory.Perfect)
				return &planetest.Pair{
					A:      planetest.Side{Plane: a, Outer: addrA, Send: a.Send, Received: a.Packets()},
					B:      planetest.Side{Plane: b, Outer: addrB, Send: b.Send, Received: b.Packets()},
					Wire:   wire,
					Native: native,
					Rebind: func() (netip.AddrPort, error) {
						moved := netip.MustParseAddrPort("198.51.100.7:32001")
						wire.record(memory.NAT(addrA, moved))
						return moved, nil
					},
				}
			})
		})
	}
}

// wire is a switch that keeps what A sends to B.
type wire struct {
	sw   *memory.Switch
	mu   sync.Mutex
	sent []memory.Datagram
}

func (w *wire) record(then memory.Filter) {
	w.sw.SetFilter(func(d *memory.Datagram) []time.Duration {
		out := then(d)
		if d.IKE == nil && d.To.Addr() == addrB.Addr() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sent = append(w.sent, *d)
		}
		return out
	})
}

func (w *wire) Sent() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

func (w *wire) Deliver(n int) error {
	w.mu.Lock()
	d := w.sent[n]
	w.mu.Unlock()
	w.sw.Deliver(d)
	return nil
}

// Legible: what passes the switch is an IKE message, or was protected by an SA.
func (w *wire) Legible() (inClear, protected int) { return 0, 0 }

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
