package reconcile

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const tunnelName = "networks/n/tunnels/a--b"

// goodIntent is an intent with one tunnel that authenticates by certificate.
func goodIntent() *swanherdv1.EdgeIntent {
	return &swanherdv1.EdgeIntent{
		Settings: &swanherdv1.EdgeSettings{Edge: "networks/n/edges/a", LocalPrefixes: []string{"10.1.0.0/24", "2001:db8:1::/48"}},
		Tunnels: []*swanherdv1.TunnelIntent{{
			Name: tunnelName, Role: swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR,
			RemoteEndpoints: []*swanherdv1.PeerEndpoint{{Address: "198.51.100.2", Port: 4500}},
			Authentication: &swanherdv1.Authentication{
				LocalId: "a.example", RemoteId: "b.example",
				Method: &swanherdv1.Authentication_Certificate{Certificate: &swanherdv1.CertificateAuthentication{}},
			},
			IkeProposals: []string{"aes256gcm16-prfsha384-x25519"},
			IkeRekeyTime: durationpb.New(2 * time.Hour),
			Children: []*swanherdv1.ChildIntent{{
				Name: "net", EspProposals: []string{"aes256gcm16-x25519-esn"},
				LocalTs: []string{"10.1.0.0/24"}, RemoteTs: []string{"10.2.0.0/24", "2001:db8:2::/48"},
			}},
		}},
	}
}

// material is an Ed25519 certificate of a.example, which is its own authority.
func material(t *testing.T) *Material {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(0x0abc), Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, public, private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Material{
		Chain: []*x509.Certificate{cert}, Signer: private, Roots: []*x509.Certificate{cert},
		PSKs: map[string]ident.PSK{"/psk": ident.PSK("hush")},
	}
}

func environment() Environment {
	return Environment{
		Uplinks:   []*swanherdv1.Uplink{{Name: "wan1", Interface: "eth0", Addresses: []string{"192.0.2.1"}}},
		UplinkMTU: 1500, Source4: netip.MustParseAddr("10.1.0.1"),
	}
}

// TestPlanWithoutTCPInTransportMode holds the same of one that has none of transport mode,
// for tunnels that have a child of it.
func TestPlanWithoutTCPInTransportMode(t *testing.T) {
	env := environment()
	env.DataPlane.NoTCPTransport = true
	for mode, want := range map[swanherdv1.IpsecMode]ike.TCPMode{
		swanherdv1.IpsecMode_IPSEC_MODE_UNSPECIFIED: ike.TCPFallback,
		swanherdv1.IpsecMode_IPSEC_MODE_TRANSPORT:   ike.TCPNever,
	} {
		intent := goodIntent()
		if mode == swanherdv1.IpsecMode_IPSEC_MODE_TRANSPORT {
			inTransportMode(intent.Tunnels[0])
		}
		p, errs := NewPlan(intent, material(t), env)
		if errs != nil || p.Tunnels[0].TCP.Mode != want {
			t.Errorf("%s: TCP mode of %+v (%v), want %v", mode, p, errs, want)
		}
	}
}

// TestPlanWithoutTCP holds that a data plane without ESP in TCP does without it where
// it would only be the second choice.
func TestPlanWithoutTCP(t *testing.T) {
	for mode, want := range map[swanherdv1.TcpEncapsulation]string{
		swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_UNSPECIFIED: "",
		swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_FALLBACK:    "",
		swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_NEVER:       "",
		swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_ONLY:        "--data-plane userspace",
	} {
		intent, env := goodIntent(), environment()
		env.DataPlane.NoTCP = true
		intent.Tunnels[0].TcpEncapsulation = mode
		p, errs := NewPlan(intent, material(t), env)
		switch {
		case want == "" && errs != nil:
			t.Errorf("%s: %v", mode, errs)
		case want == "" && p.Tunnels[0].TCP.Mode != ike.TCPNever:
			t.Errorf("%s: TCP mode %v", mode, p.Tunnels[0].TCP.Mode)
		case want != "" && (errs == nil || !strings.Contains(errs.Error(), want)):
			t.Errorf("%s: %v, want %q", mode, errs, want)
		}
	}
}

func TestPlan(t *testing.T) {
	p, errs := NewPlan(goodIntent(), material(t), environment())
	if errs != nil {
		t.Fatal(errs)
	}
	if len(p.Tunnels) != 1 {
		t.Fatalf("%d tunnels", len(p.Tunnels))
	}
	c := p.Tunnels[0]
	if c.Role != ike.RoleEither || c.Remote.String() != "198.51.100.2:4500" || c.Local.Addr().IsValid() ||
		c.Credentials.ID.String() != "a.example" || c.Peer.ID.String() != "b.example" || c.Timing.RekeyIKE != 2*time.Hour ||
		c.Timing.DPD != defaultDPD || c.Children[0].ReplayWindow != defaultReplayWindow {
		t.Errorf("tunnel = %+v", c)
	}
	want := map[string]string{"10.2.0.0/24": "10.1.0.1", "2001:db8:2::/48": "invalid IP"}
	for _, r := range p.Routes {
		if want[r.Prefix.String()] != r.Source.String() {
			t.Errorf("route %s from %s", r.Prefix, r.Source)
		}
		delete(want, r.Prefix.String())
	}
	if len(want) > 0 {
		t.Errorf("routes missing: %v", want)
	}
	if p.MTU != 1500-tunnelOverhead || !p.Forwarding.IPv4 || !p.Forwarding.IPv6 {
		t.Errorf("MTU %d, forwarding %+v", p.MTU, p.Forwarding)
	}
}

// Who sends all to a tunnel sends what comes from its site, and neither what stays there
// nor what other tunnels carry.
func TestPlanDefault(t *testing.T) {
	for name, tt := range map[string]struct {
		local, remote     []string
		localPrefixes     []string
		from, except, err string
		routes            int
	}{
		"of a LAN": {
			local: []string{"10.1.0.0/24"}, remote: []string{"0.0.0.0/0"},
			from: "[10.1.0.0/24]", except: "[10.1.0.0/24 2001:db8:1::/48]",
		},
		"beside another prefix": {
			local: []string{"10.1.0.0/25"}, remote: []string{"0.0.0.0/0", "10.2.0.0/24"}, routes: 1,
			from: "[10.1.0.0/25]", except: "[10.1.0.0/24 10.1.0.0/25 10.2.0.0/24 2001:db8:1::/48]",
		},
		"both families of all there is": {
			local: []string{"0.0.0.0/0", "::/0"}, remote: []string{"0.0.0.0/0", "::/0"},
			from: "[10.1.0.0/24 2001:db8:1::/48]", except: "[10.1.0.0/24 2001:db8:1::/48]",
		},
		"of what is not of the family": {
			local: []string{"10.1.0.0/24", "2001:db8:1::/48"}, remote: []string{"::/0"},
			from: "[2001:db8:1::/48]", except: "[10.1.0.0/24 2001:db8:1::/48]",
		},
		"of nothing": {
			local: []string{"::/0"}, remote: []string{"::/0"}, localPrefixes: []string{"10.1.0.0/24"},
			err: "children[0].local_ts: nothing says what comes from the site",
		},
		"of the host itself": {
			local: []string{"192.0.2.0/24"}, remote: []string{"0.0.0.0/0"},
			err: "children[0].local_ts: 192.0.2.0/24 holds 192.0.2.1, from which tunnels leave",
		},
	} {
		t.Run(name, func(t *testing.T) {
			intent := goodIntent()
			intent.Tunnels[0].Children[0].LocalTs, intent.Tunnels[0].Children[0].RemoteTs = tt.local, tt.remote
			if tt.localPrefixes != nil {
				intent.Settings.LocalPrefixes = tt.localPrefixes
			}
			p, errs := NewPlan(intent, material(t), environment())
			if tt.err != "" {
				if !strings.Contains(errs.Error(), tt.err) {
					t.Errorf("%v, want %q", errs, tt.err)
				}
				return
			}
			if errs != nil {
				t.Fatal(errs)
			}
			if from, except := fmt.Sprint(p.Default.From), fmt.Sprint(p.Default.Except); from != tt.from || except != tt.except || len(p.Routes) != tt.routes {
				t.Errorf("from %s, want %s; except %s, want %s; routes %v", from, tt.from, except, tt.except, p.Routes)
			}
			if d := p.defaultLimitedTo(map[string]int{tunnelName: 1300}); d.MTU != 1300 {
				t.Errorf("MTU %d over a path that takes 1,300 octets", d.MTU)
			}
		})
	}
}

// Each change of the good intent is refused, with the resource and the field.
// Whom the controller says to trust takes the place of whom the edge learned to trust
// with its certificates, or it would believe an authority that was replaced.
func TestTrustBundleReplacesEnrolledRoots(t *testing.T) {
	enrolled := material(t)
	next := material(t)
	bundle := &swanherdv1.TrustBundle{TrustAnchors: []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: next.Chain[0].Raw}))}}
	for what, tt := range map[string]struct {
		trust *swanherdv1.TrustBundle
		want  *ident.Roots
	}{
		"no bundle":                {nil, ident.NewRoots(enrolled.Roots...)},
		"a bundle without anchors": {&swanherdv1.TrustBundle{RevokedSerials: []string{"2a"}}, ident.NewRoots(enrolled.Roots...)},
		"a bundle":                 {bundle, ident.NewRoots(next.Chain...)},
	} {
		got, err := newTrust(&swanherdv1.EdgeIntent{Trust: tt.trust}, enrolled)
		if err != nil || !got.Equal(tt.want) {
			t.Errorf("%s: trusts others than it should, %v", what, err)
		}
	}
}

func TestPlanErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		change  func(i *swanherdv1.EdgeIntent, tun *swanherdv1.TunnelIntent)
		field   string
		message string
	}{
		"unknown algorithm": {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.IkeProposals = []string{"rot13-x25519"} }, "ike_proposals[0]", "rot13"},
		"unknown ESP algorithm": {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
			u.Children[0].EspProposals = []string{"aes256gcm16", "xor"}
		}, "children[0].esp_proposals[1]", "xor"},
		"bad selector": {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.Children[0].RemoteTs[1] = "10.2.0.1/24" }, "children[0].remote_ts[1]", "10.2.0.1/24"},
		"no children":  {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.Children = nil }, "children", ""},
		"no identity of the peer": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.Authentication.RemoteId = "" },
			"authentication.remote_id", "",
		},
		"identity not in the certificate": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.Authentication.LocalId = "c.example" },
			"authentication", "c.example",
		},
		"initiator without an address": {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.RemoteEndpoints = nil }, "remote_endpoints", "initiate"},
		"route into itself": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
				u.Children[0].RemoteTs[0] = "198.51.0.0/16"
			},
			"children[0].remote_ts[0]", "198.51.100.2",
		},
		"unknown uplink": {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.Uplink = "wan9" }, "uplink", "wan1"},
		"replay window":  {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.Children[0].ReplayWindow = 9 }, "children[0].replay_window", "64"},
		"negative time":  {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.DpdDelay = durationpb.New(-1) }, "dpd_delay", ""},
		"families": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { u.LocalAddress = "2001:db8::1" },
			"local_address", "families",
		},
		"AH in UDP": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
				u.Children[0].EspProposals = []string{"aes256gcm16", "ah-sha256"}
			},
			"children[0].esp_proposals", "port 500",
		},
		"transport mode of networks": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
				u.Children[0].Mode = swanherdv1.IpsecMode_IPSEC_MODE_TRANSPORT
				u.Children[0].LocalTs, u.Children[0].RemoteTs = []string{"192.0.2.1/32"}, []string{"198.51.100.0/24"}
			},
			"children[0].mode", "198.51.100.0/24",
		},
		"transport mode with an outer header": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
				inTransportMode(u)
				u.Children[0].OuterHeader = &swanherdv1.OuterHeader{}
			},
			"children[0].outer_header", "tunnel mode",
		},
		"transport mode that hides": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
				inTransportMode(u)
				u.Children[0].TrafficFlowConfidentiality = &swanherdv1.TrafficFlowConfidentiality{}
			},
			"children[0].traffic_flow_confidentiality", "tunnel mode",
		},
		"unknown DSCP": {
			func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
				u.Children[0].OuterHeader = &swanherdv1.OuterHeader{Dscp: proto.Uint32(64)}
			},
			"children[0].outer_header.dscp", "63",
		},
		"same name": {func(i *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) { i.Tunnels = append(i.Tunnels, u) }, "name", "two"},
		"key without a name": {func(_ *swanherdv1.EdgeIntent, u *swanherdv1.TunnelIntent) {
			u.Authentication.LocalId = ""
			u.Authentication.Method = &swanherdv1.Authentication_Psk{Psk: &swanherdv1.PskAuthentication{File: "/psk"}}
		}, "authentication.local_id", "pre-shared key"},
	} {
		t.Run(name, func(t *testing.T) {
			i := goodIntent()
			tc.change(i, i.Tunnels[0])
			p, errs := NewPlan(i, material(t), environment())
			if p != nil || len(errs) != 1 || errs[0].GetResource() != tunnelName || errs[0].GetFieldPath() != tc.field ||
				!strings.Contains(errs[0].GetMessage(), tc.message) {
				t.Errorf("NewPlan = %v, errors:\n%v\nwant one at %s with %q", p, errs, tc.field, tc.message)
			}
		})
	}
	i := goodIntent()
	i.Settings.LocalPrefixes = []string{"10.1.0.0/33"}
	i.Settings.TrustAnchors = []string{"no PEM"}
	if _, errs := NewPlan(i, material(t), environment()); len(errs) != 2 || errs[0].GetFieldPath() != "local_prefixes[0]" || errs[1].GetFieldPath() != "trust_anchors" {
		t.Errorf("errors of settings:\n%v", errs)
	}
	i = goodIntent()
	i.Trust = &swanherdv1.TrustBundle{ControllerAnchors: []string{"no PEM"}}
	if _, errs := NewPlan(i, material(t), environment()); len(errs) == 0 || errs[0].GetResource() != "trust" || errs[0].GetFieldPath() != "controller_anchors" {
		t.Errorf("errors of the controller's anchors:\n%v", errs)
	}
}

func inTransportMode(u *swanherdv1.TunnelIntent) {
	u.Children[0].Mode = swanherdv1.IpsecMode_IPSEC_MODE_TRANSPORT
	u.Children[0].LocalTs, u.Children[0].RemoteTs = []string{"192.0.2.1/32[gre]"}, []string{"198.51.100.2/32[gre]", "198.51.100.2/32[tcp]"}
}

// What the host says to the peer in transport mode is led into the tunnel interface where
// the data plane does not see it otherwise, and needs no route.
func TestPlanTransport(t *testing.T) {
	for _, intercepts := range []bool{true, false} {
		i, env := goodIntent(), environment()
		inTransportMode(i.Tunnels[0])
		env.DataPlane.Intercepts = intercepts
		p, errs := NewPlan(i, material(t), env)
		if errs != nil {
			t.Fatal(errs)
		}
		want := "[]"
		if intercepts {
			want = "[198.51.100.2]"
		}
		if got := fmt.Sprint(p.Intercepted); got != want || len(p.Routes) > 0 || p.Tunnels[0].Children[0].Mode != dataplane.Transport {
			t.Errorf("intercepted %s, want %s; routes %v; %+v", got, want, p.Routes, p.Tunnels[0].Children[0])
		}
	}
}

// The intent says how packets look from outside.
func TestPlanAppearance(t *testing.T) {
	i, env := goodIntent(), environment()
	c := i.Tunnels[0].Children[0]
	c.OuterHeader = &swanherdv1.OuterHeader{Dscp: proto.Uint32(0), NoEcn: true, DontFragment: swanherdv1.DontFragment_DONT_FRAGMENT_CLEAR}
	c.TrafficFlowConfidentiality = &swanherdv1.TrafficFlowConfidentiality{
		Padding: &swanherdv1.TrafficFlowConfidentiality_PadToPath{PadToPath: true}, FillInterval: durationpb.New(time.Second),
	}
	p, errs := NewPlan(i, material(t), env)
	if errs != nil {
		t.Fatal(errs)
	}
	got := p.Tunnels[0].Children[0]
	if want := (dataplane.Outer{FixDSCP: true, NoECN: true, DF: dataplane.DFClear}); got.Outer != want {
		t.Errorf("outer header %+v, want %+v", got.Outer, want)
	}
	if want := (dataplane.TFC{PadTo: dataplane.PadToPath, Fill: time.Second}); got.TFC != want {
		t.Errorf("hidden by %+v, want %+v", got.TFC, want)
	}
	env.DataPlane.NoDummies = true
	if _, errs := NewPlan(i, material(t), env); len(errs) != 1 || !strings.HasSuffix(errs[0].GetFieldPath(), "fill_interval") {
		t.Errorf("on a data plane without dummy packets: %v", errs)
	}
}

// A tunnel of which nobody knows the peer's address waits at an uplink's.
func TestPlanResponder(t *testing.T) {
	i := goodIntent()
	u := i.Tunnels[0]
	u.Role, u.RemoteEndpoints = swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER, nil
	p, errs := NewPlan(i, material(t), environment())
	if errs != nil {
		t.Fatal(errs)
	}
	if c := p.Tunnels[0]; c.Role != ike.RoleResponder || c.Local.Addr().String() != "192.0.2.1" {
		t.Errorf("role %v at %v", c.Role, c.Local)
	}
	env := environment()
	env.Uplinks = nil
	if _, errs := NewPlan(i, material(t), env); len(errs) != 1 || errs[0].GetFieldPath() != "local_address" {
		t.Errorf("without an uplink:\n%v", errs)
	}
}

// The endpoint of a family that the uplink has is chosen.
func TestPlanEndpointFamily(t *testing.T) {
	i := goodIntent()
	i.Tunnels[0].RemoteEndpoints = []*swanherdv1.PeerEndpoint{{Address: "2001:db8::2"}, {Address: "198.51.100.7"}}
	p, errs := NewPlan(i, material(t), environment())
	if errs != nil {
		t.Fatal(errs)
	}
	if got := p.Tunnels[0].Remote.String(); got != "198.51.100.7:500" {
		t.Errorf("remote = %s", got)
	}
}

// The other endpoints of the peer and the other addresses of the uplink are where
// MOBIKE may move the tunnel.
func TestPlanMobility(t *testing.T) {
	i, env := goodIntent(), environment()
	env.Uplinks = []*swanherdv1.Uplink{
		{Name: "wan1", Addresses: []string{"192.0.2.1", "192.0.2.9", "fe80::1", "2001:db8:a::1"}},
		{Name: "wan2", Addresses: []string{"203.0.113.1"}},
	}
	u := i.Tunnels[0]
	u.RemoteEndpoints = []*swanherdv1.PeerEndpoint{
		{Address: "198.51.100.2", Port: 4500}, {Address: "2001:db8:b::2"}, {Address: "198.51.100.3"}, {Address: "198.51.100.3", Port: 4500},
	}
	for _, c := range []struct{ uplink, local, wantLocal string }{
		{"wan1", "", "[192.0.2.9 2001:db8:a::1]"},
		{"wan2", "", "[]"},
		{"", "", "[192.0.2.1 192.0.2.9 2001:db8:a::1 203.0.113.1]"}, // which one is first, routing says
		{"wan1", "192.0.2.9", "[]"},
	} {
		u.Uplink, u.LocalAddress = c.uplink, c.local
		p, errs := NewPlan(i, material(t), env)
		if errs != nil {
			t.Fatal(errs)
		}
		m := p.Tunnels[0].Mobility
		if got := fmt.Sprint(m.Local); got != c.wantLocal || m.Disable || m.TrustPeer {
			t.Errorf("uplink %q, address %q: further addresses %s, want %s; %+v", c.uplink, c.local, got, c.wantLocal, m)
		}
		if got := fmt.Sprint(m.Remote); got != "[2001:db8:b::2 198.51.100.3]" {
			t.Errorf("further addresses of the peer: %s", got)
		}
	}
}

// Where a NAT gives the peer a port, each of its addresses has its own.
func TestPlanPortsOfNATs(t *testing.T) {
	outside, inside := &swanherdv1.PeerEndpoint{Address: "203.0.113.7", Port: 31022}, &swanherdv1.PeerEndpoint{Address: "10.0.0.7", Port: 4500}
	for _, c := range []struct {
		endpoints             []*swanherdv1.PeerEndpoint
		remote, further, with string
	}{
		{[]*swanherdv1.PeerEndpoint{outside, inside}, "203.0.113.7:31022", "[10.0.0.7:4500]", "[]"},
		{[]*swanherdv1.PeerEndpoint{inside, outside}, "10.0.0.7:4500", "[203.0.113.7:31022]", "[]"},
		{[]*swanherdv1.PeerEndpoint{{Address: "203.0.113.7", Port: 4500}, inside}, "203.0.113.7:4500", "[]", "[10.0.0.7]"},
	} {
		i := goodIntent()
		i.Tunnels[0].RemoteEndpoints = c.endpoints
		p, errs := NewPlan(i, material(t), environment())
		if errs != nil {
			t.Fatal(errs)
		}
		tunnel := p.Tunnels[0]
		if remote, further, with := tunnel.Remote.String(), fmt.Sprint(tunnel.Further), fmt.Sprint(tunnel.Mobility.Remote); remote != c.remote || further != c.further || with != c.with {
			t.Errorf("begins at %s, then %s, with its port %s; want %+v", remote, further, with, c)
		}
	}
}

func TestPlanDoesNotChangeTheIntent(t *testing.T) {
	i := goodIntent()
	if _, errs := NewPlan(i, material(t), environment()); errs != nil {
		t.Fatal(errs)
	}
	if !proto.Equal(i, goodIntent()) {
		t.Errorf("intent = %v", i)
	}
}

func TestLoadMaterialPSK(t *testing.T) {
	file := filepath.Join(t.TempDir(), "psk")
	i := goodIntent()
	i.Tunnels[0].Authentication.Method = &swanherdv1.Authentication_Psk{Psk: &swanherdv1.PskAuthentication{File: file}}
	for name, tc := range map[string]struct {
		content string
		mode    os.FileMode
		want    string
	}{
		"readable by all": {"hush\n", 0o644, "chmod 600"},
		"empty":           {"\n", 0o600, "empty"},
		"good":            {"hush\n", 0o600, ""},
	} {
		if err := os.WriteFile(file, []byte(tc.content), tc.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tc.mode); err != nil {
			t.Fatal(err)
		}
		m, errs := LoadMaterial(i, nil)
		if tc.want == "" {
			if errs != nil || string(m.PSKs[file]) != "hush" {
				t.Errorf("%s: %q, %v", name, []byte(m.PSKs[file]), errs)
			}
			continue
		}
		if len(errs) != 1 || errs[0].GetFieldPath() != "authentication.psk.file" || !strings.Contains(errs.Error(), tc.want) || strings.Contains(errs.Error(), "hush") {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

func TestRevocation(t *testing.T) {
	var r Revocation
	cert := material(t).Chain[0]
	if err := r.Check(cert); err != nil {
		t.Errorf("empty list: %v", err)
	}
	for _, serial := range []string{"0ABC", "abc", "0a:bc"} {
		r.Set([]string{"1", serial})
		if err := r.Check(cert); err == nil {
			t.Errorf("%s is not found", serial)
		}
	}
	r.Set(nil)
	if err := r.Check(cert); err != nil {
		t.Errorf("after the list was emptied: %v", err)
	}
}

// A gateway brings its own secret or authorities, negotiates all addresses where it routes,
// and is waited for while its name is not known.
func TestGatewayTunnel(t *testing.T) {
	m := material(t)
	i := goodIntent()
	tunnel := i.Tunnels[0]
	tunnel.Authentication.Method = &swanherdv1.Authentication_Psk{Psk: &swanherdv1.PskAuthentication{Secret: []byte("of the controller"), Version: "v1"}}
	tunnel.RemoteEndpoints = []*swanherdv1.PeerEndpoint{{Host: "vpn.example.com"}}
	c := tunnel.Children[0]
	c.LocalTs, c.RemoteTs = []string{"0.0.0.0/0"}, []string{"0.0.0.0/0"}
	c.LocalPrefixes, c.RemotePrefixes = []string{"10.1.0.0/24"}, []string{"10.2.0.0/24"}
	env := environment()
	p, errs := NewPlan(i, m, env)
	if errs != nil {
		t.Fatal(errs)
	}
	got := p.Tunnels[0]
	if string(got.Credentials.PSK) != "of the controller" || string(got.Peer.PSK) != "of the controller" {
		t.Error("the secret of the intent is not used")
	}
	if got.Role != ike.RoleResponder || got.Remote.IsValid() {
		t.Errorf("before the name is known: role %v, remote %v", got.Role, got.Remote)
	}
	if child := got.Children[0]; child.RemoteTS[0].String() != "0.0.0.0/0" || child.CarriedRemote[0].String() != "10.2.0.0/24" || child.CarriedLocal[0].String() != "10.1.0.0/24" {
		t.Errorf("child is %+v", child)
	}
	if len(p.Routes) != 1 || p.Routes[0].Prefix.String() != "10.2.0.0/24" || len(p.Default.From) > 0 {
		t.Errorf("routes are %v, the default is for %v", p.Routes, p.Default.From)
	}
	env.Hosts = map[string][]netip.Addr{"vpn.example.com": {netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.8")}}
	p, errs = NewPlan(i, m, env)
	if errs != nil || p.Tunnels[0].Role != ike.RoleEither || p.Tunnels[0].Remote.String() != "198.51.100.7:500" {
		t.Errorf("when the name is known: %v, %v", p, errs)
	}

	foreign := material(t)
	anchor := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: foreign.Chain[0].Raw}))
	tunnel.Authentication.Method = &swanherdv1.Authentication_Certificate{Certificate: &swanherdv1.CertificateAuthentication{TrustAnchors: []string{anchor}}}
	p, errs = NewPlan(i, m, env)
	if errs != nil || p.Tunnels[0].Peer.Roots == nil || p.Tunnels[0].Peer.CheckRevoked != nil {
		t.Fatalf("with authorities of its own: %v, %v", p, errs)
	}
	tunnel.Authentication.GetCertificate().TrustAnchors[0] = "nothing"
	if _, errs = NewPlan(i, m, env); len(errs) == 0 || errs[0].GetFieldPath() != "authentication.certificate.trust_anchors[0]" {
		t.Errorf("a broken anchor: %v", errs)
	}
}
