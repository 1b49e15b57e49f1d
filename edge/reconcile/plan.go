package reconcile

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/probe"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// tunnelOverhead is what tunnel-mode ESP in UDP takes of the uplink's MTU
	// at most: IPv6 40, UDP 8, ESP header 8, IV 8, padding 3, trailer 2 and ICV
	// 16 octets (RFC 4303, Section 2; RFC 4106), less what padding cannot take.
	tunnelOverhead = 82
	// minMTU is the least that IPv6 allows (RFC 8200, Section 5).
	minMTU = 1280
)

// Environment is what the host looks like.
type Environment struct {
	Uplinks []*swanherdv1.Uplink
	// Down are the uplinks that nothing can leave by now, and why.
	Down map[string]string
	// UplinkMTU is the smallest MTU of the uplinks in octets; 0: unknown.
	UplinkMTU int
	// Source4 and Source6 are addresses of the host inside the site's
	// prefixes; zero: none.
	Source4, Source6 netip.Addr
	// Segments are those that have a place on this host.
	Segments  map[string]SegmentEnvironment
	DataPlane DataPlane
	// IPv6: the tunnel interface has it. Probes need it.
	IPv6 bool
	// Hosts are the addresses of the domain names that are known, by name.
	Hosts map[string][]netip.Addr
	// Patience is how long a tunnel that is to wait for its peer waits before
	// it initiates itself.
	Patience time.Duration
	// CheckRevoked looks up, when it is called, whether a certificate is
	// revoked.
	CheckRevoked func(*x509.Certificate) error
}

// SegmentEnvironment is what the host looks like in a segment.
type SegmentEnvironment struct {
	Source4, Source6 netip.Addr // as in Environment
}

// DataPlane is what the edge's data plane can do.
type DataPlane struct {
	// NoTCP: it sends no ESP in TCP.
	NoTCP bool
	// NoTCPTransport: it sends none of transport mode.
	NoTCPTransport bool
	// NoDummies: it sends no dummy packets (RFC 4303, Section 2.6).
	NoDummies bool
	// Intercepts: what the host itself says to a peer has to be led into it, for
	// transport mode.
	Intercepts bool
	// Queues is how many Child SAs can share the traffic of one child (RFC 9611).
	Queues int
}

// Plan is what the engine and the host are to be brought to.
type Plan struct {
	Tunnels []engine.TunnelConfig
	// Stranded are the tunnels whose uplink nothing can leave by now, and why. They stay
	// with their uplink, and with the addresses that they had.
	Stranded map[string]Stranding
	*Routing
	// Segments are the routing of each segment that has a place on this host.
	Segments map[string]*Routing
	// Intercepted are the peers of transport mode whose packets are led into the
	// tunnel interface.
	Intercepted []netip.Addr
	// MTU of the tunnel interface in octets, 0: as it is.
	MTU     int
	Revoked []string // serial numbers in hexadecimal
	// Probes are the paths to be measured, with addresses in ProbeNetwork; those of
	// ProbeLocal are this host's. Zero: there are none.
	Probes                   []probe.Path
	ProbeNetwork, ProbeLocal netip.Prefix
	// Traffic are the classes for which paths are chosen by themselves; a packet is of the
	// first that matches it.
	Traffic []TrafficClass
	// Groups are the tunnels among which there is a choice.
	Groups []path.Group

	groupAt    map[string]int    // in Groups, by name
	ways       map[string]string // tunnels of the default segment, by the way that they go
	ofSegments map[string]string // the ways of those of others that are in a group
}

// Stranding is why a tunnel cannot leave by its uplink.
type Stranding struct {
	Why error
	// But at these addresses of the uplink, of another family than the peer is known to
	// have, SAs may still be: MOBIKE may have found one of the peer's there.
	But []netip.Addr
}

// Routing is the part of a Plan that leads packets of one segment to tunnels.
type Routing struct {
	LocalNets  []netip.Prefix
	Forwarding struct{ IPv4, IPv6 bool }
	Routes     []hostnet.Route
	// Default is for what a tunnel is the way out for.
	Default hostnet.Default
	// carriers are the tunnels that each route leads to.
	carriers map[netip.Prefix][]string
	// apart says that no tunnel leaves from where the routes are.
	apart bool
}

func newRouting(texts []string) *Routing {
	r := &Routing{carriers: map[netip.Prefix][]string{}, LocalNets: parsePrefixes(texts)}
	for _, prefix := range r.LocalNets {
		if prefix.Addr().Is4() {
			r.Forwarding.IPv4 = true
		} else {
			r.Forwarding.IPv6 = true
		}
	}
	return r
}

// NewPlan makes a plan of an intent. It does no I/O. With errors there is no
// plan.
func NewPlan(intent *swanherdv1.EdgeIntent, m *Material, env Environment) (*Plan, Errors) {
	p, errs := &Plan{
		Routing: newRouting(intent.GetSettings().GetLocalPrefixes()), Stranded: map[string]Stranding{},
		groupAt: map[string]int{}, ways: map[string]string{}, ofSegments: map[string]string{},
	}, Errors{}
	errs.check(settingsName, orEmpty(intent.GetSettings()))
	trust, trustErr := newTrust(intent, m)
	if trustErr != nil {
		errs = append(errs, trustErr)
	}
	p.settings(intent.GetSettings(), env)
	p.probeSettings(intent.GetSettings().GetProbes(), env, &errs)
	p.Revoked = append(p.Revoked, intent.GetTrust().GetRevokedSerials()...)
	names := map[string]bool{}
	p.Tunnels = make([]engine.TunnelConfig, 0, len(intent.GetTunnels())) // tens of thousands grow badly
	for _, t := range intent.GetTunnels() {
		before := len(errs)
		errs.check(t.GetName(), t)
		if names[t.GetName()] {
			errs.add(t.GetName(), "name", "two tunnels have this name")
		}
		names[t.GetName()] = true
		if len(errs) > before {
			continue // its fields make no sense yet
		}
		b := &tunnelBuilder{intent: t, material: m, trust: trust, distrust: trustErr != nil, env: env, errs: &errs}
		b.build()
		if r := p.routingOf(b); r != nil {
			r.addRoutes(t.GetName(), b, &errs)
		}
		p.addProbe(b)
		p.addPath(b)
		if b.stranded.Why != nil {
			p.Stranded[t.GetName()] = b.stranded
		}
		p.Tunnels = append(p.Tunnels, b.config)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	p.exceptFromDefault()
	for _, r := range p.Segments {
		r.exceptFromDefault()
	}
	slices.SortFunc(p.Tunnels, func(a, b engine.TunnelConfig) int { return cmp.Compare(a.Name, b.Name) })
	return p, nil
}

func orEmpty(s *swanherdv1.EdgeSettings) *swanherdv1.EdgeSettings {
	if s == nil {
		return &swanherdv1.EdgeSettings{}
	}
	return s
}

// settings takes over what concerns the edge as a whole. The prefixes were
// checked against the rules of the proto.
func (p *Plan) settings(s *swanherdv1.EdgeSettings, env Environment) {
	p.Revoked = slices.Clone(s.GetRevokedSerials())
	p.Traffic = trafficClasses(s.GetTrafficClasses())
	p.Segments = make(map[string]*Routing, len(env.Segments))
	for name := range env.Segments {
		p.Segments[name] = newRouting(segmentPrefixes(s, name))
		p.Segments[name].apart = true
	}
	switch {
	case s.GetTunnelMtu() != 0:
		p.MTU = int(s.GetTunnelMtu())
	case env.UplinkMTU != 0:
		p.MTU = max(env.UplinkMTU-tunnelOverhead, minMTU)
	}
}

// LocalPrefixes are the valid prefixes of the edge's site.
func LocalPrefixes(s *swanherdv1.EdgeSettings) []netip.Prefix {
	return parsePrefixes(s.GetLocalPrefixes())
}

// segmentPrefixes are those of the edge's site in a segment.
func segmentPrefixes(s *swanherdv1.EdgeSettings, segment string) []string {
	for _, x := range s.GetSegments() {
		if x.GetSegment() == segment {
			return x.GetLocalPrefixes()
		}
	}
	return nil
}

func parsePrefixes(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			out = append(out, prefix.Masked())
		}
	}
	return out
}

// routingOf is the routing of the segment that a tunnel is of, nil if that has no place.
func (p *Plan) routingOf(b *tunnelBuilder) *Routing {
	segment := b.intent.GetSegment()
	if segment == "" {
		if b.env.DataPlane.Intercepts {
			p.intercept(b.config.Children)
		}
		return p.Routing
	}
	r := p.Segments[segment]
	if r == nil {
		b.fail("segment", fmt.Sprintf("segment %s has no place on this edge: put its LAN interfaces into a network namespace of their own, and run the agent with --segment name=%[1]s,netns=NAME", segment))
	}
	return r
}

// addRoutes adds the routes that lead to the tunnel, each prefix once.
func (p *Routing) addRoutes(name string, b *tunnelBuilder, errs *Errors) {
	source4, source6 := b.env.Source4, b.env.Source6
	if segment := b.intent.GetSegment(); segment != "" {
		source4, source6 = b.env.Segments[segment].Source4, b.env.Segments[segment].Source6
	}
	for i, child := range b.config.Children {
		if child.Mode == dataplane.Transport {
			continue
		}
		field, selectors := "remote_ts", child.RemoteTS
		if len(child.CarriedRemote) > 0 {
			field, selectors = "remote_prefixes", child.CarriedRemote
		}
		for j, selector := range selectors {
			for _, prefix := range ts.Prefixes(selector) {
				if prefix.Bits() == 0 {
					p.addDefault(name, b, i, prefix, errs)
					continue
				}
				others := p.carriers[prefix]
				if len(others) > 0 && others[len(others)-1] == name {
					continue
				}
				if peer := b.config.Remote.Addr(); peer.IsValid() && prefix.Contains(peer) && !p.apart {
					errs.add(name, fmt.Sprintf("children[%d].%s[%d]", i, field, j), fmt.Sprintf(
						"%s holds the peer's own address %s: packets to it would be led back into the tunnel; leave it out, or give all of the family", prefix, peer))
					continue
				}
				if p.carriers[prefix] = append(others, name); len(others) > 0 {
					continue
				}
				r := hostnet.Route{Prefix: prefix, Source: source4}
				if prefix.Addr().Is6() {
					r.Source = source6
				}
				p.Routes = append(p.Routes, r)
			}
		}
	}
}

// narrowest is the least of mtu and what the tunnels take that carry a prefix; 0 is no
// limit.
func (p *Routing) narrowest(prefix netip.Prefix, mtu int, inner map[string]int) int {
	for _, tunnel := range p.carriers[prefix] {
		if n := inner[tunnel]; n != 0 && (mtu == 0 || n < mtu) {
			mtu = n
		}
	}
	return mtu
}

// limitedTo returns the routes with an MTU where a tunnel that they lead to is in inner,
// that of the narrowest.
func (p *Routing) limitedTo(inner map[string]int) []hostnet.Route {
	if len(inner) == 0 {
		return p.Routes
	}
	routes := slices.Clone(p.Routes)
	for i := range routes {
		routes[i].MTU = p.narrowest(routes[i].Prefix, 0, inner)
	}
	return routes
}

// intercept adds the hosts that children in transport mode are about, each once.
func (p *Plan) intercept(children []ike.ChildConfig) {
	for _, child := range children {
		if child.Mode != dataplane.Transport {
			continue
		}
		for _, s := range child.RemoteTS {
			if !slices.Contains(p.Intercepted, s.First) {
				p.Intercepted = append(p.Intercepted, s.First)
			}
		}
	}
}

// newTrust returns whom the edge believes, nil for nobody. What the controller says
// of that takes the place of what the edge learned with its certificates: an
// authority may have been replaced since.
func newTrust(intent *swanherdv1.EdgeIntent, m *Material) (*ident.Roots, *swanherdv1.ResourceError) {
	if _, err := parseAnchors(trustName, "controller_anchors", intent.GetTrust().GetControllerAnchors()); err != nil {
		return nil, err // with them the edge would not know the controller any more
	}
	certs, err := parseAnchors(trustName, "trust_anchors", intent.GetTrust().GetTrustAnchors())
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 {
		certs = slices.Clone(m.Roots)
	}
	more, err := parseAnchors(settingsName, "trust_anchors", intent.GetSettings().GetTrustAnchors())
	if err != nil {
		return nil, err
	}
	if certs = append(certs, more...); len(certs) == 0 {
		return nil, nil
	}
	return ident.NewRoots(certs...), nil
}

// parseAnchors parses the certificates in a field of a resource.
func parseAnchors(resource, field string, texts []string) ([]*x509.Certificate, *swanherdv1.ResourceError) {
	var certs []*x509.Certificate
	for i, text := range texts {
		parsed, err := state.ParseCertificates(fmt.Sprintf("trust anchor %d", i), []byte(text))
		if err != nil {
			return nil, &swanherdv1.ResourceError{Resource: resource, FieldPath: field, Message: err.Error()}
		}
		certs = append(certs, parsed...)
	}
	return certs, nil
}

// localAddress is the address that the tunnel leaves from; the zero Addr leaves
// it to the routing table, or if its uplink has none for now to what it had.
func (b *tunnelBuilder) localAddress(remote netip.Addr) netip.Addr {
	if text := b.intent.GetLocalAddress(); text != "" {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			b.fail("local_address", "not an IP address")
		} else if remote.IsValid() && addr.Is4() != remote.Is4() {
			b.fail("local_address", fmt.Sprintf("%s and the peer's %s are of different families", addr, remote))
		}
		return addr
	}
	name := b.intent.GetUplink()
	if name == "" && remote.IsValid() {
		return netip.Addr{}
	}
	var known []string
	for _, up := range b.env.Uplinks {
		known = append(known, up.GetName())
		if name != "" && up.GetName() != name {
			continue
		}
		for _, text := range up.GetAddresses() {
			if addr, err := netip.ParseAddr(text); err == nil && (!remote.IsValid() || addr.Is4() == remote.Is4()) {
				return addr
			}
		}
	}
	switch {
	case name == "":
		b.fail("local_address", "missing: the peer's address is unknown and no uplink has an address to wait at")
	case !slices.Contains(known, name):
		b.fail("uplink", fmt.Sprintf("no uplink %q; this edge has: %s", name, cmp.Or(strings.Join(known, ", "), "none")))
	}
	return netip.Addr{}
}

// lookWhetherStranded sees whether the uplink that the intent names can be left by. By the
// routing table the tunnel would go by another one.
func (b *tunnelBuilder) lookWhetherStranded() {
	name := b.intent.GetUplink()
	switch down := b.env.Down[name]; {
	case name == "":
	case down != "":
		b.stranded.Why = fmt.Errorf("its uplink %s is down: %s", name, down)
	case b.config.Local.Addr().IsValid():
	case b.config.Remote.Addr().Is4():
		b.stranded = Stranding{fmt.Errorf("its uplink %s has no IPv4 address, as the peer has", name), b.furtherLocals()}
	default:
		b.stranded = Stranding{fmt.Errorf("its uplink %s has no address that fits the peer's", name), b.furtherLocals()}
	}
}
