package plan

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

const (
	// maxSelectors bounds the traffic selectors of a Child SA per side.
	maxSelectors = 64

	defaultIKERekey     = 4 * time.Hour
	defaultChildRekey   = time.Hour
	defaultDPDDelay     = 10 * time.Second
	defaultReplayWindow = 1024
)

// A link is the tunnel between two edges with the intents of both ends; a has
// the lower id. Of one with a gateway only a has an intent.
type link struct {
	tunnel *swanherdv1.Tunnel
	a, b   *swanherdv1.IntentResource
}

// A draft is a link before the intents of its ends have versions.
type draft struct {
	tunnel *swanherdv1.Tunnel
	a, b   *swanherdv1.TunnelIntent
}

// link computes the versions, which is most of what planning costs.
func (d *draft) link() *link {
	if d == nil {
		return nil
	}
	l := &link{tunnel: d.tunnel, a: digest.Resource(d.a)}
	if d.b != nil {
		l.b = digest.Resource(d.b)
	}
	return l
}

// plannedRevision is that of the plan in which the tunnel last changed.
func (l *link) plannedRevision() int64 {
	if l == nil {
		return 0
	}
	return l.tunnel.GetPlannedRevision()
}

// end is one end of a link while it is made.
type end struct {
	edge      *edge
	uplink    *uplinkInfo // nil when the edge reported none
	endpoints []*swanherdv1.PeerEndpoint
	offered   []string // prefixes
	initiator bool
}

// newLink plans the tunnel between two edges whose sites the mesh connects, or
// returns nil when there is nothing to protect on one side.
func (n *network) newLink(m *mesh, x, y *edge) *draft {
	a, b, ok := n.ends(m, x, y)
	if !ok {
		return nil
	}
	name := tunnelName(&a, &b, n.segment.Segment)
	forA, forB := children(m, a.offered, b.offered)
	d := &draft{tunnel: &swanherdv1.Tunnel{Name: name, Mesh: m.name, A: a.view(), B: b.view()}}
	d.a, d.b = intent(name, m, &a, &b, forA), intent(name, m, &b, &a, forB)
	if n.segment.Segment == "" {
		d.a.Probe, d.b.Probe = m.probes(name, &a, &b)
	} else { // where probes come from is of no segment
		d.tunnel.Segment = n.segment.String()
		d.a.Segment, d.b.Segment = n.segment.Segment, n.segment.Segment
	}
	return d
}

// ends decides everything about the tunnel between two edges; ok is false when
// there is nothing to protect on one side.
func (n *network) ends(m *mesh, x, y *edge) (a, b end, ok bool) {
	if y.name < x.name {
		x, y = y, x
	}
	a = end{edge: x, offered: n.offered(m, x.site, y.site)}
	b = end{edge: y, offered: n.offered(m, y.site, x.site)}
	if len(a.offered) == 0 || len(b.offered) == 0 {
		return a, b, false
	}
	a.uplink, b.uplink = pair(x.uplinks, y.uplinks)
	a.endpoints, b.endpoints = endpoints(a.uplink, b.uplink), endpoints(b.uplink, a.uplink)
	// Who initiates has to know where to; while neither does, both wait for
	// an edge to report its uplinks.
	a.initiator = len(b.endpoints) > 0
	b.initiator = !a.initiator && len(a.endpoints) > 0
	return a, b, true
}

func (e *end) view() *swanherdv1.TunnelEnd {
	v := &swanherdv1.TunnelEnd{
		Edge:      e.edge.name,
		Site:      e.edge.site.name,
		Uplink:    e.uplink.name(),
		Prefixes:  e.edge.site.texts,
		Initiator: e.initiator,
	}
	if len(e.endpoints) > 0 {
		first := e.endpoints[0]
		v.Endpoint = netip.AddrPortFrom(netip.MustParseAddr(first.GetAddress()), uint16(first.GetPort())).String()
	}
	return v
}

func intent(name string, m *mesh, local, remote *end, children []*swanherdv1.ChildIntent) *swanherdv1.TunnelIntent {
	role := swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER
	if local.initiator {
		role = swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR
	}
	return &swanherdv1.TunnelIntent{
		Name:            name,
		PeerEdge:        remote.edge.name,
		Role:            role,
		Uplink:          local.uplink.name(),
		RemoteEndpoints: remote.endpoints,
		Authentication: &swanherdv1.Authentication{
			LocalId:  local.edge.identity,
			RemoteId: remote.edge.identity,
			Method:   byCertificate,
		},
		IkeProposals:     m.profile.GetIkeProposals(),
		IkeRekeyTime:     m.ikeRekey,
		DpdDelay:         m.dpdDelay,
		Children:         children,
		TcpEncapsulation: m.profile.GetTcpEncapsulation(),
		// A hub cannot do without its spokes, but takes nothing back for one of thousands.
		Critical: m.critical && m.roles[remote.edge.site] != roleSpoke,
	}
}

// byCertificate is how all managed edges authenticate; it is never changed.
var byCertificate = &swanherdv1.Authentication_Certificate{Certificate: &swanherdv1.CertificateAuthentication{}}

// children makes the Child SAs of a link for both of its ends: the same names,
// with the selectors mirrored.
func children(m *mesh, a, b []string) (forA, forB []*swanherdv1.ChildIntent) {
	for fromA := range slices.Chunk(a, maxSelectors) {
		for fromB := range slices.Chunk(b, maxSelectors) {
			name := "net"
			if len(forA) > 0 {
				name += "-" + strconv.Itoa(len(forA)+1)
			}
			forA = append(forA, m.child(name, fromA, fromB))
			forB = append(forB, m.child(name, fromB, fromA))
		}
	}
	return forA, forB
}

func (m *mesh) child(name string, local, remote []string) *swanherdv1.ChildIntent {
	return &swanherdv1.ChildIntent{
		Name:         name,
		EspProposals: m.profile.GetEspProposals(),
		LocalTs:      local,
		RemoteTs:     remote,
		RekeyTime:    m.childRekey,
		RekeyBytes:   m.profile.GetChildRekeyBytes(),
		ReplayWindow: m.replayWindow,
		OuterHeader:  m.profile.GetOuterHeader(),

		TrafficFlowConfidentiality: m.profile.GetTrafficFlowConfidentiality(),
	}
}

func orDefault(d *durationpb.Duration, fallback time.Duration) *durationpb.Duration {
	if d == nil {
		return durationpb.New(fallback)
	}
	return d
}

// tunnelName is `networks/{network}/tunnels/{a}--{b}`, over whichever uplinks: a tunnel
// that changes to another one keeps its SAs until it has those of the new one, where
// one of another name would take the place of one that is closed. An id may itself hold
// "--"; then a hash keeps the names of different tunnels apart. Behind it is the segment, if
// that is not the default one; one that is called as gateways' tunnels end is told from them.
func tunnelName(a, b *end, segment string) string {
	id := a.edge.id.Edge + "--" + b.edge.id.Edge
	if strings.Count(id, "--") != 1 {
		id += "." + model.EndsHash(a.edge.id.Edge, b.edge.id.Edge)
	}
	switch segment {
	case "":
	case "gw":
		id += ".segment.gw"
	default:
		id += "." + segment
	}
	return model.TunnelName{Network: a.edge.id.Network, Tunnel: id}.String()
}
