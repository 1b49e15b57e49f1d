package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/probe"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// chosen is what a Chooser was told.
type chosen struct {
	groups  []path.Group
	classes []TrafficClass
	same    map[string]string
}

func (c *chosen) Choose(groups []path.Group, classes []TrafficClass, same map[string]string) {
	*c = chosen{groups, classes, same}
}

// Tunnels of one group are to be chosen among, and are probed so that one can choose; what
// is not in a group is not. A tunnel of a segment is as good as that which goes its way.
func TestPathsToChooseAmong(t *testing.T) {
	h := &host{}
	r := newTestReconciler(t, h)
	c := &chosen{}
	r.cfg.Chooser = c
	intent := probedIntent()
	intent.Settings.TrafficClasses = []*swanherdv1.TrafficClass{{
		Id: "voice", Sla: &swanherdv1.PathSla{MaxLossPercent: proto.Float64(1)}, Matches: []*swanherdv1.TrafficMatch{{Dscp: []uint32{46}}},
		Transports: []swanherdv1.TransportClass{swanherdv1.TransportClass_TRANSPORT_CLASS_MPLS},
	}}
	alone := intent.Tunnels[0]
	for k := range 2 {
		tunnel := proto.CloneOf(alone)
		tunnel.Name, tunnel.PeerEdge = fmt.Sprintf("networks/n/tunnels/a--b.wan%d.wan1", k), "b"
		tunnel.RemoteEndpoints[0].Address = fmt.Sprintf("203.0.113.%d", k+50)
		tunnel.Probe.LocalAddress, tunnel.Probe.RemoteAddress = fmt.Sprintf("fd12:3456:789a:1::%d", k+10), fmt.Sprintf("fd12:3456:789a:2::%d", k+10)
		tunnel.Path = &swanherdv1.TunnelPath{Group: "networks/n/tunnels/a--b", Cost: uint64(k), Metered: k == 1}
		intent.Tunnels = append(intent.Tunnels, tunnel)
	}
	if err := r.Apply(intent); err != nil {
		t.Fatal(err)
	}
	if len(c.groups) != 1 || len(c.groups[0].Members) != 2 || len(c.groups[0].Classes) != 1 || c.groups[0].Classes[0].Name != "voice" ||
		!slices.Equal(c.groups[0].Classes[0].Transports, []swanherdv1.TransportClass{swanherdv1.TransportClass_TRANSPORT_CLASS_MPLS}) || len(c.classes) != 1 {
		t.Fatalf("told %+v", c)
	}
	for k, m := range c.groups[0].Members {
		if want := (path.Member{Tunnel: intent.Tunnels[k+1].GetName(), Cost: uint64(k), Metered: k == 1}); m != want {
			t.Errorf("member %+v, want %+v", m, want)
		}
	}
	for _, p := range h.paths {
		if quick := p.Fast == probe.FastInterval && len(p.Classes) == 1 && p.Classes[0].Name == "voice"; quick != (p.Tunnel != alone.GetName()) {
			t.Errorf("path %+v", p)
		}
	}

	of := proto.CloneOf(intent)
	for _, tunnel := range intent.Tunnels[1:] {
		tunnel = proto.CloneOf(tunnel)
		tunnel.Name, tunnel.Segment, tunnel.Probe = tunnel.Name+"-corp", "corp", nil
		tunnel.Path.Group += ".corp"
		of.Tunnels = append(of.Tunnels, tunnel)
	}
	env := environment()
	env.IPv6, env.Segments = true, map[string]SegmentEnvironment{"corp": {}}
	p, errs := NewPlan(of, material(t), env)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	want := map[string]string{of.Tunnels[3].GetName(): of.Tunnels[1].GetName(), of.Tunnels[4].GetName(): of.Tunnels[2].GetName()}
	if got := p.sameWay(); !maps.Equal(got, want) {
		t.Errorf("the same way go %v, want %v", got, want)
	}
}
