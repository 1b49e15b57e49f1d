package ike

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// invariant is something that must be true of the two ends. find returns how it
// is not, or nothing.
type invariant struct {
	name string
	find func(*world) string
}

// always are the invariants that hold after every step of either end, whatever
// the network does. I3, agreement at rest, is in check.
var always = []invariant{
	{"I1 one sender", (*world).findTwoSenders},
	{"I2 peer receives", (*world).findUnheard},
	{"I4 lifetime", (*world).findTooOld},
	{"I5 bounded", (*world).findGrowth},
	{"I6 no plaintext", (*world).findUnprotected},
	{"data plane agrees", (*world).findUnknownSAs},
	{"leases agree", (*world).findStrayLease},
	{"I7 nobody else", (*world).findAbroad},
}

// stranger is where packets come from that somebody on the path has changed.
var stranger = netip.MustParseAddr("203.0.113.66")

// findAbroad: no Child SA goes to an address at which neither end has ever been,
// unless an end is told to believe all.
func (w *world) findAbroad() string {
	return w.each(func(n *node) string {
		for _, m := range []map[uint32]dataplane.SA{n.in, n.out} {
			for _, spi := range slices.Sorted(maps.Keys(m)) {
				if m[spi].Remote.Addr() == stranger && !n.t.cfg.Mobility.TrustPeer {
					return fmt.Sprintf("has Child SA %x with a stranger", spi)
				}
			}
		}
		return ""
	})
}

// violation is an invariant that did not hold.
type violation struct{ name, how string }

func (v *violation) String() string { return v.name + ": " + v.how }

// each returns the first of find that is not empty, with the name of the node.
func (w *world) each(find func(*node) string) string {
	for _, n := range w.nodes() {
		if s := find(n); s != "" {
			return n.name + " " + s
		}
	}
	return ""
}

// nameOf is the name of the Child SA that an SA of the data plane belongs to.
func nameOf(sa dataplane.SA) string {
	if sa.Queue == 0 {
		return sa.Child
	}
	return fmt.Sprintf("%s#%d", sa.Child, sa.Queue)
}

// furtherWanted is how many further Child SAs there are when all is at rest: as many as
// both ends have queues for.
func (n *node) furtherWanted() (wanted int) {
	for _, ch := range n.t.cfg.Children {
		if theirs := n.peer().t.cfg.child(ch.Name); theirs != nil && ch.queue == 0 {
			wanted += max(1, min(ch.Queues, theirs.Queues)) - 1
		}
	}
	return wanted
}

func (w *world) nodes() []*node { return []*node{w.a, w.b} }

// findTwoSenders: one IKE SA is in charge once its initial exchanges are over,
// and one Child SA of each name sends.
func (w *world) findTwoSenders() string {
	return w.each(func(n *node) string {
		charge := 0
		for _, sa := range n.t.sas {
			if sa.alive() && !sa.redundant && sa.init == nil {
				charge++
			}
		}
		if charge > 1 {
			return fmt.Sprintf("has %d IKE SAs in charge", charge)
		}
		senders := map[string]int{}
		for _, spi := range slices.Sorted(maps.Keys(n.out)) {
			name := nameOf(n.out[spi])
			if senders[name]++; senders[name] > 1 {
				return "sends on two Child SAs " + name
			}
		}
		return ""
	})
}

// findUnheard: what an end sends on, the other one receives, with the same keys;
// or it is about to be deleted; or the IKE SA has ended at the other end, which
// a Delete or the liveness check tells.
func (w *world) findUnheard() string {
	if w.uprooted {
		return "" // the IKE SA that would tell is cut off
	}
	return w.each(func(n *node) string {
		for _, spi := range slices.Sorted(maps.Keys(n.out)) {
			if how := n.unheard(spi); how != "" {
				return fmt.Sprintf("sends on %x, which %s %s", spi, n.peer().name, how)
			}
		}
		return ""
	})
}

func (n *node) unheard(spi uint32) string {
	peer := n.peer()
	if in, ok := peer.in[spi]; ok {
		if out := n.out[spi]; !bytes.Equal(in.Key, out.Key) || in.Suite != out.Suite {
			return "has with another key"
		}
		return ""
	}
	c := n.t.childBySPI(spi, dataplane.Outbound)
	if peer.reserved[spi] || slices.Contains(n.w.forgotten, spi) || c == nil || c.wantDelete || c.state == childDeleting {
		return ""
	}
	for _, sa := range peer.t.sas {
		if sa.localSPI != c.ike.remoteSPI || !sa.state.in(stateUsable) || sa.wantDelete || sa.state == stateDeleting {
			continue
		}
		if !peer.deletes(spi) {
			return "does not have and does not delete"
		}
	}
	return ""
}

// deletes reports whether a Delete of the inbound SPI is under way or planned.
func (n *node) deletes(spi uint32) bool {
	for _, sa := range n.t.sas {
		task, _ := sa.active.(*deleteChildTask)
		orphan := func(s childSPI) bool { return s.spi == spi }
		if slices.ContainsFunc(sa.orphans, orphan) || task != nil && slices.ContainsFunc(task.orphans, orphan) {
			return true
		}
	}
	return slices.ContainsFunc(n.t.children, func(c *childSA) bool {
		return c.inbound == spi && (c.wantDelete || c.state == childDeleting)
	})
}

// findTooOld: no SA is used beyond its hard lifetime.
func (w *world) findTooOld() string {
	return w.each(func(n *node) string {
		for _, c := range n.t.children {
			life := n.life(n.t.timing.RekeyChild)
			_, in := n.in[c.inbound]
			_, out := n.out[c.outbound]
			age := n.age(c.installed)
			if life > 0 && !c.installed.IsZero() && c.state != childLingering && age > life && (in || out) {
				return fmt.Sprintf("has Child SA %x for %s, at most %s is allowed", c.inbound, age, life)
			}
		}
		for _, sa := range n.t.sas {
			// The Delete of an old one may be repeated for a while.
			life := n.life(n.t.timing.RekeyIKE)
			if age := n.age(sa.established); life > 0 && sa.state == stateEstablished && !sa.wantDelete && age > life {
				return fmt.Sprintf("has IKE SA %s for %s, at most %s is allowed", short(sa.status()), age, life)
			}
		}
		return ""
	})
}

// life is how long an SA may be used that is rekeyed after a time.
func (n *node) life(rekey time.Duration) time.Duration {
	if rekey <= 0 {
		return 0
	}
	return rekey + n.t.timing.overTime(rekey)
}

// age is how long ago something was, zero if it was not yet.
func (n *node) age(then time.Time) time.Duration {
	if then.IsZero() {
		return 0
	}
	return n.t.now.Sub(then)
}

// The bounds of what one tunnel can be made to keep.
const (
	mostSAs      = maxLingering + maxReplaced + maxIdentified + 8
	mostChildren = 60
	mostWaits    = 60
	mostOrphans  = 16
)

// findGrowth: memory is bounded, and no deadline has passed unnoticed.
func (w *world) findGrowth() string {
	return w.each(func(n *node) string {
		t := n.t
		for _, count := range []struct {
			what       string
			have, most int
		}{
			{"IKE SAs", len(t.sas), mostSAs},
			{"Child SAs", len(t.children), mostChildren},
			{"half-open IKE SAs", len(n.halves), mostChildren},
			{"answers to wait for", len(t.waits), mostWaits},
			{"effects", len(t.effects), 0},
			{"reserved SPIs", len(n.reserved), mostChildren + mostSAs},
		} {
			if count.have > count.most {
				return fmt.Sprintf("has %d %s, at most %d are allowed", count.have, count.what, count.most)
			}
		}
		for _, sa := range t.sas {
			fragments := sa.partsHeld()
			if len(sa.inbox) > maxInbox || len(sa.orphans) > mostOrphans || fragments > 2*maxReassembled {
				return fmt.Sprintf("keeps %d messages, %d orphans, %d octets of fragments for %s",
					len(sa.inbox), len(sa.orphans), fragments, short(sa.status()))
			}
		}
		return ""
	})
}

// plansPolicy reports whether the tunnel is going to set a policy again that it
// could not, or has not learned yet that it could not.
func (n *node) plansPolicy(child string) bool {
	if slices.ContainsFunc(n.pending, func(p pendingWork) bool { return p.plane }) {
		return true
	}
	left := n.t.policyAt.Sub(n.t.now)
	return slices.Contains(n.t.unset, child) && left > 0 && left <= policyRetry
}

// findUnprotected: while a tunnel is wanted, its policies are set, so that what
// has no SA is not sent at all.
func (w *world) findUnprotected() string {
	return w.each(func(n *node) string {
		if !n.t.wanted {
			return ""
		}
		for _, ch := range n.t.cfg.Children {
			if ch.queue > 0 {
				continue
			}
			if _, ok := n.policies[ch.Name]; !ok && !n.plansPolicy(ch.Name) {
				return "has no policy for " + ch.Name
			}
		}
		return ""
	})
}

// findUnknownSAs: the data plane has exactly the SAs that the tunnel knows of,
// between the addresses of their IKE SA.
func (w *world) findUnknownSAs() string {
	return w.each(func(n *node) string {
		in, out := 0, 0
		for _, c := range n.t.children {
			if _, ok := n.in[c.inbound]; ok {
				in++
			}
			if _, ok := n.out[c.outbound]; ok && c.sending {
				out++
			}
		}
		if in != len(n.in) || out != len(n.out) {
			return fmt.Sprintf("has %d inbound and %d outbound SAs in the data plane, the tunnel %d and %d", len(n.in), len(n.out), in, out)
		}
		return ""
	})
}

// observe is called after every step of either end.
func (w *world) observe() {
	if w.a == nil || w.b == nil || w.broken != nil {
		return
	}
	for _, i := range always {
		if how := i.find(w); how != "" {
			w.broken = &violation{i.name, how + "\n" + w.a.state() + w.b.state()}
			return
		}
	}
	if w.lossless || w.log != nil {
		w.noteGaps()
	}
}

// gap is a time when what a node sent for a Child SA was lost, after it had once
// arrived.
type gap struct {
	node, child string
	from, until time.Time // until is zero while it lasts
	why         string
}

func (g *gap) String() string {
	until := "now"
	if !g.until.IsZero() {
		until = g.until.Sub(epoch).String()
	}
	return fmt.Sprintf("%s %s from %s until %s: %s", g.node, g.child, g.from.Sub(epoch), until, g.why)
}

// promiseTime is how long messages may take without loss of traffic.
const promiseTime = time.Second

// noteGaps notes when traffic stops and when it goes on.
func (w *world) noteGaps() {
	if len(w.flight) > 0 && w.now.Sub(w.flight[0].sent) > promiseTime {
		w.lossless = false
	}
	for _, n := range w.nodes() {
		for _, ch := range n.t.cfg.Children {
			key, why := n.name+" "+ch.Name, n.blackHole(ch.Name)
			open := slices.IndexFunc(w.gaps, func(g *gap) bool { return g.node+" "+g.child == key && g.until.IsZero() })
			switch {
			case why == "" && open >= 0:
				w.gaps[open].until = w.now
			case why == "":
				w.flowed[key] = true
			case open < 0 && w.flowed[key]:
				w.gaps = append(w.gaps, &gap{node: n.name, child: ch.Name, from: w.now, why: why})
				if w.lossless && w.broken == nil {
					w.broken = &violation{"traffic", w.gaps[len(w.gaps)-1].String() + "\n" + w.a.state() + w.b.state()}
				}
			}
		}
	}
}

// blackHole returns why what n sends now for a Child SA would be lost, or
// nothing.
func (n *node) blackHole(child string) string {
	for _, spi := range slices.Sorted(maps.Keys(n.out)) {
		if nameOf(n.out[spi]) != child {
			continue
		}
		if _, ok := n.peer().in[spi]; !ok {
			return fmt.Sprintf("sends on %x, which %s does not have", spi, n.peer().name)
		}
		return ""
	}
	return "has no SA to send on"
}

// check holds what must be true when nothing is in flight and both ends are up
// (I3): one IKE SA and one Child SA for each configured one, both ends agree on
// SPIs and keys, and nothing is left over.
func (w *world) check(t testing.TB) {
	t.Helper()
	if w.broken != nil {
		t.Errorf("%s", w.broken)
	}
	if how := w.findUnrest(); how != "" {
		t.Errorf("I3 agreement: %s\n%s%s", how, w.a.state(), w.b.state())
	}
}

func (w *world) findUnrest() string {
	pa, pb := w.a.t.primary(), w.b.t.primary()
	switch {
	case pa == nil || pb == nil:
		return "no IKE SA"
	case pa.localSPI != pb.remoteSPI || pa.remoteSPI != pb.localSPI || !bytes.Equal(pa.keys.D, pb.keys.D):
		return "ends do not agree on the IKE SA"
	}
	var problems []string
	for _, n := range w.nodes() {
		problems = append(problems, n.unrest()...)
		for _, spi := range slices.Sorted(maps.Keys(n.out)) {
			in, ok := n.peer().in[spi]
			if out := n.out[spi]; !ok || !bytes.Equal(in.Key, out.Key) || in.Suite != out.Suite {
				problems = append(problems, fmt.Sprintf("%s sends on %x, which %s does not have with that key", n.name, spi, n.peer().name))
			}
			if how := n.astray(spi); how != "" {
				problems = append(problems, how)
			}
		}
	}
	return strings.Join(problems, "; ")
}

// unrest returns what is not in order at one end at rest.
func (n *node) unrest() []string {
	var problems []string
	complain := func(format string, args ...any) {
		problems = append(problems, n.name+" "+fmt.Sprintf(format, args...))
	}
	established := 0
	for _, sa := range n.t.sas {
		if sa.state.in(stateUsable) {
			established++
		}
		if !n.registered[sa.localSPI] {
			complain("has IKE SPI %s not registered", sa.localSPI)
		}
	}
	if established != 1 {
		complain("has %d IKE SAs, want 1", established)
	}
	wanted, further := n.furtherWanted(), 0
	for _, ch := range n.t.cfg.Children {
		live := 0
		for _, c := range n.t.children {
			if c.name == ch.Name && c.known() {
				live++
			}
		}
		switch {
		case ch.queue > 0 && live == 0:
			continue
		case ch.queue > 0:
			further++
		default:
			wanted++
		}
		if live != 1 || !n.t.hasSender(ch.Name) {
			complain("has %d Child SAs %s, want 1 that sends", live, ch.Name)
		}
	}
	if want := n.furtherWanted(); further != want {
		complain("has %d further Child SAs, want %d", further, want)
	}
	if len(n.out) != wanted {
		complain("has %d outbound SAs in the data plane, want %d", len(n.out), wanted)
	}
	spis := map[wire.SPI]bool{} // those of one attempt share theirs
	for _, sa := range n.t.sas {
		spis[sa.localSPI] = true
	}
	if len(n.registered) != len(spis) {
		complain("has %d SPIs registered for %d", len(n.registered), len(spis))
	}
	if len(n.reserved) != len(n.in) {
		complain("has %d SPIs reserved for %d inbound SAs", len(n.reserved), len(n.in))
	}
	if how := n.mistakenPath(); how != "" {
		complain("%s", how)
	}
	if len(n.t.waits) != 0 {
		complain("waits for %d answers", len(n.t.waits))
	}
	return problems
}
