package reconcile

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// lookUpInterval is how often domain names of peers are looked up again, and
	// lookUpRetry how soon those that have no address yet.
	lookUpInterval = time.Minute
	lookUpRetry    = 5 * time.Second
	lookUpTimeout  = 5 * time.Second
)

// hosts are the domain names of peers with their addresses. A name that cannot be looked
// up keeps the addresses that it had: a resolver that is away moves no tunnel.
type hosts struct {
	lookUp func(ctx context.Context, host string) ([]netip.Addr, error)
	log    *slog.Logger
	// wanted is sent to when there are other names, changed when there are other addresses.
	wanted, changed chan struct{}

	mu    sync.Mutex
	known map[string][]netip.Addr // by name; nil: not known yet

	said map[string]string // the last error of each name; of run alone
}

func newHosts(lookUp func(context.Context, string) ([]netip.Addr, error), log *slog.Logger) *hosts {
	if lookUp == nil {
		lookUp = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return &hosts{lookUp: lookUp, log: log, wanted: make(chan struct{}, 1), changed: make(chan struct{}, 1), known: map[string][]netip.Addr{}, said: map[string]string{}}
}

// of returns what is known of the names in an intent, and has those looked up that are new.
func (h *hosts) of(intent *swanherdv1.EdgeIntent) map[string][]netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, fresh := map[string][]netip.Addr{}, false
	for _, t := range intent.GetTunnels() {
		for _, e := range t.GetRemoteEndpoints() {
			if host := e.GetHost(); host != "" {
				addrs, ok := h.known[host]
				now[host], fresh = addrs, fresh || !ok
			}
		}
	}
	h.known = now
	if fresh {
		notify(h.wanted)
	}
	return maps.Clone(now)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run looks names up until ctx ends.
func (h *hosts) run(ctx context.Context) {
	again := time.NewTimer(lookUpInterval)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wanted:
		case <-again.C:
		}
		if h.lookUpAll(ctx) {
			again.Reset(lookUpInterval)
		} else {
			again.Reset(lookUpRetry)
		}
	}
}

// lookUpAll looks all names up, and says whether each has an address.
func (h *hosts) lookUpAll(ctx context.Context) (all bool) {
	h.mu.Lock()
	names := slices.Sorted(maps.Keys(h.known))
	h.mu.Unlock()
	all = true
	for _, name := range names {
		attempt, cancel := context.WithTimeout(ctx, lookUpTimeout)
		addrs, err := h.lookUp(attempt, name)
		cancel()
		h.tell(name, err)
		all = h.learn(name, addrs) && all
	}
	return all
}

// tell logs an error once, until there is another one or none.
func (h *hosts) tell(name string, err error) {
	if err == nil {
		delete(h.said, name)
		return
	}
	if h.said[name] != err.Error() {
		h.log.Warn("cannot look up where a peer is", "host", name, "error", err)
	}
	h.said[name] = err.Error()
}

// learn takes an answer in, and says whether the name has an address. The one in use stays
// the first as long as it is among the answers, in whatever order these come.
func (h *hosts) learn(name string, addrs []netip.Addr) bool {
	next := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		next = append(next, a.Unmap())
	}
	slices.SortFunc(next, netip.Addr.Compare)
	next = slices.Compact(next)
	h.mu.Lock()
	defer h.mu.Unlock()
	before, wanted := h.known[name]
	if !wanted || len(next) == 0 {
		return !wanted || len(before) > 0
	}
	if len(before) > 0 {
		if i := slices.Index(next, before[0]); i > 0 {
			next = append([]netip.Addr{before[0]}, slices.Delete(next, i, i+1)...)
		}
	}
	if !slices.Equal(before, next) {
		h.known[name] = next
		notify(h.changed)
	}
	return true
}
