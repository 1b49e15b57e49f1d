package alert

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
)

// maxFiring is how many alerts of one rule fire one by one in a network. When a network
// fails, ten thousand edges are one thing that happened: the rest is in one alert.
const maxFiring = 50

// Input is what a step looks at.
type Input struct {
	// Began is when this replica began to see the fleet: what was before is from another
	// life of it, and no time for which a condition held.
	Began time.Time
	// Fleet is what changed since the step before; all there is for the first one.
	Fleet fleet.Changes
	Rules model.Table[*swanherdv1.AlertRule]
	Sites model.Table[*swanherdv1.Site]
	// Expiries are when certificates end, in order; nil: as before.
	Expiries []pki.Expiry
	// Assertions say which of all hold; nil: as before.
	Assertions []*swanherdv1.AssertionResult
	// Authorities are the stored ones, of networks and of the controller.
	Authorities model.Table[*storev1.CertificateAuthority]
	// Replicas is how many replicas of the controller live.
	Replicas int
}

// Machine holds which conditions hold, and since when. Its zero value is not usable,
// see NewMachine.
type Machine struct {
	facts
	table  model.Table[*swanherdv1.AlertRule]
	rules  map[string]*rule
	byKind map[kind][]*rule
	active map[key]*instance
}

type key struct{ rule, resource string }

// instance is a rule whose condition holds of a resource, or did a short while ago.
type instance struct {
	alert *swanherdv1.Alert
	kind  kind // of the resource
	state state
	// clear is since when the condition does not hold; zero while it does.
	clear time.Time
}

func (i *instance) firing() bool {
	return i.alert.GetState() == swanherdv1.Alert_STATE_FIRING
}

// NewMachine returns a machine that goes on with the alerts that are stored as firing.
func NewMachine(stored []*swanherdv1.Alert) *Machine {
	m := &Machine{facts: newFacts(), rules: map[string]*rule{}, byKind: map[kind][]*rule{}, active: map[key]*instance{}}
	for _, a := range stored {
		if a.GetState() != swanherdv1.Alert_STATE_FIRING {
			continue
		}
		k := kinds[a.GetCondition()]
		if isRest(a) {
			k = ofNothing
		} else {
			m.touch(k, a.GetResource())
		}
		m.active[key{a.GetRule(), a.GetResource()}] = &instance{alert: proto.CloneOf(a), kind: k, state: unknown}
	}
	return m
}

// Step takes in what changed and returns the alerts that fire or are resolved by it, in
// that state. It does not keep them.
func (m *Machine) Step(now time.Time, in Input) []*swanherdv1.Alert {
	m.takeRules(in.Rules)
	m.takeSites(in.Sites)
	m.takeFleet(in.Fleet)
	if in.Expiries != nil {
		m.takeExpiries(in.Expiries)
	}
	if in.Assertions != nil {
		m.takeAssertions(in.Assertions)
	}
	m.takeSignings(in.Authorities)
	m.replicas = in.Replicas
	m.touchExpiring(now.Add(m.farthest()))
	if len(m.byKind[ofController]) > 0 {
		m.touch(ofController, AllNetworks)
	}
	m.judgeDirty(now, in.Began)
	return m.advance(now)
}

// farthest is how far ahead a rule looks for ends of certificates.
func (m *Machine) farthest() time.Duration {
	var out time.Duration
	for _, k := range []kind{ofCertificates, ofAuthorities} {
		for _, r := range m.byKind[k] {
			out = max(out, r.within())
		}
	}
	return out
}

// takeRules notes which rules are in force. What a rule that is new or changed is about
// is judged anew; alerts of one that is gone are as of things that are gone.
func (m *Machine) takeRules(next model.Table[*swanherdv1.AlertRule]) {
	changed := false
	for c := range model.Diff(m.table, next) {
		changed = true
		delete(m.rules, c.Name)
		if c.New != nil && !c.New.Value.GetDisabled() {
			r := newRule(*c.New)
			m.rules[c.Name] = r
			m.touchAll(r.kind)
		}
	}
	m.table = next
	if !changed {
		return
	}
	clear(m.byKind)
	for _, r := range m.rules {
		m.byKind[r.kind] = append(m.byKind[r.kind], r)
	}
	for k, i := range m.active {
		if r := m.rules[k.rule]; r == nil || i.kind != ofNothing && r.kind != i.kind {
			i.state = gone
		}
	}
}

func (m *Machine) touchAll(k kind) {
	switch k {
	case ofEdges:
		for name := range m.edges {
			m.touch(k, name)
		}
	case ofSites:
		for name := range m.sites {
			m.touch(k, name)
		}
	case ofTunnels:
		for name := range m.tunnels {
			m.touch(k, name)
		}
	case ofNetworks:
		for name := range m.networks {
			m.touch(k, name)
		}
	case ofAssertions:
		for name := range m.asserted {
			m.touch(k, name)
		}
	case ofSignings:
		for name := range m.unsigned {
			m.touch(k, name)
		}
	case ofCertificates, ofAuthorities:
		for s := range m.ends {
			m.touch(s.kind, s.name)
		}
	}
}

func (m *Machine) judgeDirty(now, began time.Time) {
	for s := range m.dirty {
		for _, r := range m.byKind[s.kind] {
			m.note(r, s, m.judge(r, s, now), now, began)
		}
	}
	clear(m.dirty)
}

// note takes in what the condition of a rule came to.
func (m *Machine) note(r *rule, s subject, a answer, now, began time.Time) {
	k := key{r.name, s.name}
	i := m.active[k]
	if i == nil {
		if a.state != yes {
			return
		}
		since := now
		if s.kind == ofCertificates || s.kind == ofAuthorities {
			since = a.since
		} else if !a.since.IsZero() && a.since.Before(now) {
			since = maxTime(a.since, began)
		}
		i = &instance{kind: s.kind, alert: newAlert(r, s.name, since)}
		m.active[k] = i
	}
	i.state = a.state
	if a.summary != "" {
		i.alert.Summary = a.summary
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func newAlert(r *rule, resource string, since time.Time) *swanherdv1.Alert {
	sum := sha256.Sum256([]byte(r.name + "\x00" + resource))
	return &swanherdv1.Alert{
		Name:      networkOf(resource) + "/alerts/a" + hex.EncodeToString(sum[:10]),
		State:     swanherdv1.Alert_STATE_PENDING,
		Rule:      r.name,
		Condition: r.GetCondition(),
		Severity:  r.GetSeverity(),
		Resource:  resource,
		StartTime: timestamppb.New(since),
	}
}

// advance lets time act: what held for long enough fires, what is over is resolved.
func (m *Machine) advance(now time.Time) []*swanherdv1.Alert {
	var out []*swanherdv1.Alert
	var due []*instance
	firing := map[key]int{} // by rule and network
	masses := m.masses()
	for k, i := range m.active {
		if i.kind == ofNothing { // the rest of others
			continue
		}
		r := m.rules[k.rule]
		switch {
		case i.over(r, now):
			delete(m.active, k)
			if i.firing() {
				out = append(out, i.resolve(now))
			}
		case i.firing():
			firing[groupOf(i)]++
		case i.state == yes && now.Sub(i.alert.GetStartTime().AsTime()) >= r.GetPendingFor().AsDuration():
			if !i.partOf(masses) {
				due = append(due, i)
			}
		}
	}
	slices.SortFunc(due, func(a, b *instance) int {
		return cmp.Or(a.alert.GetStartTime().AsTime().Compare(b.alert.GetStartTime().AsTime()), cmp.Compare(a.alert.GetName(), b.alert.GetName()))
	})
	rest := map[key][]*instance{}
	for _, i := range due {
		if g := groupOf(i); firing[g] >= maxFiring {
			rest[g] = append(rest[g], i)
		} else {
			firing[g]++
			out = append(out, i.fire(now))
		}
	}
	out = append(out, m.advanceRest(rest, now)...)
	slices.SortFunc(out, func(a, b *swanherdv1.Alert) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// masses are the networks that lose many edges at once.
func (m *Machine) masses() map[string]bool {
	out := map[string]bool{}
	for _, i := range m.active {
		if i.alert.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_MASS_LOSS && i.state == yes {
			out[i.alert.GetResource()] = true
		}
	}
	return out
}

// partOf says whether the alert would tell of one edge what a mass tells of all.
func (i *instance) partOf(masses map[string]bool) bool {
	return i.alert.GetCondition() == swanherdv1.AlertCondition_ALERT_CONDITION_EDGE_OFFLINE && masses[networkOf(i.alert.GetResource())]
}

// over says whether there is no alert any more, and notes since when there may be none.
func (i *instance) over(r *rule, now time.Time) bool {
	switch {
	case r == nil || i.state == gone:
		return true
	case i.state != no:
		i.clear = time.Time{}
		return false
	case !i.firing():
		return true
	case i.clear.IsZero():
		i.clear = now
	}
	return now.Sub(i.clear) >= r.GetKeepFiringFor().AsDuration()
}

func (i *instance) fire(now time.Time) *swanherdv1.Alert {
	i.alert.State, i.alert.FireTime = swanherdv1.Alert_STATE_FIRING, timestamppb.New(now)
	return proto.CloneOf(i.alert)
}

func (i *instance) resolve(now time.Time) *swanherdv1.Alert {
	i.alert.State, i.alert.ResolveTime = swanherdv1.Alert_STATE_RESOLVED, timestamppb.New(now)
	return proto.CloneOf(i.alert)
}

func groupOf(i *instance) key { return key{i.alert.GetRule(), networkOf(i.alert.GetResource())} }

// isRest says whether an alert stands for others, which are too many.
func isRest(a *swanherdv1.Alert) bool {
	k := kinds[a.GetCondition()]
	return a.GetResource() == networkOf(a.GetResource()) && k != ofNetworks && k != ofController
}

// advanceRest fires and resolves the alerts that stand for those which are too many.
func (m *Machine) advanceRest(rest map[key][]*instance, now time.Time) []*swanherdv1.Alert {
	var out []*swanherdv1.Alert
	for k, i := range m.active {
		if i.kind == ofNothing && len(rest[k]) == 0 {
			delete(m.active, k)
			out = append(out, i.resolve(now))
		}
	}
	for g, folded := range rest {
		if m.active[g] != nil {
			continue
		}
		var examples []string
		for _, i := range folded[:min(3, len(folded))] {
			examples = append(examples, path.Base(i.alert.GetResource()))
		}
		r := m.rules[g.rule]
		i := &instance{kind: ofNothing, alert: newAlert(r, g.resource, folded[0].alert.GetStartTime().AsTime())}
		i.alert.Summary = fmt.Sprintf("the same of %d more, such as %s", len(folded), strings.Join(examples, ", "))
		m.active[g] = i
		out = append(out, i.fire(now))
	}
	return out
}

// Pending are the alerts whose conditions hold, but that do not fire.
func (m *Machine) Pending() []*swanherdv1.Alert {
	var out []*swanherdv1.Alert
	for _, i := range m.active {
		if !i.firing() {
			out = append(out, proto.CloneOf(i.alert))
		}
	}
	return out
}
