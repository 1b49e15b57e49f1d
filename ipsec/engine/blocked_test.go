package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestBusyPeerIsNoFirewall: a peer that answers others by UDP, and some tunnels only after
// ten seconds, is busy. One that nobody hears from is tried by TCP.
func TestBusyPeerIsNoFirewall(t *testing.T) {
	const tunnels, late, busy = 20, 4, 10 * time.Second
	for name, tt := range map[string]struct {
		blocked bool
		dials   int32
	}{"busy": {false, 0}, "blocked": {true, tunnels}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sw := memory.NewSwitch()
				var dials atomic.Int32
				dial := func(context.Context, *net.Dialer, string) (net.Conn, error) {
					dials.Add(1)
					return nil, errors.New("no connection in this test")
				}
				a := startNode(t, sw, "a.example", addrA, func(c *Config) { c.Dial = dial })
				b := startNode(t, sw, "b.example", addrB)
				var atA, atB []TunnelConfig
				var added []Change
				for i := range tunnels {
					ca := a.tunnelConfig(fmt.Sprintf("t%d", i), ike.RoleInitiator, b, lan(1, i), lan(2, i))
					ca.TCP.Mode = ike.TCPFallback
					ca.Credentials.ID = mustID(t, fmt.Sprintf("a%d.example", i))
					cb := b.tunnelConfig(fmt.Sprintf("t%d", i), ike.RoleResponder, a, lan(2, i), lan(1, i))
					cb.Peer.ID = ca.Credentials.ID
					atA, atB, added = append(atA, ca), append(atB, cb), append(added, Added)
				}
				begun, ignored := time.Now(), map[wire.SPI]bool{}
				var mu sync.Mutex // both engines send
				sw.SetFilter(func(d *memory.Datagram) []time.Duration {
					mu.Lock()
					defer mu.Unlock()
					spi := wire.SPI(d.IKE[:8])
					if len(ignored) < late {
						ignored[spi] = true
					}
					if tt.blocked || ignored[spi] && time.Since(begun) < busy {
						return nil
					}
					return []time.Duration{30 * time.Millisecond}
				})
				b.apply(atB, added...)
				a.apply(atA, added...)
				if tt.blocked {
					within(t, busy, "all tunnels are tried by TCP", func() bool { return dials.Load() == tt.dials })
					return
				}
				for _, c := range atA {
					a.waitState(c.Name, ike.StateUp, time.Minute)
				}
				if time.Since(begun) < busy {
					t.Error("no tunnel had to wait")
				}
				if n := dials.Load(); n != tt.dials {
					t.Errorf("%d connections were tried, want %d", n, tt.dials)
				}
			})
		})
	}
}
