package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Addresses of probes are made from names: every planner makes the same ones, no list of
// them is kept, and none is given to another when its edge goes. The first 48 bits are the
// network's (RFC 4193, Section 3.1), the next 48 the edge's, the last 32 the tunnel's. Two
// tunnels of an edge may share its address where their peers are different.
const (
	probeNetworkBits = 48
	probeEdgeBits    = 96
)

// Default intervals of probes.
const (
	probeInterval          = 500 * time.Millisecond
	probeIntervalLTE       = time.Second
	probeIntervalSatellite = 2 * time.Second
	probeIntervalMetered   = 10 * time.Second
)

// probePrefix is where the addresses of an edge's probes are.
func probePrefix(network, edge string) netip.Prefix {
	var a [16]byte
	a[0] = 0xfd
	ofNetwork, ofEdge := sha256.Sum256([]byte("probes of "+network)), sha256.Sum256([]byte("probes of "+edge))
	copy(a[1:6], ofNetwork[:])
	copy(a[6:12], ofEdge[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), probeEdgeBits)
}

// probeSettings says where probes of an edge are.
func (e *edge) probeSettings() *swanherdv1.ProbeSettings {
	return &swanherdv1.ProbeSettings{
		NetworkPrefix: netip.PrefixFrom(e.probes.Addr(), probeNetworkBits).Masked().String(),
		LocalPrefix:   e.probes.String(),
	}
}

// probeAddress is that of one end of a tunnel.
func (e *edge) probeAddress(tunnel [4]byte) string {
	a := e.probes.Addr().As16()
	copy(a[probeEdgeBits/8:], tunnel[:])
	return netip.AddrFrom16(a).String()
}

// probes makes the intents of both ends to measure a tunnel; nil: it is not. Others between
// the same two edges have taken some ids, to which this one's is added.
func (m *mesh) probes(tunnel string, a, b *end, taken []uint32) (forA, forB *swanherdv1.ProbeIntent, ids []uint32) {
	if m.profile.GetProbing().GetDisabled() {
		return nil, nil, taken
	}
	sum := sha256.Sum256([]byte(tunnel))
	n := probeID(binary.BigEndian.Uint32(sum[:]), taken)
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], n)
	forA = &swanherdv1.ProbeIntent{
		LocalAddress: a.edge.probeAddress(id), RemoteAddress: b.edge.probeAddress(id),
		Interval: m.probeInterval(a.uplink, b.uplink), Sla: m.sla,
	}
	forB = &swanherdv1.ProbeIntent{
		LocalAddress: forA.GetRemoteAddress(), RemoteAddress: forA.GetLocalAddress(), Interval: forA.GetInterval(), Sla: m.sla,
	}
	return forA, forB, append(taken, n)
}

// probeID is n, or the next that is not taken: the two addresses of a path have to tell
// which of the tunnels between two edges it is of. 0 is the routers' anycast address
// (RFC 4291, Section 2.6.1).
func probeID(n uint32, taken []uint32) uint32 {
	for n == 0 || slices.Contains(taken, n) {
		n++
	}
	return n
}

// probeInterval is as the slower of both uplinks wants it.
func (m *mesh) probeInterval(a, b *uplinkInfo) *durationpb.Duration {
	if set := m.profile.GetProbing().GetInterval(); set != nil {
		return set
	}
	return durationpb.New(max(a.probeInterval(), b.probeInterval()))
}

func (u *uplinkInfo) probeInterval() time.Duration {
	switch {
	case u == nil:
		return probeInterval
	case u.GetMetered():
		return probeIntervalMetered
	case u.GetTransportClass() == swanherdv1.TransportClass_TRANSPORT_CLASS_SATELLITE:
		return probeIntervalSatellite
	case u.GetTransportClass() == swanherdv1.TransportClass_TRANSPORT_CLASS_LTE:
		return probeIntervalLTE
	}
	return probeInterval
}

// slaClasses are the limits of the classes.
var slaClasses = map[swanherdv1.PathSla_TrafficClass]*swanherdv1.PathSla{
	swanherdv1.PathSla_TRAFFIC_CLASS_VOICE: {
		MaxLossPercent: proto.Float64(1), MaxLatency: durationpb.New(300 * time.Millisecond), MaxJitter: durationpb.New(30 * time.Millisecond),
	},
	swanherdv1.PathSla_TRAFFIC_CLASS_TRANSACTION: {MaxLossPercent: proto.Float64(2), MaxLatency: durationpb.New(500 * time.Millisecond)},
	swanherdv1.PathSla_TRAFFIC_CLASS_BULK:        {MaxLossPercent: proto.Float64(5), MaxLatency: durationpb.New(time.Second)},
}

// limitsOf resolves the class of an SLA; nil: there are no limits.
func limitsOf(sla *swanherdv1.PathSla) *swanherdv1.PathSla {
	if sla == nil {
		return nil
	}
	out := &swanherdv1.PathSla{}
	if class := slaClasses[sla.GetTrafficClass()]; class != nil {
		proto.Merge(out, class)
	}
	if sla.MaxLossPercent != nil {
		out.MaxLossPercent = sla.MaxLossPercent
	}
	if sla.GetMaxLatency() != nil {
		out.MaxLatency = sla.GetMaxLatency()
	}
	if sla.GetMaxJitter() != nil {
		out.MaxJitter = sla.GetMaxJitter()
	}
	return out
}
