package ike

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// receive takes a datagram through the checks of the IKE SA it is for, the cheap
// ones first: flags and SPIs, state, message ID, and only then cryptography.
// Whatever is dropped on the way changes nothing but a counter.
func (sa *ikeSA) receive(d Datagram) {
	h, ok := parseHeader(sa.m, d)
	if !ok {
		return
	}
	if h.FromInitiator() == sa.initiator {
		sa.m.stats.UnknownSPI++ // reflected
		return
	}
	if !sa.matchesPeerSPI(h) {
		sa.m.stats.UnknownSPI++
		return
	}
	if h.NextPayload == wire.PayloadNotify && !isFirst(h.Exchange) {
		sa.receiveClear(d)
		return
	}
	verdict := sa.window.judge(h, d.Data)
	if sa.state == stateListening && slices.Contains(sa.init.responders, h.ResponderSPI) {
		verdict = verdictDrop // it is heard already
	}
	if verdict != verdictRepeated && sa.receiveSync(h, d) {
		return
	}
	switch verdict {
	case verdictRepeated:
		sa.repeatResponse(d, false)
		sa.repeatedFrom(d.route())
		return
	case verdictDrop:
		if sa.repeatsInPieces(h, d) {
			sa.repeatResponse(d, true)
			return
		}
		sa.m.stats.WrongMessageID++
		return
	}
	r := ruleFor(h, sa.state)
	if r == nil {
		sa.m.stats.WrongState++
		return
	}
	if sa.busy > 0 {
		sa.postpone(d)
		return
	}
	if isFirst(h.Exchange) {
		sa.receiveInit(r, h, d)
		return
	}
	sa.receiveProtected(r, h, d)
}

// parseHeader checks what a header can show without any state.
func parseHeader(m *machine, d Datagram) (wire.Header, bool) {
	h, err := wire.ParseHeader(d.Data)
	if err != nil || h.Major != 2 || int(h.Length) != len(d.Data) {
		m.stats.Malformed++
		return h, false
	}
	return h, true
}

// matchesPeerSPI compares the SPI that the peer chose. An initiator learns it
// from the response to IKE_SA_INIT; a responder that asks for a retry may leave
// it zero (RFC 7296, Section 2.6).
func (sa *ikeSA) matchesPeerSPI(h wire.Header) bool {
	if sa.state.in(stateInit | stateListening) {
		return isFirst(h.Exchange)
	}
	if sa.initiator {
		return h.ResponderSPI == sa.remoteSPI
	}
	return h.InitiatorSPI == sa.remoteSPI
}

// postpone keeps a message until the one at work is done.
func (sa *ikeSA) postpone(d Datagram) {
	if len(sa.inbox) >= maxInbox || sa.held()+len(d.Data) > sa.mayHold() {
		sa.m.stats.QueueFull++
		return
	}
	d.Data = bytes.Clone(d.Data)
	sa.inbox = append(sa.inbox, d)
}

// receivePostponed works on waiting messages until one of them makes the SA
// busy again.
func (sa *ikeSA) receivePostponed() {
	for sa.busy == 0 && len(sa.inbox) > 0 && sa.state != stateDead {
		d, before := sa.inbox[0], sa.m.stats
		sa.inbox = slices.Delete(sa.inbox, 0, 1)
		sa.receive(d)
		sa.m.noteDrops(before, d.Remote)
	}
}

func (sa *ikeSA) receiveInit(r *rule, h wire.Header, d Datagram) {
	// AUTH covers the message as received (RFC 7296, Section 2.15).
	parsed, err := wire.Parse(bytes.Clone(d.Data))
	if err != nil || r.check(parsed.Payloads) != nil {
		sa.m.stats.Malformed++
		return
	}
	m := &message{Header: h, route: d.route(), raw: parsed.Raw, payloads: parsed.Payloads}
	sa.noteReceived(m)
	r.handle(sa, m)
}

// noteReceived writes a message of the peer down, whole if it came in fragments.
func (sa *ikeSA) noteReceived(m *message) {
	size := len(m.raw)
	if m.pieces > 1 {
		size = len(m.plain)
	}
	sa.m.transcript.follow(sa.m.now, sa.localSPI, m.route)
	sa.m.transcript.received(sa.m.now, sa.localSPI, m.Header, m.payloads, m.pieces, size)
}

// receiveProtected opens an encrypted message and gives it to its handler.
func (sa *ikeSA) receiveProtected(r *rule, h wire.Header, d Datagram) {
	o, err := sa.open(h, d)
	switch {
	case errors.Is(err, errTooLong):
		sa.fail(&Error{Exchange: h.Exchange, Payload: wire.PayloadSKF, Notify: wire.NotifyInvalidSyntax, Err: err})
		return
	case errors.Is(err, suite.ErrPadding):
		// Authentic, so it counts as a malformed payload below.
	case err != nil:
		return
	}
	m := &message{Header: h, route: d.route(), raw: d.Data, opened: o}
	if err == nil {
		m.payloads, err = wire.ParsePayloads(o.first, o.plain)
	}
	if h.Exchange == wire.ExchangeIKEIntermediate {
		m.covered = receivedOctets(o.head, o.plain)
	}
	sa.noteReceived(m)
	sa.authentic(m, d)
	if err == nil {
		err = r.check(m.payloads)
	}
	if err != nil {
		sa.refuseMalformed(m, err)
		return
	}
	r.handle(sa, m)
}

// open returns the decrypted payload chain of a message, or an error after
// counting it.
func (sa *ikeSA) open(h wire.Header, d Datagram) (opened, error) {
	parsed, err := wire.Parse(d.Data)
	if err != nil || len(parsed.Payloads) == 0 {
		sa.notProtected(parsed)
		return opened{}, errNotProtected
	}
	header, body, ok := parsed.Protected()
	if !ok || sa.opener == nil {
		sa.notProtected(parsed)
		return opened{}, errNotProtected
	}
	fragment, inPieces := parsed.Payloads[len(parsed.Payloads)-1].(*wire.EncryptedFragment)
	if !outerAllowed(parsed, fragment) {
		sa.notProtected(parsed)
		return opened{}, errNotProtected
	}
	if inPieces && !sa.expects(h, fragment) {
		sa.m.stats.WrongFragment++
		return opened{}, errIncomplete
	}
	plain, err := sa.opener.Open(nil, header, body)
	if errors.Is(err, suite.ErrAuthentication) {
		sa.m.stats.Unauthentic++
		if d.TCP {
			// Nobody else can be in the connection, so it is corrupt, and all
			// after this may be as well (RFC 9329, Section 6.1).
			sa.m.emit(CloseStream{d.Local, d.Remote})
		}
		return opened{}, err
	}
	if inPieces {
		if err != nil {
			return opened{}, errIncomplete
		}
		return sa.reassemble(h, fragment, header[:len(header)-fragmentNumbersLen], plain, d)
	}
	o := opened{plain: plain, head: header, hash: sha256.Sum256(d.Data)}
	o.first = parsed.Payloads[len(parsed.Payloads)-1].(*wire.Encrypted).FirstInner
	return o, err
}

// outerAllowed judges the payloads before the encrypted one. No exchange has any
// yet; those of unknown types are skipped (RFC 7296, Section 2.5), where
// fragments may have them in the first one only (RFC 7383, Section 2.5.3). What
// is encrypted in all exchanges makes no sense outside.
func outerAllowed(parsed *wire.Message, fragment *wire.EncryptedFragment) bool {
	outer := parsed.Payloads[:len(parsed.Payloads)-1]
	if len(outer) > 0 && fragment != nil && fragment.Number != 1 {
		return false
	}
	for _, p := range outer {
		if _, unknown := p.(*wire.Unknown); !unknown {
			return false
		}
	}
	return true
}

// fragmentNumbersLen is that of Fragment Number and Total Fragments, between the
// generic header of an Encrypted Fragment payload and its content.
const fragmentNumbersLen = 4

var (
	errNotProtected = errors.New("message is not protected")
	errIncomplete   = errors.New("fragments are missing")
	errTooLong      = fmt.Errorf("message of more than %d octets in fragments", maxReassembled)
)

// notProtected counts a message in the clear where only protected ones are
// allowed. If it complains about the SA, that is a hint that the peer may have
// lost it: reason to ask, at most every few seconds (RFC 7296, Section 2.21.4).
func (sa *ikeSA) notProtected(parsed *wire.Message) {
	sa.m.stats.Unauthentic++
	if parsed == nil {
		return
	}
	for _, p := range parsed.Payloads {
		if n, ok := p.(*wire.Notify); ok && n.Kind.IsError() {
			sa.hint()
			return
		}
	}
}

// hint notes that something unauthenticated casts doubt on the SA. A request that is
// out already is as good a question as a new one: it is repeated at once, as its
// answer may have been lost with the peer's state, and its next turn may be far.
func (sa *ikeSA) hint() {
	sa.m.stats.Hints++
	if sa.state != stateEstablished || sa.m.now.Before(sa.probeAt) {
		return
	}
	sa.probeAt = sa.m.now.Add(hintInterval)
	sa.wantProbe = true
	if o := sa.window.outstanding; o != nil {
		sa.repeat(o)
	}
}

// authentic notes that a fresh message passed the integrity check. Pieces of
// another form of the same message are of no use any more.
func (sa *ikeSA) authentic(m *message, d Datagram) {
	sa.hears(sa.m.now)
	sa.wantProbe = false
	sa.setSuspect(false)
	sa.confirmed = sa.state.in(stateUsable)
	if m.IsResponse() {
		o := sa.window.outstanding
		if o.whole != nil && o.silent > o.tries && !o.probe && !o.trial {
			// Smaller pieces were what helped.
			sa.m.found = pathSize{sa.local.Addr(), sa.remote.Addr(), o.whole.size}
		}
		sa.answerTo, sa.answered, sa.window.outstanding = o.handle, o, nil
		sa.answeredOver(o, d.route())
	} else {
		sa.window.accept(m.hash)
		if sa.t != nil {
			sa.t.confirmChildren(sa)
		}
	}
	if sa.t != nil {
		sa.t.tellHeard(d.route())
	}
	if sa.init != nil && !d.TCP {
		sa.init.heard = d.Remote
	}
	*sa.partsOf(m.Header) = nil
	sa.follow(d.route())
}

// refuseMalformed handles an authentic message that makes no sense. As a
// request it is answered, and unless only a critical payload is unknown, the
// IKE SA ends at both sides without a Delete (RFC 7296, Section 2.21.3).
func (sa *ikeSA) refuseMalformed(m *message, err error) {
	var critical *wire.UnsupportedCriticalError
	if errors.As(err, &critical) {
		if !m.IsResponse() {
			sa.refuse(m, wire.NotifyUnsupportedCriticalPayload, []byte{byte(critical.Payload)})
			if sa.unidentified() {
				sa.fail(&Error{Exchange: m.Exchange, Notify: wire.NotifyUnsupportedCriticalPayload, Err: err})
			}
			return
		}
		sa.fail(&Error{Exchange: m.Exchange, Notify: wire.NotifyUnsupportedCriticalPayload, Err: err})
		return
	}
	if !m.IsResponse() {
		sa.refuse(m, wire.NotifyInvalidSyntax, nil)
	}
	sa.fail(&Error{Exchange: m.Exchange, Notify: wire.NotifyInvalidSyntax, Err: err})
}

// handleAnswer gives a response to the task that asked. INVALID_SYNTAX ends the
// IKE SA at both sides (RFC 7296, Section 2.21.3).
func (sa *ikeSA) handleAnswer(m *message) {
	handle := sa.answerTo
	sa.answerTo = nil
	if sa.state.in(stateUsable) && m.notify(wire.NotifyInvalidSyntax) != nil {
		sa.fail(&Error{Exchange: m.Exchange, Notify: wire.NotifyInvalidSyntax, Remote: true})
		return
	}
	if handle != nil {
		handle(m)
	}
	sa.answered = nil
}
