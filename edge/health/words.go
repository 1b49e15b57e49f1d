package health

import (
	"net"
	"strconv"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// KindWord is a kind of failure as people read it: "no answer".
func KindWord(k swanherdv1.TunnelErrorKind) string {
	if k == swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_UNSPECIFIED {
		return ""
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k.String(), "TUNNEL_ERROR_KIND_")), "_", " ")
}

// StateWord is a state as people read it: "established".
func StateWord(s swanherdv1.TunnelState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TUNNEL_STATE_"))
}

// metricWord is what a limit of an SLA is about: "loss".
func metricWord(m swanherdv1.SlaMetric) string {
	return strings.ToLower(strings.TrimPrefix(m.String(), "SLA_METRIC_"))
}

// NATWords is how an address of an uplink looks from outside, as people read it:
// "203.0.113.7:31022 (endpoint-independent NAT)".
func NATWords(n *swanherdv1.UplinkNat) string {
	seen := n.GetMappedAddress()
	if n.GetMappedPort() != 0 {
		seen = net.JoinHostPort(seen, strconv.Itoa(int(n.GetMappedPort())))
	}
	carrier := ""
	if n.GetCarrierGrade() {
		carrier = "carrier-grade "
	}
	switch n.GetMapping() {
	case swanherdv1.NatMapping_NAT_MAPPING_NONE:
		return seen + " (no NAT)"
	case swanherdv1.NatMapping_NAT_MAPPING_ENDPOINT_INDEPENDENT:
		return seen + " (endpoint-independent " + carrier + "NAT)"
	case swanherdv1.NatMapping_NAT_MAPPING_ADDRESS_DEPENDENT:
		return seen + " (address-dependent " + carrier + "NAT)"
	}
	return seen + " (" + carrier + "NAT)"
}
