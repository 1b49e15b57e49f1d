package ike

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
)

// Pool lends internal addresses to peers (RFC 7296, Section 2.19). Several
// tunnels may share one. The same calls in the same order give the same
// addresses. It is safe for concurrent use.
type Pool struct {
	mu       sync.Mutex
	holders  map[netip.Addr]string
	held     map[string][]netip.Addr // by holder, in the order in which they were lent
	families [2]family               // IPv4, IPv6
}

// family is what differs between IPv4 and IPv6.
type family struct {
	prefixes []netip.Prefix
	size     uint64     // addresses to lend, as far as that fits
	lent     uint64     // of these
	next     netip.Addr // where the search for a free one begins
}

// NewPool returns a pool of the addresses in prefixes. Of an IPv4 prefix the
// first and the last address are left out, which are the network's and for
// broadcasts, and of an IPv6 prefix the first, which means any router (RFC 4291,
// Section 2.6.1), unless the prefix is too small for that.
func NewPool(prefixes ...netip.Prefix) (*Pool, error) {
	if len(prefixes) == 0 {
		return nil, errors.New("address pool: no prefixes")
	}
	p := &Pool{holders: map[netip.Addr]string{}, held: map[string][]netip.Addr{}}
	for _, x := range prefixes {
		if !x.IsValid() || x.Bits() < 8 || x.Addr().Is6() && x.Bits() < 32 {
			return nil, fmt.Errorf("address pool: %s is no prefix of at least 8 bits (IPv4) or 32 (IPv6)", x)
		}
		x = x.Masked()
		f := p.family(x.Addr())
		first, last := bounds(x)
		switch {
		case !assignable(first) || !assignable(last):
			return nil, fmt.Errorf("address pool: %s has addresses that no host may have", x)
		case slices.ContainsFunc(f.prefixes, x.Overlaps):
			return nil, fmt.Errorf("address pool: %s overlaps another prefix", x)
		}
		if len(f.prefixes) == 0 {
			f.next = first
		}
		f.prefixes = append(f.prefixes, x)
		f.size = min(f.size+distance(first, last)+1, manyAddresses)
	}
	return p, nil
}

// manyAddresses are more than can ever be lent.
const manyAddresses = 1 << 62

func (p *Pool) family(a netip.Addr) *family {
	if a.Is4() {
		return &p.families[0]
	}
	return &p.families[1]
}

// bounds returns the first and the last address of x that are lent.
func bounds(x netip.Prefix) (first, last netip.Addr) {
	first = x.Addr()
	b := first.AsSlice()
	for i := x.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	if first.BitLen()-x.Bits() < 2 {
		return first, last
	}
	first = first.Next()
	if last.Is4() {
		last = last.Prev()
	}
	return first, last
}

// distance is how many addresses b is behind a, at most manyAddresses.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	var n uint64
	borrow := 0
	for i := 15; i >= 0; i-- {
		d := int(y[i]) - int(x[i]) - borrow
		borrow = 0
		if d < 0 {
			d, borrow = d+256, 1
		}
		if i < 8 && d != 0 {
			return manyAddresses
		}
		n |= uint64(d) << (8 * (15 - i)) // d is 0 for i < 8
	}
	return min(n, manyAddresses)
}

// assignable reports whether a host can have the address.
func assignable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !a.Is4In6() && a.Zone() == ""
}

// Lease lends holder one address for each one wanted, as far as there are any,
// and returns them in that order. An unspecified address wants whichever of its
// family. A holder has what it has already again, before anything new; then it
// has the address that it wants, if that is free, then, for IPv6, one with the
// same interface identifier (RFC 7296, Section 3.15.3), and then any.
func (p *Pool) Lease(holder string, wanted []netip.Addr) []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := make([]netip.Addr, len(wanted))
	for i, w := range wanted { // what is wanted by name first
		if slices.Contains(p.held[holder], w) && !slices.Contains(got, w) {
			got[i] = w
		}
	}
	for i, w := range wanted {
		if !got[i].IsValid() {
			got[i] = p.lend(holder, w, got)
		}
	}
	return slices.DeleteFunc(got, func(a netip.Addr) bool { return !a.IsValid() })
}

// lend finds an address that is not in used for holder; the zero Addr if there is
// none.
func (p *Pool) lend(holder string, wanted netip.Addr, used []netip.Addr) netip.Addr {
	if !wanted.IsValid() {
		return netip.Addr{}
	}
	for _, a := range p.held[holder] {
		if a.Is4() == wanted.Is4() && !slices.Contains(used, a) {
			return a
		}
	}
	f := p.family(wanted)
	if f.lent >= f.size {
		return netip.Addr{}
	}
	a := wanted
	if !p.free(a) {
		a = p.withIdentifier(wanted)
	}
	if !a.IsValid() {
		a = f.search(p.free)
	}
	if a.IsValid() {
		p.holders[a] = holder
		p.held[holder] = append(p.held[holder], a)
		f.lent++
	}
	return a
}

// free reports whether an address is one to lend and not lent.
func (p *Pool) free(a netip.Addr) bool {
	for _, x := range p.family(a).prefixes {
		if x.Contains(a) {
			first, last := bounds(x)
			_, lent := p.holders[a]
			return !lent && !a.Less(first) && !last.Less(a)
		}
	}
	return false
}

// withIdentifier returns a free address that ends as wanted does.
func (p *Pool) withIdentifier(wanted netip.Addr) netip.Addr {
	const identifier = 64 // bits (RFC 4291, Section 2.5.1)
	if !wanted.Is6() || wanted.IsUnspecified() {
		return netip.Addr{}
	}
	for _, x := range p.families[1].prefixes {
		if x.Bits() > identifier {
			continue
		}
		b, low := x.Addr().As16(), wanted.As16()
		copy(b[8:], low[8:])
		if a := netip.AddrFrom16(b); p.free(a) {
			return a
		}
	}
	return netip.Addr{}
}

// search returns the next free address, beginning behind the one that was found
// last, so that an address rests before somebody else has it. There is one: the
// caller has counted.
func (f *family) search(free func(netip.Addr) bool) netip.Addr {
	at := slices.IndexFunc(f.prefixes, func(x netip.Prefix) bool { return x.Contains(f.next) })
	for a := f.next; ; {
		_, last := bounds(f.prefixes[at])
		next := a.Next()
		if a == last {
			at = (at + 1) % len(f.prefixes)
			next, _ = bounds(f.prefixes[at])
		}
		if free(a) {
			f.next = next
			return a
		}
		a = next
	}
}

// Release takes an address back from holder. Anything else is left alone.
func (p *Pool) Release(holder string, a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.held[holder], a)
	if i < 0 {
		return
	}
	delete(p.holders, a)
	p.family(a).lent--
	if p.held[holder] = slices.Delete(p.held[holder], i, i+1); len(p.held[holder]) == 0 {
		delete(p.held, holder)
	}
}

// has reports whether the pool has addresses of the family of a at all.
func (p *Pool) has(a netip.Addr) bool { return len(p.family(a).prefixes) > 0 }

// Lease is an address that is lent.
type Lease struct {
	Address netip.Addr
	Holder  string
}

// Leases returns what is lent, by address.
func (p *Pool) Leases() []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Lease
	for a, h := range p.holders {
		all = append(all, Lease{a, h})
	}
	slices.SortFunc(all, func(x, y Lease) int { return x.Address.Compare(y.Address) })
	return all
}
