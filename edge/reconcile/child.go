package reconcile

import (
	"slices"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// dontFragment is what an intent says of the bit of that name.
var dontFragment = map[swanherdv1.DontFragment]dataplane.DF{
	swanherdv1.DontFragment_DONT_FRAGMENT_COPY:  dataplane.DFCopy,
	swanherdv1.DontFragment_DONT_FRAGMENT_SET:   dataplane.DFSet,
	swanherdv1.DontFragment_DONT_FRAGMENT_CLEAR: dataplane.DFClear,
}

func isTransport(in *swanherdv1.ChildIntent) bool {
	return in.GetMode() == swanherdv1.IpsecMode_IPSEC_MODE_TRANSPORT
}

// appearance sets how the packets of a child look from outside: its mode, its outer
// header, what hides its traffic.
func (b *tunnelBuilder) appearance(field string, in *swanherdv1.ChildIntent, c *ike.ChildConfig) {
	encapsulated := b.config.Remote.IsValid() && b.config.Remote.Port() != defaultIKEPort || b.intent.GetForceUdpEncapsulation()
	if encapsulated && slices.ContainsFunc(c.Proposals, func(p suite.ESPProposal) bool { return p.AH }) {
		b.fail(field+".esp_proposals", "AH is never encapsulated in UDP, and this tunnel is: give remote_endpoints port 500 and do not force encapsulation, or propose ESP")
	}
	if !isTransport(in) {
		c.Outer, c.TFC = outer(in.GetOuterHeader()), b.tfc(field, in.GetTrafficFlowConfidentiality())
		return
	}
	c.Mode = dataplane.Transport
	if b.intent.GetSegment() != "" {
		b.fail(field+".mode", "transport mode is between the outer addresses of the two ends, which are of no segment: use tunnel mode")
	}
	if in.GetOuterHeader() != nil {
		b.fail(field+".outer_header", "transport mode has no outer header: leave it out, or use tunnel mode")
	}
	if in.GetTrafficFlowConfidentiality() != nil {
		b.fail(field+".traffic_flow_confidentiality", "transport mode cannot hide the traffic: leave it out, or use tunnel mode")
	}
	for _, s := range append(c.LocalTS, c.RemoteTS...) {
		if s.First != s.Last {
			b.fail(field+".mode", "transport mode is between the outer addresses of the two ends, and "+s.String()+
				" is more than one address: name them, or use tunnel mode")
		}
	}
}

func outer(h *swanherdv1.OuterHeader) dataplane.Outer {
	return dataplane.Outer{
		FixDSCP: h != nil && h.Dscp != nil, DSCP: uint8(h.GetDscp()),
		NoECN: h.GetNoEcn(), DF: dontFragment[h.GetDontFragment()],
	}
}

func (b *tunnelBuilder) tfc(field string, t *swanherdv1.TrafficFlowConfidentiality) dataplane.TFC {
	out := dataplane.TFC{PadTo: int(t.GetPadTo()), Fill: b.duration(field+".traffic_flow_confidentiality.fill_interval", t.GetFillInterval(), 0)}
	if t.GetPadToPath() {
		out.PadTo = dataplane.PadToPath
	}
	if out.Fill != 0 && b.env.DataPlane.NoDummies {
		b.fail(field+".traffic_flow_confidentiality.fill_interval",
			"the data plane of this edge sends no dummy packets: run it with --data-plane userspace, or leave the field out")
	}
	return out
}
