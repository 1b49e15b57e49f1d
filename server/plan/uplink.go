package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// defaultPort is where edges answer IKE and UDP-encapsulated ESP (RFC 3948).
const defaultPort = 4500

// uplinkInfo is a reported uplink with its addresses parsed once.
type uplinkInfo struct {
	*swanherdv1.Uplink
	// endpoints of both families in the order reported, and of each alone.
	all, only4, only6 []*swanherdv1.PeerEndpoint
}

// name of the uplink; empty for nil.
func (u *uplinkInfo) name() string {
	if u == nil {
		return ""
	}
	return u.GetName()
}

// preferred returns the uplinks in order of preference: by cost, then by name.
func preferred(uplinks []*swanherdv1.Uplink) []*uplinkInfo {
	list := make([]*uplinkInfo, len(uplinks))
	for i, u := range uplinks {
		list[i] = parseUplink(u)
	}
	slices.SortStableFunc(list, func(x, y *uplinkInfo) int {
		return cmp.Or(cmp.Compare(x.GetCost(), y.GetCost()), strings.Compare(x.GetName(), y.GetName()))
	})
	return list
}

func parseUplink(u *swanherdv1.Uplink) *uplinkInfo {
	info := &uplinkInfo{Uplink: u}
	port := cmp.Or(u.GetPort(), defaultPort)
	for _, s := range u.GetAddresses() {
		addr, ok := outer(s)
		if !ok {
			continue
		}
		endpoint := &swanherdv1.PeerEndpoint{Address: addr.String(), Port: port}
		info.all = append(info.all, endpoint)
		if addr.Is4() {
			info.only4 = append(info.only4, endpoint)
		} else {
			info.only6 = append(info.only6, endpoint)
		}
	}
	return info
}

// endpoints returns where an uplink is reached from another one: its addresses
// of the families that the other has, or all when the other's are unknown.
func endpoints(u, from *uplinkInfo) []*swanherdv1.PeerEndpoint {
	switch {
	case u == nil:
		return nil
	case from == nil || len(from.all) == 0 || len(from.only4) > 0 && len(from.only6) > 0:
		return u.all
	case len(from.only4) > 0:
		return u.only4
	default:
		return u.only6
	}
}

// pair returns the pair of uplinks that carries a tunnel: one that can reach
// the other, of the same transport class, of the least cost; the first that
// comes closest to that. An edge without uplinks has none.
func pair(as, bs []*uplinkInfo) (a, b *uplinkInfo) {
	if len(as) == 0 || len(bs) == 0 {
		return first(as), first(bs)
	}
	best := [3]uint64{3, 0, 0}
	for _, x := range as {
		for _, y := range bs {
			rank := [3]uint64{1, 1, uint64(x.GetCost()) + uint64(y.GetCost())}
			if len(endpoints(x, y)) > 0 || len(endpoints(y, x)) > 0 {
				rank[0] = 0
			}
			if x.GetTransportClass() == y.GetTransportClass() {
				rank[1] = 0
			}
			if slices.Compare(rank[:], best[:]) < 0 {
				a, b, best = x, y, rank
			}
		}
	}
	return a, b
}

func first(uplinks []*uplinkInfo) *uplinkInfo {
	if len(uplinks) == 0 {
		return nil
	}
	return uplinks[0]
}

// outer parses an address that can be the outer one of a tunnel.
func outer(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	addr = addr.Unmap()
	return addr, err == nil && addr.Zone() == "" && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.IsLinkLocalUnicast()
}
