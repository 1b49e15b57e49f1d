package engine

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// benchTunnel describes tunnel n of one of two engines.
func benchTunnel(b testing.TB, side, n int) TunnelConfig {
	b.Helper()
	addrs := [2]netip.AddrPort{addrA, addrB}
	role := [2]ike.Role{ike.RoleInitiator, ike.RoleResponder}[side]
	id := func(side int) ident.ID {
		id, err := ident.ParseID(fmt.Sprintf("edge%d.side%d.example", n, side))
		if err != nil {
			b.Fatal(err)
		}
		return id
	}
	psk := ident.PSK("a pre-shared key for tests only")
	return TunnelConfig{
		Name: fmt.Sprintf("tunnel %d", n), Role: role, Local: addrs[side], Remote: addrs[1-side],
		Credentials: ident.Local{ID: id(side), PSK: psk}, Peer: ident.Remote{ID: id(1 - side), PSK: psk},
		Children: []ike.ChildConfig{{
			Name:     "lan",
			LocalTS:  []ts.Selector{ts.FromPrefix(lan(1+side, n%250))},
			RemoteTS: []ts.Selector{ts.FromPrefix(lan(2-side, n%250))},
		}},
	}
}

// wirePlane carries IKE to another plane and no packets: what is left is the
// cost of IKE.
type wirePlane struct {
	addr    netip.AddrPort
	events  chan dataplane.Event
	lastSPI atomic.Uint32
	deliver atomic.Pointer[func(dataplane.IKEDatagram)]
	peer    *wirePlane
}

func newWirePlanes(a, b netip.AddrPort) [2]*wirePlane {
	x, y := &wirePlane{addr: a}, &wirePlane{addr: b}
	for _, p := range []*wirePlane{x, y} {
		p.events = make(chan dataplane.Event)
		p.lastSPI.Store(255)
	}
	x.peer, y.peer = y, x
	return [2]*wirePlane{x, y}
}

func (p *wirePlane) Name() string                            { return "wire" }
func (p *wirePlane) AllocateSPI(uint32) (uint32, error)      { return p.lastSPI.Add(1), nil }
func (p *wirePlane) Apply(ops []dataplane.Op) []error        { return make([]error, len(ops)) }
func (p *wirePlane) Counters() []dataplane.Counters          { return nil }
func (p *wirePlane) Events() <-chan dataplane.Event          { return p.events }
func (p *wirePlane) Close() error                            { return nil }
func (p *wirePlane) SendKeepAlive(_, _ netip.AddrPort) error { return nil }

func (p *wirePlane) Listen(deliver func(dataplane.IKEDatagram)) (dataplane.IKESender, error) {
	p.deliver.Store(&deliver)
	return p, nil
}

func (p *wirePlane) SendIKE(_, _ netip.AddrPort, b []byte) error {
	if deliver := p.peer.deliver.Load(); deliver != nil {
		(*deliver)(dataplane.IKEDatagram{Local: p.peer.addr, Remote: p.addr, Data: b})
	}
	return nil
}

func (p *wirePlane) SendProbe(local, remote netip.AddrPort, b []byte) error {
	return p.SendIKE(local, remote, b)
}

func (p *wirePlane) PathMTU(netip.Addr) (int, error) { return 1500, nil }

func (p *wirePlane) LocalFor(netip.Addr) (netip.AddrPort, error) { return p.addr, nil }

// benchPair is two engines in one process on planes without packets, whose
// admission lets everybody in.
type benchPair struct {
	ctx     context.Context
	engines [2]*Engine
	events  *Subscription // of the responder's
	close   func()
}

func newBenchPair(b testing.TB) *benchPair {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	p := &benchPair{ctx: ctx}
	for side, plane := range newWirePlanes(addrA, addrB) {
		const unlimited = 1 << 20
		e, err := New(Config{Plane: plane, Limits: Limits{
			CookieThreshold: unlimited, InitPerSecond: unlimited, InitBurst: unlimited, HalfOpen: unlimited,
		}})
		if err != nil {
			b.Fatal(err)
		}
		p.engines[side] = e
		running.Go(func() { _ = e.Run(ctx) })
	}
	p.events = p.engines[1].Subscribe(1024)
	p.close = func() {
		cancel()
		running.Wait()
	}
	return p
}

// benchTunnels describes count tunnels from first on, of both engines.
func benchTunnels(b testing.TB, first, count int) (desired [2][]TunnelConfig) {
	b.Helper()
	for n := first; n < first+count; n++ {
		for side := range desired {
			desired[side] = append(desired[side], benchTunnel(b, side, n))
		}
	}
	return desired
}

// up brings up tunnels, beside none that were there before, and waits until the
// responder has all their Child SAs.
func (p *benchPair) up(b testing.TB, desired [2][]TunnelConfig) {
	b.Helper()
	p.engines[1].Apply(desired[1])
	p.engines[0].Apply(desired[0])
	for up := 0; up < len(desired[1]); {
		ev, err := p.events.Next(p.ctx)
		if err != nil {
			b.Fatal(err)
		}
		if _, ok := ev.What.(ike.ChildUp); ok {
			up++
		}
	}
}

// BenchmarkTunnelUp brings tunnels up between two engines in one process, from
// Apply to the Child SAs, sixteen at a time: the work of both sides. Those of
// the round before are closed meanwhile.
func BenchmarkTunnelUp(b *testing.B) {
	const atOnce = 16
	p := newBenchPair(b)
	defer p.close()
	tunnels := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		desired := benchTunnels(b, tunnels, atOnce)
		b.StartTimer()
		p.up(b, desired)
		tunnels += atOnce
	}
	b.ReportMetric(float64(tunnels)/b.Elapsed().Seconds(), "tunnels/s")
}

// BenchmarkFleetUp brings up many tunnels at once between two new engines, as
// after a hub's restart. The rate must not fall as their number grows.
func BenchmarkFleetUp(b *testing.B) {
	for _, count := range []int{400, 1500, 10000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			rounds := 0
			for b.Loop() {
				b.StopTimer()
				p, desired := newBenchPair(b), benchTunnels(b, 0, count)
				b.StartTimer()
				p.up(b, desired)
				b.StopTimer()
				p.close()
				b.StartTimer()
				rounds++
			}
			b.ReportMetric(float64(rounds*count)/b.Elapsed().Seconds(), "tunnels/s")
		})
	}
}

// BenchmarkEstablished holds many tunnels without traffic: the memory for each of an
// engine with its configuration (BenchmarkEstablished of package ike has that of
// the IKE layer alone), and the share of one processor that their timers and
// liveness checks take.
func BenchmarkEstablished(b *testing.B) {
	const count, idle = 10000, 40 * time.Second
	for b.Loop() {
		before := heapInUse()
		p := newBenchPair(b)
		p.up(b, benchTunnels(b, 0, count))
		b.ReportMetric(float64(heapInUse()-before)/(2*count), "B/tunnel")
		start := processorTime(b)
		time.Sleep(idle)
		// Both ends run here.
		b.ReportMetric(100*(processorTime(b)-start).Seconds()/2/idle.Seconds(), "%cpu")
		p.close()
	}
}

// maxEstablished is what an established tunnel may take of an engine, in octets, with
// its configuration.
const maxEstablished = 13 << 10

// TestEstablishedMemory measures what an established tunnel takes of an engine, the
// mean of both ends.
func TestEstablishedMemory(t *testing.T) { synctest.Test(t, testEstablishedMemory) }

func testEstablishedMemory(t *testing.T) {
	const few, many = 50, 450
	var taken [2]uint64
	for i, count := range []int{few, many} {
		before := heapInUse()
		p := newBenchPair(t)
		p.up(t, benchTunnels(t, 0, count))
		time.Sleep(2 * tombstoneTime) // all is done that the handshakes left to do
		synctest.Wait()
		taken[i] = heapInUse() - before
		p.close()
	}
	each := (taken[1] - taken[0]) / (2 * (many - few))
	t.Logf("%d octets", each)
	if each > maxEstablished {
		t.Errorf("an established tunnel takes %d octets, at most %d are allowed", each, maxEstablished)
	}
}

// heapInUse is how many octets are in use.
func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
