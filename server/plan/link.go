package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
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
	// defaultPort is where edges answer IKE and UDP-encapsulated ESP (RFC 3948).
	defaultPort = 4500
	// maxSelectors bounds the traffic selectors of a Child SA per side.
	maxSelectors = 64

	defaultIKERekey     = 4 * time.Hour
	defaultChildRekey   = time.Hour
	defaultDPDDelay     = 10 * time.Second
	defaultReplayWindow = 1024
)

// A link is the tunnel between two edges with the intents of both ends; a has
// the lower id.
type link struct {
	tunnel *swanherdv1.Tunnel
	a, b   *swanherdv1.IntentResource
}

// end is one end of a link while it is made.
type end struct {
	edge      *edge
	uplink    *swanherdv1.Uplink // nil when the edge reported none
	endpoints []*swanherdv1.PeerEndpoint
	offered   []netip.Prefix
	initiator bool
}

// newLink plans the tunnel between two edges whose sites the mesh connects, or
// returns nil when there is nothing to protect on one side.
func (n *network) newLink(m *mesh, x, y *edge) *link {
	a, b, ok := n.ends(m, x, y)
	if !ok {
		return nil
	}
	name := tunnelName(&a, &b)
	return &link{
		tunnel: &swanherdv1.Tunnel{Name: name, Mesh: m.name, A: a.view(), B: b.view()},
		a:      digest.Resource(intent(name, m.profile, &a, &b, children(m.profile, a.offered, b.offered, false))),
		b:      digest.Resource(intent(name, m.profile, &b, &a, children(m.profile, a.offered, b.offered, true))),
	}
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
	// Who initiates has to know where to.
	a.initiator = len(b.endpoints) > 0 || len(a.endpoints) == 0
	b.initiator = !a.initiator
	return a, b, true
}

func (e *end) view() *swanherdv1.TunnelEnd {
	v := &swanherdv1.TunnelEnd{
		Edge:      e.edge.name,
		Site:      e.edge.site.name,
		Uplink:    e.uplink.GetName(),
		Prefixes:  prefixStrings(e.edge.site.prefixes),
		Initiator: e.initiator,
	}
	if len(e.endpoints) > 0 {
		first := e.endpoints[0]
		v.Endpoint = netip.AddrPortFrom(netip.MustParseAddr(first.GetAddress()), uint16(first.GetPort())).String()
	}
	return v
}

func intent(name string, profile *swanherdv1.Profile, local, remote *end, children []*swanherdv1.ChildIntent) *swanherdv1.TunnelIntent {
	role := swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER
	if local.initiator {
		role = swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR
	}
	return &swanherdv1.TunnelIntent{
		Name:            name,
		PeerEdge:        remote.edge.name,
		Role:            role,
		Uplink:          local.uplink.GetName(),
		RemoteEndpoints: remote.endpoints,
		Authentication: &swanherdv1.Authentication{
			LocalId:  local.edge.id.IKEIdentity(),
			RemoteId: remote.edge.id.IKEIdentity(),
			Method:   &swanherdv1.Authentication_Certificate{Certificate: &swanherdv1.CertificateAuthentication{}},
		},
		IkeProposals: profile.GetIkeProposals(),
		IkeRekeyTime: orDefault(profile.GetIkeRekeyTime(), defaultIKERekey),
		DpdDelay:     orDefault(profile.GetDpdDelay(), defaultDPDDelay),
		Children:     children,
	}
}

// children makes the Child SAs of a link for a's end or, mirrored, for b's. Both
// ends give a Child SA the same name.
func children(profile *swanherdv1.Profile, a, b []netip.Prefix, mirrored bool) []*swanherdv1.ChildIntent {
	window := profile.GetReplayWindow()
	if window == 0 {
		window = defaultReplayWindow
	}
	var list []*swanherdv1.ChildIntent
	for local := range slices.Chunk(prefixStrings(a), maxSelectors) {
		for remote := range slices.Chunk(prefixStrings(b), maxSelectors) {
			c := &swanherdv1.ChildIntent{
				Name:         "net",
				EspProposals: profile.GetEspProposals(),
				LocalTs:      local,
				RemoteTs:     remote,
				RekeyTime:    orDefault(profile.GetChildRekeyTime(), defaultChildRekey),
				RekeyBytes:   profile.GetChildRekeyBytes(),
				ReplayWindow: window,
			}
			if len(list) > 0 {
				c.Name += "-" + strconv.Itoa(len(list)+1)
			}
			if mirrored {
				c.LocalTs, c.RemoteTs = remote, local
			}
			list = append(list, c)
		}
	}
	return list
}

func orDefault(d *durationpb.Duration, fallback time.Duration) *durationpb.Duration {
	if d == nil {
		return durationpb.New(fallback)
	}
	return d
}

// preferred returns the uplinks in order of preference: by cost, then by name.
func preferred(uplinks []*swanherdv1.Uplink) []*swanherdv1.Uplink {
	return slices.SortedFunc(slices.Values(uplinks), func(x, y *swanherdv1.Uplink) int {
		return cmp.Or(cmp.Compare(x.GetCost(), y.GetCost()), strings.Compare(x.GetName(), y.GetName()))
	})
}

// pair returns the pair of uplinks that carries a tunnel: one that can reach
// the other, of the same transport class, of the least cost; the first that
// comes closest to that. An edge without uplinks has none.
func pair(as, bs []*swanherdv1.Uplink) (a, b *swanherdv1.Uplink) {
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

func first(uplinks []*swanherdv1.Uplink) *swanherdv1.Uplink {
	if len(uplinks) == 0 {
		return nil
	}
	return uplinks[0]
}

// endpoints returns where an uplink is reached from another one: its addresses
// of the families that the other has, or all when the other's are unknown.
func endpoints(u, from *swanherdv1.Uplink) []*swanherdv1.PeerEndpoint {
	var has4, has6 bool
	for _, s := range from.GetAddresses() {
		if addr, ok := outer(s); ok {
			has4, has6 = has4 || addr.Is4(), has6 || addr.Is6()
		}
	}
	unknown := !has4 && !has6
	port := u.GetPort()
	if port == 0 {
		port = defaultPort
	}
	var list []*swanherdv1.PeerEndpoint
	for _, s := range u.GetAddresses() {
		if addr, ok := outer(s); ok && (unknown || addr.Is4() && has4 || addr.Is6() && has6) {
			list = append(list, &swanherdv1.PeerEndpoint{Address: addr.String(), Port: port})
		}
	}
	return list
}

// outer parses an address that can be the outer one of a tunnel.
func outer(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	addr = addr.Unmap()
	return addr, err == nil && addr.Zone() == "" && !addr.IsUnspecified() && !addr.IsMulticast() && !addr.IsLinkLocalUnicast()
}

// tunnelName is `networks/{network}/tunnels/{a}--{b}`, with the uplinks behind
// it where there are several to choose from. An id may itself hold "--"; then
// a hash keeps the names of different tunnels apart.
func tunnelName(a, b *end) string {
	parts := []string{a.edge.id.Edge, b.edge.id.Edge}
	if len(a.edge.uplinks) > 1 || len(b.edge.uplinks) > 1 {
		parts = append(parts, cmp.Or(a.uplink.GetName(), "none"), cmp.Or(b.uplink.GetName(), "none"))
	}
	id := strings.Join(parts, "--")
	if strings.Count(id, "--") != len(parts)-1 {
		sum := sha256.Sum256([]byte(strings.Join(parts, "/")))
		id += "." + hex.EncodeToString(sum[:8])
	}
	return model.TunnelName{Network: a.edge.id.Network, Tunnel: id}.String()
}
