package plan

import (
	"cmp"
	"net/netip"
	"strconv"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// Secrets opens pre-shared keys, which the store has sealed. A plan that is only looked at
// needs none: it has the versions of keys. The octets belong to the plan. When a key does not
// open the answer is nil, and its gateways have no tunnels.
type Secrets func(name string, key *storev1.PreSharedKey) []byte

// What a gateway is offered where the profile leaves it to us: others seldom know what
// edges have for one another.
var (
	gatewayIKE = []string{"aes256gcm16-prfsha384-ecp384"}
	gatewayESP = []string{"aes256gcm16-ecp384-noesn"}
)

// gateway is a Gateway with what all its tunnels have in common.
type gateway struct {
	name string
	id   model.GatewayName
	spec *swanherdv1.Gateway
	// mesh is what tunnels take from a profile; no site is in it.
	mesh *mesh
	// place is where its prefixes are, as a site of its own without an edge.
	place *site
	// key of its pre-shared key; empty for none.
	key       string
	endpoints []*swanherdv1.PeerEndpoint
	method    authentication
}

// authentication has one of the two.
type authentication struct {
	psk         *swanherdv1.PskAuthentication
	certificate *swanherdv1.CertificateAuthentication
}

// setGateways makes the index of the network's gateways.
func (n *network) setGateways(t *model.Topology, name model.NetworkName, secrets Secrets) {
	n.gateways = nil
	for row := range t.Gateways.InNetwork(name) {
		profile, ok := t.Profiles.Get(row.Value.GetProfile())
		id, err := model.ParseGatewayName(row.Name)
		if !ok || err != nil {
			continue // refused before it was stored
		}
		g := &gateway{name: row.Name, id: id, spec: row.Value, mesh: newMesh(&swanherdv1.Mesh{Name: row.Name}, gatewayProfile(profile.Value))}
		g.place = &site{name: row.Name, prefixes: parsePrefixes(row.Value.GetPrefixes())}
		g.place.texts = prefixStrings(g.place.prefixes)
		if g.authenticate(t, secrets) {
			g.endpoints = gatewayEndpoints(row.Value)
			n.gateways = append(n.gateways, g)
		}
	}
}

// gatewayProfile is the profile with what it leaves to us.
func gatewayProfile(p *swanherdv1.Profile) *swanherdv1.Profile {
	out := &swanherdv1.Profile{
		Name: p.GetName(), IkeProposals: p.GetIkeProposals(), EspProposals: p.GetEspProposals(),
		IkeRekeyTime: p.GetIkeRekeyTime(), ChildRekeyTime: p.GetChildRekeyTime(), ChildRekeyBytes: p.GetChildRekeyBytes(),
		DpdDelay: p.GetDpdDelay(), ReplayWindow: p.GetReplayWindow(), TcpEncapsulation: p.GetTcpEncapsulation(),
		OuterHeader: p.GetOuterHeader(), TrafficFlowConfidentiality: p.GetTrafficFlowConfidentiality(),
	}
	if len(out.IkeProposals) == 0 {
		out.IkeProposals = gatewayIKE
	}
	if len(out.EspProposals) == 0 {
		out.EspProposals = gatewayESP
	}
	if out.TcpEncapsulation == swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_UNSPECIFIED {
		out.TcpEncapsulation = swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_NEVER
	}
	return out
}

// authenticate sets how the ends prove who they are; false when the key is missing.
func (g *gateway) authenticate(t *model.Topology, secrets Secrets) bool {
	if c := g.spec.GetCertificate(); c != nil {
		g.method.certificate = &swanherdv1.CertificateAuthentication{TrustAnchors: c.GetTrustAnchors()}
		return true
	}
	g.key = g.spec.GetPreSharedKey().GetKey()
	row, ok := t.PreSharedKeys.Get(g.key)
	if !ok {
		return false
	}
	g.method.psk = &swanherdv1.PskAuthentication{Version: row.Value.GetVersion()}
	if secrets != nil {
		g.method.psk.Secret = secrets(row.Name, row.Value)
		return len(g.method.psk.Secret) > 0
	}
	return true
}

// gatewayEndpoints is where the edges look for the gateway: nowhere, if it is the one that
// initiates.
func gatewayEndpoints(g *swanherdv1.Gateway) []*swanherdv1.PeerEndpoint {
	if model.GatewayInitiates(g) {
		return nil
	}
	at := &swanherdv1.PeerEndpoint{Port: g.GetPort()}
	if addr, err := netip.ParseAddr(g.GetAddress()); err == nil {
		at.Address = addr.String()
	} else {
		at.Host = g.GetAddress()
	}
	return []*swanherdv1.PeerEndpoint{at}
}

// attaches says whether the edge holds a tunnel with the gateway.
func (g *gateway) attaches(e *edge) bool {
	if e.site == nil {
		return false
	}
	_, ok := model.Attaches(g.spec, e.name, e.site.labels)
	return ok
}

// eachGateway calls f with every gateway that e is to have a tunnel with.
func (n *network) eachGateway(e *edge, f func(*gateway)) {
	if e.site == nil || !e.enabled {
		return
	}
	for _, g := range n.gateways {
		if g.attaches(e) {
			f(g)
		}
	}
}

// touchesGateway says whether links of the gateway may differ.
func (d *delta) touchesGateway(g *gateway) bool {
	return d.gateways[g.name] || d.profiles[g.spec.GetProfile()] || d.keys[g.key]
}

// newGatewayLink plans the tunnel between an edge and a gateway, or returns nil when there
// is nothing to protect. The gateway's own intent is nobody's to send.
func (n *network) newGatewayLink(g *gateway, e *edge) *draft {
	children := g.children(e.site)
	if len(children) == 0 {
		return nil
	}
	a := end{edge: e, uplink: g.uplink(e), initiator: len(g.endpoints) > 0}
	if a.uplink != nil {
		a.endpoints = a.uplink.all
	}
	name := gatewayTunnelName(e, g)
	i := &swanherdv1.TunnelIntent{
		Name: name, Role: swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER, Uplink: a.uplink.name(), RemoteEndpoints: g.endpoints,
		Authentication: g.authentication(e), IkeProposals: g.mesh.profile.GetIkeProposals(), IkeRekeyTime: g.mesh.ikeRekey,
		DpdDelay: g.mesh.dpdDelay, Children: children, TcpEncapsulation: g.mesh.profile.GetTcpEncapsulation(),
		ForceUdpEncapsulation: g.spec.GetForceUdpEncapsulation(), Critical: g.spec.GetCritical(),
	}
	if a.initiator {
		i.Role = swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR
	}
	b := &swanherdv1.TunnelEnd{Gateway: g.name, Endpoint: gatewayEndpoint(g.spec), Prefixes: g.place.texts, Initiator: !a.initiator}
	return &draft{tunnel: &swanherdv1.Tunnel{Name: name, A: a.view(), B: b}, a: i}
}

// gatewayEndpoint is where the gateway is, for people.
func gatewayEndpoint(g *swanherdv1.Gateway) string {
	if g.GetAddress() == model.AnyAddress {
		return g.GetAddress()
	}
	port := cmp.Or(g.GetPort(), 500)
	if addr, err := netip.ParseAddr(g.GetAddress()); err == nil {
		return netip.AddrPortFrom(addr, uint16(port)).String()
	}
	return g.GetAddress() + ":" + strconv.Itoa(int(port))
}

func (g *gateway) authentication(e *edge) *swanherdv1.Authentication {
	a := &swanherdv1.Authentication{LocalId: cmp.Or(g.spec.GetLocalIdentity(), e.identity), RemoteId: model.GatewayIdentity(g.spec)}
	if g.method.psk != nil {
		a.Method = &swanherdv1.Authentication_Psk{Psk: g.method.psk}
	} else {
		a.Method = &swanherdv1.Authentication_Certificate{Certificate: g.method.certificate}
	}
	return a
}

// uplink is the edge's first one that has an address of the gateway's family.
func (g *gateway) uplink(e *edge) *uplinkInfo {
	addr, err := netip.ParseAddr(g.spec.GetAddress())
	if err != nil {
		return first(e.uplinks)
	}
	for _, u := range e.uplinks {
		if addr.Is4() && len(u.only4) > 0 || addr.Is6() && len(u.only6) > 0 {
			return u
		}
	}
	return first(e.uplinks)
}

// children makes the Child SAs of the edges of a site. Other implementations often know but
// one pair of selectors for each, so each pair of prefixes has its own; where the gateway
// routes, one Child SA has all addresses, and the edge keeps to the prefixes.
func (g *gateway) children(s *site) []*swanherdv1.ChildIntent {
	if g.spec.GetRouting() == swanherdv1.GatewayRouting_GATEWAY_ROUTING_ROUTE {
		return g.routedChild(s)
	}
	var out []*swanherdv1.ChildIntent
	for i, local := range s.prefixes {
		for j, remote := range g.place.prefixes {
			if local.Addr().Is4() != remote.Addr().Is4() {
				continue
			}
			name := "net"
			if len(out) > 0 {
				name += "-" + strconv.Itoa(len(out)+1)
			}
			out = append(out, g.mesh.child(name, s.texts[i:i+1], g.place.texts[j:j+1]))
		}
	}
	return out
}

func (g *gateway) routedChild(s *site) []*swanherdv1.ChildIntent {
	var all, local, remote []string
	for _, family := range []struct {
		all string
		is4 bool
	}{{"0.0.0.0/0", true}, {"::/0", false}} {
		ours, theirs := ofFamily(s, family.is4), ofFamily(g.place, family.is4)
		if len(ours) > 0 && len(theirs) > 0 {
			all, local, remote = append(all, family.all), append(local, ours...), append(remote, theirs...)
		}
	}
	if len(all) == 0 {
		return nil
	}
	c := g.mesh.child("net", all, all)
	c.LocalPrefixes, c.RemotePrefixes = local, remote
	return []*swanherdv1.ChildIntent{c}
}

func ofFamily(s *site, is4 bool) []string {
	var out []string
	for i, p := range s.prefixes {
		if p.Addr().Is4() == is4 {
			out = append(out, s.texts[i])
		}
	}
	return out
}

// protected are the prefixes between which a Child SA carries packets.
func protected(c *swanherdv1.ChildIntent) (local, remote []string) {
	if len(c.GetRemotePrefixes()) > 0 {
		return c.GetLocalPrefixes(), c.GetRemotePrefixes()
	}
	return c.GetLocalTs(), c.GetRemoteTs()
}

// gatewayTunnelName is `networks/{network}/tunnels/{edge}--{gateway}.gw`.
func gatewayTunnelName(e *edge, g *gateway) string {
	return model.TunnelName{Network: e.id.Network, Tunnel: model.GatewayTunnelID(e.id.Edge, g.id.Gateway)}.String()
}
