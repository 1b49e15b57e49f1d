package plan

import (
	"net/netip"
	"slices"
)

// A prefixSet is a set of addresses as the fewest prefixes that cover exactly
// it, IPv4 first, in ascending order.
type prefixSet []netip.Prefix

// parsePrefixes returns the prefixes of a site in ascending order. What is not
// a prefix was refused before it was stored; it is left out here.
func parsePrefixes(list []string) []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			prefixes = append(prefixes, p.Masked())
		}
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}

// newPrefixSet returns the union of prefixes, which it may reorder.
func newPrefixSet(prefixes []netip.Prefix) prefixSet {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var set prefixSet
	for _, p := range prefixes {
		if n := len(set); n > 0 && set[n-1].Overlaps(p) {
			continue // sorted, so the one before covers it
		}
		set = append(set, p)
		// Two halves become the whole, and that may be a half again.
		for n := len(set); n > 1; n = len(set) {
			whole, ok := join(set[n-2], set[n-1])
			if !ok {
				break
			}
			set = append(set[:n-2], whole)
		}
	}
	return set
}

// join returns the prefix of which low and high are the halves.
func join(low, high netip.Prefix) (netip.Prefix, bool) {
	if low.Bits() != high.Bits() || low.Bits() == 0 || low == high || low.Addr().BitLen() != high.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	whole := netip.PrefixFrom(low.Addr(), low.Bits()-1).Masked()
	return whole, whole.Contains(high.Addr())
}

// without returns s less the addresses of prefixes.
func (s prefixSet) without(prefixes []netip.Prefix) prefixSet {
	rest := s
	for _, p := range prefixes {
		// The set is ascending and disjoint: what overlaps p is one run of it.
		first, _ := slices.BinarySearchFunc(rest, p, func(q, p netip.Prefix) int {
			if q.Overlaps(p) {
				return 0
			}
			return q.Addr().Compare(p.Addr())
		})
		last := first
		for last < len(rest) && rest[last].Overlaps(p) {
			last++
		}
		if first == last {
			continue
		}
		var pieces prefixSet
		if last == first+1 && rest[first].Bits() < p.Bits() {
			pieces = split(rest[first], p)
		}
		rest = slices.Concat(rest[:first], pieces, rest[last:])
	}
	return rest
}

// split returns whole less its part, in ascending order.
func split(whole, part netip.Prefix) prefixSet {
	var below, above prefixSet
	for bits := whole.Bits() + 1; bits <= part.Bits(); bits++ {
		inside := netip.PrefixFrom(part.Addr(), bits).Masked()
		if other := sibling(inside); other.Addr().Less(inside.Addr()) {
			below = append(below, other)
		} else {
			above = append(above, other)
		}
	}
	slices.Reverse(above)
	return append(below, above...)
}

// sibling returns the other half of the prefix that p is a half of.
func sibling(p netip.Prefix) netip.Prefix {
	octets := p.Addr().AsSlice()
	bit := p.Bits() - 1
	octets[bit/8] ^= 0x80 >> (bit % 8)
	addr, _ := netip.AddrFromSlice(octets)
	return netip.PrefixFrom(addr, p.Bits())
}

func prefixStrings(prefixes []netip.Prefix) []string {
	list := make([]string, len(prefixes))
	for i, p := range prefixes {
		list[i] = p.String()
	}
	return list
}
