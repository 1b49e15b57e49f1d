package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// TestResponderIsToldLater: a new pair is up soon although the responder hears of the
// tunnel after the initiator has begun, be it that it knows nobody yet, and is silent, or
// that it knows others, and refuses a stranger.
func TestResponderIsToldLater(t *testing.T) {
	for name, others := range map[string]bool{"knows nobody": false, "knows others": true} {
		for late, limit := range map[time.Duration]time.Duration{
			5 * time.Millisecond:   350 * time.Millisecond,
			50 * time.Millisecond:  400 * time.Millisecond,
			250 * time.Millisecond: 3 * time.Second, // by then it may have been refused several times
		} {
			t.Run(name+"/"+late.String(), func(t *testing.T) {
				for range 20 { // with other jitter
					synctest.Test(t, func(t *testing.T) {
						sw := memory.NewSwitch()
						sw.SetFilter(memory.Latency(changeLatency))
						a, b := startNode(t, sw, "a.example", addrA), startNode(t, sw, "b.example", addrB)
						var known []TunnelConfig
						changes := []Change{Added}
						if others {
							c := asPlanned(b.tunnelConfig("to-c", ike.RoleResponder, a, lan(2, 0), lan(3, 0)))
							c.Peer.ID = mustID(t, "c.example")
							known, changes = []TunnelConfig{c}, []Change{Unchanged, Added}
							b.apply(known, Added)
						}
						begun := time.Now()
						a.apply([]TunnelConfig{asPlanned(a.tunnelConfig("tunnel", ike.RoleEither, b, lan(1, 0), lan(2, 0)))}, Added)
						time.Sleep(late)
						b.apply(append(known, asPlanned(b.tunnelConfig("tunnel", ike.RoleResponder, a, lan(2, 0), lan(1, 0)))), changes...)
						a.waitState("tunnel", ike.StateUp, limit-time.Since(begun))
					})
				}
			})
		}
	}
}
