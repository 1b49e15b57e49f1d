package digest

import (
	"bytes"
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func tunnel() *swanherdv1.TunnelIntent {
	return &swanherdv1.TunnelIntent{
		Name:            "networks/demo/tunnels/berlin-oslo",
		PeerEdge:        "networks/demo/edges/oslo",
		Role:            swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR,
		RemoteEndpoints: []*swanherdv1.PeerEndpoint{{Address: "192.0.2.2", Port: 4500}},
		IkeRekeyTime:    durationpb.New(4 * 60 * 60 * 1e9),
		Children: []*swanherdv1.ChildIntent{{
			Name: "net", LocalTs: []string{"10.1.0.0/24"}, RemoteTs: []string{"10.2.0.0/24", "2001:db8:2::/48"},
		}},
	}
}

// The encoding is part of the session protocol: a change of these values makes
// every edge of a fleet download its intent again, so it must be deliberate.
func TestVersionIsStable(t *testing.T) {
	const want = "03cc087eaa09fc8a82393c3a03fbf87f"
	if got := hex.EncodeToString(Of(tunnel())); got != want {
		t.Errorf("Of(tunnel) = %s, want %s", got, want)
	}
}

func TestEveryFieldCounts(t *testing.T) {
	base := Of(tunnel())
	for name, change := range map[string]func(*swanherdv1.TunnelIntent){
		"name":      func(i *swanherdv1.TunnelIntent) { i.Name += "x" },
		"role":      func(i *swanherdv1.TunnelIntent) { i.Role = swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER },
		"port":      func(i *swanherdv1.TunnelIntent) { i.RemoteEndpoints[0].Port = 500 },
		"duration":  func(i *swanherdv1.TunnelIntent) { i.IkeRekeyTime.Seconds++ },
		"list item": func(i *swanherdv1.TunnelIntent) { i.Children[0].RemoteTs[1] = "2001:db8:3::/48" },
		"list split": func(i *swanherdv1.TunnelIntent) {
			i.Children[0].RemoteTs = []string{"10.2.0.0/242001:db8:2::/48"}
		},
		"bool": func(i *swanherdv1.TunnelIntent) { i.ForceUdpEncapsulation = true },
	} {
		i := tunnel()
		change(i)
		if bytes.Equal(Of(i), base) {
			t.Errorf("%s: a different intent has the same version", name)
		}
	}
}

func TestMapOrder(t *testing.T) {
	for range 50 {
		a := Of(&swanherdv1.Site{Labels: map[string]string{"a": "1", "b": "2", "c": "3"}})
		b := Of(&swanherdv1.Site{Labels: map[string]string{"c": "3", "b": "2", "a": "1"}})
		if !bytes.Equal(a, b) {
			t.Fatal("the version of a message depends on the order of a map")
		}
	}
}
