package alert

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
)

// facts are what the machine knows of the fleet, indexed so that a change touches only
// what depends on it.
type facts struct {
	edges    map[string]*edgeFact
	tunnels  map[string]*swanherdv1.Tunnel
	groups   map[string]map[string]struct{} // of tunnels that are each other's alternatives
	sites    map[string]*siteFact
	networks map[string]*networkFact

	stored model.Table[*swanherdv1.Site]
	// ends are the first end of a certificate of each edge, and of each authority; in
	// order in expiries.
	ends     map[subject]pki.Expiry
	expiries []pki.Expiry
	asserted map[string]*swanherdv1.AssertionResult
	// unsigned are the replacements that external authorities do not sign, by authority.
	unsigned    map[string]*storev1.AuthorityRotation
	authorities model.Table[*storev1.CertificateAuthority]
	replicas    int
	// dirty is what has to be judged anew.
	dirty map[subject]struct{}
}

// subject is something that an alert can be about.
type subject struct {
	kind kind
	name string
}

type edgeFact struct {
	*swanherdv1.Edge
	unreachable bool
}

// met says whether the edge has ever been connected and is to be.
func (e *edgeFact) met() bool {
	return e != nil && !e.GetDisabled() && e.GetStatus().GetLastSeenTime() != nil
}

func (e *edgeFact) lost() bool { return e.met() && !e.GetStatus().GetConnected() && !e.unreachable }

type siteFact struct {
	labels         map[string]string
	exists         bool
	edges, tunnels map[string]struct{}
	up, down       int // of its tunnels
}

type networkFact struct{ met, lost int }

func newFacts() facts {
	return facts{
		edges:    map[string]*edgeFact{},
		tunnels:  map[string]*swanherdv1.Tunnel{},
		groups:   map[string]map[string]struct{}{},
		sites:    map[string]*siteFact{},
		networks: map[string]*networkFact{},
		ends:     map[subject]pki.Expiry{},
		unsigned: map[string]*storev1.AuthorityRotation{},
		dirty:    map[subject]struct{}{},
	}
}

func (f *facts) touch(k kind, name string) { f.dirty[subject{k, name}] = struct{}{} }

func (f *facts) site(name string) *siteFact {
	s := f.sites[name]
	if s == nil {
		s = &siteFact{edges: map[string]struct{}{}, tunnels: map[string]struct{}{}}
		f.sites[name] = s
	}
	return s
}

// takeSites notes which sites there are and their labels.
func (f *facts) takeSites(next model.Table[*swanherdv1.Site]) {
	for c := range model.Diff(f.stored, next) {
		s := f.site(c.Name)
		s.exists, s.labels = c.New != nil, nil
		if c.New != nil {
			s.labels = c.New.Value.GetLabels()
		}
		f.touch(ofSites, c.Name)
		for e := range s.edges {
			f.touch(ofEdges, e)
			f.touch(ofCertificates, e)
		}
		for t := range s.tunnels {
			f.touch(ofTunnels, t)
		}
		f.forget(c.Name)
	}
	f.stored = next
}

// forget drops a site that nothing is known of any more.
func (f *facts) forget(site string) {
	if s := f.sites[site]; s != nil && !s.exists && len(s.edges) == 0 && len(s.tunnels) == 0 {
		delete(f.sites, site)
	}
}

// takeFleet notes what changed in the fleet.
func (f *facts) takeFleet(c fleet.Changes) {
	if c.Reset {
		for name := range f.edges {
			f.setEdge(name, nil)
		}
		for name := range f.tunnels {
			f.setTunnel(name, nil)
		}
	}
	for _, name := range c.RemovedEdges {
		f.setEdge(name, nil)
	}
	for _, name := range c.RemovedTunnels {
		f.setTunnel(name, nil)
	}
	for _, e := range c.Edges {
		_, unreachable := c.Unreachable[e.GetName()]
		f.setEdge(e.GetName(), &edgeFact{e, unreachable})
	}
	for _, t := range c.Tunnels {
		f.setTunnel(t.GetName(), t)
	}
}

func (f *facts) setEdge(name string, next *edgeFact) {
	old := f.edges[name]
	f.countEdge(old, -1)
	f.countEdge(next, 1)
	if old != nil {
		delete(f.site(old.GetSite()).edges, name)
	}
	delete(f.edges, name)
	if next != nil {
		f.edges[name] = next
		f.site(next.GetSite()).edges[name] = struct{}{}
	}
	if old != nil {
		f.forget(old.GetSite())
	}
	f.touch(ofEdges, name)
	if old.met() != next.met() || old.lost() != next.lost() {
		f.touch(ofNetworks, networkOf(name))
	}
	if old == nil || next == nil || old.GetSite() != next.GetSite() {
		f.touch(ofCertificates, name)
	}
}

func (f *facts) countEdge(e *edgeFact, by int) {
	if !e.met() {
		return
	}
	n := f.networks[networkOf(e.GetName())]
	if n == nil {
		n = &networkFact{}
		f.networks[networkOf(e.GetName())] = n
	}
	n.met += by
	if e.lost() {
		n.lost += by
	}
}

func (f *facts) setTunnel(name string, next *swanherdv1.Tunnel) {
	old := f.tunnels[name]
	delete(f.tunnels, name)
	if next != nil {
		f.tunnels[name] = next
	}
	f.regroup(name, old.GetPath().GetGroup(), next.GetPath().GetGroup())
	if old != nil && next != nil && old.GetStatus() == next.GetStatus() && fleet.OverSLA(old) == fleet.OverSLA(next) && slices.Equal(sitesOf(old), sitesOf(next)) {
		return // its counters, or the reason
	}
	f.countTunnel(old, -1)
	f.countTunnel(next, 1)
	f.touch(ofTunnels, name)
}

// regroup has a tunnel be of another group; empty: of none.
func (f *facts) regroup(name, from, to string) {
	if from == to {
		return
	}
	if delete(f.groups[from], name); len(f.groups[from]) == 0 {
		delete(f.groups, from)
	}
	if to == "" {
		return
	}
	if f.groups[to] == nil {
		f.groups[to] = map[string]struct{}{}
	}
	f.groups[to][name] = struct{}{}
}

// alternatives says of a tunnel that is one of several how many of them are up; empty for the
// only one.
func (f *facts) alternatives(t *swanherdv1.Tunnel) string {
	if t.GetPath() == nil {
		return ""
	}
	up, all := 0, f.groups[t.GetPath().GetGroup()]
	for name := range all {
		if s := f.tunnels[name].GetStatus(); s == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP || s == swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED {
			up++
		}
	}
	return fmt.Sprintf("; %d of the %d tunnels that carry the same are up", up, len(all))
}

func (f *facts) countTunnel(t *swanherdv1.Tunnel, by int) {
	if t == nil {
		return
	}
	for _, name := range sitesOf(t) {
		s := f.site(name)
		switch t.GetStatus() {
		case swanherdv1.TunnelStatus_TUNNEL_STATUS_UP, swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED:
			s.up += by
		case swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN:
			s.down += by
		}
		if by > 0 {
			s.tunnels[t.GetName()] = struct{}{}
		} else {
			delete(s.tunnels, t.GetName())
			f.forget(name)
		}
		f.touch(ofSites, name)
	}
}

// sitesOf are the sites of a tunnel's ends.
func sitesOf(t *swanherdv1.Tunnel) []string {
	var out []string
	for _, site := range []string{t.GetA().GetSite(), t.GetB().GetSite()} {
		if site != "" && !slices.Contains(out, site) {
			out = append(out, site)
		}
	}
	return out
}

// takeExpiries notes when certificates end; of several of an edge the first end counts.
func (f *facts) takeExpiries(all []pki.Expiry) {
	for s := range f.ends {
		f.touch(s.kind, s.name)
	}
	clear(f.ends)
	f.expiries = all
	for _, e := range all {
		s := subject{ofCertificates, e.Resource}
		if e.What == "authority" {
			s.kind = ofAuthorities
		}
		if _, earlier := f.ends[s]; !earlier {
			f.ends[s] = e
		}
	}
}

// touchExpiring has everything judged that ends before the time.
func (f *facts) touchExpiring(before time.Time) {
	for _, e := range f.expiries {
		if e.Expires.After(before) {
			return
		}
		f.touch(ofCertificates, e.Resource)
		f.touch(ofAuthorities, e.Resource)
	}
}

// takeAssertions notes which assertions hold.
func (f *facts) takeAssertions(all []*swanherdv1.AssertionResult) {
	before := f.asserted
	f.asserted = make(map[string]*swanherdv1.AssertionResult, len(all))
	for _, r := range all {
		f.asserted[r.GetAssertion()] = r
		if old := before[r.GetAssertion()]; old.GetState() != r.GetState() || old.GetReason() != r.GetReason() {
			f.touch(ofAssertions, r.GetAssertion())
		}
	}
	for name := range before {
		if f.asserted[name] == nil {
			f.touch(ofAssertions, name)
		}
	}
}

// takeSignings notes which authorities wait in vain for an external one.
func (f *facts) takeSignings(next model.Table[*storev1.CertificateAuthority]) {
	for c := range model.Diff(f.authorities, next) {
		network, ok := strings.CutPrefix(c.Name, model.NetworkAuthorities)
		if !ok {
			continue
		}
		name := model.NetworkName{Network: network}.AuthorityResource()
		delete(f.unsigned, name)
		if c.New != nil && c.New.Value.GetRotation().GetSigningFailure() != nil {
			f.unsigned[name] = c.New.Value.GetRotation()
		}
		f.touch(ofSignings, name)
	}
	f.authorities = next
}

func judgeSigning(rotation *storev1.AuthorityRotation) answer {
	if rotation == nil {
		return answer{}
	}
	failure := rotation.GetSigningFailure()
	return answer{state: yes, since: failure.GetSinceTime().AsTime(), summary: clip(rotation.GetExternalAuthority() + " does not sign the new authority: " + failure.GetReason())}
}

func judgeAssertion(r *swanherdv1.AssertionResult) answer {
	switch {
	case r == nil:
		return answer{state: gone}
	case r.GetState() == swanherdv1.AssertionResult_STATE_HOLDS:
		return answer{}
	}
	return answer{state: yes, summary: clip(path.Base(r.GetAssertion()) + " does not hold: " + r.GetReason())}
}

// answer is what a condition comes to.
type answer struct {
	state   state
	since   time.Time // zero: since now
	summary string
}

type state int

const (
	no state = iota
	yes
	unknown
	gone // there is no such thing, or the rule is not about it
)

// judge says whether what the rule asks for is so of the subject.
func (f *facts) judge(r *rule, s subject, now time.Time) answer {
	if s.kind != ofController && !r.covers(networkOf(s.name)) {
		return answer{state: gone}
	}
	switch s.kind {
	case ofEdges:
		return f.judgeEdge(r, f.edges[s.name])
	case ofSites:
		return f.judgeSite(r, s.name)
	case ofTunnels:
		return f.judgeTunnel(r, f.tunnels[s.name])
	case ofNetworks:
		return f.judgeNetwork(r, s.name)
	case ofAssertions:
		return judgeAssertion(f.asserted[s.name])
	case ofSignings:
		return judgeSigning(f.unsigned[s.name])
	case ofCertificates, ofAuthorities:
		return f.judgeExpiry(r, s, now)
	case ofController:
		if f.replicas < int(r.GetMinReplicas()) {
			return answer{state: yes, summary: fmt.Sprintf("%d of %d replicas of the controller live", f.replicas, r.GetMinReplicas())}
		}
		return answer{}
	}
	return answer{state: gone}
}

func (f *facts) selected(r *rule, sites ...string) bool {
	return slices.ContainsFunc(sites, func(site string) bool {
		s := f.sites[site]
		return s != nil && r.selects(s.labels)
	})
}

func (f *facts) judgeEdge(r *rule, e *edgeFact) answer {
	if e == nil || e.GetDisabled() || !f.selected(r, e.GetSite()) {
		return answer{state: gone}
	}
	status, id := e.GetStatus(), path.Base(e.GetName())
	if r.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE {
		switch {
		case e.unreachable:
			return answer{state: unknown}
		case !e.lost():
			return answer{}
		}
		since := status.GetLastSeenTime().AsTime()
		return answer{state: yes, since: since, summary: id + " has no session with the controller"}
	}
	if !status.GetConnected() {
		return answer{state: unknown}
	}
	if r.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_CLOCK_WRONG {
		return judgeClock(id, status.GetClockOffset())
	}
	asked, moving := false, false
	switch status.GetIntentState() {
	case swanherdv1.IntentState_INTENT_STATE_UNSPECIFIED, swanherdv1.IntentState_INTENT_STATE_APPLIED, swanherdv1.IntentState_INTENT_STATE_CONFIRMED:
		return answer{}
	case swanherdv1.IntentState_INTENT_STATE_REJECTED:
		asked = r.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_REJECTED
	case swanherdv1.IntentState_INTENT_STATE_REVERTED:
		asked = r.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_REVERTED
	case swanherdv1.IntentState_INTENT_STATE_PENDING, swanherdv1.IntentState_INTENT_STATE_SENT, swanherdv1.IntentState_INTENT_STATE_RECEIVED:
		moving = true
	}
	word := strings.ToLower(strings.TrimPrefix(status.GetIntentState().String(), "INTENT_STATE_"))
	summary := clip(strings.TrimSuffix(fmt.Sprintf("%s does not run its newest intent, which is %s: %s", id, word, status.GetIntentError()), ": "))
	switch {
	case asked || r.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OUT_OF_SYNC:
		return answer{state: yes, summary: summary}
	case moving:
		return answer{state: unknown}
	}
	return answer{}
}

// clockWrong is how far a clock may be off: far less than what certificates, which are valid from
// five minutes before they are made, tolerate.
const clockWrong = 30 * time.Second

func judgeClock(id string, offset *durationpb.Duration) answer {
	off := offset.AsDuration().Round(time.Second)
	switch {
	case offset == nil:
		return answer{state: unknown}
	case off.Abs() < clockWrong:
		return answer{}
	case off < 0:
		return answer{state: yes, summary: fmt.Sprintf("the clock of %s is %s behind: set it, or have it set by NTP", id, off.Abs())}
	}
	return answer{state: yes, summary: fmt.Sprintf("the clock of %s is %s ahead: set it, or have it set by NTP", id, off)}
}

func (f *facts) judgeSite(r *rule, name string) answer {
	s := f.sites[name]
	switch {
	case s == nil || !s.exists || len(s.tunnels) == 0 || !r.selects(s.labels):
		return answer{state: gone}
	case s.up > 0:
		return answer{}
	case s.down == 0:
		return answer{state: unknown}
	}
	return answer{state: yes, summary: fmt.Sprintf("%s is isolated: none of its %d tunnels is up", path.Base(name), len(s.tunnels))}
}

func (f *facts) judgeTunnel(r *rule, t *swanherdv1.Tunnel) answer {
	if t == nil || !f.selected(r, sitesOf(t)...) {
		return answer{state: gone}
	}
	want, word := swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, "down"
	if r.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_DEGRADED {
		want, word = swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED, "degraded"
	}
	if r.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_TUNNEL_SLA_VIOLATED {
		return judgePath(t)
	}
	switch t.GetStatus() {
	case want:
		summary := strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", path.Base(t.GetName()), word, t.GetReason()), ": ")
		return answer{state: yes, since: t.GetStatusTime().AsTime(), summary: clip(summary + f.alternatives(t))}
	case swanherdv1.TunnelStatus_TUNNEL_STATUS_UP, swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED, swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN:
		return answer{}
	}
	return answer{state: unknown} // negotiating, as between two tries, or stale
}

// judgePath is about the path of a tunnel: of one that has no SAs nothing is known.
func judgePath(t *swanherdv1.Tunnel) answer {
	switch {
	case fleet.OverSLA(t):
		return answer{state: yes, since: t.GetStatusTime().AsTime(), summary: clip(fmt.Sprintf("the path of %s is not good enough: %s", path.Base(t.GetName()), t.GetReason()))}
	case t.GetStatus() == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP, t.GetStatus() == swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED:
		return answer{}
	}
	return answer{state: unknown}
}

func (f *facts) judgeNetwork(r *rule, name string) answer {
	n := f.networks[name]
	if n == nil || n.met == 0 {
		return answer{state: gone}
	}
	if n.lost < minMassLoss || n.lost*100 < int(r.minPercent())*n.met {
		return answer{}
	}
	return answer{state: yes, summary: fmt.Sprintf("%d of %d edges of %s have no session with the controller", n.lost, n.met, path.Base(name))}
}

func (f *facts) judgeExpiry(r *rule, s subject, now time.Time) answer {
	e, ok := f.ends[s]
	if !ok {
		return answer{state: gone}
	}
	if s.kind == ofCertificates {
		edge := f.edges[s.name]
		if edge == nil || !f.selected(r, edge.GetSite()) {
			return answer{state: gone}
		}
	}
	since := e.Expires.Add(-r.within())
	if e.What == "control" && r.within() >= pki.ControlLifetime || now.Before(since) {
		return answer{}
	}
	what := map[string]string{"control": "its certificate for the controller", "ike": "its IKE certificate", "authority": "the authority's certificate"}[e.What]
	verb := "ends"
	if now.After(e.Expires) {
		verb = "ended"
	}
	return answer{state: yes, since: since, summary: fmt.Sprintf("%s: %s %s on %s and was not renewed",
		path.Base(s.name), what, verb, e.Expires.UTC().Format(time.DateOnly))}
}

// clip bounds what an edge says in its own words.
func clip(s string) string {
	const most = 500
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
