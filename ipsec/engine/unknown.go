package engine

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Rates of what is said and heard outside of any IKE SA (RFC 7296, Section
// 2.21.4): of one source, and of all together. Answers beyond them are not sent,
// as RFC 6290, Section 8.1, wants it; who asks repeats the question.
const (
	unknownPerSecond, unknownBurst       = 2, 8
	allUnknownPerSecond, allUnknownBurst = 256, 256
	unknownBuckets                       = 4096
)

// unknown limits the messages outside of any IKE SA. It may be used from any
// goroutine.
type unknown struct{ perSource, all *rateLimiter }

func newUnknown() unknown {
	return unknown{
		perSource: newRateLimiter(unknownPerSecond, unknownBurst, unknownBuckets),
		all:       newRateLimiter(allUnknownPerSecond, allUnknownBurst, 1),
	}
}

func (u unknown) allow(source netip.Addr, now time.Time) bool {
	return u.perSource.allow(source, now) && u.all.allow(source, now)
}

// receiveUnknown takes a datagram for an IKE SPI that no IKE SA has. A request
// is answered without keeping anything; a complaint about a Child SA goes to the
// tunnels with its sender.
func (e *Engine) receiveUnknown(now time.Time, w way, b []byte) {
	e.counters.drop(DropUnknownSPI)
	switch wire.PayloadType(b[16]) {
	case wire.PayloadSK, wire.PayloadSKF:
		if wire.Flags(b[19])&wire.FlagResponse != 0 || !e.unknown.allow(w.remote.Addr(), now) {
			return
		}
		if answer := e.tokens.AnswerUnknown(b); answer != nil {
			e.counters.unknownAnswered.Add(1)
			e.sendOver(w, answer)
		}
	case wire.PayloadNotify:
		e.complain(now, w.remote, b)
	}
}

// receiveVersion takes a datagram of another major version. One that is later
// than ours is told so (RFC 7296, Section 2.5). That a peer of this host sends
// such is most likely a matter of its configuration, and told to people.
func (e *Engine) receiveVersion(now time.Time, w way, b []byte) {
	e.counters.drop(DropVersion)
	if !e.unknown.allow(w.remote.Addr(), now) {
		return
	}
	if answer := ike.AnswerVersion(b); answer != nil {
		e.counters.unknownAnswered.Add(1)
		e.sendOver(w, answer)
	}
	if e.index.Load().matcher.at(w.remote.Addr()) != nil {
		e.refused(now, w.remote, &ike.Error{
			Kind: ike.KindProtocol, Notify: wire.NotifyInvalidMajorVersion, Err: fmt.Errorf("message of IKE version %d", b[17]>>4),
			Remedy: "configure the peer for IKEv2 (RFC 7296), the only version that is supported",
		})
	}
}

// complain lets the tunnels with the peer at remote look at a message in the clear
// that may say that the peer has lost a Child SA (RFC 7296, Section 1.5).
func (e *Engine) complain(now time.Time, remote netip.AddrPort, b []byte) {
	if len(b) > ike.MaxComplaintLen || !e.unknown.allow(remote.Addr(), now) {
		return
	}
	data := append([]byte(nil), b...)
	for _, t := range e.index.Load().matcher.peersAt[remote.Addr().Unmap()] {
		t.shard.tryPost(func() { t.step(time.Now(), ike.Complaint{Data: data}) })
	}
}

// receivedUnknownSPI tells the sender of an ESP packet that there is no such SA:
// over an IKE SA if there is one, and in the clear otherwise (RFC 7296, Sections
// 1.5 and 2.21.4). A peer that has not noticed our restart does so by it.
func (e *Engine) receivedUnknownSPI(now time.Time, ev dataplane.Event) {
	known := false
	for _, t := range e.index.Load().matcher.peersAt[ev.Remote.Addr().Unmap()] {
		if len(t.status.Load().IKE) > 0 {
			known = true
			t.shard.tryPost(func() { t.step(time.Now(), ike.UnknownSPI{Remote: ev.Remote, SPI: ev.SPI}) })
		}
	}
	if known || !e.unknown.allow(ev.Remote.Addr(), now) {
		return
	}
	message, err := ike.InvalidSPI(ev.SPI, e.config.Rand)
	if err != nil {
		return
	}
	e.counters.unknownAnswered.Add(1)
	e.sendOver(way{ev.Local, ev.Remote, ev.TCP}, message)
}
