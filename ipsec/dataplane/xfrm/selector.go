package xfrm

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/ts"
)

// selector is what a policy of the kernel matches: one prefix and one range of ports
// on each side. Ports are matched under a mask.
type selector struct {
	source, destination         netip.Prefix
	protocol                    uint8
	sourcePort, destinationPort maskedPort
}

type maskedPort struct{ port, mask uint16 }

func (s selector) encode() nl.XfrmSelector {
	x := nl.XfrmSelector{
		Family: familyOf(s.source.Addr()), Proto: s.protocol,
		PrefixlenS: uint8(s.source.Bits()), PrefixlenD: uint8(s.destination.Bits()),
		Sport: swap16(s.sourcePort.port), SportMask: swap16(s.sourcePort.mask),
		Dport: swap16(s.destinationPort.port), DportMask: swap16(s.destinationPort.mask),
	}
	setAddress(&x.Saddr, s.source.Addr())
	setAddress(&x.Daddr, s.destination.Addr())
	return x
}

func decodeSelector(x *nl.XfrmSelector) selector {
	return selector{
		source:          netip.PrefixFrom(address(&x.Saddr, x.Family), int(x.PrefixlenS)),
		destination:     netip.PrefixFrom(address(&x.Daddr, x.Family), int(x.PrefixlenD)),
		protocol:        x.Proto,
		sourcePort:      maskedPort{swap16(x.Sport), swap16(x.SportMask)},
		destinationPort: maskedPort{swap16(x.Dport), swap16(x.DportMask)},
	}
}

// reversed is the selector of packets the other way. Type and code of ICMP stay where
// they are.
func (s selector) reversed() selector {
	if isICMP(s.protocol) {
		return selector{s.destination, s.source, s.protocol, s.sourcePort, s.destinationPort}
	}
	return selector{s.destination, s.source, s.protocol, s.destinationPort, s.sourcePort}
}

// intersect is what both match, if there is something.
func (s selector) intersect(o selector) (selector, bool) {
	protocol, fits := commonProtocol(s.protocol, o.protocol)
	both := selector{
		longer(s.source, o.source), longer(s.destination, o.destination), protocol,
		s.sourcePort.and(o.sourcePort), s.destinationPort.and(o.destinationPort),
	}
	fits = fits && s.source.Overlaps(o.source) && s.destination.Overlaps(o.destination) &&
		s.sourcePort.overlaps(o.sourcePort) && s.destinationPort.overlaps(o.destinationPort)
	return both, fits
}

func longer(a, b netip.Prefix) netip.Prefix {
	if a.Bits() > b.Bits() {
		return a
	}
	return b
}

func (m maskedPort) overlaps(o maskedPort) bool { return (m.port^o.port)&m.mask&o.mask == 0 }
func (m maskedPort) and(o maskedPort) maskedPort {
	return maskedPort{m.port | o.port, m.mask | o.mask}
}

func isICMP(protocol uint8) bool {
	return protocol == unix.IPPROTO_ICMP || protocol == unix.IPPROTO_ICMPV6
}

// maxSelectors bounds what one policy of ours becomes in the kernel.
const maxSelectors = 1024

// outboundSelectors returns what the kernel needs to match outbound packets within
// local and remote: the ranges of RFC 7296, Section 3.13.1, as prefixes and masks.
func outboundSelectors(local, remote []ts.Selector) ([]selector, error) {
	var out []selector
	for _, l := range local {
		for _, r := range remote {
			protocol, fits := commonProtocol(l.Protocol, r.Protocol)
			if !fits || l.First.Is4() != r.First.Is4() {
				continue
			}
			sources, destinations, err := ports(protocol, l, r)
			if err != nil {
				return nil, err
			}
			for _, from := range ts.Prefixes(l) {
				for _, to := range ts.Prefixes(r) {
					for _, sp := range sources {
						for _, dp := range destinations {
							out = append(out, selector{from, to, protocol, sp, dp})
						}
					}
				}
			}
			if len(out) > maxSelectors {
				return nil, fmt.Errorf("traffic selectors need more than %d policies of the kernel: use ranges of addresses and ports that are prefixes", maxSelectors)
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no local traffic selector goes with a remote one: give both the same protocol and IP version")
	}
	return out, nil
}

func commonProtocol(a, b uint8) (uint8, bool) {
	switch {
	case a == b, b == ts.AnyProtocol:
		return a, true
	case a == ts.AnyProtocol:
		return b, true
	}
	return 0, false
}

// ports returns the masked ports of both sides. With ICMP the kernel has the type
// where the source port is and the code where the destination port is, whichever
// end the selector is of (RFC 4301, Section 4.4.1.1).
func ports(protocol uint8, l, r ts.Selector) (source, destination []maskedPort, err error) {
	if !isICMP(protocol) {
		return masks(l.StartPort, l.EndPort), masks(r.StartPort, r.EndPort), nil
	}
	s := l
	if s.StartPort == 0 && s.EndPort == 0xffff {
		s = r
	}
	first, last := s.StartPort, s.EndPort
	switch {
	case first == 0 && last == 0xffff:
		return []maskedPort{{}}, []maskedPort{{}}, nil
	case first>>8 == last>>8:
		return []maskedPort{{first >> 8, 0xffff}}, masksWithin(first&0xff, last&0xff, 0xff), nil
	case first&0xff == 0 && last&0xff == 0xff:
		return masksWithin(first>>8, last>>8, 0xff), []maskedPort{{}}, nil
	}
	return nil, nil, fmt.Errorf("ICMP types %d/%d to %d/%d: the kernel takes whole types, or the codes of one", first>>8, first&0xff, last>>8, last&0xff)
}

// masks cuts a range of ports into masked ones.
func masks(first, last uint16) []maskedPort { return masksWithin(first, last, 0xffff) }

// masksWithin does so for numbers from 0 to limit; all of them need no mask.
func masksWithin(first, last, limit uint16) []maskedPort {
	if first == 0 && last == limit {
		return []maskedPort{{}}
	}
	var out []maskedPort
	for n, end := uint32(first), uint32(last); n <= end; {
		size := uint32(1)
		for n&(2*size-1) == 0 && n+2*size-1 <= end {
			size *= 2
		}
		out = append(out, maskedPort{uint16(n), ^uint16(size - 1)})
		n += size
	}
	return out
}
