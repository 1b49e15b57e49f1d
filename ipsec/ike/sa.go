package ike

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// saState is where an IKE SA is in its life. The values are bits, so that a row
// of the exchange table can name several.
type saState uint16

const (
	stateInit         saState = 1 << iota // initiator: IKE_SA_INIT under way
	stateListening                        // initiator: IKE_SA_INIT answered, another may answer too
	stateIntermediate                     // IKE_INTERMEDIATE under way, or awaited by the responder
	stateAuth                             // initiator: IKE_AUTH under way
	stateHalfOpen                         // responder: IKE_AUTH awaited
	stateIdentified                       // responder: IKE_AUTH opened, peer not verified
	stateEstablished                      // both ends authenticated
	stateRekeyed                          // another IKE SA has taken over; to be deleted
	stateDeleting                         // our Delete is under way
	stateLingering                        // deleted by the peer; only repeats its last answer
	stateDead                             // to be reaped
)

func (s saState) String() string {
	switch s {
	case stateInit:
		return "init"
	case stateListening:
		return "listening"
	case stateIntermediate:
		return "intermediate"
	case stateAuth:
		return "auth"
	case stateHalfOpen:
		return "half-open"
	case stateIdentified:
		return "identified"
	case stateEstablished:
		return "established"
	case stateRekeyed:
		return "rekeyed"
	case stateDeleting:
		return "deleting"
	case stateLingering:
		return "lingering"
	default:
		return "dead"
	}
}

const (
	// larval IKE SAs have not authenticated the peer.
	stateLarval = stateInit | stateListening | stateIntermediate | stateAuth | stateHalfOpen | stateIdentified
	// usable ones can carry exchanges.
	stateUsable = stateEstablished | stateRekeyed | stateDeleting
)

func (s saState) in(set saState) bool { return s&set != 0 }

const (
	// lingerTime is how long the answer to a peer's last Delete can be
	// repeated.
	lingerTime = 30 * time.Second
	// maxLingering bounds the IKE SAs of a tunnel that only do that.
	maxLingering = 8
	// maxReplaced bounds the IKE SAs of a tunnel that are replaced and wait for
	// their deletion: who replaces them deletes them one by one.
	maxReplaced = 4
	// maxInbox bounds the datagrams that wait while one is worked on; the octets
	// in them are bounded as those of fragments are.
	maxInbox = 64
)

// ikeSA is one IKE SA. Its parts are where they are explained.
type ikeSA struct {
	m *machine
	t *Tunnel // nil while half-open

	state     saState
	initiator bool // this end is the original initiator
	localSPI  wire.SPI
	remoteSPI wire.SPI
	// childless: the responder announced that there need be no Child SA in
	// IKE_AUTH (RFC 6023).
	childless bool
	natState
	proofState
	init  *initState // until established
	rekey *rekeyIKETask

	parties
	protection
	messaging
	path
	mobileState
	liveness
	lifetime
	rivalry
	resumption
	crashTokens
	redirection
	internalState
	followups
	synchrony
	ending
	childDebts
}

// parties are the two ends, and how the peer proved its identity.
type parties struct {
	localID  ident.ID
	remoteID ident.ID
	ppk      string // identifier of the post-quantum preshared key that is mixed in
	// remoteAuth is how the peer proved its identity.
	remoteAuth string
	evidence   *evidence
}

// protection is what the messages are protected with.
type protection struct {
	suite suite.IKESuite
	keys  *suite.IKEKeys
	protectors
	fragment bool // both ends can fragment (RFC 7383)
}

// destroy zeroes the keys.
func (p *protection) destroy() {
	if p.keys != nil {
		p.keys.Destroy()
		p.protectors.destroy()
	}
	p.keys = nil
}

// childDebts are what is owed to Child SAs that are not there.
type childDebts struct {
	// orphans are inbound SPIs of Child SAs that the peer has and we have not.
	orphans []childSPI
	// reserved is the inbound SPI of the Child SA that the request at work
	// makes, until the data plane has it; 0 if there is none.
	reserved uint32
	strange  uint32    // an SPI that the peer uses and we do not have
	tellAt   time.Time // earliest next word about such a one
	// refused are the latest requests that the peer could not fulfil yet.
	refused refusals
}

// ending is how the SA comes to its end.
type ending struct {
	wantDelete bool
	reason     Reason
	farewell   wire.NotifyType // what the Delete payload goes with
}

// because notes why, unless that is known already.
func (e *ending) because(why Reason) {
	if e.reason == 0 {
		e.reason = why
	}
}

// initState is what the initial exchanges need and nobody after them.
type initState struct {
	request, response []byte // IKE_SA_INIT as sent and received, for AUTH
	ni, nr            []byte
	ke                *suite.KeyExchange
	shared            *sharedValue // ke of IKE_SA_INIT, once it is answered
	responders        []wire.SPI   // that have answered
	resume            *heldTicket  // initiator: what is resumed (RFC 5723), nil for none
	session           *session     // responder: likewise, out of the ticket with that ID
	ticket            ticketID
	group             wire.KeyExchangeID
	// pending are the methods of the key exchanges still to be made in
	// IKE_INTERMEDIATE, in their order.
	pending []wire.KeyExchangeID
	// spare is how many IKE_INTERMEDIATE exchanges with nothing to agree on are
	// still answered.
	spare              int
	ppkUse             ppkUse
	ppks               *ident.PPKSet  // responder: those that anybody may have
	ppk                *ident.PPK     // that is mixed in
	unmixed            *suite.IKEKeys // what RFC 8784 has replaced, until the peer confirms it
	intAuthI, intAuthR []byte         // of the IKE_INTERMEDIATE messages so far (RFC 9242)
	authID             uint32         // message ID of IKE_AUTH
	cookie             []byte
	retries            int
	hint               *Error          // an unauthenticated refusal, reported if nothing better comes
	peer               ident.Announced // what the peer accepts as our proof
	announce           ident.Methods   // responder: to be told in IKE_INTERMEDIATE
	auth               *message        // responder: the IKE_AUTH request
	provedBy           string          // initiator: how it has proved itself, for people
	heard              netip.AddrPort  // initiator: where an answer by UDP has come from
	redirectedFrom     netip.Addr      // initiator: the gateway that sent us here (RFC 5685)
	replaces           *ikeSA          // make before break: deleted when this one is up
}

func (i *initState) destroy() {
	if i == nil {
		return
	}
	switch {
	case i.shared != nil:
		i.shared.release()
	case i.ke != nil:
		i.ke.Destroy()
	}
	i.ke, i.shared = nil, nil
	i.session.destroy()
	if i.unmixed != nil {
		i.unmixed.Destroy()
		i.unmixed = nil
	}
}

// alive reports whether the SA is established and meant to stay.
func (sa *ikeSA) alive() bool { return sa.state == stateEstablished && !sa.wantDelete }

// protect encodes and encrypts one message; h needs Exchange, MessageID and the
// Response flag only.
func (sa *ikeSA) protect(h wire.Header, payloads []wire.Payload) ([][]byte, error) {
	_, datagrams, err := sa.seal(h, payloads, sa.datagram())
	return datagrams, err
}

// noteSent writes a message of ours down.
func (sa *ikeSA) noteSent(h wire.Header, payloads []wire.Payload, datagrams [][]byte) {
	if !h.IsResponse() {
		sa.m.transcript.follow(sa.m.now, sa.localSPI, sa.route)
	}
	sa.m.transcript.sent(sa.m.now, sa.localSPI, h, payloads, datagrams)
}

func (sa *ikeSA) fillHeader(h *wire.Header) {
	h.Major = 2
	if sa.initiator {
		h.InitiatorSPI, h.ResponderSPI = sa.localSPI, sa.remoteSPI
		h.Flags |= wire.FlagInitiator
	} else {
		h.InitiatorSPI, h.ResponderSPI = sa.remoteSPI, sa.localSPI
	}
}

func (sa *ikeSA) send(datagrams [][]byte) { sa.sendTo(sa.route, datagrams) }

func (sa *ikeSA) sendAgain(p route, datagrams [][]byte) {
	sa.m.stats.Retransmitted += uint64(len(datagrams))
	sa.sendTo(p, datagrams)
}

func (sa *ikeSA) sendTo(r route, datagrams [][]byte) { sa.sendAs(false, r, datagrams) }

func (sa *ikeSA) sendAs(probe bool, r route, datagrams [][]byte) {
	sa.sent = sa.m.now
	sa.m.stats.Sent += uint64(len(datagrams))
	sa.m.emit(Send{Local: r.local, Remote: r.remote, TCP: r.tcp, Datagrams: datagrams, NATPort: r.local.Port() == sa.m.natPort, Probe: probe})
}

// useKeys makes the SA able to protect messages. It owns the keys from then on.
func (sa *ikeSA) useKeys(keys *suite.IKEKeys) error {
	ei, ai, er, ar := keys.Ei, keys.Ai, keys.Er, keys.Ar
	if !sa.initiator {
		ei, ai, er, ar = er, ar, ei, ai
	}
	sealer, err := suite.NewProtector(sa.suite, ei, ai)
	if err != nil {
		keys.Destroy()
		return err
	}
	opener, err := suite.NewProtector(sa.suite, er, ar)
	if err != nil {
		sealer.Destroy()
		keys.Destroy()
		return err
	}
	sa.keys, sa.protectors = keys, protectors{sealer, opener}
	if sa.m.runtime.LogKeys {
		sa.emitKeys()
	}
	return nil
}

// emitKeys hands out copies of the keys.
func (sa *ikeSA) emitKeys() {
	var h wire.Header
	sa.fillHeader(&h)
	k := sa.keys
	sa.m.emit(IKEKeys{
		InitiatorSPI: h.InitiatorSPI, ResponderSPI: h.ResponderSPI, Suite: sa.suite,
		Ei: bytes.Clone(k.Ei), Er: bytes.Clone(k.Er), Ai: bytes.Clone(k.Ai), Ar: bytes.Clone(k.Ar),
	})
}

// skP returns SK_pi or SK_pr (RFC 7296, Section 2.15).
func (sa *ikeSA) skP(initiator bool) []byte {
	if initiator {
		return sa.keys.Pi
	}
	return sa.keys.Pr
}

// runJob has run called elsewhere and then called here with its result. Until
// then the SA takes no other message.
func runJob[T any](sa *ikeSA, class Class, run func() (T, error), then func(T, error)) {
	sa.busy++
	token := sa.m.await(sa, func(a any) {
		sa.busy--
		r, _ := a.(JobResult)
		v, _ := r.value.(T)
		then(v, r.err)
	})
	sa.m.emit(StartJob{Token: token, Class: class, Run: func() JobResult {
		v, err := run()
		return JobResult{v, err}
	}})
}

// lower returns a copy of the lower of two nonces: octet by octet, and a shorter one
// is lower than a longer one that begins with it (RFC 7296, Section 2.8.1). It
// outlives the message that one of them came in.
func lower(a, b []byte) []byte {
	if bytes.Compare(a, b) < 0 {
		return bytes.Clone(a)
	}
	return bytes.Clone(b)
}

// destroyKeys zeroes the keys; the SA can protect nothing from then on.
func (sa *ikeSA) destroyKeys() {
	sa.protection.destroy()
	sa.forgetTokens()
	sa.init.destroy()
	sa.init = nil
	sa.parts = [2]*reassembly{}
	sa.window.whole = nil
	sa.window.before.destroy()
}

// die ends the SA without a word to the peer.
func (sa *ikeSA) die() {
	if sa.state == stateDead {
		return
	}
	sa.abandonTask() // with the SPI and the private value that it holds
	sa.releaseReserved()
	larval := sa.state.in(stateLarval)
	sa.dropSeries()
	sa.state = stateDead
	sa.m.forget(sa)
	sa.messaging.clear()
	sa.rekey = nil
	sa.destroyKeys()
	if sa.t != nil && larval {
		sa.t.listenOn(sa)
	}
	if sa.t == nil || len(sa.t.ofAttempt(sa, ^stateDead)) == 0 {
		sa.m.emit(UnregisterSPI{sa.localSPI})
	}
}

// linger ends the SA but keeps its last response for a while.
func (sa *ikeSA) linger() {
	sa.abandonTask()
	sa.releaseReserved()
	sa.dropSeries()
	sa.state = stateLingering
	sa.m.forget(sa)
	sa.messaging.clear()
	sa.rekey = nil
	sa.destroyKeys()
	sa.endAt = sa.m.now.Add(lingerTime)
	if sa.t != nil {
		sa.t.boundLingering()
	}
}

// releaseReserved gives back the SPI that the request at work reserved.
func (sa *ikeSA) releaseReserved() {
	if sa.reserved != 0 {
		sa.t.releaseSPI(sa.reserved)
		sa.reserved = 0
	}
}

// boundLingering ends the oldest lingering IKE SAs beyond maxLingering: somebody
// who fails to authenticate over and over can cause one with each attempt.
func (t *Tunnel) boundLingering() {
	n := 0
	for i := len(t.sas) - 1; i >= 0; i-- {
		if t.sas[i].state != stateLingering {
			continue
		}
		if n++; n > maxLingering {
			t.sas[i].die()
		}
	}
}

// fail ends the SA for a reason of our own making.
func (sa *ikeSA) fail(err *Error) {
	if sa.t != nil {
		sa.t.ikeFailed(sa, ReasonProtocol, err)
		return
	}
	sa.m.failed(err)
	sa.die()
}

// unidentified reports whether sa is a responder that does not know yet who the
// peer claims to be.
func (sa *ikeSA) unidentified() bool {
	return !sa.initiator && sa.state.in(stateIntermediate|stateHalfOpen)
}

// repeatsInit reports whether d repeats the IKE_SA_INIT request that made this
// responder. It does not any more once another request was answered.
func (sa *ikeSA) repeatsInit(d Datagram) bool {
	return sa.unidentified() && sa.window.nextReceive == 1 && sa.init != nil && bytes.Equal(d.Data, sa.init.request)
}
