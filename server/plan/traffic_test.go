package plan

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A network's traffic classes come to its edges with their limits, and what else changes at
// a network comes to none.
func TestTrafficClassesComeToEdges(t *testing.T) {
	b := fullMeshOf(3)
	p := NewPlanner()
	p.Update(b.snapshot())
	network := &swanherdv1.Network{Name: "networks/demo", DisplayName: "another"}
	put(b, &b.Networks, network.GetName(), network)
	if _, changes := p.Update(b.snapshot()); len(changes.Intents) != 0 {
		t.Errorf("another name changes %v", changes.Intents)
	}
	network = proto.CloneOf(network)
	network.TrafficClasses = []*swanherdv1.TrafficClass{{
		Id: "voice", Matches: []*swanherdv1.TrafficMatch{{Dscp: []uint32{46}}},
		Sla: &swanherdv1.PathSla{TrafficClass: swanherdv1.PathSla_TRAFFIC_CLASS_VOICE, MaxLossPercent: proto.Float64(3)},
	}}
	put(b, &b.Networks, network.GetName(), network)
	plan, changes := p.Update(b.snapshot())
	if len(changes.Intents) != 3 || len(changes.Tunnels) != 0 {
		t.Errorf("traffic classes change the intents %v and the tunnels %v", changes.Intents, changes.Tunnels)
	}
	for row := range plan.Intents.All() {
		got := row.Value.Resources.Get("settings").GetSettings().GetTrafficClasses()
		if len(got) != 1 || !proto.Equal(got[0].GetMatches()[0], network.GetTrafficClasses()[0].GetMatches()[0]) ||
			got[0].GetSla().GetMaxLossPercent() != 3 || got[0].GetSla().GetMaxLatency().AsDuration() != 300*time.Millisecond {
			t.Errorf("%s has %v", row.Name, got)
		}
	}
}
