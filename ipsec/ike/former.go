package ike

import (
	"reflect"
	"slices"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Other proposals may reach one end long before the other, which may refuse them
// altogether. So what was agreed under former ones may be replaced under these, or made
// anew when it is lost, until the peer agrees to one of the present: those go first, at
// both ends, and it takes the peer itself to choose another, for AUTH covers the offers.

// outdateProposals has those that were agreed on, or are about to be, remembered as
// former ones. The configuration is the fresh one already.
func (t *Tunnel) outdateProposals(old *Config) {
	if t.formerIKE == nil && slices.ContainsFunc(t.sas, (*ikeSA).lives) {
		t.formerIKE = old.Proposals
	}
	if reflect.DeepEqual(t.formerIKE, t.cfg.Proposals) {
		t.formerIKE = nil
	}
	for i := range t.slots {
		s, before := &t.slots[i], old.child(t.slots[i].name)
		if before != nil && s.former == nil && slices.ContainsFunc(t.sas, (*ikeSA).lives) {
			s.former = before.Proposals
		}
		if reflect.DeepEqual(s.former, t.cfg.Children[i].Proposals) {
			s.former = nil
		}
	}
}

// lives reports whether sa is there or in the making.
func (sa *ikeSA) lives() bool { return !sa.state.in(stateLingering | stateDead) }

// ikeOffer is what an IKE SA may be made under, the present proposals first.
func (t *Tunnel) ikeOffer() []suite.IKEProposal { return slices.Concat(t.cfg.Proposals, t.formerIKE) }

// agreedOn ends the former proposals if sa, which has just been made, is under one of the
// present, and reports whether it is.
func (t *Tunnel) agreedOn(sa *ikeSA) bool {
	present := slices.ContainsFunc(t.cfg.Proposals, func(p suite.IKEProposal) bool { return p.Allows(sa.suite) })
	if present {
		t.formerIKE = nil
	}
	return present
}

// formerESP are the former proposals for Child SAs of a name, nil if there are none.
func (t *Tunnel) formerESP(name string) []suite.ESPProposal {
	if s := t.slot(name); s != nil {
		return s.former
	}
	return nil
}

// noteFormer ends the former proposals if c is under one of the present. If the present
// ones came while c was in the making, it is made once more.
func (c *childSA) noteFormer(spec *childSpec) {
	s, now := c.t.slot(c.name), c.t.cfg.child(c.name)
	switch {
	case s == nil:
	case now != spec.cfg && !reflect.DeepEqual(now.Proposals, spec.cfg.Proposals):
		c.wantRekey = true
	case !spec.former:
		s.former = nil
	}
}

// childOffer is what a Child SA may be made under, the present proposals first.
func (t *Tunnel) childOffer(cfg *ChildConfig) []suite.ESPProposal {
	return slices.Concat(cfg.Proposals, t.formerESP(cfg.Name))
}

// fellBack reports whether the answer to an offer that begins with the present proposals
// is one of the former.
func fellBack(answer *wire.SA, present int) bool { return int(answer.Proposals[0].Number) > present }
