package reconcile

import (
	"cmp"
	"math"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TrafficClass is a kind of traffic for which paths are chosen by itself.
type TrafficClass struct {
	ID  string
	SLA *swanherdv1.PathSla
	// Transports are those whose paths go first, in this order.
	Transports []swanherdv1.TransportClass
	// Matches are what is of it, as the data plane sees packets on their way out.
	Matches []dataplane.TrafficClass
}

// trafficClasses are those of settings that keep the rules of the proto.
func trafficClasses(list []*swanherdv1.TrafficClass) []TrafficClass {
	out := make([]TrafficClass, len(list))
	for i, c := range list {
		out[i] = TrafficClass{ID: c.GetId(), SLA: c.GetSla(), Transports: c.GetTransports()}
		for _, m := range c.GetMatches() {
			out[i].Matches = append(out[i].Matches, trafficMatch(m)...)
		}
	}
	return out
}

// trafficMatch matches what goes to a service, and what comes from it.
func trafficMatch(m *swanherdv1.TrafficMatch) []dataplane.TrafficClass {
	var points []uint8
	for _, point := range m.GetDscp() {
		points = append(points, uint8(point))
	}
	service := serviceSelectors(m)
	if service == nil {
		return []dataplane.TrafficClass{{DSCP: points}}
	}
	return []dataplane.TrafficClass{{RemoteTS: service, DSCP: points}, {LocalTS: service, DSCP: points}}
}

// serviceSelectors are the addresses, protocol and ports of a service; nil: any.
func serviceSelectors(m *swanherdv1.TrafficMatch) []ts.Selector {
	prefixes := parsePrefixes(m.GetPrefixes())
	if len(prefixes) == 0 {
		if m.GetProtocol() == swanherdv1.TrafficMatch_PROTOCOL_UNSPECIFIED {
			return nil
		}
		prefixes = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	ports := m.GetPorts()
	if len(ports) == 0 {
		ports = []*swanherdv1.PortRange{{Last: math.MaxUint16}}
	}
	var out []ts.Selector
	for _, prefix := range prefixes {
		for _, p := range ports {
			s := ts.FromPrefix(prefix)
			s.Protocol = trafficProtocol(m.GetProtocol(), prefix)
			s.StartPort, s.EndPort = uint16(p.GetFirst()), uint16(cmp.Or(p.GetLast(), p.GetFirst()))
			out = append(out, s)
		}
	}
	return out
}

func trafficProtocol(p swanherdv1.TrafficMatch_Protocol, of netip.Prefix) uint8 {
	switch p {
	case swanherdv1.TrafficMatch_PROTOCOL_TCP:
		return unix.IPPROTO_TCP
	case swanherdv1.TrafficMatch_PROTOCOL_UDP:
		return unix.IPPROTO_UDP
	case swanherdv1.TrafficMatch_PROTOCOL_ICMP:
		if of.Addr().Is6() {
			return unix.IPPROTO_ICMPV6
		}
		return unix.IPPROTO_ICMP
	}
	return ts.AnyProtocol
}
