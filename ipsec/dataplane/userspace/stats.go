package userspace

import "sync/atomic"

// Drops counts packets that belong to no SA, or to one that could not take
// them, since the plane was made.
type Drops struct {
	NoPolicy      uint64 // outbound: no policy matches
	NoSA          uint64 // outbound: a policy, but no SA that may carry the packet
	Discarded     uint64 // outbound: a policy wants it
	Loops         uint64 // outbound: our own datagrams, led into the tunnel by a route
	TooBig        uint64 // outbound: larger than the path takes; the sender was told
	Unfit         uint64 // outbound: what transport mode has no place for: parts of packets that are not whole, routes that are not over, and headers for the way in a TCP connection
	Expired       uint64 // the SA reached its hard limit
	OutMalformed  uint64 // outbound: no whole IP packet
	SendErrors    uint64 // outbound: datagrams that the network refused
	UnknownSPI    uint64 // inbound: no such SA
	Malformed     uint64 // inbound: no ESP packet, or not an IP packet within
	Dummy         uint64 // inbound: dummy packets (RFC 4303, Section 2.6)
	Congestion    uint64 // inbound: marked CE without ECN in the inner header (RFC 6040, Section 4.2)
	DeliverErrors uint64 // inbound: packets that the interface refused
	ReceiveErrors uint64 // inbound: times that the socket could not be read
	LostEvents    uint64 // events for which the channel had no room
}

// stats is the live form of Drops, and of the ways to send.
type stats struct {
	noPolicy, noSA, expired, outMalformed, sendErrors       atomic.Uint64
	unknownSPI, malformed, dummy, congestion, deliverErrors atomic.Uint64
	loops, tooBig, lostEvents, receiveErrors, discarded     atomic.Uint64
	unfit                                                   atomic.Uint64
	waited                                                  atomic.Uint64 // outbound: had to wait for an SA
}

// Drops returns the packets dropped outside of SAs so far.
func (p *Plane) Drops() Drops {
	s := &p.stats
	return Drops{
		NoPolicy: s.noPolicy.Load(), NoSA: s.noSA.Load(), Discarded: s.discarded.Load(),
		Loops: s.loops.Load(), TooBig: s.tooBig.Load(), Unfit: s.unfit.Load(), Expired: s.expired.Load(),
		OutMalformed: s.outMalformed.Load(), SendErrors: s.sendErrors.Load(),
		UnknownSPI: s.unknownSPI.Load(), Malformed: s.malformed.Load(), Dummy: s.dummy.Load(),
		Congestion: s.congestion.Load(), DeliverErrors: s.deliverErrors.Load(),
		LostEvents: s.lostEvents.Load(), ReceiveErrors: s.receiveErrors.Load(),
	}
}

// ByReason returns the figures by the words that metrics use.
func (d Drops) ByReason() map[string]uint64 {
	return map[string]uint64{
		"no_policy": d.NoPolicy, "no_sa": d.NoSA, "discarded": d.Discarded, "loop": d.Loops, "too_big": d.TooBig, "unfit": d.Unfit, "expired": d.Expired,
		"out_malformed": d.OutMalformed, "send_error": d.SendErrors, "unknown_spi": d.UnknownSPI, "malformed": d.Malformed,
		"dummy": d.Dummy, "congestion": d.Congestion, "deliver_error": d.DeliverErrors,
	}
}
