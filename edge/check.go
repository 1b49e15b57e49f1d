package edge

import (
	"slices"
	"time"

	"github.com/swanherd/swanherd/edge/health"
	"github.com/swanherd/swanherd/edge/probe"
	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// An update that leaves the edge its controller may still cost it the peers that it cannot
// do without. While it is on trial the edge looks whether the critical tunnels that carried
// traffic before do so again, and cannot be told to keep it until they have.

const (
	// checkSettle is how long after an update tunnels are looked at first: the SAs of a
	// tunnel are there for a while after its path is cut. It is at most a quarter of the
	// time that the update is on trial.
	checkSettle = 3 * time.Second
	// checkInterval is how often they are looked at then.
	checkInterval = 500 * time.Millisecond
	// A path that answered has to answer again if in the time of the trial, and before
	// the trial, there is room for so many probes: one alone may be lost.
	checkProbes = 3
	// maxAwaited is how many tunnels are named to the controller.
	maxAwaited = 64
)

// carriers tells which tunnels carry traffic.
type carriers interface {
	// Established are the tunnels that have all their SAs.
	Established() map[string]bool
	// Answered is when the last probe of a tunnel that was answered was sent, zero if
	// none was, and how often one is; zero: it is not probed.
	Answered(tunnel string) (last time.Time, every time.Duration)
}

// agentCarriers are the agent's own.
type agentCarriers struct {
	*health.Tracker
	*probe.Service
}

// before are what critical tunnels carried before an update, which has to leave it as good as
// it was, by the name of the first of those that carry it then: of several paths to a peer one
// is enough.
type before map[string]carried

type carried struct {
	by       []string // the tunnels that are to carry it
	answered bool     // probes of one were
}

// connection is what all tunnels to the same peer in the same segment have in common: they
// carry the same. A gateway's has no other.
func connection(t *swanherdv1.TunnelIntent) string {
	if t.GetPeerEdge() == "" {
		return t.GetName()
	}
	return t.GetPeerEdge() + " " + t.GetSegment()
}

// lookBefore looks at the tunnels that an update wants to be critical. What an update still
// on trial awaits carried traffic before that one.
func (r *runner) lookBefore(i *state.Intent) before {
	running, confirmed, earlier := r.onTrial()
	intent := i.EdgeIntent()
	critical := map[string][]string{}
	for _, t := range intent.GetTunnels() {
		if t.GetCritical() {
			critical[connection(t)] = append(critical[connection(t)], t.GetName())
		}
	}
	if len(critical) == 0 || r.carriers == nil || revokesMore(intent.GetTrust(), confirmed) {
		return nil // that a revoked peer's tunnel goes down is what a revocation is for
	}
	until := map[string][]string{} // the tunnels of now
	if running != nil {
		for _, t := range running.EdgeIntent().GetTunnels() {
			until[connection(t)] = append(until[connection(t)], t.GetName())
		}
	}
	b, established := before{}, r.carriers.Established()
	for connection, by := range critical {
		slices.Sort(by)
		for _, name := range slices.Concat(by, until[connection]) {
			if was, awaited := earlier[name]; awaited {
				b[by[0]] = carried{by, was.answered}
				break
			}
			if established[name] {
				last, every := r.carriers.Answered(name)
				b[by[0]] = carried{by, b[by[0]].answered || every > 0 && time.Since(last) < checkProbes*every}
			}
		}
	}
	return b
}

// onTrial is what runs, the intent before the one on trial, or the same, and what a trial
// awaits.
func (r *runner) onTrial() (running, confirmed *state.Intent, awaited before) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trial != nil {
		awaited = before{}
		for _, tunnel := range r.trial.awaited {
			awaited[tunnel] = r.trial.before[tunnel]
		}
	}
	return r.running, r.confirmed, awaited
}

func revokesMore(trust *swanherdv1.TrustBundle, confirmed *state.Intent) bool {
	if confirmed == nil {
		return false
	}
	known := confirmed.EdgeIntent().GetTrust().GetRevokedSerials()
	return slices.ContainsFunc(trust.GetRevokedSerials(), func(serial string) bool { return !slices.Contains(known, serial) })
}

// carriesAgain says whether what a tunnel carried has been carried since the trial began, by it
// or by another.
func (t *trial) carriesAgain(tunnel string, established map[string]bool, c carriers) bool {
	was := t.before[tunnel]
	return slices.ContainsFunc(was.by, func(name string) bool {
		if !established[name] {
			return false
		}
		last, every := c.Answered(name)
		return !was.answered || every == 0 || checkProbes*every > t.within || last.After(t.began)
	})
}

// check looks at the tunnels that a trial awaits, and again until there are none. What has
// carried traffic once is not looked at again: what happens later the update did not do.
func (r *runner) check(t *trial) {
	established := r.carriers.Established()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trial != t {
		return
	}
	left := slices.DeleteFunc(slices.Clone(t.awaited), func(tunnel string) bool {
		return t.carriesAgain(tunnel, established, r.carriers)
	})
	changed := len(left) != len(t.awaited)
	t.awaited = left
	if len(left) > 0 {
		t.look.Reset(checkInterval)
	}
	if changed {
		r.tellChanged()
	}
}

// Awaited implements session.Intent.
func (r *runner) Awaited() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trial == nil {
		return nil
	}
	return r.trial.named()
}

// named are the tunnels that the trial awaits, as many as are named to the controller.
func (t *trial) named() []string { return slices.Clone(t.awaited[:min(len(t.awaited), maxAwaited)]) }
