package ts

import "net/netip"

// Prefixes returns the fewest prefixes that together are the selector's
// address range, in ascending order: what a route or a kernel policy needs.
// An IPv4 range takes at most 62 of them, an IPv6 range 254. An invalid range
// has none.
func Prefixes(s Selector) []netip.Prefix {
	if s.First.BitLen() != s.Last.BitLen() || s.First.Zone() != "" || s.Last.Zone() != "" {
		return nil
	}
	var out []netip.Prefix
	for first := s.First; first.IsValid() && !s.Last.Less(first); {
		p := largestPrefix(first, s.Last)
		out = append(out, p)
		first = lastAddr(p).Next() // invalid after the highest address of all
	}
	return out
}

// largestPrefix returns the largest prefix that begins at first and does not
// go beyond last; the zero Prefix if last is below first.
func largestPrefix(first, last netip.Addr) netip.Prefix {
	best := netip.Prefix{}
	for bits := first.BitLen(); bits >= 0; bits-- {
		p, err := first.Prefix(bits)
		if err != nil || p.Addr() != first.WithZone("") || last.Less(lastAddr(p)) {
			break
		}
		best = p
	}
	return best
}
