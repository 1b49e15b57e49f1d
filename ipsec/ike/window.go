package ike

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// window is the message IDs of one IKE SA (RFC 7296, Sections 2.2 and 2.3). The
// window size is one in both directions: at most one request of ours is without
// an answer, and one response is kept in case its request comes again.
type window struct {
	nextSend    uint32
	outstanding *outstanding

	nextReceive uint32
	// The latest request that was accepted: the hash of its (first) datagram
	// as received, and the datagrams of its response, nil until that is sent. A
	// repeated request is told by the hash, so that a forged one with the same
	// ID gets nothing (RFC 7296, Section 2.1).
	lastRequest [sha256.Size]byte
	response    [][]byte
	// whole is the response before it was cut, nil if that is not needed, and
	// repeats how often it was sent again as it is cut now.
	whole   *whole
	repeats int
	// before is what the latest request and its response are protected with, if
	// that exchange changed it (RFC 9242, Section 3.3.1).
	before protectors
}

// messaging is which messages of an IKE SA are under way.
type messaging struct {
	window   window
	answerTo func(*message) // takes the response at work
	answered *outstanding   // what it answers
	busy     int            // jobs and operations under way for one message
	inbox    []Datagram     // messages that wait for that
	parts    [2]*reassembly // of the peer's request, and of its response; nil without
	active   task           // what our outstanding request is for
}

// clear forgets them when the SA has ended.
func (x *messaging) clear() {
	x.busy, x.inbox = 0, nil
	x.window.outstanding = nil
}

// protectors protect the messages of both directions.
type protectors struct{ sealer, opener *suite.Protector }

func (p *protectors) destroy() {
	if p.sealer != nil {
		p.sealer.Destroy()
		p.opener.Destroy()
	}
	*p = protectors{}
}

// outstanding is our request that waits for its response.
type outstanding struct {
	id        uint32
	exchange  wire.ExchangeType
	datagrams [][]byte
	whole     *whole   // nil for IKE_SA_INIT, which cannot be cut
	original  [][]byte // datagrams before they were cut smaller
	handle    func(*message)

	// ways are the paths that it went over, test the one that it tests, zero if
	// that is not its purpose.
	ways []route
	test route

	// probe says that the arrival of the first datagram shows that its length passes;
	// refused, that this host has not sent it; trial, that it is to be repeated as a
	// whole; hurried, that it had no time to be answered. See pathmtu.go.
	probe, refused, trial, hurried bool

	repetition
}

// repetition is when a request is sent again.
type repetition struct {
	begun    time.Time // when it was sent first
	pace     Schedule
	eager    int // further repetitions before the pace begins
	tries    int // repetitions of these datagrams
	silent   int // repetitions in all
	interval time.Duration
	at       time.Time // of the next repetition, or of giving up
}

// verdict is what the window makes of a message before any cryptography.
type verdict uint8

const (
	verdictDrop verdict = iota
	verdictFresh
	verdictRepeated
)

// Message IDs must not wrap (RFC 7296, Section 2.2). Half of them are plenty, so an
// IKE SA is rekeyed then; if that has failed until the last one, it ends.
const (
	manyMessageIDs = 1 << 31
	lastMessageID  = math.MaxUint32
)

var errMessageIDs = errors.New("the IKE SA has used up its message IDs")

// judge tells fresh messages from repeated and impossible ones.
func (w *window) judge(h wire.Header, raw []byte) verdict {
	if h.IsResponse() {
		if o := w.outstanding; o != nil && o.id == h.MessageID && o.exchange == h.Exchange {
			return verdictFresh
		}
		return verdictDrop
	}
	switch {
	case h.MessageID == lastMessageID:
		return verdictDrop // or the first ones would be fresh again
	case h.MessageID == w.nextReceive:
		return verdictFresh
	case h.MessageID+1 == w.nextReceive && w.isLastRequest(raw):
		return verdictRepeated
	}
	return verdictDrop
}

func (w *window) isLastRequest(raw []byte) bool {
	sum := sha256.Sum256(raw)
	return bytes.Equal(sum[:], w.lastRequest[:])
}

// accept moves on to the next request of the peer. sum is the hash of the
// (first) datagram of this one.
func (w *window) accept(sum [sha256.Size]byte) {
	w.nextReceive++
	w.lastRequest = sum
	w.response, w.whole, w.repeats = nil, nil, 0
	w.before.destroy()
}

// requestOver sends payloads as a new request of ours, one that tests a path, or over
// sa.path if test is zero; handle gets the response. There must be none outstanding.
func (sa *ikeSA) requestOver(test route, exchange wire.ExchangeType, payloads []wire.Payload, handle func(*message)) error {
	o, err := sa.newSealed(exchange, payloads, sa.datagram(), handle)
	if err != nil {
		return err
	}
	o.test = test
	sa.sendNew(o)
	return nil
}

// newSealed makes a new request of ours, in datagrams of at most size octets.
func (sa *ikeSA) newSealed(exchange wire.ExchangeType, payloads []wire.Payload, size int, handle func(*message)) (*outstanding, error) {
	id := sa.window.nextSend
	if id == lastMessageID {
		return nil, errMessageIDs
	}
	w, datagrams, err := sa.seal(wire.Header{Exchange: exchange, MessageID: id}, payloads, size)
	if err != nil {
		return nil, err
	}
	o := sa.newRequest(exchange, datagrams, handle)
	o.whole = w
	return o, nil
}

// sendRequest sends the datagrams of a request and begins to repeat them.
func (sa *ikeSA) sendRequest(exchange wire.ExchangeType, datagrams [][]byte, handle func(*message)) {
	sa.sendNew(sa.newRequest(exchange, datagrams, handle))
}

func (sa *ikeSA) newRequest(exchange wire.ExchangeType, datagrams [][]byte, handle func(*message)) *outstanding {
	pace := sa.schedule()
	sa.window.outstanding = &outstanding{
		id: sa.window.nextSend, exchange: exchange, datagrams: datagrams, handle: handle,
		repetition: repetition{
			pace: pace, interval: pace.Base, begun: sa.m.now, at: sa.m.now.Add(sa.vary(pace.Base)),
		},
	}
	if o := sa.window.outstanding; sa.isEager() {
		o.eager, o.at = eagerTries, sa.m.now.Add(sa.vary(sa.m.timing.Eager))
	}
	sa.window.nextSend++
	if sa.window.nextSend == manyMessageIDs {
		sa.wantRekey = true
	}
	return sa.window.outstanding
}

func (sa *ikeSA) sendNew(o *outstanding) {
	p := sa.route
	if !o.test.isZero() {
		p = o.test
	}
	o.went(p)
	sa.sendAs(o.probe, p, o.datagrams)
}

// vary adds up to a tenth to d, so that peers do not repeat in step.
func (sa *ikeSA) vary(d time.Duration) time.Duration { return d + sa.m.jitter(d/10) }

// maxHintedTries is how often IKE_SA_INIT is repeated after an unauthenticated
// refusal.
const maxHintedTries = 2

// retransmit repeats the outstanding request if its time has come. It returns
// false when all tries are used up.
func (sa *ikeSA) retransmit() bool {
	o := sa.window.outstanding
	if o == nil || !sa.m.due(o.at) {
		return true
	}
	if o.eager > 0 {
		sa.repeatEagerly(o)
		return true
	}
	if o.tries >= sa.mostTries(o) && !sa.patient(o) {
		return false
	}
	blocked := sa.seemsBlocked(o)
	o.tries++
	o.silent++
	o.interval = time.Duration(float64(o.interval) * o.pace.Backoff)
	switch {
	case o.trial:
		sa.mendTrial(o)
	case (o.tries > fragmentTries || o.lostProbe()) && !sa.tcp:
		sa.cutRequest(o)
	}
	o.at = sa.m.now.Add(sa.vary(o.interval))
	sa.repeat(o)
	sa.tryTCP(o, blocked)
	if o.silent >= suspectTries {
		sa.setSuspect(true)
	}
	return true
}

// mostTries is how often a request is repeated at most.
func (sa *ikeSA) mostTries(o *outstanding) int {
	limit := o.pace.Tries
	if sa.init != nil && sa.init.resume != nil {
		limit = min(limit, resumeTries) // the whole exchange may do
		if o.whole != nil && o.original == nil && sa.state == stateAuth {
			limit = fragmentTries + 1 // or smaller fragments, for the peer is there
		}
	}
	if sa.init != nil && sa.init.hint != nil {
		// Refused, as far as one can believe it: go on for a moment only (RFC
		// 7296, Section 2.21.1).
		limit = min(limit, maxHintedTries)
	}
	return limit
}

// eagerTries is how often a first message is repeated at the intervals of Timing.Eager.
const eagerTries = 2

// isEager reports whether sa is the first attempt of a tunnel.
func (sa *ikeSA) isEager() bool {
	return sa.state == stateInit && sa.m.timing.Eager > 0 && !sa.t.wasUp && sa.t.failures == 0
}

func (sa *ikeSA) repeatEagerly(o *outstanding) {
	o.eager--
	wait := o.interval
	if o.eager > 0 {
		wait = 2 * sa.m.timing.Eager
	}
	o.at = sa.m.now.Add(sa.vary(wait))
	sa.repeat(o)
}

// repeat sends a request once more. If it was cut smaller, the datagrams that were
// sent first are repeated as well: maybe only the answer was lost, and some peers
// know what they have answered by its octets alone.
func (sa *ikeSA) repeat(o *outstanding) {
	datagrams := o.datagrams
	if o.tries > 0 {
		datagrams = slices.Concat(datagrams, o.original)
	}
	ways := sa.waysAgain(o)
	if len(ways) == 0 {
		return
	}
	for _, p := range ways {
		o.went(p)
		sa.sendAgain(p, datagrams)
	}
	sa.m.transcript.again(sa.m.now, sa.localSPI, datagrams)
}

// cutRequest makes smaller pieces of a request that gets no answer, if it is
// large enough for that: then its repetitions begin anew (RFC 7383, Section
// 2.5.2). A probe has failed, so that nothing is left to be found out by larger ones.
func (sa *ikeSA) cutRequest(o *outstanding) {
	if o.whole == nil {
		return
	}
	size := smaller(o.whole.size)
	if o.probe {
		size = leastDatagram
	}
	if datagrams := sa.cutSmaller(o.whole, size); datagrams != nil {
		if o.original == nil {
			o.original = o.datagrams
		}
		o.datagrams = datagrams
		o.tries, o.interval = 0, o.pace.Base
	}
}

// respond answers a request. The answer goes to where the request came from
// (RFC 7296, Section 2.11), and is kept until the next request.
func (sa *ikeSA) respond(req *message, payloads []wire.Payload) {
	size := sa.datagram()
	if req.datagram != 0 {
		// What came through one way may have to go the other way as well (RFC
		// 7383, Section 2.5.1).
		size = max(min(size, req.datagram), leastDatagram)
	}
	w, datagrams, err := sa.seal(wire.Header{
		Exchange: req.Exchange, MessageID: req.MessageID, Flags: wire.FlagResponse,
	}, payloads, size)
	if err != nil {
		// Only payloads of our own making can fail to be encoded.
		sa.fail(&Error{Op: "encode " + req.Exchange.String() + " response", Kind: KindInternal, Exchange: req.Exchange, Err: err})
		return
	}
	sa.window.response = datagrams
	if sa.piecesFor(w, leastDatagram) > w.pieces {
		sa.window.whole = w
	}
	sa.sendTo(req.route, datagrams)
}

// refuse answers a request with an error notification alone.
func (sa *ikeSA) refuse(req *message, kind wire.NotifyType, data []byte) {
	sa.respond(req, []wire.Payload{&wire.Notify{Kind: kind, Data: data}})
}

// repeatResponse sends the kept response again, to where the repeated request
// came from. There is none while the request is still worked on. If that happens
// over and over, or if the request comes in smaller pieces now, the response is
// cut into smaller ones too: for a short request the peer cannot know that its
// answer is too large for the path (RFC 7383, Sections 2.4 and 2.5.1).
func (sa *ikeSA) repeatResponse(d Datagram, inPieces bool) {
	w := &sa.window
	if w.response == nil {
		return
	}
	w.repeats++
	if w.whole != nil && (inPieces || w.repeats > fragmentTries) {
		size := smaller(w.whole.size)
		if inPieces {
			size = max(min(size, datagramSize(d)), leastDatagram)
		}
		if datagrams := sa.cutSmaller(w.whole, size); datagrams != nil {
			w.response, w.repeats = datagrams, 0
		}
	}
	sa.m.stats.Retransmitted += uint64(len(w.response))
	sa.m.transcript.again(sa.m.now, sa.localSPI, w.response)
	sa.sendTo(d.route(), w.response)
}
