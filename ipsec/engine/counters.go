package engine

import "sync/atomic"

// DropReason says why the engine dropped a datagram before any IKE SA saw it.
// What an IKE SA itself refuses is in its status.
type DropReason uint8

// The reasons, in the order in which they are found.
const (
	DropSTUN          DropReason = iota // an answer of STUN that nobody waits for
	DropTooShort                        // shorter than an IKE header
	DropLength                          // the header's length is not the datagram's
	DropVersion                         // major version other than 2
	DropSPI                             // an SPI is zero that must not be, or the other way about
	DropFlags                           // flags or message ID that this exchange cannot have
	DropInitMalformed                   // IKE_SA_INIT request without a nonce where it belongs
	DropRate                            // more IKE_SA_INIT requests than a source may send
	DropCookieSent                      // a cookie was demanded, the request not kept (RFC 7296, Section 2.6)
	DropHalfOpenFull                    // no room for another half-open IKE SA
	DropUnknownSPI                      // no IKE SA has this SPI
	DropReassembly                      // no room for more fragments of half-open IKE SAs
	DropMailboxFull                     // the loop that owns the SPI has fallen behind
	DropNoTunnel                        // the peer's identity and address fit no tunnel
	DropHandshake                       // the half-open IKE SA came to nothing: malformed, no proposal, timed out
	DropBusy                            // the workers have more handshakes than they can do soon
	dropReasons
)

var dropNames = [dropReasons]string{
	DropSTUN:          "stun",
	DropTooShort:      "too_short",
	DropLength:        "length_mismatch",
	DropVersion:       "version",
	DropSPI:           "spi",
	DropFlags:         "flags",
	DropInitMalformed: "init_malformed",
	DropRate:          "rate_limited",
	DropCookieSent:    "cookie_demanded",
	DropHalfOpenFull:  "half_open_full",
	DropUnknownSPI:    "unknown_spi",
	DropReassembly:    "reassembly_full",
	DropMailboxFull:   "mailbox_full",
	DropNoTunnel:      "no_tunnel",
	DropHandshake:     "handshake",
	DropBusy:          "busy",
}

// String returns the reason as a label for metrics.
func (r DropReason) String() string {
	if r < dropReasons {
		return dropNames[r]
	}
	return "unknown"
}

// counters are written by every goroutine of the engine.
type counters struct {
	received   atomic.Uint64
	sent       atomic.Uint64
	sendErrors atomic.Uint64
	drops      [dropReasons]atomic.Uint64

	handshakes       atomic.Uint64
	unknownAnswered  atomic.Uint64
	jobsRefused      atomic.Uint64
	planeErrors      atomic.Uint64
	planeEventsLost  atomic.Uint64
	panics           atomic.Uint64
	halfOpen         atomic.Int64
	subscriptionLost atomic.Uint64
	streamsRefused   atomic.Uint64
	streamDrops      atomic.Uint64
}

func (c *counters) drop(r DropReason) { c.drops[r].Add(1) }

// Counters is a snapshot of what the engine counted since it was made.
type Counters struct {
	// Received and Sent count IKE datagrams, SendErrors those that the host
	// refused to send.
	Received, Sent, SendErrors uint64
	// Drops is indexed by DropReason; range over it to export every reason.
	Drops [dropReasons]uint64
	// HalfOpen is how many IKE SAs are half open now, Handshakes how many
	// were ever begun by a peer.
	HalfOpen   int
	Handshakes uint64
	// JobsRefused counts handshakes given up because the workers had too
	// many.
	JobsRefused uint64
	// UnknownAnswered counts the messages that told a peer of an SA which this
	// host does not have.
	UnknownAnswered uint64
	// PlaneErrors counts failed data plane operations, PlaneEventsLost data
	// plane events for a tunnel that no longer is.
	PlaneErrors, PlaneEventsLost uint64
	// Panics counts tunnels closed because their machine panicked: defects.
	Panics uint64
	// SubscriptionLost counts events replaced by a later one of their tunnel
	// before a slow subscriber read them.
	SubscriptionLost uint64
	// Streams is how many TCP connections there are now (RFC 9329),
	// StreamsRefused how many peers opened in vain, because there were too many
	// without an IKE SA, or the data plane did not take theirs over. StreamDrops
	// counts ESP packets that found no connection, or no room in it, unless the data
	// plane takes connections over.
	Streams                     int
	StreamsRefused, StreamDrops uint64
}

// Counters returns the figures of now. It never waits.
func (e *Engine) Counters() Counters {
	c := &e.counters
	s := Counters{
		Received:         c.received.Load(),
		Sent:             c.sent.Load(),
		SendErrors:       c.sendErrors.Load(),
		HalfOpen:         int(c.halfOpen.Load()),
		Handshakes:       c.handshakes.Load(),
		UnknownAnswered:  c.unknownAnswered.Load(),
		JobsRefused:      c.jobsRefused.Load(),
		PlaneErrors:      c.planeErrors.Load(),
		PlaneEventsLost:  c.planeEventsLost.Load(),
		Panics:           c.panics.Load(),
		SubscriptionLost: c.subscriptionLost.Load(),
		Streams:          e.streams.count(),
		StreamsRefused:   c.streamsRefused.Load(),
		StreamDrops:      c.streamDrops.Load(),
	}
	for i := range c.drops {
		s.Drops[i] = c.drops[i].Load()
	}
	return s
}
