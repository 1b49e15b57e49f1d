package ike

import (
	"reflect"
	"slices"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Other proposals may reach one end long before the other, which may refuse them
// altogether. So an SA that was made under former ones may be replaced under these,
// until the peer agrees to one of the present: those go first, at both ends, and the
// peer that chooses is the one that the SA is with. A new IKE SA is made under the
// present ones alone.

// outdateProposals has the SAs remember the proposals under which they were made.
func (t *Tunnel) outdateProposals(old, fresh *Config) {
	if !reflect.DeepEqual(old.Proposals, fresh.Proposals) {
		for _, sa := range t.sas {
			if sa.former == nil && sa.state.in(stateUsable) {
				sa.former = old.Proposals
			}
		}
	}
	for _, c := range t.children {
		before, now := old.child(c.name), fresh.child(c.name)
		if before != nil && now != nil && c.former == nil && !reflect.DeepEqual(before.Proposals, now.Proposals) {
			c.former = before.Proposals
		}
	}
}

// rekeyOffer is what sa may be replaced under, the present proposals first.
func (sa *ikeSA) rekeyOffer() []suite.IKEProposal {
	return slices.Concat(sa.t.cfg.Proposals, sa.former)
}

// inheritFormer notes whether the IKE SA in place of old is one of the present proposals.
func (t *Tunnel) inheritFormer(old, fresh *ikeSA) {
	if old.former == nil || slices.ContainsFunc(t.cfg.Proposals, func(p suite.IKEProposal) bool { return p.Allows(fresh.suite) }) {
		return
	}
	fresh.former, fresh.wantRekey = old.former, old.wantRekey
}

// formerESP are the proposals under which the Child SAs of a name were made, as far as
// they are not the present ones; nil if they are.
func (t *Tunnel) formerESP(name string) []suite.ESPProposal {
	for _, c := range t.children {
		if c.name == name && c.known() && c.former != nil {
			return c.former
		}
	}
	return nil
}

// noteFormer notes that c was made under proposals that are former ones: because the peer
// has no others, or because they became so meanwhile.
func (c *childSA) noteFormer(spec *childSpec) {
	if spec.former {
		c.former = c.t.formerESP(c.name)
	}
	now := c.t.cfg.child(c.name)
	if now != nil && now != spec.cfg && !reflect.DeepEqual(now.Proposals, spec.cfg.Proposals) {
		c.former, c.wantRekey = spec.cfg.Proposals, true
	}
}

// childOffer is what a Child SA may be made under, the present proposals first.
func (t *Tunnel) childOffer(cfg *ChildConfig) []suite.ESPProposal {
	return slices.Concat(cfg.Proposals, t.formerESP(cfg.Name))
}

// fellBack reports whether the answer to an offer that begins with the present proposals
// is one of the former.
func fellBack(answer *wire.SA, present int) bool { return int(answer.Proposals[0].Number) > present }
