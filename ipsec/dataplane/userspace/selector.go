package userspace

import (
	"math"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ts"
)

// selector is a traffic selector made ready for matching packets.
type selector struct {
	first, last        address
	v4                 bool  // ::/0 holds the mapped addresses, but means IPv6 alone
	protocol           uint8 // 0: any
	anyPort            bool
	firstPort, endPort uint16
}

func compileSelectors(in []ts.Selector) []selector {
	out := make([]selector, len(in))
	for i, s := range in {
		out[i] = selector{
			first: addressOf(s.First), last: addressOf(s.Last), v4: s.First.Is4(), protocol: s.Protocol,
			anyPort:   s.StartPort == 0 && s.EndPort == math.MaxUint16,
			firstPort: s.StartPort, endPort: s.EndPort,
		}
	}
	return out
}

// opaque: only packets without ports match (RFC 7296, Section 3.13.1).
func (s *selector) opaque() bool { return s.firstPort == math.MaxUint16 && s.endPort == 0 }

func (s *selector) matches(a address, protocol uint8, port uint16, hasPort bool) bool {
	if a.less(s.first) || s.last.less(a) || s.v4 != a.mapped() {
		return false
	}
	if s.protocol != 0 && s.protocol != protocol {
		return false
	}
	if s.anyPort {
		return true
	}
	if !hasPort {
		return s.opaque()
	}
	return s.firstPort <= port && port <= s.endPort
}

// selectors are the two sides of an SA or policy. A packet must match one of
// each.
type selectors struct{ local, remote []selector }

func matchAny(set []selector, a address, protocol uint8, port uint16, hasPort bool) bool {
	for i := range set {
		if set[i].matches(a, protocol, port, hasPort) {
			return true
		}
	}
	return false
}

// outbound reports whether a packet on its way out fits: its source is local.
func (s *selectors) outbound(f *flow) bool {
	return matchAny(s.local, f.src, f.protocol, f.srcPort, f.hasPorts) &&
		matchAny(s.remote, f.dst, f.protocol, f.dstPort, f.hasPorts)
}

// inbound reports whether a packet that came through the tunnel fits
// (RFC 4301, Section 5.2, step 4).
func (s *selectors) inbound(f *flow) bool {
	return matchAny(s.remote, f.src, f.protocol, f.srcPort, f.hasPorts) &&
		matchAny(s.local, f.dst, f.protocol, f.dstPort, f.hasPorts)
}

func (s *selectors) equal(t *selectors) bool {
	return slices.Equal(s.local, t.local) && slices.Equal(s.remote, t.remote)
}
