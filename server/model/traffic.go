package model

import (
	"fmt"
	"net/netip"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxTrafficMatches is how many matches the traffic classes of a network may have in all:
// edges tell both directions of each apart.
const maxTrafficMatches = 30

// traffic checks the traffic classes of a network.
func (v *validator) traffic(n *swanherdv1.Network) {
	first := map[string]int{}
	matches := 0
	for i, c := range n.GetTrafficClasses() {
		field := fmt.Sprintf("traffic_classes[%d]", i)
		if have, ok := first[c.GetId()]; ok {
			v.add(n.GetName(), field+".id", fmt.Sprintf("%s is traffic_classes[%d] already", c.GetId(), have), "give each class an id of its own")
		} else {
			first[c.GetId()] = i
		}
		if !hasLimit(c.GetSla()) {
			v.add(n.GetName(), field+".sla", noLimit, limitRemedy)
		}
		for k, m := range c.GetMatches() {
			v.trafficMatch(n, fmt.Sprintf("%s.matches[%d]", field, k), m)
		}
		if matches += len(c.GetMatches()); matches > maxTrafficMatches && matches-len(c.GetMatches()) <= maxTrafficMatches {
			v.add(n.GetName(), field+".matches", fmt.Sprintf("makes more than %d matches in all classes", maxTrafficMatches), "join some: a match has up to 16 prefixes and 16 ranges of ports")
		}
	}
}

func (v *validator) trafficMatch(n *swanherdv1.Network, field string, m *swanherdv1.TrafficMatch) {
	for i, text := range m.GetPrefixes() {
		if p, err := netip.ParsePrefix(text); err != nil || p != p.Masked() {
			v.add(n.GetName(), fmt.Sprintf("%s.prefixes[%d]", field, i), "is not a prefix such as 10.1.0.0/16 or 2001:db8::/48", "write one, with no bits behind its length")
		}
	}
	ported := m.GetProtocol() == swanherdv1.TrafficMatch_PROTOCOL_TCP || m.GetProtocol() == swanherdv1.TrafficMatch_PROTOCOL_UDP
	switch {
	case len(m.GetPorts()) > 0 && !ported:
		v.add(n.GetName(), field+".ports", "are of no protocol that has ports", "set protocol to PROTOCOL_TCP or PROTOCOL_UDP; for both give two matches")
	case len(m.GetPrefixes())+len(m.GetPorts())+len(m.GetDscp()) == 0 && m.GetProtocol() == swanherdv1.TrafficMatch_PROTOCOL_UNSPECIFIED:
		v.add(n.GetName(), field, "matches all traffic", "leave the class out and set the SLA of the profile, or say what the class is of")
	}
}
