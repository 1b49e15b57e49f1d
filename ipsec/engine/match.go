package engine

import (
	"net/netip"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
)

// matcher finds the tunnel that a peer means. It is immutable; Apply makes a
// new one.
type matcher struct {
	// The tunnels that a peer may begin, each list in the order of their names:
	// by the identity that the peer must have, and those that take any.
	byPeer  map[string][]target
	anyPeer []target
	// peersAt are the tunnels with a peer at an address, for all addresses that
	// are configured.
	peersAt map[netip.Addr][]*tunnel
	// byTag are the tunnels that a peer may resume.
	byTag map[ike.TunnelTag]target
	// byRemote is how to answer an IKE_SA_INIT request from the address of a
	// configured peer, anywhere from all others, nil if no tunnel can be meant.
	byRemote map[netip.Addr]*welcome
	anywhere *welcome
}

// target is a tunnel with the configuration that Apply gave it.
type target struct {
	tunnel *tunnel
	config *TunnelConfig
	former []suite.IKEProposal
}

// newMatcher makes a matcher for the tunnels in targets. Half-open responders get
// runtime.
func newMatcher(targets []target, runtime ike.Runtime) *matcher {
	m := &matcher{
		byPeer:   make(map[string][]target),
		peersAt:  make(map[netip.Addr][]*tunnel),
		byTag:    make(map[ike.TunnelTag]target),
		byRemote: make(map[netip.Addr]*welcome),
	}
	anywhere, at := &greeting{}, make(map[netip.Addr]*greeting)
	var lists [][]ident.PPK
	for _, t := range targets {
		remote := t.config.Remote.Addr().Unmap()
		if specified(remote) {
			m.peersAt[remote] = append(m.peersAt[remote], t.tunnel)
		}
		if t.config.Role == ike.RoleInitiator {
			continue
		}
		m.byTag[ike.TagOf(t.config.Name)] = t
		lists = append(lists, t.config.PPKs)
		if id := t.config.Peer.ID; id.IsZero() {
			m.anyPeer = append(m.anyPeer, t)
		} else {
			m.byPeer[id.Key()] = append(m.byPeer[id.Key()], t)
		}
		if t.movable() {
			anywhere.add(t)
		}
		if specified(remote) {
			if at[remote] == nil {
				at[remote] = &greeting{first: t.tunnel}
			}
			at[remote].add(t)
		}
	}
	configs := newConfigs(ident.NewPPKSet(lists...), runtime)
	for remote, g := range at {
		g.addAll(anywhere)
		m.byRemote[remote] = &welcome{first: g.first, config: configs.of(g)}
	}
	if len(anywhere.proposals) > 0 {
		m.anywhere = &welcome{config: configs.of(anywhere)}
	}
	return m
}

// movable reports whether the peer may come from another address than the
// configured one: if it is recognised by its identity, as behind a NAT, or if
// none is configured.
func (t target) movable() bool {
	return !t.config.Peer.ID.IsZero() || !specified(t.config.Remote.Addr())
}

// welcome returns how to answer a peer at remote, nil if no tunnel can be
// meant. The proposals of tunnels with this address go first.
func (m *matcher) welcome(remote netip.Addr) *welcome {
	if w := m.byRemote[remote.Unmap()]; w != nil {
		return w
	}
	return m.anywhere
}

// at returns the first tunnel whose peer is configured with that address and may
// begin, nil if there is none.
func (m *matcher) at(remote netip.Addr) *tunnel {
	if w := m.byRemote[remote.Unmap()]; w != nil {
		return w.first
	}
	return nil
}

// claim is what a peer says about itself and shows: who it is, whom it wants (zero if
// it did not say; RFC 7296, Section 1.2), where its message came from and went to, and
// how well a tunnel's children are what it asks for.
type claim struct {
	idi, idr ident.ID
	remote   netip.AddrPort
	local    netip.Addr
	wants    func([]ike.ChildConfig) int
	// labelFits says whether it asks for a label that one of the children has.
	labelFits func([]ike.ChildConfig) bool
}

func claimOf(h *ike.HalfOpen, local netip.Addr) claim {
	return claim{h.PeerID(), h.LocalID(), h.Remote(), local, h.Wants, h.LabelFits}
}

// pick returns the tunnel that fits best, nil if none does. An identity that is
// named weighs more than an address, the peer's more than ours. Several tunnels
// may be between the same identities and addresses: among these the likeliest one is
// meant, then the first name, so that the same peer gets the same tunnel.
func (m *matcher) pick(c claim) *tunnel {
	var best *tunnel
	bestScore, bestChance := 0, 0
	for _, targets := range [][]target{m.byPeer[c.idi.Key()], m.anyPeer} {
		for _, t := range targets {
			score := t.score(c)
			if score == 0 || score < bestScore {
				continue
			}
			if chance := t.chance(c); score > bestScore || chance > bestChance {
				best, bestScore, bestChance = t.tunnel, score, chance
			}
		}
	}
	return best
}

// resumed returns the tunnel whose session a peer resumes, if it still fits.
func (m *matcher) resumed(h *ike.HalfOpen, local netip.Addr) *tunnel {
	tag, ok := h.Resumes()
	if !ok {
		return nil
	}
	if t, ok := m.byTag[tag]; ok && t.score(claimOf(h, local)) > 0 {
		return t.tunnel
	}
	return nil
}

// score returns 0 if the tunnel is not meant.
func (t target) score(c claim) int {
	score := 1
	if !t.config.Peer.ID.IsZero() {
		if !t.config.Peer.ID.Equal(c.idi) {
			return 0
		}
		score += 32
	}
	switch fitOf(t.config.Remote.Addr(), c.remote.Addr()) {
	case fitsExactly:
		score += 16
	case fitsAny:
		score += 8
	default:
		if !t.movable() {
			return 0
		}
	}
	if !c.idr.IsZero() {
		if !t.config.Credentials.ID.Equal(c.idr) {
			return 0
		}
		score += 4
	}
	// Tunnels of different labels are between the same two ends: the peer would take
	// another one's IKE SA for a new one of its own.
	if !c.labelFits(t.config.Children) {
		return 0
	}
	switch fitOf(t.config.Local.Addr(), c.local) {
	case fitsExactly:
		score += 2
	case fitsAny:
		score++
	}
	return score
}

// chance tells tunnels apart that fit equally well: what the peer asks for weighs
// most. Then a tunnel that is down is meant rather than one that is up, so that all
// find their counterpart; a peer that authenticates anew does so from where its IKE
// SA is (RFC 7296, Section 2.8.3).
func (t target) chance(c claim) int {
	chance := 4 * c.wants(t.config.Children)
	status := t.tunnel.status.Load()
	if status.State != ike.StateUp {
		chance += 2
	}
	if slices.ContainsFunc(status.IKE, func(sa ike.IKEStatus) bool { return sa.Remote == c.remote }) {
		chance++
	}
	return chance
}

// fit is how an address fits the configured one.
type fit uint8

const (
	fitsNot fit = iota
	fitsAny
	fitsExactly
)

func fitOf(configured, actual netip.Addr) fit {
	switch {
	case !specified(configured):
		return fitsAny
	case configured.Unmap() == actual.Unmap():
		return fitsExactly
	}
	return fitsNot
}
