package reconcile

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/ipsec/engine"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// segmentIntent is a good intent with a tunnel of the same selectors in a segment.
func segmentIntent() *swanherdv1.EdgeIntent {
	i := goodIntent()
	i.Settings.Segments = []*swanherdv1.SegmentSettings{{Segment: "corp", LocalPrefixes: []string{"10.1.0.0/24"}}}
	other := proto.CloneOf(i.Tunnels[0])
	other.Name, other.Segment = tunnelName+".corp", "corp"
	i.Tunnels = append(i.Tunnels, other)
	return i
}

// What is of a segment has its label, and routes where the segment is; what is of none has
// neither.
func TestPlanSegment(t *testing.T) {
	env := environment()
	env.Segments = map[string]SegmentEnvironment{"corp": {Source4: netip.MustParseAddr("10.1.0.9")}, "idle": {}}
	p, errs := NewPlan(segmentIntent(), material(t), env)
	if errs != nil {
		t.Fatal(errs)
	}
	labels := map[string]string{tunnelName: "", tunnelName + ".corp": "corp"}
	for _, c := range p.Tunnels {
		if got := c.Children[0].Label; got != labels[c.Name] {
			t.Errorf("%s has the label %q", c.Name, got)
		}
	}
	for what, c := range map[string]struct {
		routing *Routing
		source  string
	}{"default": {p.Routing, "10.1.0.1"}, "corp": {p.Segments["corp"], "10.1.0.9"}} {
		if len(c.routing.Routes) != 2 || c.routing.Routes[0].Prefix.String() != "10.2.0.0/24" || c.routing.Routes[0].Source.String() != c.source {
			t.Errorf("%s: routes %v", what, c.routing.Routes)
		}
	}
	if p.Segments["corp"].carriers[p.Routes[0].Prefix][0] != tunnelName+".corp" || len(p.carriers[p.Routes[0].Prefix]) != 1 {
		t.Errorf("a route is carried by tunnels of another segment: %v, %v", p.carriers, p.Segments["corp"].carriers)
	}
	if idle := p.Segments["idle"]; len(idle.Routes) > 0 || idle.Forwarding.IPv4 {
		t.Errorf("a segment without tunnels has %+v", idle)
	}
}

// An edge that cannot keep a segment apart refuses it, whatever else it could run.
func TestPlanRefusesSegment(t *testing.T) {
	for _, c := range []struct {
		change func(*swanherdv1.EdgeIntent, *Environment)
		want   string
	}{
		{func(*swanherdv1.EdgeIntent, *Environment) {}, "segment corp has no place on this edge"},
		{func(i *swanherdv1.EdgeIntent, e *Environment) {
			e.Segments = map[string]SegmentEnvironment{"corp": {}}
			child := i.Tunnels[1].Children[0]
			child.Mode, child.LocalTs, child.RemoteTs = swanherdv1.IpsecMode_IPSEC_MODE_TRANSPORT, []string{"192.0.2.1/32"}, []string{"198.51.100.2/32"}
		}, "transport mode"},
		{func(i *swanherdv1.EdgeIntent, _ *Environment) { i.Tunnels[1].Segment = "Corp" }, "segment"},
	} {
		intent, env := segmentIntent(), environment()
		c.change(intent, &env)
		if p, errs := NewPlan(intent, material(t), env); p != nil || !strings.Contains(errs.Error(), c.want) {
			t.Errorf("%v, want %q", errs, c.want)
		} else if errs[0].GetResource() != tunnelName+".corp" {
			t.Errorf("it is about %s", errs[0].GetResource())
		}
	}
}

// The reconciler brings each place to what is of its segment, and names it where it fails.
func TestReconcileSegments(t *testing.T) {
	main, corp := &host{}, &host{}
	r := newTestReconciler(t, main)
	r.places = append(r.places, &place{Place: Place{corp, "swan0"}, segment: "corp"})
	if err := r.Apply(segmentIntent()); err != nil {
		t.Fatal(err)
	}
	if len(main.tunnels) != 2 || len(main.routes) != 2 || len(corp.routes) != 2 {
		t.Errorf("%d tunnels, %d routes, and %d in the segment", len(main.tunnels), len(main.routes), len(corp.routes))
	}
	if slices.Contains(corp.steps, "tunnels") {
		t.Error("a segment's place was asked for tunnels")
	}
	corp.rejectRoutes = engine.ErrClosed
	if err := r.Resync(); err == nil || !strings.Contains(err.Error(), "segment corp") {
		t.Errorf("what fails in a segment: %v", err)
	}
	if err := r.Apply(goodIntent()); err != nil {
		t.Fatal(err)
	}
	if len(main.routes) != 2 || len(corp.routes) != 0 {
		t.Errorf("when the segment is gone there are %d routes, and %d in it", len(main.routes), len(corp.routes))
	}
}
