package health

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/engine"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// lookInterval is how often the engine is looked at without an event.
	lookInterval = 2 * time.Second
	// Looking takes at most one part in restFactor of a processor, however fast events come.
	restFactor = 10
)

// Source is where the state of tunnels comes from.
type Source struct {
	// Status and Counters are the engine's and the data plane's.
	Status   func() []engine.TunnelStatus
	Counters func() []dataplane.Counters
	// Deferred are tunnels that the engine does not have yet, and why.
	Deferred func() map[string]error
	// Stranded are those that it has and whose uplink nothing can leave by now, and why.
	Stranded func() map[string]reconcile.Stranding
	// Quality is what probes show of a tunnel, nil for nothing, and Violations are the
	// limits of its SLA that it is over.
	Quality    func(tunnel string) *swanherdv1.PathQuality
	Violations func(tunnel string) []*swanherdv1.SlaViolation
	// Uses is what is sent by each tunnel that has alternatives.
	Uses func() map[string]*swanherdv1.PathUse
}

// Tracker knows the latest report of each tunnel and which of them are news.
type Tracker struct {
	source  Source
	changed chan struct{}
	poked   chan struct{}

	mu      sync.Mutex
	reports map[string]*swanherdv1.TunnelReport
	dirty   map[string]bool // to be reported: changed, or gone if not in reports
}

// New returns a Tracker; Run makes it follow.
func New(source Source) *Tracker {
	return &Tracker{
		source: source, changed: make(chan struct{}, 1), poked: make(chan struct{}, 1),
		reports: map[string]*swanherdv1.TunnelReport{}, dirty: map[string]bool{},
	}
}

// Run follows the engine's events until ctx ends.
func (t *Tracker) Run(ctx context.Context, events *engine.Subscription) {
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			if _, err := events.Next(ctx); err != nil {
				return
			}
			t.Poke()
		}
	})
	defer reader.Wait()
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		began := time.Now()
		t.Look(began)
		rest := time.NewTimer(restFactor * time.Since(began))
		select {
		case <-ctx.Done():
			rest.Stop()
			return
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-t.poked:
		case <-ticker.C:
		}
	}
}

// Poke has the Tracker look soon: what Deferred or Stranded say has changed. It does not block.
func (t *Tracker) Poke() { signal(t.poked) }

// Look compares what is with what was last known.
func (t *Tracker) Look(now time.Time) {
	next := map[string]*swanherdv1.TunnelReport{}
	uses := t.source.Uses()
	for _, s := range t.source.Status() {
		r := report(s)
		r.Use = uses[s.Name]
		r.SlaViolations = t.source.Violations(s.Name)
		next[s.Name] = r
	}
	for name, err := range t.source.Deferred() {
		if next[name] == nil {
			next[name] = &swanherdv1.TunnelReport{Tunnel: name}
			fail(next[name], codeDeferred, err)
		}
	}
	for name, s := range t.source.Stranded() {
		// Its SAs may still be there, until the peer is missed: nothing goes by them.
		if r := next[name]; r != nil && !carriesOn(r, s.But) {
			fail(r, codeStranded, s.Why)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, r := range next {
		old := t.reports[name]
		keepTimes(r, old, now)
		if !proto.Equal(r, old) {
			t.dirty[name] = true
		}
	}
	for name := range t.reports {
		if next[name] == nil {
			t.dirty[name] = true
		}
	}
	t.reports = next
	if len(t.dirty) > 0 {
		signal(t.changed)
	}
}

// carriesOn reports whether a tunnel is at one of the addresses.
func carriesOn(r *swanherdv1.TunnelReport, at []netip.Addr) bool {
	local, err := netip.ParseAddrPort(r.GetLocalEndpoint())
	return err == nil && slices.Contains(at, local.Addr())
}

// fail is for what the host makes of a tunnel.
func fail(r *swanherdv1.TunnelReport, code string, err error) {
	r.State = swanherdv1.TunnelState_TUNNEL_STATE_FAILED
	r.LastError = &swanherdv1.TunnelError{Code: code, Message: err.Error()}
}

// keepTimes carries the times of the state and of the error over from the report
// before, where they are still the same.
func keepTimes(r, old *swanherdv1.TunnelReport, now time.Time) {
	r.StateTime = timestamppb.New(now)
	if old != nil && old.GetState() == r.GetState() {
		r.StateTime = old.GetStateTime()
	}
	e, before := r.GetLastError(), old.GetLastError()
	if e == nil {
		return
	}
	e.Time = timestamppb.New(now)
	if e.GetCode() == before.GetCode() && e.GetMessage() == before.GetMessage() && e.GetRemote() == before.GetRemote() {
		e.Time = before.GetTime()
	}
}

// Changed is sent to when there are transitions.
func (t *Tracker) Changed() <-chan struct{} { return t.changed }

// Transitions returns the reports that changed and the names of tunnels that
// went since the last call of Transitions or Full.
func (t *Tracker) Transitions() (changed []*swanherdv1.TunnelReport, removed []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.dirty {
		if r := t.reports[name]; r != nil {
			changed = append(changed, r)
		} else {
			removed = append(removed, name)
		}
	}
	clear(t.dirty)
	slices.SortFunc(changed, byTunnel)
	slices.Sort(removed)
	return changed, removed
}

// Full returns every tunnel's report with its counters, by name.
func (t *Tracker) Full() []*swanherdv1.TunnelReport {
	t.mu.Lock()
	clear(t.dirty)
	t.mu.Unlock()
	return t.Reports()
}

// Reports is Full for others than the session: what is news stays news.
func (t *Tracker) Reports() []*swanherdv1.TunnelReport {
	sas := t.countersBySPI()
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*swanherdv1.TunnelReport
	for _, r := range t.reports {
		r = proto.Clone(r).(*swanherdv1.TunnelReport)
		for _, c := range r.GetChildSas() {
			c.Counters = sas.of(r.GetTunnel(), c)
		}
		r.Quality = t.source.Quality(r.GetTunnel())
		out = append(out, r)
	}
	slices.SortFunc(out, byTunnel)
	return out
}

// Established returns the tunnels that have all their SAs.
func (t *Tracker) Established() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]bool, len(t.reports))
	for name, r := range t.reports {
		out[name] = r.GetState() == swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED
	}
	return out
}

// Counters returns the counters of every Child SA.
func (t *Tracker) Counters() []*swanherdv1.TunnelCounters {
	var out []*swanherdv1.TunnelCounters
	for _, r := range t.Reports() {
		tc := &swanherdv1.TunnelCounters{Tunnel: r.GetTunnel(), Quality: r.GetQuality()}
		for _, c := range r.GetChildSas() {
			tc.Children = append(tc.Children, &swanherdv1.ChildCounters{SpiIn: c.GetSpiIn(), Counters: c.GetCounters()})
		}
		if len(tc.Children) > 0 {
			out = append(out, tc)
		}
	}
	return out
}

func byTunnel(a, b *swanherdv1.TunnelReport) int { return cmp.Compare(a.GetTunnel(), b.GetTunnel()) }

// saKey names an SA of the data plane. Outbound SPIs are the peers' choice, so
// only with the tunnel they are unique.
type saKey struct {
	tunnel, spi string
	direction   dataplane.Direction
}

type saCounters map[saKey]dataplane.Counters

func (t *Tracker) countersBySPI() saCounters {
	out := saCounters{}
	for _, c := range t.source.Counters() {
		out[saKey{c.Tunnel, spi(c.SPI), c.Direction}] = c
	}
	return out
}

func (m saCounters) of(tunnel string, c *swanherdv1.ChildSa) *swanherdv1.SaCounters {
	in := m[saKey{tunnel, c.GetSpiIn(), dataplane.Inbound}]
	out := m[saKey{tunnel, c.GetSpiOut(), dataplane.Outbound}]
	return &swanherdv1.SaCounters{
		PacketsIn: in.Packets, OctetsIn: in.Bytes, PacketsOut: out.Packets, OctetsOut: out.Bytes,
		ReplayDrops: in.ReplayDrops, IntegrityFailures: in.AuthFailures, PolicyDrops: in.SelectorDrops + out.SelectorDrops,
		Missing: in.Missing,
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
