package ike

import (
	"net/netip"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// The attributes of Configuration payloads (RFC 7296, Section 3.15.1). One that
// does not have the form that it should have is passed over like one that is not
// known: nothing is lost by it that its sender did not throw away.

// addressAttribute asks for an address, or gives it. An unspecified one is asked
// for by an empty attribute.
func addressAttribute(a netip.Addr) wire.CPAttribute {
	switch {
	case a.Is4() && a.IsUnspecified():
		return wire.CPAttribute{Kind: wire.CPInternalIP4Address}
	case a.Is4():
		return wire.CPAttribute{Kind: wire.CPInternalIP4Address, Value: a.AsSlice()}
	case a.IsUnspecified():
		return wire.CPAttribute{Kind: wire.CPInternalIP6Address}
	}
	return wire.CPAttribute{Kind: wire.CPInternalIP6Address, Value: append(a.AsSlice(), 128)}
}

func dnsKind(v6 bool) wire.CPAttributeType {
	if v6 {
		return wire.CPInternalIP6DNS
	}
	return wire.CPInternalIP4DNS
}

func subnetAttribute(s netip.Prefix) wire.CPAttribute {
	if s.Addr().Is6() {
		return wire.CPAttribute{Kind: wire.CPInternalIP6Subnet, Value: append(s.Addr().AsSlice(), byte(s.Bits()))}
	}
	mask := ^uint32(0) << (32 - s.Bits())
	return wire.CPAttribute{Kind: wire.CPInternalIP4Subnet, Value: append(s.Addr().AsSlice(), put32(mask)...)}
}

// readAddress reads the value of an attribute with an address, with or without a
// prefix length. The zero Addr means that it has none that a host can have.
func readAddress(a wire.CPAttribute) netip.Addr {
	b := a.Value
	switch a.Kind {
	case wire.CPInternalIP4Address, wire.CPInternalIP4DNS:
		if len(b) != 4 {
			return netip.Addr{}
		}
	case wire.CPInternalIP6Address:
		// Some send no prefix length.
		if len(b) != 17 && len(b) != 16 {
			return netip.Addr{}
		}
		b = b[:16]
	case wire.CPInternalIP6DNS:
		if len(b) != 16 {
			return netip.Addr{}
		}
	default:
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(b)
	if !assignable(addr) {
		return netip.Addr{}
	}
	return addr
}

// readSubnet reads the value of an attribute with a network, the zero Prefix if it
// is none.
func readSubnet(a wire.CPAttribute) netip.Prefix {
	b := a.Value
	switch {
	case a.Kind == wire.CPInternalIP4Subnet && len(b) == 8:
		mask := be32(b[4:])
		bits := 0
		for ; mask&0x80000000 != 0; mask <<= 1 {
			bits++
		}
		if mask != 0 {
			return netip.Prefix{} // not contiguous
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(b[:4])), bits).Masked()
	case a.Kind == wire.CPInternalIP6Subnet && len(b) == 17 && b[16] <= 128:
		addr := netip.AddrFrom16([16]byte(b[:16]))
		if addr.Is4In6() {
			return netip.Prefix{}
		}
		return netip.PrefixFrom(addr, int(b[16])).Masked()
	}
	return netip.Prefix{}
}

// readInternal reads what a peer gives.
func readInternal(cp *wire.CP) *Internal {
	c := &Internal{}
	var n [2]int
	for _, a := range cp.Attributes {
		switch a.Kind {
		case wire.CPInternalIP4Address, wire.CPInternalIP6Address:
			x := readAddress(a)
			if x.IsValid() && n[familyIndex(x)] < maxInternal && !slices.Contains(c.Addresses, x) {
				n[familyIndex(x)]++
				c.Addresses = append(c.Addresses, x)
			}
		case wire.CPInternalIP4DNS, wire.CPInternalIP6DNS:
			if x := readAddress(a); x.IsValid() && len(c.DNS) < maxInternal && !slices.Contains(c.DNS, x) {
				c.DNS = append(c.DNS, x)
			}
		case wire.CPInternalIP4Subnet, wire.CPInternalIP6Subnet:
			if x := readSubnet(a); x.IsValid() && len(c.Subnets) < maxSubnets && !slices.Contains(c.Subnets, x) {
				c.Subnets = append(c.Subnets, x)
			}
		}
	}
	return c
}

// readWanted reads which addresses a peer asks for, of the families that the
// pool has. A value that makes no sense as an address asks for any.
func readWanted(cp *wire.CP, pool *Pool) []netip.Addr {
	var wanted []netip.Addr
	var n [2]int
	for _, a := range cp.Attributes {
		want := netip.IPv4Unspecified()
		switch a.Kind {
		case wire.CPInternalIP4Address:
		case wire.CPInternalIP6Address:
			want = netip.IPv6Unspecified()
		default:
			continue
		}
		i := familyIndex(want)
		if !pool.has(want) || n[i] == maxInternal {
			continue
		}
		n[i]++
		if x := readAddress(a); x.IsValid() {
			want = x
		}
		wanted = append(wanted, want)
	}
	return wanted
}
