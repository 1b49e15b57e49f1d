package plan

import (
	"net/netip"
	"slices"
	"strconv"
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

// A link is a tunnel between two edges with the intents of both ends; a has
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
	l := &link{tunnel: d.tunnel, a: digest.Resource(d.a)}
	if d.b != nil {
		l.b = digest.Resource(d.b)
	}
	return l
}

// only are the drafts of two ends that have one tunnel at most.
func only(d *draft) []draft {
	if d == nil {
		return nil
	}
	return []draft{*d}
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
	open      openness // how well it is reached there
	nat       bool     // whether a NAT is in between
	offered   []string // prefixes
	initiator bool
	opens     bool // as TunnelIntent.open_nat
}

// newLinks plans the tunnels between two edges whose sites the mesh connects: one for each
// pair of uplinks that the mesh wants, the preferred one first. There is none when there is
// nothing to protect on one side.
func (n *network) newLinks(m *mesh, x, y *edge) []draft {
	a, b, ok := n.ends(m, x, y)
	if !ok {
		return nil
	}
	forA, forB := children(m, a.offered, b.offered)
	var room [1]uplinkPair
	paths := m.pairing.pairs(room[:0], a.edge.uplinks, b.edge.uplinks)
	drafts := make([]draft, len(paths))
	var ids [defaultMaxPaths]uint32
	taken := ids[:0]
	for i, p := range paths {
		a.over(p.a, p.b)
		b.over(p.b, p.a)
		assign(&a, &b)
		name := n.tunnelName(m, a.edge, b.edge, p)
		d := &drafts[i]
		d.tunnel = &swanherdv1.Tunnel{Name: name, Mesh: m.name, A: a.view(), B: b.view(), Obstacle: obstacle(&a, &b)}
		d.a, d.b = intent(name, m, &a, &b, forA), intent(name, m, &b, &a, forB)
		if n.segment.Segment == "" {
			d.a.Probe, d.b.Probe, taken = m.probes(name, &a, &b, taken)
		} else { // where probes come from is of no segment
			d.tunnel.Segment = n.segment.String()
			d.a.Segment, d.b.Segment = n.segment.Segment, n.segment.Segment
		}
		if len(paths) > 1 {
			d.tunnel.Path = p.message(n.groupName(a.edge, b.edge))
			d.a.Path, d.b.Path = d.tunnel.Path, d.tunnel.Path
		}
		if path := n.standby(m, a.edge, b.edge, p); path != nil {
			d.tunnel.Path, d.a.Path = path, path
		}
		if path := n.standby(m, b.edge, a.edge, p); path != nil {
			d.tunnel.Path, d.b.Path = path, path
		}
	}
	return drafts
}

// ends are the two edges of a tunnel in the order of their ids and what each has to offer;
// ok is false when there is nothing to protect on one side.
func (n *network) ends(m *mesh, x, y *edge) (a, b end, ok bool) {
	if y.name < x.name {
		x, y = y, x
	}
	a = end{edge: x, offered: n.offered(m, x.site, y.site)}
	b = end{edge: y, offered: n.offered(m, y.site, x.site)}
	return a, b, len(a.offered) > 0 && len(b.offered) > 0
}

// over has the end be at an uplink, from which it is reached from the other end's.
func (e *end) over(uplink, from *uplinkInfo) {
	e.uplink = uplink
	e.endpoints, e.open, e.nat = reached(uplink, from)
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
		OpenNat:         local.opens,
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

// tunnelName is the name of a tunnel of two edges, of which a is the first. The only one
// that the mesh wants has no uplinks in it, whichever it goes over: a tunnel that changes to
// another uplink keeps its SAs until it has those of the new one, where one of another name
// would take the place of one that is closed. Of several each has the name of its uplinks
// and keeps it, however many others come and go: the one that carries the traffic must not
// be closed because another one is gone.
func (n *network) tunnelName(m *mesh, a, b *edge, p uplinkPair) string {
	if !m.pairing.several || p.a == nil || p.b == nil {
		return n.groupName(a, b)
	}
	id := model.PathID(a.id.Edge, b.id.Edge, n.segment.Segment, p.a.GetName(), p.b.GetName())
	return model.TunnelName{Network: a.id.Network, Tunnel: id}.String()
}

// groupName is the name of the only tunnel of two edges, and what several have in common.
func (n *network) groupName(a, b *edge) string {
	return model.TunnelName{Network: a.id.Network, Tunnel: model.TunnelID(a.id.Edge, b.id.Edge, n.segment.Segment)}.String()
}
