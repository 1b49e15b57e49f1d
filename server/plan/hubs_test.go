package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// hubsOf are three hubs, of which the last two have the priorities given, and two spokes.
func hubsOf(transit bool, priorities ...string) *builder {
	b := newBuilder()
	for i := range 3 {
		id := fmt.Sprintf("hub-%d", i)
		labels := map[string]string{"role": "hub"}
		if i > 0 && len(priorities) > 0 {
			labels["prio"] = priorities[i-1]
		}
		b.site(id, labels, fmt.Sprintf("10.0.%d.0/24", i))
		b.edge(id, id, uplink("wan1", fmt.Sprintf("203.0.113.%d", i+1)))
	}
	for i := range 2 {
		id := fmt.Sprintf("spoke-%d", i)
		b.site(id, map[string]string{"role": "spoke"}, fmt.Sprintf("10.0.%d.0/24", i+4))
		b.edge(id, id, uplink("wan1", fmt.Sprintf("198.18.0.%d", i+1)))
	}
	m := hubAndSpoke(labelled("role", "hub"), labelled("role", "spoke"), transit)
	if len(priorities) > 0 {
		m.GetHubAndSpoke().PriorityLabel = "prio"
	}
	b.mesh("core", m)
	return b
}

// hubOrder is the hubs of a spoke's group, in the order in which they go first.
func hubOrder(t *testing.T, p *Plan) []string {
	t.Helper()
	type at struct {
		hub      string
		priority uint32
	}
	var all []at
	for r := range p.Intents.Value("networks/demo/edges/spoke-0").Resources.All() {
		tunnel := r.GetTunnel()
		if tunnel.GetPath() == nil {
			continue
		}
		if tunnel.GetPath().GetGroup() != "networks/demo/meshes/core.spoke-0" {
			t.Errorf("%s is of the group %s", tunnel.GetName(), tunnel.GetPath().GetGroup())
		}
		if far := p.tunnelIntent(tunnel.GetPeerEdge(), tunnel.GetName()); far.GetPath() != nil {
			t.Errorf("the hub's end of %s has the path %v", tunnel.GetName(), far.GetPath())
		}
		all = append(all, at{strings.TrimPrefix(tunnel.GetPeerEdge(), "networks/demo/edges/"), tunnel.GetPath().GetPriority()})
	}
	slices.SortFunc(all, func(a, b at) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), strings.Compare(a.hub, b.hub))
	})
	var out []string
	for i, a := range all {
		if i > 0 && all[i-1].priority == a.priority {
			out[len(out)-1] += "=" + a.hub
		} else {
			out = append(out, a.hub)
		}
	}
	return out
}

// All hubs carry what is between spokes, and a spoke chooses among them, the first by name or
// by label first. Each prefix is one of each hub's tunnel, so that what a packet matches is
// the same for all.
func TestSpokesHaveSeveralHubs(t *testing.T) {
	for _, tt := range []struct {
		of   *builder
		want []string
	}{
		{hubsOf(false), nil},
		{hubsOf(true), []string{"hub-0", "hub-1", "hub-2"}},
		{hubsOf(true, "7", "3"), []string{"hub-2", "hub-1", "hub-0"}},
		{hubsOf(true, "7", "7"), []string{"hub-1=hub-2", "hub-0"}},
	} {
		p := Make(tt.of.snapshot())
		if got := hubOrder(t, p); !slices.Equal(got, tt.want) {
			t.Errorf("the hubs are %v, want %v", got, tt.want)
		}
		for i := range 3 {
			tunnel := p.tunnelIntent("networks/demo/edges/spoke-0", fmt.Sprintf("networks/demo/tunnels/hub-%d--spoke-0", i))
			want := []string{fmt.Sprintf("10.0.%d.0/24", i)}
			if tt.want != nil {
				want = append(want, "10.0.5.0/24")
			}
			if got := tunnel.GetChildren()[0].GetRemoteTs(); !slices.Equal(got, want) {
				t.Errorf("to hub %d go %v, want %v", i, got, want)
			}
		}
	}
}

// A hub whose edge goes leaves the group, and with one hub alone there is nothing to choose.
func TestHubsComeAndGo(t *testing.T) {
	b := hubsOf(true)
	p := NewPlanner()
	plan, _ := p.Update(b.snapshot())
	for _, want := range [][]string{{"hub-1", "hub-2"}, nil} {
		gone := len(hubOrder(t, plan))
		id := fmt.Sprintf("networks/demo/edges/hub-%d", 3-gone)
		drop(b, &b.Edges, id)
		plan, _ = p.Update(b.snapshot())
		if got := hubOrder(t, plan); !slices.Equal(got, want) {
			t.Errorf("without %s the hubs are %v, want %v", id, got, want)
		}
	}
	only := plan.tunnelIntent("networks/demo/edges/spoke-0", "networks/demo/tunnels/hub-2--spoke-0")
	if got := only.GetChildren()[0].GetRemoteTs(); !slices.Equal(got, []string{"10.0.2.0/24", "10.0.5.0/24"}) {
		t.Errorf("to the only hub go %v", got)
	}
}
