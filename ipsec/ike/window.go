package ike

import (
	"bytes"
	"crypto/sha256"
	"net/netip"
	"time"

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
}

// outstanding is our request that waits for its response.
type outstanding struct {
	id        uint32
	exchange  wire.ExchangeType
	datagrams [][]byte
	handle    func(*message)

	tries    int
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

// judge tells fresh messages from repeated and impossible ones.
func (w *window) judge(h wire.Header, raw []byte) verdict {
	if h.IsResponse() {
		if o := w.outstanding; o != nil && o.id == h.MessageID && o.exchange == h.Exchange {
			return verdictFresh
		}
		return verdictDrop
	}
	switch {
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
	w.response = nil
}

// request sends payloads as a new request of ours; handle gets the response.
// There must be none outstanding.
func (sa *ikeSA) request(exchange wire.ExchangeType, payloads []wire.Payload, handle func(*message)) error {
	id := sa.window.nextSend
	datagrams, err := sa.protect(wire.Header{Exchange: exchange, MessageID: id}, payloads)
	if err != nil {
		return err
	}
	sa.sendRequest(exchange, datagrams, handle)
	return nil
}

// sendRequest sends the datagrams of a request and begins to repeat them.
func (sa *ikeSA) sendRequest(exchange wire.ExchangeType, datagrams [][]byte, handle func(*message)) {
	t := sa.m.timing
	sa.window.outstanding = &outstanding{
		id: sa.window.nextSend, exchange: exchange, datagrams: datagrams, handle: handle,
		interval: t.RetransmitBase,
		at:       sa.m.now.Add(sa.vary(t.RetransmitBase)),
	}
	sa.window.nextSend++
	sa.send(datagrams)
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
	limit := sa.m.timing.RetransmitTries
	if sa.init != nil && sa.init.hint != nil {
		// Refused, as far as one can believe it: go on for a moment only (RFC
		// 7296, Section 2.21.1).
		limit = min(limit, maxHintedTries)
	}
	if o.tries >= limit {
		return false
	}
	o.tries++
	o.interval = time.Duration(float64(o.interval) * sa.m.timing.RetransmitBackoff)
	o.at = sa.m.now.Add(sa.vary(o.interval))
	sa.m.stats.Retransmitted += uint64(len(o.datagrams))
	sa.send(o.datagrams)
	if o.tries >= suspectTries {
		sa.setSuspect(true)
	}
	return true
}

// suspectTries is how often a request is repeated before its silence is told:
// one lost datagram and one lost repetition are not worth a word.
const suspectTries = 2

// setSuspect tells when the doubt about an established peer begins and ends.
func (sa *ikeSA) setSuspect(suspect bool) {
	if suspect == sa.suspect || sa.state != stateEstablished {
		return
	}
	sa.suspect = suspect
	sa.m.emit(IKESuspect{sa.status()})
}

// respond answers a request. The answer goes to where the request came from
// (RFC 7296, Section 2.11), and is kept until the next request.
func (sa *ikeSA) respond(req *message, payloads []wire.Payload) {
	datagrams, err := sa.protect(wire.Header{
		Exchange: req.Exchange, MessageID: req.MessageID, Flags: wire.FlagResponse,
	}, payloads)
	if err != nil {
		// Only payloads of our own making can fail to be encoded.
		sa.fail(&Error{Op: "encode " + req.Exchange.String() + " response", Kind: KindInternal, Exchange: req.Exchange, Err: err})
		return
	}
	sa.window.response = datagrams
	sa.sendTo(req.local, req.remote, datagrams)
}

// refuse answers a request with an error notification alone.
func (sa *ikeSA) refuse(req *message, kind wire.NotifyType, data []byte) {
	sa.respond(req, []wire.Payload{&wire.Notify{Kind: kind, Data: data}})
}

// repeatResponse sends the kept response again, to where the repeated request
// came from. There is none while the request is still worked on.
func (sa *ikeSA) repeatResponse(local, remote netip.AddrPort) {
	if sa.window.response == nil {
		return
	}
	sa.m.stats.Retransmitted += uint64(len(sa.window.response))
	sa.sendTo(local, remote, sa.window.response)
}
