package plan

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files in testdata; review what changes")

// Golden plans, reviewed like code: what an edge is to run for each sort of
// mesh.
func TestGolden(t *testing.T) {
	for name, b := range goldenTopologies() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".txt")
			got := render(t, Make(b.snapshot()))
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("%v; run the test with -rewrite", err)
			}
			if got != string(want) {
				t.Errorf("the plan differs from %s; if it should, run the test with -rewrite and review:\n%s", path, got)
			}
		})
	}
}

func goldenTopologies() map[string]*builder {
	full := fullMeshOf(3)
	put(full, &full.Revocations, "networks/demo/revocations/2a", &storev1.Revocation{Name: "networks/demo/revocations/2a"})

	transit := hubAndSpokeOf(3, true)
	transit.mesh("direct", links([2]string{"spoke-00000", "spoke-00002"}))

	hubs := hubAndSpokeOf(2, true)
	hubs.site("hub2", map[string]string{"role": "hub"}, "172.17.0.0/16")
	hubs.edge("hub2", "hub2", uplink("wan1", "203.0.113.2"))

	explicit := fullMeshOf(3)
	explicit.mesh("all", links([2]string{"site-00000", "site-00002"}))

	odd := fullMeshOf(4)
	mpls := uplink("mpls", "192.168.0.1")
	mpls.TransportClass, mpls.Cost = swanherdv1.TransportClass_TRANSPORT_CLASS_MPLS, 10
	six := uplink("wan1", "fe80::1", "2001:db8::1", "198.18.0.9")
	six.Port = 4501
	odd.uplinks("site-00000", six, mpls)
	odd.uplinks("site-00001")                              // nothing known of it
	odd.uplinks("site-00002", uplink("v6", "2001:db8::2")) // IPv6 only
	put(odd, &odd.Edges, edgeName("site-00003"), &swanherdv1.Edge{Name: edgeName("site-00003"), Site: siteName("site-00003"), Disabled: true})
	put(odd, &odd.Profiles, "networks/demo/profiles/default", &swanherdv1.Profile{
		Name: "networks/demo/profiles/default", IkeProposals: []string{"aes256gcm16-prfsha384-x25519"},
		EspProposals: []string{"aes256gcm16-x25519-esn"}, ChildRekeyBytes: 1 << 30, ReplayWindow: 4096,
		TcpEncapsulation: swanherdv1.TcpEncapsulation_TCP_ENCAPSULATION_ONLY,
		OuterHeader:      &swanherdv1.OuterHeader{Dscp: proto.Uint32(46), DontFragment: swanherdv1.DontFragment_DONT_FRAGMENT_CLEAR},
		TrafficFlowConfidentiality: &swanherdv1.TrafficFlowConfidentiality{
			Padding: &swanherdv1.TrafficFlowConfidentiality_PadTo{PadTo: 512}, FillInterval: durationpb.New(time.Second),
		},
	})

	wide := fullMeshOf(2)
	var prefixes []string
	for i := range maxSelectors + 1 {
		prefixes = append(prefixes, fmt.Sprintf("10.200.%d.0/24", 2*i))
	}
	wide.site("site-00000", nil, prefixes...)

	gateways := hubAndSpokeOf(2, false)
	gateways.key("partner", "v1")
	gateways.gateway("partner", &swanherdv1.Gateway{
		Address: "203.0.113.9", Prefixes: []string{"192.168.0.0/24", "192.168.2.0/24"}, LocalIdentity: "hub.example",
		Authentication: &swanherdv1.Gateway_PreSharedKey{PreSharedKey: &swanherdv1.GatewayPreSharedKey{Key: keyName("partner")}},
		Attachments:    []*swanherdv1.GatewayAttachment{bySites("role", "hub")},
	})
	gateways.gateway("cloud", &swanherdv1.Gateway{
		Address: "any", Identity: "cloud.example", Prefixes: []string{"192.168.4.0/22"}, Routing: swanherdv1.GatewayRouting_GATEWAY_ROUTING_ROUTE,
		Authentication: &swanherdv1.Gateway_Certificate{Certificate: &swanherdv1.GatewayCertificate{TrustAnchors: []string{"an anchor"}}},
		Attachments:    []*swanherdv1.GatewayAttachment{{Who: &swanherdv1.GatewayAttachment_Edge{Edge: edgeName("spoke-00001")}}},
	})

	segments := fullMeshOf(3)
	segments.segments("corp", "iot")
	for i, in := range [][]string{{"corp", "iot"}, {"corp", "iot"}, {"corp"}} {
		for _, segment := range in { // the prefixes are those of the default segment too
			segments.siteSegment(fmt.Sprintf("site-%05d", i), segment, fmt.Sprintf("10.0.%d.0/24", i))
		}
	}

	several := twoSites(allPairs, 0,
		[]*swanherdv1.Uplink{wan("inet", broadband, 0, "192.0.2.1"), wan("cell", lte, 10, "198.51.100.1")},
		[]*swanherdv1.Uplink{wan("inet", broadband, 0, "192.0.2.2", "2001:db8::2"), wan("six", broadband, 5, "2001:db8::3")})

	return map[string]*builder{
		"several-uplinks": several,
		"segments":        segments,
		"gateways":        gateways, "full-mesh": full, "hub-and-spoke": hubAndSpokeOf(2, false), "transit-with-a-direct-link": transit,
		"two-hubs": hubs, "explicit-links": explicit, "odd-edges": odd, "many-prefixes": wide,
	}
}

// render writes a plan for people: protojson's own spacing varies on purpose.
func render(t *testing.T, p *Plan) string {
	t.Helper()
	var b strings.Builder
	write := func(m proto.Message) {
		raw, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		nice, err := json.MarshalIndent(v, "  ", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("  " + string(nice) + "\n")
	}
	for row := range p.Tunnels.All() {
		fmt.Fprintf(&b, "tunnel %s\n", row.Name)
		write(row.Value)
	}
	for row := range p.Intents.All() {
		fmt.Fprintf(&b, "edge %s digest %x\n", row.Name, row.Value.Resources.Digest())
		for _, r := range row.Value.Resources.Sorted() {
			fmt.Fprintf(&b, "  resource %s version %x\n", r.GetName(), r.GetVersion())
			switch {
			case r.GetSettings() != nil:
				write(r.GetSettings())
			case r.GetTrust() != nil:
				write(r.GetTrust())
			default:
				write(r.GetTunnel())
			}
		}
	}
	return b.String()
}
