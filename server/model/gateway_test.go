package model

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// anchorPEM is the certificate of an authority, or of none.
func anchorPEM(t *testing.T, authority bool) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "partner"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: authority, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// hosts are n prefixes.
func hosts(n int) (out []string) {
	for i := range n {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 32).String())
	}
	return out
}

func TestGatewayViolations(t *testing.T) {
	certificate := func(anchor string) *swanherdv1.Gateway_Certificate {
		return &swanherdv1.Gateway_Certificate{Certificate: &swanherdv1.GatewayCertificate{TrustAnchors: []string{anchor}}}
	}
	byEdge := func(name string) *swanherdv1.GatewayAttachment {
		return &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Edge{Edge: name}}
	}
	for _, c := range []struct {
		name   string
		change func(*swanherdv1.Gateway)
		want   [][]string
	}{
		{"nothing", func(*swanherdv1.Gateway) {}, nil},
		{"a domain name", func(g *swanherdv1.Gateway) { g.Address = "vpn.example.com" }, nil},
		{"any address", func(g *swanherdv1.Gateway) { g.Address, g.Identity = "any", "vpn.example.com" }, nil},
		{"a certificate", func(g *swanherdv1.Gateway) { g.Authentication = certificate(anchorPEM(t, true)) }, nil},
		{"no address", func(g *swanherdv1.Gateway) { g.Address = "vpn" }, [][]string{{"address", "neither an address nor a domain name"}}},
		{"multicast", func(g *swanherdv1.Gateway) { g.Address = "224.0.0.1" }, [][]string{{"address", "not an address at which"}}},
		{"loopback", func(g *swanherdv1.Gateway) { g.Address = "127.0.0.1" }, [][]string{{"address", "not an address at which"}}},
		{"behind itself", func(g *swanherdv1.Gateway) { g.Address = "192.168.0.9" }, [][]string{{"address", "inside prefixes[0]", "own tunnel"}}},
		{"at a site", func(g *swanherdv1.Gateway) { g.Address = "10.2.0.9" }, [][]string{{"address", "inside 10.2.0.0/16 of networks/demo/sites/oslo"}}},
		{"who at any address", func(g *swanherdv1.Gateway) { g.Address = "any" }, [][]string{{"identity", "missing"}}},
		{"who begins at any address", func(g *swanherdv1.Gateway) {
			g.Address, g.Identity, g.Initiator = "any", "a.example", swanherdv1.GatewayInitiator_GATEWAY_INITIATOR_EDGE
		}, [][]string{{"initiator", "any address"}}},
		{"identity that is configuration", func(g *swanherdv1.Gateway) { g.Identity = "a\"\n}" }, [][]string{{"identity", "other characters"}}},
		{"no distinguished name", func(g *swanherdv1.Gateway) { g.Identity = "CN=" }, [][]string{{"identity", "no distinguished name"}}},
		{"own identity beside a certificate", func(g *swanherdv1.Gateway) {
			g.Authentication, g.LocalIdentity = certificate(anchorPEM(t, true)), "x.example"
		}, [][]string{{"local_identity", "with a certificate"}}},
		{"no key", func(g *swanherdv1.Gateway) { g.GetPreSharedKey().Key = "networks/demo/preSharedKeys/other" },
			[][]string{{"pre_shared_key.key", "does not exist", "networks/demo/preSharedKeys/partner"}}},
		{"a key elsewhere", func(g *swanherdv1.Gateway) { g.GetPreSharedKey().Key = "networks/beta/preSharedKeys/partner" },
			[][]string{{"pre_shared_key.key", "another network"}}},
		{"no anchor", func(g *swanherdv1.Gateway) { g.Authentication = certificate("hello") }, [][]string{{"certificate.trust_anchors[0]", "not certificates in PEM"}}},
		{"no authority", func(g *swanherdv1.Gateway) { g.Authentication = certificate(anchorPEM(t, false)) },
			[][]string{{"certificate.trust_anchors[0]", "not an authority's"}}},
		{"no profile", func(g *swanherdv1.Gateway) { g.Profile = "networks/demo/profiles/none" }, [][]string{{"profile", "does not exist"}}},
		{"no edge", func(g *swanherdv1.Gateway) {
			g.Attachments = append(g.Attachments, byEdge("networks/demo/edges/none"))
		}, [][]string{{"attachments[1].edge", "does not exist", "networks/demo/edges/berlin"}}},
		{"an edge elsewhere", func(g *swanherdv1.Gateway) { g.Attachments[0] = byEdge("networks/beta/edges/x") }, [][]string{{"attachments[0].edge", "not an edge of"}}},
		{"an edge twice", func(g *swanherdv1.Gateway) {
			g.Attachments = append(g.Attachments, byEdge("networks/demo/edges/berlin"))
		}, [][]string{{"attachments[1].edge", "attachments[0] too"}}},
		{"no site", func(g *swanherdv1.Gateway) {
			g.Attachments[0] = &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Sites{
				Sites: &swanherdv1.GatewaySites{MatchLabels: map[string]string{"region": "apac"}},
			}}
		}, [][]string{{"attachments[0].sites", "region: apac"}}},
		{"overlap with a site", func(g *swanherdv1.Gateway) { g.Prefixes = append(g.Prefixes, "10.1.2.0/24") },
			[][]string{{"prefixes[1]", "overlaps 10.1.0.0/16 of networks/demo/sites/berlin"}}},
		{"overlap with a gateway", func(g *swanherdv1.Gateway) { g.Prefixes = append(g.Prefixes, "172.31.4.0/24") },
			[][]string{{"prefixes[1]", "overlaps 172.31.0.0/16 of networks/demo/gateways/other"}}},
		{"overlap with itself", func(g *swanherdv1.Gateway) { g.Prefixes = append(g.Prefixes, "192.168.0.128/25") },
			[][]string{{"prefixes[1]", "of the same gateway"}}},
		{"as many pairs as there may be", func(g *swanherdv1.Gateway) { g.Prefixes = hosts(256) }, nil},
		{"a pair too many", func(g *swanherdv1.Gateway) { g.Prefixes = hosts(257) }, [][]string{{"prefixes", "networks/demo/sites/berlin", "257 pairs"}}},
		{"a pair too many by labels", func(g *swanherdv1.Gateway) {
			g.Prefixes = hosts(257)
			g.Attachments[0] = &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Sites{Sites: &swanherdv1.GatewaySites{}}}
		}, [][]string{{"prefixes", "257 pairs"}}},
		{"many prefixes in one Child SA", func(g *swanherdv1.Gateway) {
			g.Prefixes, g.Routing = hosts(257), swanherdv1.GatewayRouting_GATEWAY_ROUTING_ROUTE
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := stored(t, manifest(), 7)
			top.PreSharedKeys = top.PreSharedKeys.With(Row[*storev1.PreSharedKey]{Name: "networks/demo/preSharedKeys/partner", Value: &storev1.PreSharedKey{}})
			top.Edges = top.Edges.With(Row[*swanherdv1.Edge]{
				Name: "networks/demo/edges/berlin", Value: &swanherdv1.Edge{Name: "networks/demo/edges/berlin", Site: "networks/demo/sites/berlin"},
			})
			gateway := func(id, prefix string) *swanherdv1.Gateway {
				return &swanherdv1.Gateway{
					Name: "networks/demo/gateways/" + id, Profile: "networks/demo/profiles/default", Address: "203.0.113.9", Prefixes: []string{prefix},
					Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: "networks/demo/preSharedKeys/partner"}},
					Attachments:    []*swanherdv1.GatewayAttachment{byEdge("networks/demo/edges/berlin")},
				}
			}
			other := gateway("other", "172.31.0.0/16")
			top.Gateways = top.Gateways.With(Row[*swanherdv1.Gateway]{Name: other.GetName(), Value: other, Revision: 7})
			g := gateway("partner", "192.168.0.0/24")
			c.change(g)
			got := validate(top, &swanherdv1.Manifest{Gateways: []*swanherdv1.Gateway{g}})
			if len(got) != len(c.want) {
				t.Fatalf("violations are\n%v", got.Error())
			}
			for i, want := range c.want {
				if got[i].Field != "gateways[0]."+want[0] || got[i].Remedy == "" {
					t.Errorf("%q at %q, want it at %q with a remedy", got[i], got[i].Field, want[0])
				}
				for _, part := range want[1:] {
					if !strings.Contains(got[i].String(), part) {
						t.Errorf("%q does not say %q", got[i], part)
					}
				}
			}
		})
	}
}

// What a gateway needs cannot go: the violation is of the gateway, not of what was asked for.
func TestGatewayKeepsWhatItUses(t *testing.T) {
	top := stored(t, manifest(), 7)
	g := &swanherdv1.Gateway{
		Name: "networks/demo/gateways/partner", Profile: "networks/demo/profiles/default", Address: "203.0.113.9", Prefixes: []string{"192.168.0.0/24"},
		Authentication: &swanherdv1.Gateway_Certificate{Certificate: &swanherdv1.GatewayCertificate{TrustAnchors: []string{anchorPEM(t, true)}}},
		Attachments:    []*swanherdv1.GatewayAttachment{{Who: &swanherdv1.GatewayAttachment_Edge{Edge: "networks/demo/edges/berlin"}}},
	}
	top.Gateways = top.Gateways.With(Row[*swanherdv1.Gateway]{Name: g.GetName(), Value: g, Revision: 7})
	got := ValidateState(top, nil, nil)
	if len(got) != 1 || got[0].Resource != g.GetName() || got[0].Field != "attachments[0].edge" {
		t.Errorf("violations are\n%v", got.Error())
	}
}
