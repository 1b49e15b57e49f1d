package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

// View is how a network is, as one replica sees it.
type View struct {
	Network model.NetworkName
	// Plan is what the edges are to run, made from the store as of Plan.Revision, in
	// which the rollout is as it is given to Step.
	Plan *plan.Plan
	// Began is the revision of the replica's first plan: how old what was in it is, the
	// replica does not know.
	Began int64
	// Known is since when the replica sees the fleet. What it did not see is held
	// against nobody.
	Known time.Time
	// Edges are what is known of each edge, nil: nothing. Sites are those of the edges.
	Edges func(edge string) *swanherdv1.EdgeStatus
	Sites func(edge string) string
	// Tunnels have a status when it is known.
	Tunnels map[string]swanherdv1.TunnelStatus
	// OverSLA are those whose path is over a limit of its SLA.
	OverSLA map[string]bool
}

// up says whether a tunnel carries traffic.
func (v *View) up(tunnel string) bool {
	s := v.Tunnels[tunnel]
	return s == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP || s == swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED
}

// edgeState is how far an edge is with what it is to run.
type edgeState int

const (
	edgePending edgeState = iota
	edgeConfirmed
	edgeRefused
	edgeReverted
	edgeOffline
)

// edge is how far an edge is with what it is to run since edges were admitted. Its own
// replica may not have told it yet; then what it says is about something else.
func (v *View) edge(name string, admissions []int64) edgeState {
	row, ok := v.Plan.Intents.Get(name)
	if !ok {
		return edgeConfirmed // it was deleted
	}
	s := v.Edges(name)
	// The last admission that may have changed what it is to run.
	since, _ := slices.BinarySearch(admissions, row.Revision)
	switch {
	case !s.GetConnected():
		return edgeOffline
	case since > 0 && row.Revision > v.Began && s.GetPlannedRevision() <= admissions[since-1]:
		return edgePending
	}
	switch s.GetIntentState() {
	case swanherdv1.IntentState_INTENT_STATE_CONFIRMED:
		return edgeConfirmed
	case swanherdv1.IntentState_INTENT_STATE_REJECTED:
		return edgeRefused
	case swanherdv1.IntentState_INTENT_STATE_REVERTED:
		return edgeReverted
	}
	return edgePending
}

// baseline notes in the rollout what is not well before a batch, so that it is not
// held against it.
func (v *View) baseline(r *storev1.Rollout, p *storev1.RolloutPlan) {
	r.Down, r.Offline, r.Violating = nil, nil, nil
	for row := range v.Plan.Tunnels.InNetwork(v.Network) {
		if v.OverSLA[row.Name] {
			r.Violating = append(r.Violating, last(row.Name))
		}
		if !v.up(row.Name) {
			r.Down = append(r.Down, last(row.Name))
		}
	}
	for _, id := range p.GetEdges() {
		if !v.Edges(v.edgeName(id)).GetConnected() {
			r.Offline = append(r.Offline, id)
		}
	}
}

// shrink takes out of the baseline what has become well: from then on it is asked for.
// It also mends a baseline that was made before the replica had heard of everything.
func (v *View) shrink(r *storev1.Rollout) {
	r.Down = slices.DeleteFunc(r.GetDown(), func(id string) bool {
		return v.up(model.TunnelName{Network: v.Network.Network, Tunnel: id}.String())
	})
	r.Violating = slices.DeleteFunc(r.GetViolating(), func(id string) bool {
		name := model.TunnelName{Network: v.Network.Network, Tunnel: id}.String()
		return v.Tunnels[name] == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP
	})
	r.Offline = slices.DeleteFunc(r.GetOffline(), func(id string) bool { return v.Edges(v.edgeName(id)).GetConnected() })
}

const (
	// comeBack is how long a replica that began to lead waits for edges to come back
	// before it takes them for offline, if they were seen within recently before.
	comeBack = 30 * time.Second
	recently = 10 * time.Minute
)

// gathering says whether edges may still be on their way to a new leader.
func (v *View) gathering(now time.Time, p *storev1.RolloutPlan) bool {
	return now.Sub(v.Known) < comeBack && slices.ContainsFunc(p.GetEdges(), func(id string) bool {
		s := v.Edges(v.edgeName(id))
		return !s.GetConnected() && v.Known.Sub(s.GetLastSeenTime().AsTime()) < recently
	})
}

func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

func (v *View) edgeName(id string) string {
	return model.EdgeName{Network: v.Network.Network, Edge: id}.String()
}

// health is what a view says of a rollout.
type health struct {
	// Admitted edges, by how far they are. Offline are those that were so before.
	confirmed, refused, reverted, offline []string
	// pending edges, and what part of the batch is through: of wanted ones.
	pending      []string
	done, wanted int
	// down are the tunnels that were up, or are new, and are not up.
	down []string
	// violating are the tunnels that were within their SLA, or are new, and are over it.
	violating []string
	// unsettled are the sites that have no tunnel, or an edge that is not through.
	unsettled map[string]bool
	// broken are the assertions that do not hold, with the reason.
	broken []string
}

// look finds how the edges that have the change are.
func (v *View) look(r *storev1.Rollout, p *storev1.RolloutPlan) *health {
	h := &health{unsettled: map[string]bool{}}
	first := uint32(0)
	if b := r.GetRollout().GetBatch(); b > 0 {
		first = p.GetBatchEnds()[b-1]
	}
	wasOffline := set(r.GetOffline())
	for i, id := range p.GetEdges()[:r.GetAdmitted()] {
		name, through := v.edgeName(id), false
		switch state := v.edge(name, r.GetAfterRevisions()); {
		case state == edgeConfirmed:
			h.confirmed, through = append(h.confirmed, id), true
		case state == edgeRefused:
			h.refused = append(h.refused, id)
		case state == edgeReverted:
			h.reverted = append(h.reverted, id)
		case state == edgeOffline && wasOffline[id]:
			h.offline = append(h.offline, id)
			continue
		default:
			h.pending = append(h.pending, id)
			h.unsettled[v.Sites(name)] = true
		}
		if uint32(i) >= first && !wasOffline[id] {
			h.wanted++
			if through {
				h.done++
			}
		}
	}
	v.lookAtTunnels(h, set(r.GetDown()), wasOffline)
	v.lookAtPaths(h, set(r.GetViolating()))
	h.broken = v.Broken(p.GetAssertions(), lastAdmitted(r, p))
	return h
}

// lookAtTunnels finds those that are down and were not, and the sites that have no
// other. Where an end was offline nothing is expected of a new one.
func (v *View) lookAtTunnels(h *health, wasDown, wasOffline map[string]bool) {
	lit, dark := map[string]bool{}, map[string]bool{}
	for row := range v.Plan.Tunnels.InNetwork(v.Network) {
		a, b := row.Value.GetA(), row.Value.GetB()
		if v.up(row.Name) {
			light(lit, a, b)
			continue
		}
		if !wasDown[last(row.Name)] && !wasOffline[last(a.GetEdge())] && !wasOffline[last(b.GetEdge())] {
			h.down = append(h.down, last(row.Name))
			light(dark, a, b)
		}
	}
	for s := range dark {
		if !lit[s] {
			h.unsettled[s] = true
		}
	}
}

// lookAtPaths finds the tunnels that are over their SLA and were not.
func (v *View) lookAtPaths(h *health, before map[string]bool) {
	for name := range v.OverSLA {
		if !before[last(name)] {
			h.violating = append(h.violating, last(name))
		}
	}
	slices.Sort(h.violating)
}

// light notes the sites of ends; a gateway is at none.
func light(sites map[string]bool, ends ...*swanherdv1.TunnelEnd) {
	for _, end := range ends {
		if end.GetSite() != "" {
			sites[end.GetSite()] = true
		}
	}
}

func set(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[n] = true
	}
	return out
}

func lastAdmitted(r *storev1.Rollout, p *storev1.RolloutPlan) bool {
	return int(r.GetAdmitted()) == len(p.GetEdges())
}

// maxWords bounds the lists of names in reasons and progress.
const maxWords = 100

// some are the first of names, in words.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// Progress is what the API shows of a rollout that goes on and was stored at a revision;
// nil while that is not planned here: what edges confirmed is then what they ran before.
func (v *View) Progress(revision int64, r *storev1.Rollout, p *storev1.RolloutPlan) *swanherdv1.Rollout_Progress {
	if v.Plan.Revision < revision {
		return nil
	}
	h := v.look(r, p)
	waiting := h.waiting(r.GetRollout().GetPolicy())
	return &swanherdv1.Rollout_Progress{
		Edges: uint32(len(p.GetEdges())), Admitted: r.GetAdmitted(), Confirmed: uint32(len(h.confirmed)), Refused: uint32(len(h.refused)),
		Reverted: uint32(len(h.reverted)), Offline: uint32(len(h.offline)), TunnelsDown: uint32(len(h.down)), SlaViolations: uint32(len(h.violating)),
		Waiting: waiting[:min(maxWords, len(waiting))],
	}
}

// refusal is why the change must not go on at once; empty: nothing.
func (h *health) refusal(policy *swanherdv1.RolloutPolicy) string {
	var reasons []string
	if len(h.refused) > int(policy.GetMaxNacks()) {
		reasons = append(reasons, fmt.Sprintf("%s refused the change", some(h.refused)))
	}
	if len(h.reverted) > int(policy.GetMaxReverts()) {
		reasons = append(reasons, fmt.Sprintf("%s took the change back", some(h.reverted)))
	}
	return strings.Join(reasons, "; ")
}

// waiting is what the admitted edges are not good for yet; nothing: they are.
func (h *health) waiting(policy *swanherdv1.RolloutPolicy) []string {
	var out []string
	tolerated := len(h.refused) + len(h.reverted)
	percent := int(policy.GetSuccessPercent())
	if percent == 0 {
		percent = 100
	}
	if need := (max(0, h.wanted-tolerated)*percent + 99) / 100; h.done < need {
		out = append(out, fmt.Sprintf("%d of %d edges confirmed, not yet %s", h.done, h.wanted, some(h.pending)))
	}
	if len(h.down) > int(policy.GetMaxTunnelsDown()) {
		slices.Sort(h.down)
		out = append(out, fmt.Sprintf("%d tunnels are not up: %s", len(h.down), some(h.down)))
	}
	if len(h.violating) > int(policy.GetMaxSlaViolations()) {
		out = append(out, fmt.Sprintf("%d tunnels are over their SLA: %s", len(h.violating), some(h.violating)))
	}
	return append(out, h.broken...)
}
