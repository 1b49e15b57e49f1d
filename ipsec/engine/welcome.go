package engine

import (
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
)

// welcome is what a responder needs to know before it knows the tunnel.
type welcome struct {
	first  *tunnel // of those with the address, nil for anywhere
	config *ike.HalfOpenConfig
}

// greeting collects what the tunnels have to say to a peer that may be the one of
// any of them.
type greeting struct {
	first      *tunnel
	proposals  []suite.IKEProposal
	former     []suite.IKEProposal // after all of the proposals; the tunnels know whether they still take them
	seen       []string            // proposals as text
	sets       []*ident.Roots      // those of the tunnels, equal neighbours once
	methods    ident.Methods
	natPort    uint16
	forceEncap bool
	allowNAT   bool // one of the tunnels does NAT traversal
	childless  bool // one of the tunnels may begin without a Child SA
	// redirects are where the tunnels send their peers; if all of them send them
	// to the same gateway, that needs no IKE SA.
	redirects []ike.Gateway
}

// usualIKE is what a tunnel without proposals has.
var usualIKE = suite.DefaultIKE()

func (g *greeting) add(t target) {
	c := t.config
	g.former = append(g.former, t.former...)
	if g.natPort == 0 {
		g.natPort = c.NATPort
	}
	g.forceEncap = g.forceEncap || c.ForceEncap
	g.allowNAT = g.allowNAT || !c.Mobility.ProhibitNAT
	g.childless = g.childless || c.Childless != ike.ChildlessNever
	g.addRedirects(c.RedirectTo)
	g.addRoots(c.Peer.Roots)
	g.methods |= c.Peer.Methods()
	if len(c.Proposals) == 0 {
		g.addProposals(usualIKE)
		return
	}
	g.addProposals(c.Proposals)
}

// addAll adds what is said to peers anywhere.
func (g *greeting) addAll(anywhere *greeting) {
	g.addProposals(anywhere.proposals)
	g.former = append(g.former, anywhere.former...)
	g.addRoots(anywhere.sets...)
	g.methods |= anywhere.methods
	g.childless = g.childless || anywhere.childless
	g.addRedirects(anywhere.redirects...)
}

func (g *greeting) addRedirects(to ...ike.Gateway) {
	for _, gateway := range to {
		if !slices.Contains(g.redirects, gateway) {
			g.redirects = append(g.redirects, gateway)
		}
	}
}

// redirectTo is where to send initiators before it is known who they are.
func (g *greeting) redirectTo() ike.Gateway {
	if len(g.redirects) != 1 {
		return ike.Gateway{}
	}
	return g.redirects[0]
}

func (g *greeting) addProposals(ps []suite.IKEProposal) {
	for _, p := range ps {
		if s := p.String(); !slices.Contains(g.seen, s) {
			g.seen, g.proposals = append(g.seen, s), append(g.proposals, p)
		}
	}
}

// addRoots remembers the authorities of a tunnel. Tunnels mostly trust the same
// ones, so comparing with the last set keeps the list short.
func (g *greeting) addRoots(sets ...*ident.Roots) {
	for _, r := range sets {
		if r != nil && (len(g.sets) == 0 || !g.sets[len(g.sets)-1].Equal(r)) {
			g.sets = append(g.sets, r)
		}
	}
}

// roots is the union of the authorities, nil if there are none.
func (g *greeting) roots() *ident.Roots {
	switch len(g.sets) {
	case 0:
		return nil
	case 1:
		return g.sets[0]
	default:
		return ident.UnionRoots(g.sets...)
	}
}

// configs makes the configurations of half-open responders, and each of them once: a
// hub has thousands of peers, each at an address of its own, and says the same to
// nearly all.
type configs struct {
	ppks    *ident.PPKSet // of all tunnels: which one is meant shows later
	runtime ike.Runtime
	made    map[string][]*ike.HalfOpenConfig // by the proposals as text
}

func newConfigs(ppks *ident.PPKSet, runtime ike.Runtime) *configs {
	return &configs{ppks, runtime, make(map[string][]*ike.HalfOpenConfig)}
}

func (c *configs) of(g *greeting) *ike.HalfOpenConfig {
	g.addProposals(g.former)
	fresh := &ike.HalfOpenConfig{
		Proposals: g.proposals, Roots: g.roots(), Methods: g.methods, PPKs: c.ppks, NATPort: g.natPort,
		ForceEncap: g.forceEncap, ProhibitNAT: !g.allowNAT, Childless: g.childless, RedirectTo: g.redirectTo(), Runtime: c.runtime,
	}
	key := strings.Join(g.seen, "\n")
	for _, old := range c.made[key] {
		if sameGreeting(old, fresh) {
			return old
		}
	}
	c.made[key] = append(c.made[key], fresh)
	return fresh
}

// sameGreeting compares what may differ between configurations with the same
// proposals.
func sameGreeting(a, b *ike.HalfOpenConfig) bool {
	return a.Roots.Equal(b.Roots) && a.Methods == b.Methods && a.NATPort == b.NATPort && a.ForceEncap == b.ForceEncap &&
		a.ProhibitNAT == b.ProhibitNAT && a.Childless == b.Childless && a.RedirectTo == b.RedirectTo
}
