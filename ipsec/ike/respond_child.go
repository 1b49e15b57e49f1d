package ike

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// handleCreateChild answers a CREATE_CHILD_SA request (RFC 7296, Section 1.3).
// While something of ours makes it impossible for the moment, the answer is
// TEMPORARY_FAILURE (Section 2.25).
func (sa *ikeSA) handleCreateChild(m *message) {
	proposals := find[*wire.SA](m).Proposals
	switch {
	case len(proposals) == 0:
		sa.refuseMalformed(m, errors.New("CREATE_CHILD_SA: no proposal"))
	case sa.state != stateEstablished || sa.wantDelete || sa.redundant:
		// A redundant one may also be undecided: our answer to a collision is
		// still to come.
		sa.refuse(m, wire.NotifyTemporaryFailure, nil)
	case proposals[0].Protocol == wire.ProtocolIKE:
		sa.answerIKERekey(m)
	case m.selectors(true) == nil || m.selectors(false) == nil:
		sa.refuseMalformed(m, errors.New("CREATE_CHILD_SA: traffic selectors are missing"))
	case sa.rekey != nil:
		// RFC 7296, Section 2.25.2.
		sa.refuse(m, wire.NotifyTemporaryFailure, nil)
	default:
		sa.answerChild(m)
	}
}

// answerChild makes a Child SA that the peer asks for, new or as a replacement.
func (sa *ikeSA) answerChild(m *message) {
	t := sa.t
	var old *childSA
	if n := m.notify(wire.NotifyRekeySA); n != nil {
		var refusal *wire.Notify
		if old, refusal = sa.rekeyTarget(n); refusal != nil {
			sa.respond(m, []wire.Payload{refusal})
			return
		}
	}
	if len(t.childrenOf(sa)) >= 4+4*len(t.cfg.Children) {
		sa.refuseChild(m, &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyNoAdditionalSAs, Remedy: remedyPeerDefect})
		return
	}
	var internal []wire.Payload
	var err *Error
	if old == nil {
		if internal, err = sa.answerInternal(m); err == nil {
			err = sa.refuseWithoutInternal(m)
		}
		if err != nil {
			sa.refuseChild(m, err)
			return
		}
	}
	spec, err := sa.readChildOffer(m, old)
	if err != nil {
		sa.refuseChild(m, err)
		return
	}
	spec.replaces, spec.internal = old, internal
	answer, e := sa.chooseChild(m, &spec, asTheyAre)
	if e != nil {
		sa.refuseChild(m, &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyNoProposalChosen, Err: e})
		return
	}
	if ke, chosen := find[*wire.KE](m), spec.suite; chosen.KeyExchange != 0 && (ke == nil || ke.Group != chosen.KeyExchange) {
		// RFC 7296, Section 1.3.
		sa.refuse(m, wire.NotifyInvalidKEPayload, binary.BigEndian.AppendUint16(nil, uint16(chosen.KeyExchange)))
		return
	}
	if spec.outbound, err = outboundSPI(m, answer.Number); err != nil {
		sa.refuseChild(m, err)
		return
	}
	if spec.inbound, e = t.allocateSPI(spec.cfg); e != nil {
		sa.refuseChild(m, &Error{Op: "allocate SPI", Kind: KindDataPlane, Exchange: m.Exchange, Notify: wire.NotifyTemporaryFailure, Err: e})
		return
	}
	sa.reserved = spec.inbound
	sa.deriveChild(m, spec, answer)
}

func asTheyAre(ps []suite.ESPProposal) []suite.ESPProposal { return ps }

// rekeyTarget finds the Child SA that a REKEY_SA notification names by the SPI
// that the peer expects in inbound packets, or the refusal (RFC 7296, Section 2.25).
func (sa *ikeSA) rekeyTarget(n *wire.Notify) (*childSA, *wire.Notify) {
	notFound := &wire.Notify{Protocol: n.Protocol, SPI: n.SPI, Kind: wire.NotifyChildSANotFound}
	if n.Protocol != wire.ProtocolESP && n.Protocol != wire.ProtocolAH || len(n.SPI) != 4 {
		return nil, &wire.Notify{Kind: wire.NotifyChildSANotFound}
	}
	c := sa.t.peersChild(childSPI{n.Protocol, be32(n.SPI)})
	switch {
	case c == nil && sa.makesChild():
		// It may be the one that the peer has just made for us, its answer
		// still under way.
		return nil, &wire.Notify{Kind: wire.NotifyTemporaryFailure}
	case c == nil:
		return nil, notFound
	case c.state != childInstalled || c.wantDelete || c.redundant || c.passive != nil && c.passive.series == nil:
		return nil, &wire.Notify{Kind: wire.NotifyTemporaryFailure}
	case c.rekey != nil && c.rekey.x.series != nil:
		// Our own exchange is over and others of the series follow (RFC 9370,
		// Section 2.2.4).
		return nil, &wire.Notify{Kind: wire.NotifyTemporaryFailure}
	}
	return c, nil
}

func (sa *ikeSA) makesChild() bool {
	switch sa.active.(type) {
	case *createChildTask, *rekeyChildTask:
		return true
	}
	return false
}

func (sa *ikeSA) refuseChild(m *message, err *Error) {
	if err.Notify != wire.NotifyTSMaxQueue { // no fault: the peer asks for as many as it could use
		sa.t.report(err)
	}
	sa.refuse(m, err.Notify, nil)
}

// refuseKeyExchange refuses a request whose keys could not be made. A public
// value that is none is the peer's defect, or worse: the IKE SA ends with it (RFC
// 6989, Section 5).
func (sa *ikeSA) refuseKeyExchange(m *message, op string, err error) {
	e := &Error{Op: op, Exchange: m.Exchange, Payload: wire.PayloadKE, Notify: wire.NotifyNoProposalChosen, Err: err}
	if !errors.Is(err, suite.ErrInvalidPublicValue) {
		sa.refuseChild(m, e)
		return
	}
	e.Notify = wire.NotifyInvalidSyntax
	sa.refuse(m, e.Notify, nil)
	sa.fail(e)
}

// distrust ends the IKE SA if the peer has answered with a public value that is
// none (RFC 6989, Section 5).
func (sa *ikeSA) distrust(err *Error) {
	if errors.Is(err, suite.ErrInvalidPublicValue) {
		sa.end(ReasonProtocol)
	}
}

type childResult struct {
	public []byte
	keys   *suite.ChildKeys
}

// Destroy zeroes the keys.
func (r childResult) Destroy() { r.keys.Destroy() }

// deriveChild computes the keys, with a key exchange of its own if that was
// chosen.
func (sa *ikeSA) deriveChild(m *message, spec childSpec, answer wire.Proposal) {
	ni, nr := find[*wire.Nonce](m).Data, sa.m.nonce()
	spec.lowestNonce = lower(ni, nr)
	if len(spec.suite.KeyExchanges()) > 1 {
		sa.beginChildSeries(m, spec, answer, ni, nr)
		return
	}
	var theirs []byte
	if ke := find[*wire.KE](m); ke != nil {
		theirs = ke.Data
	}
	ikeSuite, skD, esp, rand := sa.suite, bytes.Clone(sa.keys.D), spec.suite, sa.m.runtime.Rand
	runJob(sa, ClassEstablished, func() (r childResult, err error) {
		defer clear(skD)
		var shared [][]byte
		if esp.KeyExchange != 0 {
			public, secret, err := suite.Respond(esp.KeyExchange, theirs, rand)
			if err != nil {
				return r, err
			}
			defer clear(secret)
			r.public, shared = public, [][]byte{secret}
		}
		r.keys, err = suite.DeriveChildKeys(ikeSuite, skD, shared, ni, nr, esp)
		return r, err
	}, func(r childResult, err error) {
		if err != nil {
			sa.releaseReserved()
			sa.refuseKeyExchange(m, "create Child SA", err)
			return
		}
		spec.keys = r.keys
		sa.installAndAnswer(m, spec, answerPayloads(spec, answer, nr, r.public))
	})
}

// installAndAnswer makes the inbound SA ready before the peer can use it (RFC
// 7296, Section 2.8), then answers. Outgoing traffic moves when the peer has
// shown that it is ready as well, or at once if there is no other SA.
func (sa *ikeSA) installAndAnswer(m *message, spec childSpec, reply []wire.Payload) {
	t := sa.t
	sa.reserved = 0 // the Child SA's from here on
	if old := spec.replaces; old != nil && (!old.known() || old.state == childDeleting) {
		spec.replaces = nil // it is gone, or going, since the peer began
	}
	t.install(sa, spec, !t.sendsElsewhere(sa, spec.cfg.Name), func(c *childSA, err error) {
		if err != nil {
			sa.refuseChild(m, &Error{
				Op: "create Child SA", Kind: KindDataPlane, Exchange: m.Exchange,
				Notify: wire.NotifyTemporaryFailure, Err: fmt.Errorf("install inbound SA: %w", err),
			})
			return
		}
		sa.respond(m, reply)
		switch old := c.replaces; {
		case old != nil:
			t.peerRekeyed(old, c)
		case spec.crossed != nil && spec.crossed.live():
			t.resolveChildren(spec.crossed, c)
			t.childUp(c)
		default:
			t.peerCreated(sa, c)
		}
	})
}

// peerRekeyed notes that the peer made fresh to replace old. If we are rekeying
// old too, which one stays is decided when our answer is there.
func (t *Tunnel) peerRekeyed(old, fresh *childSA) {
	if old.rekey != nil {
		old.passive = &passiveRekey{child: fresh, nonce: fresh.lowestNonce}
		return
	}
	old.replaceWith(fresh)
}

// peerCreated notes that the peer made a Child SA that replaces none by name.
// If we are making the same, the nonces decide later; otherwise the peer has lost the
// one that we have, or wants another one in its place. Then it deletes that when it has
// our answer: until it has, it receives on the old one alone.
func (t *Tunnel) peerCreated(sa *ikeSA, fresh *childSA) {
	if c, ok := sa.active.(*createChildTask); ok && c.cfg.Name == fresh.name {
		c.passive = fresh
		return
	}
	for _, o := range t.children {
		if o != fresh && o.name == fresh.name && o.ike == sa && o.live() {
			o.replacedBy = fresh
			o.redundant = true
			o.endAt = t.now.Add(confirmTime)
		}
	}
	t.childUp(fresh)
}

// sendsElsewhere reports whether outgoing traffic of that name has an SA, and can wait
// there until the peer is known to receive on another one, made on sa. It cannot if
// it goes where the peer may be no longer: to or from another address than sa, by
// another transport, or on another IKE SA, whose peer does not answer. On sa itself the peer
// has just asked, however long it leaves what we ask unanswered.
func (t *Tunnel) sendsElsewhere(sa *ikeSA, name string) bool {
	for _, c := range t.children {
		if c.name == name && c.sending {
			o := c.ike
			there := o == sa || o.remote.Addr() == sa.remote.Addr() && o.local.Addr() == sa.local.Addr() && o.tcp == sa.tcp && !o.suspect
			return there || sa.redundant
		}
	}
	return false
}

// hasSender reports whether outgoing traffic of that name has an SA.
func (t *Tunnel) hasSender(name string) bool {
	for _, c := range t.children {
		if c.name == name && c.sending {
			return true
		}
	}
	return false
}
