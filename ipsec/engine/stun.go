package engine

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// STUN goes by the data plane's socket, whose NAT mapping is to be known, behind the
// non-ESP marker as IKE does. RFC 8489, Section 5: the type, the length of what follows
// the header, the magic cookie, the transaction.
const (
	stunHeaderLen   = 20
	stunCookie      = 0x2112A442
	stunBinding     = 0x0001
	stunSuccess     = 0x0101 // Binding success response
	stunError       = 0x0111 // Binding error response
	maxSTUNRequests = 256    // that wait for an answer
)

// stunAsked is a request that waits for its answer.
type stunAsked struct {
	of       netip.AddrPort
	until    time.Time
	answered func(b []byte)
}

// stunRequests are those that wait for an answer, by transaction.
type stunRequests struct {
	mu      sync.Mutex
	waiting map[[12]byte]stunAsked
}

// SendSTUN sends a Binding request of STUN (RFC 8489) to a server that knows the non-ESP
// marker, from the data plane's port of IKE. Until then answered gets the answer, once for
// each transaction, on a goroutine that it must not hold up; it does not keep it. A request
// that is sent again has the transaction of before.
func (e *Engine) SendSTUN(local, remote netip.AddrPort, request []byte, until time.Time, answered func(b []byte)) error {
	select {
	case <-e.started:
	default:
		return errors.New("send a STUN request: the engine does not run yet")
	}
	if len(request) < stunHeaderLen || binary.BigEndian.Uint16(request) != stunBinding || binary.BigEndian.Uint32(request[4:]) != stunCookie {
		return errors.New("send a STUN request: it is no Binding request")
	}
	if err := e.stun.wait([12]byte(request[8:]), stunAsked{remote, until, answered}, time.Now()); err != nil {
		return err
	}
	return e.sender.SendIKE(local, remote, request)
}

// SendKeepAlive sends a NAT keepalive (RFC 3948, Section 2.3), so that the NAT before this
// host lets a peer in which is to begin a tunnel.
func (e *Engine) SendKeepAlive(local, remote netip.AddrPort) error {
	select {
	case <-e.started:
		return e.sender.SendKeepAlive(local, remote)
	default:
		return errors.New("send a keepalive: the engine does not run yet")
	}
}

func (r *stunRequests) wait(transaction [12]byte, asked stunAsked, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, again := r.waiting[transaction]; !again && len(r.waiting) >= maxSTUNRequests {
		for id, w := range r.waiting {
			if now.After(w.until) {
				delete(r.waiting, id)
			}
		}
		if len(r.waiting) >= maxSTUNRequests {
			return errors.New("send a STUN request: too many wait for an answer")
		}
	}
	if r.waiting == nil {
		r.waiting = make(map[[12]byte]stunAsked)
	}
	r.waiting[transaction] = asked
	return nil
}

// take returns the request that an answer from an endpoint is for.
func (r *stunRequests) take(transaction [12]byte, from netip.AddrPort, now time.Time) (stunAsked, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked, ok := r.waiting[transaction]
	if !ok || asked.of.Port() != from.Port() || asked.of.Addr().Unmap() != from.Addr().Unmap() || now.After(asked.until) {
		return stunAsked{}, false
	}
	delete(r.waiting, transaction)
	return asked, true
}

// isSTUN reports whether a datagram is an answer to a Binding request. An IKE message would
// need one SPI of 2^64, and the length that this goes with.
func isSTUN(b []byte) bool {
	if len(b) < stunHeaderLen || binary.BigEndian.Uint32(b[4:]) != stunCookie {
		return false
	}
	kind := binary.BigEndian.Uint16(b)
	return (kind == stunSuccess || kind == stunError) && int(binary.BigEndian.Uint16(b[2:])) == len(b)-stunHeaderLen
}

// receiveSTUN hands an answer to who asked, and drops one that nobody asked for.
func (e *Engine) receiveSTUN(w way, b []byte) {
	asked, ok := e.stun.take([12]byte(b[8:]), w.remote, time.Now())
	if !ok {
		e.counters.drop(DropSTUN)
		return
	}
	asked.answered(b)
}
