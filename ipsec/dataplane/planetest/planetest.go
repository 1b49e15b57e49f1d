// Package planetest is the conformance suite of data planes: what package
// dataplane promises, checked on two joined planes of the implementation under
// test. It passes real IP packets and looks only at what comes out, at
// counters and at events, so it fits a plane in memory, in user space and in
// the kernel. Beside every case it looks at the wire between the planes, where
// none of its packets may be in clear (RFC 4301, Section 5.1).
//
// It never sleeps: it waits for conditions, and gives up after a bound.
package planetest

import (
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// Side is one of two joined planes.
type Side struct {
	Plane dataplane.Plane
	// Outer is the endpoint that the other side knows: the address of the
	// NAT traversal socket.
	Outer netip.AddrPort
	// Send gives the plane an IP packet as the host would. It may return an
	// error for a packet that the plane drops.
	Send func(packet []byte) error
	// Received returns the IP packets that the plane gave to the host. Packets
	// that the suite did not send are ignored.
	Received <-chan []byte
}

// Pair is two planes that reach each other.
type Pair struct {
	A, B Side
	// Wire is the network between them.
	Wire Wire
	// Native has ESP go as an IP protocol of its own, without UDP.
	Native bool
	// Rebind makes what A sends from now on come from the returned endpoint,
	// as a NAT that lost its mapping does. Nil if it cannot.
	Rebind func() (netip.AddrPort, error)
}

// Wire is the network between two planes. It keeps the packets of ESP and AH that A
// sends to B, and looks for what should not be seen.
type Wire interface {
	// Sent returns how many packets of ESP and AH A has sent to B.
	Sent() int
	// Deliver has the n-th of them, counted from 0, arrive at B once more.
	Deliver(n int) error
	// Legible returns how many packets of the suite can be read on the wire, in
	// either direction: of those that are in clear, and of those in ESP or AH.
	Legible() (inClear, protected int)
}

// sequencer is a plane whose sequence numbers a test can move on, as 2^32 packets take
// too long.
type sequencer interface {
	SetSequenceForTest(sa dataplane.SA, sequence uint64) error
}

// patience bounds the wait for something that must happen.
const patience = 5 * time.Second

// Lack is a set of what an implementation does without.
type Lack uint8

// What a pair of implementations may do without: all of it where one of them is on
// both sides, and where they differ what is said of the side that it is on.
const (
	// Streams, of either: it has no packets of TCP connections handed to it, so it is no
	// dataplane.StreamPlane.
	Streams Lack = 1 << iota
	// UnknownSPIs, of B: it does not tell of packets with an unknown SPI.
	UnknownSPIs
	// SelectorDrops, of B: it drops what an SA's selectors refuse, and does not count it.
	SelectorDrops
	// Encapsulation: the pair is Native, so that there is no NAT to get past.
	Encapsulation

	// byOuter is on the cases of RunOuter. Nothing lacks it.
	byOuter Lack = 1 << 7
)

// Run runs the suite. NewPair is called for every case and cleans up by
// t.Cleanup.
func Run(t *testing.T, newPair func(t *testing.T) *Pair) { RunWithout(t, 0, newPair) }

// RunWithout runs the suite but for what is about the things lacking.
func RunWithout(t *testing.T, lacks Lack, newPair func(t *testing.T) *Pair) {
	run(t, lacks, 0, newPair)
}

// RunOuter runs of it what can differ by where the two planes are to each other: over IPv6
// instead of IPv4.
func RunOuter(t *testing.T, lacks Lack, newPair func(t *testing.T) *Pair) {
	run(t, lacks, byOuter, newPair)
}

func run(t *testing.T, lacks Lack, wanted Lack, newPair func(t *testing.T) *Pair) {
	cases := []struct {
		name  string
		run   func(*testing.T, *harness)
		about Lack
	}{
		{"traffic passes both ways", testTraffic, byOuter},
		{"IPv6 passes", testIPv6, byOuter},
		{"operations are idempotent", testIdempotent, 0},
		{"an SPI is not installed twice with different keys", testConflict, 0},
		{"allocated SPIs are unique and not reserved", testAllocate, 0},
		{"an inbound SA receives before the outbound one is there", testInboundFirst, 0},
		{"the newest outbound SA carries the traffic", testRekey, 0},
		{"every kind of suite carries traffic", testSuites, byOuter},
		{"both generations receive during a rekey", testOverlap, 0},
		{"a replayed packet is dropped", testReplay, 0},
		{"extended sequence numbers pass 2^32", testExtended, 0},
		{"the last sequence number is the last", testExhausted, 0},
		{"the replay window is as wide as asked for", testWindow, 0},
		{"a packet under another key is dropped", testWrongKey, 0},
		{"counters count", testCounters, 0},
		{"a policy without an SA asks for one", testAcquire, 0},
		{"the first packets wait for an SA", testWaiting, 0},
		{"without a policy nothing passes", testNoPolicy, 0},
		{"selectors of the SA bind", testSelectors, 0},
		{"an SA may have several selectors", testSeveralSelectors, 0},
		{"selectors may be of ports and of ICMP types", testPortSelectors, 0},
		{"the first policy that matches decides", testOrder, 0},
		{"of equal policies one with an SA goes first", testAlternatives, 0},
		{"of equal policies the tunnel of the lower rank goes first", testRanking, 0},
		{"tunnels of equal rank share the flows, and classes differ", testClasses, 0},
		{"a prefix within another is no wall", testNested, 0},
		{"soft and hard limits", testLimits, 0},
		{"soft and hard limits in time", testTimeLimits, 0},
		{"a policy may discard", testDiscard, 0},
		{"the first inbound packet is told once", testFirstInbound, 0},
		{"a packet for an SA that is not there is told once", testUnknownSPI, UnknownSPIs},
		{"a moved peer is told and followed on order", testRebind, Encapsulation | byOuter},
		{"what is known of a path loses no packet", testPathMTU, byOuter},
		{"transport mode", testTransport, byOuter},
		{"AH in tunnel mode", testAH, byOuter},
		{"no change shows a packet in clear", testNothingInClear, byOuter},
		{"IKE passes beside ESP", testIKE, byOuter},
		{"ESP passes in TCP connections", testStreams, Streams},
		{"ESP moves from UDP to TCP and back", testStreamMove, Streams},
		{"a packet on another connection is told", testStreamRebind, Streams},
		{"TCP without connections is refused", testStreamInvalid, Streams},
		{"invalid SAs are refused", testInvalid, 0},
		{"a failed operation does not stop the next", testPartial, 0},
		{"close removes everything, twice", testClose, 0},
	}
	for _, c := range cases {
		if c.about&lacks != 0 || c.about&wanted != wanted {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			h := newHarness(t, newPair(t))
			h.lacks = lacks
			c.run(t, h)
			h.wantIllegible()
		})
	}
}
