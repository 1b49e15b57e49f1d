package ike

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// HalfOpenConfig is what a responder needs before it knows which tunnel the
// peer is. All that have the same may share it, and it is not to be changed.
type HalfOpenConfig struct {
	// Proposals that are accepted, the union of those of the tunnels that the
	// peer may be.
	Proposals []suite.IKEProposal
	// Roots are the authorities that a certificate may come from, the union of
	// those of the tunnels that the peer may be; nil if none of them takes a
	// certificate. The response asks for one from these (RFC 7296, Section
	// 3.7).
	Roots *ident.Roots
	// Methods are the ways in which a peer may prove itself, the union of
	// those of the tunnels that it may be; they are announced (RFC 9593). None:
	// nothing is said about them.
	Methods ident.Methods
	// Childless announces that the IKE SA may begin without a Child SA (RFC
	// 6023): one of the tunnels at least allows it.
	Childless bool
	// PPKs are the post-quantum preshared keys of all tunnels that the peer may
	// be, nil if there are none.
	PPKs *ident.PPKSet
	// RedirectTo is where initiators are sent whichever tunnel they mean, see
	// Config; zero: that is decided when it is known.
	RedirectTo Gateway
	// NATPort and ForceEncap are as in Config.
	NATPort    uint16
	ForceEncap bool
	// ProhibitNAT is as in Mobility: all of the tunnels do without NAT traversal.
	ProhibitNAT bool
	// HalfOpen is as in Timing.
	HalfOpen time.Duration
	Runtime  Runtime
}

// HalfOpen is a responder between IKE_SA_INIT and IKE_AUTH. It is driven like a
// Tunnel, by Step, Next and Deadline. When it is Identified, the tunnel that
// fits takes it over with Adopt, or Reject ends it. When it is Done it has
// nothing more to say and can be dropped.
type HalfOpen struct {
	machine
	cfg     *HalfOpenConfig
	sa      *ikeSA
	adopted bool
}

// NewHalfOpen takes the first IKE_SA_INIT or IKE_SESSION_RESUME request of an
// initiator. The error
// means that there is nothing to be answered. A request that is refused gives a
// HalfOpen that is Done once its effects are carried out.
func NewHalfOpen(now time.Time, cfg *HalfOpenConfig, d Datagram) (*HalfOpen, error) {
	m, err := parseInitRequest(d)
	var critical *wire.UnsupportedCriticalError
	if err != nil && !errors.As(err, &critical) {
		return nil, err
	}
	h := &HalfOpen{cfg: cfg}
	h.clock.set(now)
	h.runtime, h.timing, h.natPort = &cfg.Runtime, &usualTiming, cmp.Or(cfg.NATPort, DefaultNATPort)
	h.stats.Received++
	h.sa = &ikeSA{m: &h.machine, state: stateDead, remoteSPI: m.InitiatorSPI, childless: cfg.Childless}
	h.sa.route, h.sa.begun = d.route(), h.now
	h.sa.placed.route = h.sa.route // see firstPlace
	h.sa.beganEncap = d.Local.Port() == h.natPort && !d.TCP
	h.sa.noteReceived(m)
	if critical != nil {
		h.refuseInit(m, wire.NotifyUnsupportedCriticalPayload, []byte{byte(critical.Payload)})
		h.failed(&Error{Exchange: m.Exchange, Notify: wire.NotifyUnsupportedCriticalPayload, Err: err})
		return h, nil
	}
	if h.redirectInit(m) {
		return h, nil
	}
	if m.Exchange == wire.ExchangeIKESessionResume {
		h.answerResume(m)
		return h, nil
	}
	h.answerInit(m)
	return h, nil
}

// isFirst reports whether an exchange begins an IKE SA.
func isFirst(x wire.ExchangeType) bool {
	return x == wire.ExchangeIKESAInit || x == wire.ExchangeIKESessionResume
}

// parseInitRequest checks the form of an IKE_SA_INIT or IKE_SESSION_RESUME request.
// If it has an unknown payload that is critical, the message is without
// payloads and the error says which (RFC 7296, Section 2.5).
func parseInitRequest(d Datagram) (*message, error) {
	raw := bytes.Clone(d.Data)
	h, err := wire.ParseHeader(raw)
	switch {
	case err != nil:
		return nil, err
	case !isFirst(h.Exchange) || h.IsResponse() || !h.FromInitiator():
		return nil, errors.New("not a request to begin an IKE SA")
	case h.Major != 2 || h.MessageID != 0 || !h.ResponderSPI.IsZero() || h.InitiatorSPI.IsZero():
		return nil, errors.New("request to begin an IKE SA with impossible header")
	}
	m := &message{Header: h, route: d.route(), raw: raw}
	parsed, err := wire.Parse(raw)
	if err != nil {
		return m, err
	}
	// RFC 7296, Section 1.2.
	f := form{"request", []wire.PayloadType{wire.PayloadSA, wire.PayloadKE, wire.PayloadNonce}, extras(wire.PayloadCertReq)}
	if h.Exchange == wire.ExchangeIKESessionResume {
		f = form{"request", []wire.PayloadType{wire.PayloadNonce, wire.PayloadNotify}, extras()} // RFC 5723, Section 4.3.2
	}
	if err := f.check(parsed.Payloads); err != nil {
		return nil, fmt.Errorf("%s: %w", h.Exchange, err)
	}
	m.raw, m.payloads = parsed.Raw, parsed.Payloads
	return m, nil
}

// answerInit chooses the suite and starts the key exchange.
func (h *HalfOpen) answerInit(m *message) {
	offered, ke := find[*wire.SA](m), find[*wire.KE](m)
	policy := h.cfg.Proposals
	if m.notify(wire.NotifyIntermediateExchangeSupported) == nil {
		policy = suite.WithoutAdditional(policy)
	}
	chosen, answer, err := suite.ChooseIKE(withoutSPI(offered.Proposals), policy)
	if err != nil {
		var none *suite.NoProposalError
		if errors.As(err, &none) && len(policy) < len(h.cfg.Proposals) {
			none.Accepted = texts(h.cfg.Proposals)
			err = fmt.Errorf("the peer does not announce the IKE_INTERMEDIATE exchange that additional key exchanges need: %w", err)
		}
		h.refuseInit(m, wire.NotifyNoProposalChosen, nil)
		h.failed(&Error{Exchange: m.Exchange, Notify: wire.NotifyNoProposalChosen, Err: err})
		return
	}
	if chosen.KeyExchange != ke.Group {
		h.refuseInit(m, wire.NotifyInvalidKEPayload, binary.BigEndian.AppendUint16(nil, uint16(chosen.KeyExchange)))
		return
	}
	h.begin(m, chosen)
	h.exchangeKeys(m, answer)
}

// begin makes h half open, for a first message that is accepted.
func (h *HalfOpen) begin(m *message, chosen suite.IKESuite) {
	sa := h.sa
	sa.state, sa.suite = stateHalfOpen, chosen
	sa.localSPI = h.runtime.NewSPI()
	sa.endAt = h.now.Add(cmp.Or(h.cfg.HalfOpen, h.timing.HalfOpen))
	sa.init = &initState{request: m.raw, ni: find[*wire.Nonce](m).Data, nr: h.nonce()}
	sa.window.accept(sha256.Sum256(m.raw))
	sa.lowestNonce = lower(sa.init.ni, sa.init.nr)
	sa.readCapabilities(m)
	if !h.cfg.ProhibitNAT {
		sa.detectNAT(m, h.cfg.ForceEncap)
	}
	h.emit(RegisterSPI{sa.localSPI})
}

// withoutSPI leaves out proposals with an SPI: in IKE_SA_INIT the header has it,
// and its size in the proposal must be zero (RFC 7296, Section 3.3.1).
func withoutSPI(offered []wire.Proposal) []wire.Proposal {
	var out []wire.Proposal
	for _, p := range offered {
		if len(p.SPI) == 0 {
			out = append(out, p)
		}
	}
	return out
}

// failed says why the handshake comes to nothing.
func (m *machine) failed(err *Error) {
	err.complete()
	m.emit(Failed{Err: err})
}

// refuseInit answers without keeping anything; the responder's SPI stays zero
// (RFC 7296, Section 2.6).
func (h *HalfOpen) refuseInit(m *message, kind wire.NotifyType, data []byte) {
	refusal := wire.Message{
		Header:   wire.Header{InitiatorSPI: m.InitiatorSPI, Major: 2, Exchange: m.Exchange, Flags: wire.FlagResponse},
		Payloads: []wire.Payload{&wire.Notify{Kind: kind, Data: data}},
	}
	raw, err := refusal.Append(nil)
	if err == nil {
		h.sa.noteSent(refusal.Header, refusal.Payloads, [][]byte{raw})
		h.sa.send([][]byte{raw})
	}
}

// respondResult is what the responder's IKE_SA_INIT job computes.
type respondResult struct {
	public []byte
	keys   *suite.IKEKeys
}

// Destroy zeroes the keys.
func (r respondResult) Destroy() {
	if r.keys != nil {
		r.keys.Destroy()
	}
}

func (h *HalfOpen) exchangeKeys(m *message, answer wire.Proposal) {
	sa := h.sa
	group, theirs := sa.suite.KeyExchange, find[*wire.KE](m).Data
	s, ni, nr, spii, spir, rand := sa.suite, sa.init.ni, sa.init.nr, sa.remoteSPI, sa.localSPI, h.runtime.Rand
	runJob(sa, ClassHandshake, func() (respondResult, error) {
		public, shared, err := suite.Respond(group, theirs, rand)
		if err != nil {
			return respondResult{}, err
		}
		defer clear(shared)
		keys, err := suite.DeriveIKEKeys(s, ni, nr, shared, spii, spir)
		return respondResult{public, keys}, err
	}, func(r respondResult, err error) {
		if err == nil {
			err = sa.useKeys(r.keys)
		}
		if err != nil {
			// The public value or nonce of the peer is bad. It is not
			// authenticated, so it gets no answer (RFC 7296, Section
			// 2.21.1).
			h.stats.Malformed++
			h.failed(&Error{Exchange: m.Exchange, Payload: wire.PayloadKE, Err: err})
			sa.die()
			return
		}
		ppk := h.agreePPK(m)
		sa.init.pending = sa.init.rounds(s)
		if m.notify(wire.NotifyIntermediateExchangeSupported) != nil {
			sa.init.spare = mostSpare
		}
		sa.awaitInitiator()
		h.sendInitResponse(m, answer, r.public, ppk)
	})
}

func (h *HalfOpen) sendInitResponse(m *message, answer wire.Proposal, public []byte, ppk []wire.Payload) {
	sa := h.sa
	payloads := []wire.Payload{
		&wire.SA{Proposals: []wire.Proposal{answer}},
		&wire.KE{Group: sa.suite.KeyExchange, Data: public},
		&wire.Nonce{Data: sa.init.nr},
	}
	if h.cfg.Roots != nil {
		// Many peers send a certificate only if asked (RFC 7296, Section 3.7).
		payloads = append(payloads, h.cfg.Roots.Request())
	}
	payloads = append(payloads, h.natAnswer(m)...)
	payloads = append(payloads, initCapabilities()...)
	if sa.childless {
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyChildlessIKEv2Supported})
	}
	if m.notify(wire.NotifyIntermediateExchangeSupported) != nil {
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyIntermediateExchangeSupported})
	}
	payloads = append(payloads, ppk...)
	header := wire.Header{Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagResponse}
	sa.fillHeader(&header)
	raw, err := (&wire.Message{Header: header, Payloads: payloads}).Append(nil)
	if more := h.announceMethods(m, len(raw)); err == nil && more != nil {
		raw, err = (&wire.Message{Header: header, Payloads: append(payloads, more...)}).Append(nil)
	}
	h.respondFirst(m, header, payloads, raw, err)
}

// respondFirst sends the response to a first message, encoded as raw.
func (h *HalfOpen) respondFirst(m *message, header wire.Header, payloads []wire.Payload, raw []byte, err error) {
	sa := h.sa
	if err != nil {
		h.failed(&Error{Op: "encode " + m.Exchange.String(), Kind: KindInternal, Exchange: m.Exchange, Err: err})
		sa.die()
		return
	}
	sa.init.response = raw
	sa.window.response = [][]byte{raw}
	sa.noteSent(header, payloads, sa.window.response)
	sa.sendTo(m.route, sa.window.response)
}

// Step applies one input: a Datagram, JobDone or Tick.
func (h *HalfOpen) Step(now time.Time, in Input) {
	h.clock.set(now)
	if h.adopted {
		return
	}
	switch in := in.(type) {
	case Datagram:
		h.receive(in)
	case JobDone:
		h.answer(in.Token, in.Result)
	}
	if h.sa.state != stateDead && h.due(h.sa.endAt) {
		h.sa.die()
	}
	h.sa.receivePostponed()
}

func (h *HalfOpen) receive(d Datagram) {
	h.stats.Received++
	header, err := wire.ParseHeader(d.Data)
	if err == nil && isFirst(header.Exchange) {
		if h.sa.repeatsInit(d) {
			if d.Remote.Addr() != h.sa.placed.remote.Addr() {
				h.sa.placed.route = route{} // it is not known who gets the answer
			}
			h.sa.repeatResponse(d, false)
		}
		return
	}
	before := h.stats
	h.sa.receive(d)
	h.noteDrops(before, d.Remote)
}

// Deadline returns when it wants its next Tick; false means never.
func (h *HalfOpen) Deadline() (time.Time, bool) {
	return h.outside(h.sa.endAt), h.sa.state != stateDead && !h.adopted
}

// Identified reports whether IKE_AUTH was received and the peer's claim to an
// identity can be read: time for Adopt or Reject.
func (h *HalfOpen) Identified() bool { return h.sa.state == stateIdentified && !h.adopted }

// Done reports whether there is nothing left to do but the pending effects.
func (h *HalfOpen) Done() bool { return h.sa.state == stateDead || h.adopted }

// PeerID is who the peer claims to be; nothing of it is verified yet.
func (h *HalfOpen) PeerID() ident.ID { return h.sa.remoteID }

// LocalID is whom the peer wants to talk to (IDr), zero if it did not say.
func (h *HalfOpen) LocalID() ident.ID { return h.sa.localID }

// Wants says how well one of children is what the peer of a responder that is
// Identified asks for in IKE_AUTH: 3 exactly, 2 and more, 1 in part, 0 not at all, or
// it asks for none. Nothing of that is verified yet.
func (h *HalfOpen) Wants(children []ChildConfig) int {
	if h.sa.init == nil || h.sa.init.auth == nil {
		return 0
	}
	remote, err := selectors(h.sa.init.auth, true)
	local, e := selectors(h.sa.init.auth, false)
	if err != nil || e != nil {
		return 0
	}
	best := 0
	for i := range children {
		ch := &children[i]
		if !asksFor(h.sa.init.auth, ch.Label) {
			continue
		}
		local, remote := h.sa.seenFor(ch, local, remote)
		switch whole := ts.Covers(local, ch.LocalTS) && ts.Covers(remote, ch.RemoteTS); {
		case whole && ts.Covers(ch.LocalTS, local) && ts.Covers(ch.RemoteTS, remote):
			return 3
		case whole:
			best = max(best, 2)
		case len(ts.Narrow(local, ch.LocalTS)) > 0 && len(ts.Narrow(remote, ch.RemoteTS)) > 0:
			best = max(best, 1)
		}
	}
	return best
}

// Remote is where the peer's latest message came from.
func (h *HalfOpen) Remote() netip.AddrPort { return h.sa.remote }

// Stats returns the counters of this half-open IKE SA.
func (h *HalfOpen) Stats() Stats { return h.stats }

// Held returns how many octets of messages from the peer are kept until they
// are complete or can be worked on.
func (h *HalfOpen) Held() int { return h.sa.held() }

// Reject refuses a peer that no tunnel knows, or that the error of Adopt keeps
// out. It hears no more than one that fails to prove its identity (RFC 7296,
// Section 2.21.2).
func (h *HalfOpen) Reject(now time.Time, why error) {
	if !h.Identified() {
		return
	}
	h.clock.set(now)
	h.sa.refuse(h.sa.init.auth, wire.NotifyAuthenticationFailed, nil)
	h.failed(&Error{
		Exchange: wire.ExchangeIKEAuth, Payload: wire.PayloadIDi, Notify: wire.NotifyAuthenticationFailed,
		Theirs: []string{h.claim()}, Err: why,
	})
	h.sa.linger()
}

// claim is who the peer says it is, whom it wants and where it is.
func (h *HalfOpen) claim() string {
	s := h.sa.remoteID.String()
	if !h.sa.localID.IsZero() {
		s += " to " + h.sa.localID.String()
	}
	return s + " from " + h.sa.remote.String()
}

// Matches reports whether a peer that claims to be peer, wants to talk to local
// (zero for anybody) and sends from remote may be the one of this tunnel.
func (c Config) Matches(peer, local ident.ID, remote netip.Addr) bool {
	if !c.Peer.ID.IsZero() && !c.Peer.ID.Equal(peer) {
		return false
	}
	if !local.IsZero() && !c.Credentials.ID.Equal(local) {
		return false
	}
	// With a configured identity the address may differ, as it does behind a
	// NAT; without one the address has to tell peers apart.
	return !c.Peer.ID.IsZero() || !c.Remote.Addr().IsValid() || c.Remote.Addr().Unmap() == remote.Unmap()
}

// Adopt takes over a responder that is Identified, and verifies the peer. The
// error says why the tunnel does not want it; then it is still to be rejected.
func (t *Tunnel) Adopt(now time.Time, h *HalfOpen) error {
	t.clock.set(now)
	if !h.Identified() {
		return errors.New("peer has not identified itself")
	}
	if !t.wanted || t.closing {
		return fmt.Errorf("tunnel %s is not wanted", t.cfg.Name)
	}
	if !slices.ContainsFunc(t.ikeOffer(), func(p suite.IKEProposal) bool { return p.Allows(h.sa.suite) }) {
		return &mismatch{
			kind: KindProposals, payload: wire.PayloadSA, ours: texts(t.cfg.Proposals), theirs: []string{h.sa.suite.String()},
			text: fmt.Sprintf("tunnel %s does not allow the suite %s", t.cfg.Name, h.sa.suite),
		}
	}
	if err := t.refusesPPK(h.sa.init); err != nil {
		return err
	}
	if h.sa.tcp && t.cfg.TCP.Mode == TCPNever {
		return &mismatch{kind: KindConfiguration, text: fmt.Sprintf("tunnel %s takes no TCP", t.cfg.Name), remedy: remedyTCP}
	}
	identified := 0
	for _, sa := range t.sas {
		if sa.state == stateIdentified {
			identified++
		}
	}
	if identified >= maxIdentified {
		return &mismatch{kind: KindBusy, text: fmt.Sprintf("tunnel %s has %d unverified peers already", t.cfg.Name, identified)}
	}
	h.adopted = true
	t.transcript.join(&h.transcript, h.sa.localSPI)
	t.add(h.sa)
	h.sa.begun = h.sa.begun.Add(t.ahead - h.ahead)
	h.sa.endAt = h.sa.endAt.Add(t.ahead - h.ahead)
	h.sa.authenticate()
	t.tick()
	t.advance()
	return nil
}
