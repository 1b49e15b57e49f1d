// Package planetest is the conformance suite of data planes: what package
// dataplane promises, checked on two joined planes of the implementation under
// test. It passes real IP packets and looks only at what comes out, at
// counters and at events, so it fits a plane in memory, in user space and in
// the kernel.
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
	// Replay delivers the last ESP packet that A sent to B once more. Nil if
	// the implementation's surroundings cannot; the replay case is skipped
	// then.
	Replay func() error
	// Rebind makes what A sends from now on come from the returned endpoint,
	// as a NAT that lost its mapping does. Nil if it cannot.
	Rebind func() (netip.AddrPort, error)
}

// patience bounds the wait for something that must happen.
const patience = 5 * time.Second

// Run runs the suite. NewPair is called for every case and cleans up by
// t.Cleanup.
func Run(t *testing.T, newPair func(t *testing.T) *Pair) {
	cases := []struct {
		name string
		run  func(*testing.T, *harness)
	}{
		{"traffic passes both ways", testTraffic},
		{"IPv6 passes", testIPv6},
		{"operations are idempotent", testIdempotent},
		{"an SPI is not installed twice with different keys", testConflict},
		{"allocated SPIs are unique and not reserved", testAllocate},
		{"an inbound SA receives before the outbound one is there", testInboundFirst},
		{"the newest outbound SA carries the traffic", testRekey},
		{"every kind of suite carries traffic", testSuites},
		{"both generations receive during a rekey", testOverlap},
		{"a replayed packet is dropped", testReplay},
		{"a packet under another key is dropped", testWrongKey},
		{"counters count", testCounters},
		{"a policy without an SA drops and asks", testAcquire},
		{"without a policy nothing passes", testNoPolicy},
		{"selectors of the SA bind", testSelectors},
		{"soft and hard limits", testLimits},
		{"the first inbound packet is told once", testFirstInbound},
		{"a packet for an SA that is not there is told once", testUnknownSPI},
		{"a moved peer is told and followed on order", testRebind},
		{"IKE passes beside ESP", testIKE},
		{"ESP passes in TCP connections", testStreams},
		{"ESP moves from UDP to TCP and back", testStreamMove},
		{"a packet on another connection is told", testStreamRebind},
		{"TCP without connections is refused", testStreamInvalid},
		{"invalid SAs are refused", testInvalid},
		{"a failed operation does not stop the next", testPartial},
		{"close removes everything, twice", testClose},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.run(t, newHarness(t, newPair(t)))
		})
	}
}
