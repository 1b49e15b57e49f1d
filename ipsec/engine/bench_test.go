package engine

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// benchTunnel describes tunnel n of one of two engines.
func benchTunnel(b *testing.B, side, n int) TunnelConfig {
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

// BenchmarkTunnelUp brings tunnels up between two engines in one process, from
// Apply to the Child SAs, sixteen at a time: the work of both sides. Those of
// the round before are closed meanwhile.
func BenchmarkTunnelUp(b *testing.B) {
	const atOnce = 16
	sw := memory.NewSwitch()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var engines [2]*Engine
	for side, addr := range [2]netip.AddrPort{addrA, addrB} {
		plane := memory.New(sw, addr)
		defer plane.Close()
		const unlimited = 1 << 20
		e, err := New(Config{Plane: plane, Limits: Limits{CookieThreshold: unlimited, InitPerSecond: unlimited, InitBurst: unlimited}})
		if err != nil {
			b.Fatal(err)
		}
		engines[side] = e
		running.Go(func() { _ = e.Run(ctx) })
	}
	events := engines[1].Subscribe(1024)
	tunnels := 0
	b.ReportAllocs()
	for b.Loop() {
		var desired [2][]TunnelConfig
		for range atOnce {
			for side := range desired {
				desired[side] = append(desired[side], benchTunnel(b, side, tunnels))
			}
			tunnels++
		}
		engines[1].Apply(desired[1])
		engines[0].Apply(desired[0])
		for up := 0; up < atOnce; {
			ev, err := events.Next(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if _, ok := ev.What.(ike.ChildUp); ok {
				up++
			}
		}
	}
	b.ReportMetric(float64(tunnels)/b.Elapsed().Seconds(), "tunnels/s")
}
