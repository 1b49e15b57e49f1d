package reconcile

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	defaultIKEPort      = 500 // RFC 7296, Section 2
	defaultDPD          = 10 * time.Second
	defaultReplayWindow = 1024
	// A peer that does not answer is given up after about 14 s: the path
	// between two sites is either there or not, and another attempt costs
	// little. RFC 7296, Section 2.4, leaves the time to the implementation.
	retransmitBase    = 500 * time.Millisecond
	retransmitBackoff = 1.7
	retransmitTries   = 5
	// The first tries follow each other quickly: when a tunnel is new, its
	// peer often gets the same intent a moment later.
	reconnectBase = 250 * time.Millisecond
	eager         = 100 * time.Millisecond
)

// tcpModes: fallback by default, as it costs nothing where UDP passes.
var tcpModes = map[swanherdv1.TcpEncapsulation]ike.TCPMode{
	swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_UNSPECIFIED: ike.TCPFallback,
	swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_NEVER:       ike.TCPNever,
	swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_FALLBACK:    ike.TCPFallback,
	swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_ONLY:        ike.TCPOnly,
}

// quick is how requests are repeated, be the peer established or not.
var quick = ike.Schedule{Base: retransmitBase, Backoff: retransmitBackoff, Tries: retransmitTries}

// tunnelBuilder makes the configuration of one tunnel and collects what is wrong.
type tunnelBuilder struct {
	intent   *swanherdv1.TunnelIntent
	material *Material
	trust    *ident.Roots // nil: nobody
	distrust bool         // trust is nil because of an error already told
	env      Environment
	errs     *Errors
	config   engine.TunnelConfig
	stranded Stranding // without Why, if something can leave by its uplink
}

func (b *tunnelBuilder) fail(field, message string) {
	b.errs.add(b.intent.GetName(), field, message)
}

func (b *tunnelBuilder) build() {
	t, c := b.intent, &b.config
	c.Name = t.GetName()
	c.ForceEncap = t.GetForceUdpEncapsulation()
	c.TCP.Mode = b.tcpMode()
	c.Remote = b.remote()
	c.Local = netip.AddrPortFrom(b.localAddress(c.Remote.Addr()), 0)
	c.Mobility = ike.Mobility{Local: b.furtherLocals(), Remote: b.furtherRemotes()}
	c.Further = b.furtherEndpoints()
	b.lookWhetherStranded()
	c.Role = b.role()
	c.Resume = true
	c.Credentials, c.Peer = b.authentication()
	for i, text := range t.GetIkeProposals() {
		p, err := suite.ParseIKE(text)
		if err != nil {
			b.fail(fmt.Sprintf("ike_proposals[%d]", i), err.Error())
		}
		c.Proposals = append(c.Proposals, p)
	}
	c.Timing = ike.Timing{
		RekeyIKE:       b.duration("ike_rekey_time", t.GetIkeRekeyTime(), 0),
		DPD:            b.duration("dpd_delay", t.GetDpdDelay(), defaultDPD),
		RetransmitBase: retransmitBase, RetransmitBackoff: retransmitBackoff, RetransmitTries: retransmitTries,
		Handshake: quick, Probe: quick,
		ReconnectBase: reconnectBase, Eager: eager, TakeOver: b.env.Patience,
	}
	for i, child := range t.GetChildren() {
		c.Children = append(c.Children, b.child(fmt.Sprintf("children[%d]", i), child))
	}
}

// tcpMode is what the intent says about TCP encapsulation. A data plane that has none
// does without where it would only be the second choice.
func (b *tunnelBuilder) tcpMode() ike.TCPMode {
	mode := tcpModes[b.intent.GetTcpEncapsulation()]
	lack := ""
	switch has := b.env.DataPlane; {
	case has.NoTCP:
		lack = "no ESP in TCP"
	case has.NoTCPTransport && slices.ContainsFunc(b.intent.GetChildren(), isTransport):
		lack = "no ESP of transport mode in TCP"
	}
	switch {
	case lack == "" || mode == ike.TCPNever:
		return mode
	case mode == ike.TCPOnly:
		b.fail("tcp_encapsulation", "the data plane of this edge sends "+lack+": run it with --data-plane userspace, or let the tunnel go by UDP")
	}
	return ike.TCPNever
}

// remote is the first endpoint that the edge can have an address for, the first
// of all if that cannot be told.
func (b *tunnelBuilder) remote() netip.AddrPort {
	all := b.endpoints()
	for _, endpoint := range all {
		if b.hasFamily(endpoint.Addr()) {
			return endpoint
		}
	}
	if len(all) > 0 {
		return all[0]
	}
	return netip.AddrPort{}
}

// endpoints are those of the peer.
func (b *tunnelBuilder) endpoints() []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range b.intent.GetRemoteEndpoints() {
		port := uint16(defaultIKEPort)
		if e.GetPort() != 0 {
			port = uint16(e.GetPort())
		}
		addrs := b.env.Hosts[e.GetHost()]
		if e.GetHost() == "" {
			addr, err := netip.ParseAddr(e.GetAddress())
			if err != nil {
				continue // refused by the rules of the proto
			}
			addrs = []netip.Addr{addr}
		}
		for _, addr := range addrs {
			out = append(out, netip.AddrPortFrom(addr.Unmap(), port))
		}
	}
	return out
}

// looksUp says whether the peer is reached by a domain name.
func (b *tunnelBuilder) looksUp() bool {
	return slices.ContainsFunc(b.intent.GetRemoteEndpoints(), func(e *swanherdv1.PeerEndpoint) bool { return e.GetHost() != "" })
}

// furtherEndpoints are those of the peer with other ports than the one to begin with, as
// behind a NAT: an initiator tries them after furtherRemotes.
func (b *tunnelBuilder) furtherEndpoints() []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range b.endpoints() {
		if !b.likeRemote(e) && movable(e.Addr()) && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// likeRemote says whether an endpoint has the port of the one to begin with, or both have one
// that IKE has anyway.
func (b *tunnelBuilder) likeRemote(e netip.AddrPort) bool {
	port := b.config.Remote.Port()
	usual := func(port uint16) bool { return port == defaultIKEPort || port == ike.DefaultNATPort }
	return e.Port() == port || usual(e.Port()) && usual(port)
}

// furtherRemotes are the addresses of the peer beside the one to begin with, with a port like
// its: an initiator tries them too, and MOBIKE goes there when a path fails.
func (b *tunnelBuilder) furtherRemotes() []netip.Addr {
	var out []netip.Addr
	for _, e := range b.endpoints() {
		if a := e.Addr(); a != b.config.Remote.Addr() && b.likeRemote(e) && movable(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// furtherLocals are the addresses of the host that the tunnel may leave from beside
// the one to begin with: those of its uplink, or of all if the routing table
// chooses. Where the intent names the address there are none.
func (b *tunnelBuilder) furtherLocals() []netip.Addr {
	var out []netip.Addr
	if b.intent.GetLocalAddress() != "" {
		return nil
	}
	for _, up := range b.env.Uplinks {
		if name := b.intent.GetUplink(); name != "" && name != up.GetName() {
			continue
		}
		for _, text := range up.GetAddresses() {
			if a, err := netip.ParseAddr(text); err == nil && movable(a) && a != b.config.Local.Addr() && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// movable reports whether an IKE SA can move to the address.
func movable(a netip.Addr) bool { return a.IsGlobalUnicast() && !a.Is4In6() }

// hasFamily reports whether an uplink that the tunnel may use has an address of
// the family of peer.
func (b *tunnelBuilder) hasFamily(peer netip.Addr) bool {
	for _, up := range b.env.Uplinks {
		if name := b.intent.GetUplink(); name != "" && name != up.GetName() {
			continue
		}
		for _, text := range up.GetAddresses() {
			if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() == peer.Is4() {
				return true
			}
		}
	}
	return false
}

func (b *tunnelBuilder) role() ike.Role {
	known := b.config.Remote.Addr().IsValid()
	switch b.intent.GetRole() {
	case swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR:
		if !known {
			if b.looksUp() {
				return ike.RoleResponder // its policies stand until the name is known
			}
			b.fail("remote_endpoints", "missing: an edge that is to initiate has to know where the peer is")
		}
		return ike.RoleEither // initiates, and answers too
	case swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER:
		return ike.RoleResponder
	}
	if known {
		return ike.RoleEither
	}
	return ike.RoleResponder
}

func (b *tunnelBuilder) authentication() (local ident.Local, remote ident.Remote) {
	a := b.intent.GetAuthentication()
	remote.ID = b.id("authentication.remote_id", a.GetRemoteId())
	if text := a.GetLocalId(); text != "" {
		local.ID = b.id("authentication.local_id", text)
	}
	switch method := a.GetMethod().(type) {
	case *swanherdv1.Authentication_Psk:
		local.PSK = ident.PSK(method.Psk.GetSecret())
		if file := method.Psk.GetFile(); file != "" {
			local.PSK = b.material.PSKs[file]
		}
		remote.PSK = local.PSK
		if local.PSK == nil {
			return local, remote // LoadMaterial said why
		}
		if a.GetLocalId() == "" {
			b.fail("authentication.local_id", "missing: with a pre-shared key the identity has to be named")
			return local, remote
		}
	case *swanherdv1.Authentication_Certificate:
		local.Signer, local.Chain = b.material.Signer, b.material.Chain
		remote.Roots, remote.CheckRevoked = b.trust, b.env.CheckRevoked
		if anchors := method.Certificate.GetTrustAnchors(); len(anchors) > 0 {
			// The network's revocations are of its own authority's serial numbers.
			remote.Roots, remote.CheckRevoked = b.foreignTrust(anchors), nil
		}
		if len(local.Chain) == 0 {
			b.fail("authentication.certificate", "this edge has no certificate: enroll it, or name one in settings.identity_files")
			return local, remote
		}
		if a.GetLocalId() == "" {
			local.ID = certificateID(local.Chain[0])
		}
	}
	if err := local.Validate(); err != nil {
		b.fail("authentication", err.Error())
	}
	if err := remote.Validate(); err != nil && (!b.distrust || remote.PSK != nil) {
		b.fail("authentication", err.Error())
	}
	return local, remote
}

// foreignTrust are the authorities of a peer of another trust domain.
func (b *tunnelBuilder) foreignTrust(anchors []string) *ident.Roots {
	var certs []*x509.Certificate
	for i, text := range anchors {
		field := fmt.Sprintf("authentication.certificate.trust_anchors[%d]", i)
		parsed, err := state.ParseCertificates(field, []byte(text))
		if err != nil {
			b.fail(field, err.Error())
			continue
		}
		certs = append(certs, parsed...)
	}
	return ident.NewRoots(certs...)
}

func (b *tunnelBuilder) id(field, text string) ident.ID {
	id, err := ident.ParseID(text)
	if err != nil {
		b.fail(field, err.Error())
	}
	return id
}

// certificateID is the identity that a certificate is used with if none is
// named: its first DNS name, else its subject.
func certificateID(c *x509.Certificate) ident.ID {
	if len(c.DNSNames) > 0 {
		if id, err := ident.ParseID(c.DNSNames[0]); err == nil {
			return id
		}
	}
	return ident.FromSubject(c)
}

func (b *tunnelBuilder) child(field string, in *swanherdv1.ChildIntent) ike.ChildConfig {
	c := ike.ChildConfig{
		Name:          in.GetName(),
		LocalTS:       b.selectors(field+".local_ts", in.GetLocalTs()),
		RemoteTS:      b.selectors(field+".remote_ts", in.GetRemoteTs()),
		CarriedLocal:  b.selectors(field+".local_prefixes", in.GetLocalPrefixes()),
		CarriedRemote: b.selectors(field+".remote_prefixes", in.GetRemotePrefixes()),
		RekeyTime:     b.duration(field+".rekey_time", in.GetRekeyTime(), 0),
		RekeyBytes:    in.GetRekeyBytes(),
		ReplayWindow:  int(in.GetReplayWindow()),
		Queues:        b.env.DataPlane.Queues,
		Label:         b.intent.GetSegment(),
	}
	if c.ReplayWindow == 0 {
		c.ReplayWindow = defaultReplayWindow
	} else if c.ReplayWindow < 64 || c.ReplayWindow > 8192 {
		b.fail(field+".replay_window", "must be 64 to 8192 packets, or 0 for the default")
	}
	for i, text := range in.GetEspProposals() {
		p, err := suite.ParseESP(text)
		if err != nil {
			b.fail(fmt.Sprintf("%s.esp_proposals[%d]", field, i), err.Error())
		}
		c.Proposals = append(c.Proposals, p)
	}
	b.appearance(field, in, &c)
	return c
}

func (b *tunnelBuilder) selectors(field string, texts []string) []ts.Selector {
	var out []ts.Selector
	for i, text := range texts {
		s, err := ts.Parse(text)
		if err != nil {
			b.fail(fmt.Sprintf("%s[%d]", field, i), err.Error())
			continue
		}
		out = append(out, s)
	}
	if len(out) > ts.MaxSelectors {
		b.fail(field, fmt.Sprintf("%d selectors, a Child SA can have %d (RFC 7296, Section 3.13)", len(out), ts.MaxSelectors))
	}
	return out
}

// duration is a time span, preset if it is not set.
func (b *tunnelBuilder) duration(field string, d *durationpb.Duration, preset time.Duration) time.Duration {
	if d == nil {
		return preset
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < 0 {
		b.fail(field, "must be a positive duration, such as 3600s")
		return preset
	}
	if d.AsDuration() == 0 {
		return preset
	}
	return d.AsDuration()
}
