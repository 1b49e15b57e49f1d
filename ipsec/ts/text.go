package ts

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// protocolNames are the IANA keywords of the protocols that policies name;
// every protocol can be given by its number.
var protocolNames = map[uint8]string{
	protocolICMP: "icmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah",
	protocolIPv6ICMP: "ipv6-icmp", 89: "ospf", 132: "sctp",
}

var protocolNumbers = func() map[string]uint8 {
	m := make(map[string]uint8, len(protocolNames))
	for number, name := range protocolNames {
		m[name] = number
	}
	return m
}()

const (
	anyName    = "any"
	opaqueName = "opaque"
)

// Parse reads a selector as String prints it: an address, a prefix or a range
// "first-last", and after that, in brackets, protocol and port:
//
//	10.1.0.0/16
//	10.1.0.5-10.1.0.9[tcp/443]
//	2001:db8::/32[udp/1024-65535]
//	0.0.0.0/0[icmp/8]      echo requests; [icmp/3:4] is type 3, code 4
//	192.0.2.1[tcp/opaque]  packets whose ports are not known
//
// A prefix with host bits is an error, as one of the two was not meant.
func Parse(text string) (Selector, error) {
	addrs, rest, bracket := strings.Cut(text, "[")
	s, err := parseAddrs(addrs)
	if err != nil {
		return Selector{}, fmt.Errorf("parse traffic selector %q: %w", text, err)
	}
	if bracket {
		inner, closed := strings.CutSuffix(rest, "]")
		if !closed {
			return Selector{}, fmt.Errorf("parse traffic selector %q: the closing ] is missing", text)
		}
		if err := s.parseProtocol(inner); err != nil {
			return Selector{}, fmt.Errorf("parse traffic selector %q: %w", text, err)
		}
	}
	if err := s.Validate(); err != nil {
		return Selector{}, fmt.Errorf("parse %w", err)
	}
	return s, nil
}

// parseAddrs reads the part before the bracket.
func parseAddrs(text string) (Selector, error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return Selector{}, err
		}
		if p != p.Masked() {
			return Selector{}, fmt.Errorf("%s has host bits, write %s or %s", p, p.Masked(), p.Addr())
		}
		return FromPrefix(p), nil
	}
	from, to, isRange := strings.Cut(text, "-")
	first, err := netip.ParseAddr(from)
	if err != nil {
		return Selector{}, fmt.Errorf("%w, want an address, a prefix or first-last", err)
	}
	last := first
	if isRange {
		if last, err = netip.ParseAddr(to); err != nil {
			return Selector{}, err
		}
	}
	return FromRange(first, last), nil
}

// parseProtocol reads the part inside the brackets.
func (s *Selector) parseProtocol(text string) error {
	name, port, hasPort := strings.Cut(text, "/")
	if number, ok := protocolNumbers[name]; ok {
		s.Protocol = number
	} else if name != anyName {
		n, err := strconv.ParseUint(name, 10, 8)
		if err != nil {
			return fmt.Errorf("protocol %q is not known, write its number", name)
		}
		s.Protocol = uint8(n)
	}
	switch {
	case !hasPort || port == anyName:
		return nil
	case port == opaqueName:
		s.StartPort, s.EndPort = math.MaxUint16, 0
		return nil
	}
	from, to, isRange := strings.Cut(port, "-")
	if !isRange {
		to = from
	}
	var err error
	if s.StartPort, _, err = s.parsePort(from); err != nil {
		return err
	}
	if _, s.EndPort, err = s.parsePort(to); err != nil {
		return err
	}
	if s.StartPort > s.EndPort {
		// Otherwise 65535-0 would be OPAQUE by accident.
		return fmt.Errorf("port range %s is inverted", port)
	}
	return nil
}

// isICMP reports whether the ports are message types and codes.
func (s Selector) isICMP() bool {
	return s.Protocol == protocolICMP || s.Protocol == protocolIPv6ICMP
}

// parsePort returns the lowest and the highest value that text stands for:
// all codes of an ICMP type given alone.
func (s Selector) parsePort(text string) (lowest, highest uint16, err error) {
	if !s.isICMP() {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return 0, 0, fmt.Errorf("port %q is not a number from 0 to 65535, %q or %q", text, anyName, opaqueName)
		}
		return uint16(n), uint16(n), nil
	}
	kind, code, hasCode := strings.Cut(text, ":")
	t, err := strconv.ParseUint(kind, 10, 8)
	if err != nil {
		return 0, 0, fmt.Errorf("ICMP type %q is not a number from 0 to 255", kind)
	}
	lowest, highest = uint16(t)<<8, uint16(t)<<8|0xff
	if !hasCode {
		return lowest, highest, nil
	}
	c, err := strconv.ParseUint(code, 10, 8)
	if err != nil {
		return 0, 0, fmt.Errorf("ICMP code %q is not a number from 0 to 255", code)
	}
	return lowest | uint16(c), lowest | uint16(c), nil
}

// String prints the selector so that Parse reads it back, as a prefix if it is
// one.
func (s Selector) String() string {
	text := s.addrString()
	if s.Protocol == AnyProtocol && s.AnyPort() {
		return text
	}
	name, ok := protocolNames[s.Protocol]
	switch {
	case s.Protocol == AnyProtocol:
		name = anyName
	case !ok:
		name = strconv.Itoa(int(s.Protocol))
	}
	return text + "[" + name + s.portString() + "]"
}

func (s Selector) addrString() string {
	if p, ok := s.prefix(); ok {
		return p.String()
	}
	return s.First.String() + "-" + s.Last.String()
}

// prefix returns the selector's range if it is a prefix.
func (s Selector) prefix() (netip.Prefix, bool) {
	if !s.First.IsValid() || s.First.BitLen() != s.Last.BitLen() {
		return netip.Prefix{}, false
	}
	p := largestPrefix(s.First, s.Last)
	return p, p.IsValid() && lastAddr(p) == s.Last
}

func (s Selector) portString() string {
	switch {
	case s.AnyPort():
		return ""
	case s.OpaquePort():
		return "/" + opaqueName
	case !s.isICMP() && s.StartPort == s.EndPort:
		return fmt.Sprintf("/%d", s.StartPort)
	case !s.isICMP():
		return fmt.Sprintf("/%d-%d", s.StartPort, s.EndPort)
	case s.StartPort == s.EndPort:
		return fmt.Sprintf("/%d:%d", s.StartPort>>8, s.StartPort&0xff)
	case s.StartPort>>8 == s.EndPort>>8 && s.StartPort&0xff == 0 && s.EndPort&0xff == 0xff:
		return fmt.Sprintf("/%d", s.StartPort>>8)
	default:
		return fmt.Sprintf("/%d:%d-%d:%d", s.StartPort>>8, s.StartPort&0xff, s.EndPort>>8, s.EndPort&0xff)
	}
}
