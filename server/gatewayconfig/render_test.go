package gatewayconfig

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files in testdata; review what changes")

// fleet is a site with two edges, which hold tunnels with a gateway.
type fleet struct {
	model.Topology
	gateway *swanherdv1.Gateway
	profile *swanherdv1.Profile
}

func newFleet() *fleet {
	f := &fleet{
		gateway: &swanherdv1.Gateway{
			Name: "networks/demo/gateways/partner", Profile: "networks/demo/profiles/partner", Address: "203.0.113.9",
			Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: "networks/demo/preSharedKeys/partner"}},
			Prefixes:       []string{"192.168.0.0/24"},
			Attachments:    []*swanherdv1.GatewayAttachment{attach("one", 0)},
		},
		profile: &swanherdv1.Profile{Name: "networks/demo/profiles/partner"},
	}
	f.Networks = f.Networks.With(row("networks/demo", &swanherdv1.Network{Name: "networks/demo"}))
	f.PreSharedKeys = f.PreSharedKeys.With(row("networks/demo/preSharedKeys/partner", &storev1.PreSharedKey{Version: "v1"}))
	f.Sites = f.Sites.With(row("networks/demo/sites/berlin", &swanherdv1.Site{Name: "networks/demo/sites/berlin", Prefixes: []string{"10.1.0.0/16"}}))
	for i, id := range []string{"one", "two"} {
		name := "networks/demo/edges/" + id
		f.Edges = f.Edges.With(row(name, &swanherdv1.Edge{Name: name, Site: "networks/demo/sites/berlin"}))
		f.EdgeStatuses = f.EdgeStatuses.With(row(name, &storev1.EdgeStatus{Edge: name, Uplinks: []*swanherdv1.Uplink{
			{Name: "wan1", Addresses: []string{fmt.Sprintf("192.0.2.%d", i+1)}},
		}}))
	}
	return f
}

func row[T any](name string, value T) model.Row[T] {
	return model.Row[T]{Name: name, Value: value, Revision: 1}
}

func attach(edge string, priority uint32) *swanherdv1.GatewayAttachment {
	return &swanherdv1.GatewayAttachment{Who: &swanherdv1.GatewayAttachment_Edge{Edge: "networks/demo/edges/" + edge}, Priority: priority}
}

// input plans the fleet, so that what is rendered is what edges have.
func (f *fleet) input() Input {
	f.Gateways = f.Gateways.With(row(f.gateway.GetName(), f.gateway))
	f.Profiles = f.Profiles.With(row(f.profile.GetName(), f.profile))
	in := Input{Gateway: f.gateway, Authority: "-----BEGIN CERTIFICATE-----\nthe network's\n-----END CERTIFICATE-----\n"}
	for _, t := range plan.GatewayTunnels(&f.Topology, model.GatewayName{Network: "demo", Gateway: "partner"}) {
		edge := t.Tunnel.GetA().GetEdge()
		in.Tunnels = append(in.Tunnels, Tunnel{
			Edge: edge[strings.LastIndexByte(edge, '/')+1:], Address: f.EdgeStatuses.Value(edge).GetUplinks()[0].GetAddresses()[0],
			Priority: t.Priority, Intent: t.Intent,
		})
	}
	return in
}

var formats = map[string]swanherdv1.GatewayConfigFormat{
	"strongswan": swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_STRONGSWAN,
	"cisco":      swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_CISCO_IOSXE,
	"fortios":    swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_FORTIOS,
	"juniper":    swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_JUNIPER,
	"aws":        swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_AWS,
	"azure":      swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_AZURE,
}

// fleets are those that the golden files are of.
func fleets() map[string]*fleet {
	routed := newFleet()
	routed.gateway.Routing = swanherdv1.GatewayRouting_GATEWAY_ROUTING_ROUTE
	routed.gateway.Attachments = []*swanherdv1.GatewayAttachment{attach("two", 20), attach("one", 10)}
	routed.gateway.LocalIdentity = "192.0.2.1"
	routed.gateway.Initiator = swanherdv1.GatewayInitiator_GATEWAY_INITIATOR_GATEWAY

	older := newFleet()
	older.gateway.ForceUdpEncapsulation = true
	older.gateway.Identity = "vpn@partner.example"
	older.profile.IkeProposals = []string{"aes256-sha256-modp2048"}
	older.profile.EspProposals = []string{"aes256-sha256-modp2048"}
	older.profile.IkeRekeyTime, older.profile.ChildRekeyTime = durationpb.New(8*time.Hour), durationpb.New(30*time.Minute)
	older.profile.ChildRekeyBytes, older.profile.DpdDelay = 1<<30, durationpb.New(20*time.Second)

	certificate := newFleet()
	certificate.gateway.Authentication = &swanherdv1.Gateway_Certificate{Certificate: &swanherdv1.GatewayCertificate{TrustAnchors: []string{"an anchor"}}}
	certificate.gateway.Address, certificate.gateway.Identity = "any", "CN=vpn,O=Partner"
	return map[string]*fleet{"default": newFleet(), "routed": routed, "older": older, "certificate": certificate}
}

func TestGolden(t *testing.T) {
	for format, f := range formats {
		for name, x := range fleets() {
			if name == "certificate" && (format == "aws" || format == "azure") {
				continue // refused; see TestUnsupported
			}
			t.Run(format+"/"+name, func(t *testing.T) {
				out, err := Render(f, x.input())
				if err != nil {
					t.Fatal(err)
				}
				got := out.Config
				for _, w := range out.Warnings {
					got += "WARNING " + w + "\n"
				}
				got += "PLACEHOLDERS " + strings.Join(out.Placeholders, " ") + "\n"
				path := filepath.Join("testdata", format+"-"+name+".txt")
				if *rewrite {
					if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(path)
				if err != nil {
					t.Fatalf("%v; run the test with -rewrite", err)
				}
				if got != string(want) {
					t.Errorf("differs from %s; if it should, run the test with -rewrite and review:\n%s", path, got)
				}
			})
		}
	}
}

// What a vendor cannot do is an error that names what to change.
func TestUnsupported(t *testing.T) {
	for _, c := range []struct {
		format string
		change func(*fleet)
		field  string
		says   string
	}{
		{"cisco", func(f *fleet) { f.profile.IkeProposals = []string{"aes256gcm16-prfsha384-x25519"} }, "ike_proposals[0]", "no key exchange x25519"},
		{"juniper", func(f *fleet) { f.profile.EspProposals = []string{"chacha20poly1305-ecp384"} }, "esp_proposals[0]", "no cipher chacha20poly1305"},
		{"juniper", func(f *fleet) { f.profile.IkeProposals = []string{"aes256gcm16-prfsha256-ecp384"} }, "ike_proposals[0]", "SHA-384 alone"},
		{"fortios", func(f *fleet) { f.profile.EspProposals = []string{"aes256gcm16-ecp384-esn"} }, "esp_proposals[0]", "extended sequence numbers"},
		{"azure", func(f *fleet) { f.profile.IkeProposals = []string{"aes256gcm16-prfsha384-ecp384-ke1_mlkem768"} }, "ike_proposals[0]", "ke1_mlkem768"},
		{"azure", func(f *fleet) { f.profile.ChildRekeyTime = durationpb.New(time.Minute) }, "child_rekey_time", "300 s"},
		{"aws", func(f *fleet) { f.profile.IkeRekeyTime = durationpb.New(24 * time.Hour) }, "ike_rekey_time", "28800"},
		{"aws", func(f *fleet) { f.gateway.Prefixes = []string{"192.168.0.0/24", "192.168.9.0/24"} }, "routing", "one pair"},
		{"aws", func(f *fleet) { f.gateway.Authentication = fleets()["certificate"].gateway.Authentication }, "certificate", "AWS Private CA"},
		{"azure", func(f *fleet) { f.gateway.Authentication = fleets()["certificate"].gateway.Authentication }, "certificate", "pre-shared keys alone"},
		{"aws", func(f *fleet) { f.gateway.Port = 4500 }, "port", "500"},
	} {
		t.Run(c.format+" "+c.field, func(t *testing.T) {
			f := newFleet()
			c.change(f)
			_, err := Render(formats[c.format], f.input())
			var unsupported *UnsupportedError
			if !errors.As(err, &unsupported) || unsupported.Field != c.field || !strings.Contains(unsupported.Problem, c.says) || unsupported.Remedy == "" {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// An edge that has not said where it is has a placeholder, and one behind a NAT a warning.
func TestAddresses(t *testing.T) {
	in := newFleet().input()
	in.Tunnels[0].Address = ""
	out, err := Render(formats["strongswan"], in)
	if err != nil || !slices.Contains(out.Placeholders, addressPlaceholder) || !strings.Contains(out.Config, "remote_addrs = "+addressPlaceholder) {
		t.Errorf("without an address: %v, %v\n%s", err, out.Placeholders, out.Config)
	}
	in.Tunnels[0].Address = "10.0.0.7"
	out, err = Render(formats["strongswan"], in)
	if err != nil || !strings.Contains(strings.Join(out.Warnings, "\n"), "10.0.0.7, which is private") {
		t.Errorf("with a private address: %v, %v", err, out.Warnings)
	}
}
