package ts

import (
	"net/netip"
	"slices"
)

// Narrow returns what the responder accepts of an offer: the packets that are
// in both, the initiator's first choice first (RFC 7296, Section 2.9). It is
// never wider than either list, and empty if nothing is acceptable, which is
// answered with TS_UNACCEPTABLE. Selectors that are inside another one of the
// result are left out. At most MaxSelectors are returned, the most preferred.
func Narrow(offer, policy []Selector) []Selector {
	var out []Selector
	for _, o := range offer {
		for _, p := range policy {
			both, ok := o.Intersect(p)
			if !ok || anyContains(out, both) {
				continue
			}
			out = slices.DeleteFunc(out, func(s Selector) bool { return both.Contains(s) })
			if len(out) < MaxSelectors {
				out = append(out, both)
			}
		}
	}
	return out
}

func anyContains(set []Selector, s Selector) bool {
	return slices.ContainsFunc(set, func(t Selector) bool { return t.Contains(s) })
}

// Covers reports whether every packet of sub is one of set, be it by several
// selectors of set together. All of them must be valid. An empty sub is
// covered by everything.
func Covers(set, sub []Selector) bool {
	return !slices.ContainsFunc(sub, func(s Selector) bool { return !covers(set, s) })
}

// area is a selector less its protocol.
type area struct {
	first, last netip.Addr
	ports       portRange
}

// covers cuts the ports of s where a selector of set begins or ends. Between
// two cuts all ports are alike, so that the addresses alone decide.
func covers(set []Selector, s Selector) bool {
	if anyContains(set, s) {
		return true
	}
	whole := s.ports()
	cuts := []uint32{whole.first}
	var areas []area
	for _, t := range set {
		// No list of protocols is as wide as all of them, for protocol 0 cannot
		// be listed; so only all cover all.
		if s.Protocol == AnyProtocol && t.Protocol != AnyProtocol {
			continue
		}
		both, ok := t.Intersect(s)
		if !ok {
			continue
		}
		a := area{both.First, both.Last, both.ports()}
		areas = append(areas, a)
		cuts = append(cuts, a.ports.first)
		if a.ports.last < whole.last {
			cuts = append(cuts, a.ports.last+1)
		}
	}
	slices.SortFunc(areas, func(a, b area) int { return a.first.Compare(b.first) })
	slices.Sort(cuts)
	for _, port := range slices.Compact(cuts) {
		if !coversAddrs(areas, port, s.First, s.Last) {
			return false
		}
	}
	return true
}

// coversAddrs reports whether the areas, in order of their first address, that
// have this port hold every address from first to last.
func coversAddrs(areas []area, port uint32, first, last netip.Addr) bool {
	for i := range areas {
		a := &areas[i]
		if port < a.ports.first || a.ports.last < port || a.last.Less(first) {
			continue
		}
		if first.Less(a.first) {
			return false
		}
		if !a.last.Less(last) {
			return true
		}
		first = a.last.Next()
	}
	return false
}
