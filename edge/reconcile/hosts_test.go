package reconcile

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"log/slog"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// resolver answers as it is told.
type resolver struct {
	mu      sync.Mutex
	answers []netip.Addr
}

func (r *resolver) say(answers ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = nil
	for _, a := range answers {
		r.answers = append(r.answers, netip.MustParseAddr(a))
	}
}

func (r *resolver) lookUp(context.Context, string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answers == nil {
		return nil, errors.New("no such host")
	}
	return r.answers, nil
}

func toHost(host string) *swanherdv1.EdgeIntent {
	return &swanherdv1.EdgeIntent{Tunnels: []*swanherdv1.TunnelIntent{{RemoteEndpoints: []*swanherdv1.PeerEndpoint{{Host: host}}}}}
}

// A name is looked up soon and again, keeps what it had when it cannot be, and stays with
// the address in use in whatever order answers come.
func TestHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &resolver{}
		h := newHosts(r.lookUp, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go h.run(ctx)
		intent := toHost("vpn.example.com")
		has := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			var have []string
			for _, a := range h.of(intent)["vpn.example.com"] {
				have = append(have, a.String())
			}
			if !slices.Equal(have, want) {
				t.Errorf("%s: %v, want %v", when, have, want)
			}
		}
		has("before it is known")
		r.say("192.0.2.7", "192.0.2.3")
		time.Sleep(lookUpRetry)
		has("when it is known", "192.0.2.3", "192.0.2.7")
		select {
		case <-h.changed:
		default:
			t.Error("nobody is told of the address")
		}
		r.say("192.0.2.1", "192.0.2.3")
		time.Sleep(lookUpInterval)
		has("when there is another", "192.0.2.3", "192.0.2.1")
		r.mu.Lock()
		r.answers = nil
		r.mu.Unlock()
		time.Sleep(lookUpInterval)
		has("when the resolver is away", "192.0.2.3", "192.0.2.1")
		r.say("192.0.2.9")
		time.Sleep(lookUpInterval)
		has("when it moved", "192.0.2.9")
		cancel()
	})
}
