package edge

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/probe"
	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// chooser has the data plane go by what package path chooses from what package probe
// measures.
type chooser struct {
	*path.Service
	plane dataplane.RankingPlane

	mu      sync.Mutex
	classes []reconcile.TrafficClass
	same    map[string]string // as in reconcile.Chooser
}

// newChooser returns a chooser without groups; up returns the tunnels that have all their
// SAs.
func newChooser(plane dataplane.RankingPlane, probes *probe.Service, up func() map[string]bool, c path.Config) *chooser {
	x := &chooser{plane: plane}
	c.Probes, c.Consumer, c.Up = alsoOfSegments{probes, x}, x, up
	x.Service = path.New(c)
	return x
}

// Choose implements reconcile.Chooser.
func (c *chooser) Choose(groups []path.Group, classes []reconcile.TrafficClass, same map[string]string) {
	c.mu.Lock()
	c.classes, c.same = classes, same
	c.mu.Unlock()
	c.Set(groups)
}

// SetPaths implements path.Consumer.
func (c *chooser) SetPaths(choices []path.Choice) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.plane.SetRanking(rankingOf(choices, c.classes)); err != nil {
		return fmt.Errorf("rank tunnels: %w", err)
	}
	return nil
}

// rankingOf makes of choices what the data plane goes by. A class of several matches is as
// many classes there. What there is no choice for in a class goes as what is of none.
func rankingOf(choices []path.Choice, classes []reconcile.TrafficClass) dataplane.Ranking {
	out := dataplane.Ranking{Ranks: map[string][]uint8{}}
	places := map[string][]int{} // in the data plane's classes
	for _, c := range classes {
		for _, m := range c.Matches {
			places[c.ID] = append(places[c.ID], len(out.Classes))
			out.Classes = append(out.Classes, m)
		}
	}
	rank := func(of path.Choice, at []int) {
		for _, p := range of.Paths {
			if out.Ranks[p.Tunnel] == nil {
				out.Ranks[p.Tunnel] = slices.Repeat([]uint8{uint8(p.Rank)}, len(out.Classes)+1)
			}
			for _, i := range at {
				out.Ranks[p.Tunnel][i] = uint8(p.Rank)
			}
		}
	}
	for _, of := range choices {
		if of.Class == "" {
			rank(of, nil)
		}
	}
	for _, of := range choices {
		rank(of, places[of.Class])
	}
	return out
}

// alsoOfSegments has tunnels of segments, which are not probed, be as good as those that go
// the same way.
type alsoOfSegments struct {
	*probe.Service
	of *chooser
}

// Lives implements path.Probes.
func (a alsoOfSegments) Lives() map[string]probe.Life {
	lives := a.Service.Lives()
	for tunnel, other := range a.of.sameWay() {
		if life, ok := lives[other]; ok {
			lives[tunnel] = life
		}
	}
	return lives
}

// Use implements path.Probes.
func (a alsoOfSegments) Use(inUse func(tunnel string) bool) {
	also := map[string]bool{}
	for tunnel, other := range a.of.sameWay() {
		also[other] = also[other] || inUse(tunnel)
	}
	a.Service.Use(func(tunnel string) bool { return inUse(tunnel) || also[tunnel] })
}

func (c *chooser) sameWay() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.same // never changed, only replaced
}

// status is what there is to show of it; it may be nil.
func (c *chooser) status() []PathStatus {
	if c == nil {
		return nil
	}
	var out []PathStatus
	for _, of := range c.Choices() {
		out = append(out, PathStatus{Group: of.Group, Class: of.Class, InUse: of.InUse(), Since: of.Since, Reason: of.Reason})
	}
	return out
}

// switches are the last times that traffic went another way; it may be nil.
func (c *chooser) switches() []SwitchStatus {
	if c == nil {
		return nil
	}
	var out []SwitchStatus
	for _, w := range c.Recent() {
		out = append(out, SwitchStatus{Time: w.Time, Group: w.Group, Class: w.Class, From: w.From, To: w.To, Cause: w.Cause.String(), Reason: w.Reason})
	}
	return out
}

// uses says what is sent by each tunnel that has alternatives; it may be nil.
func (c *chooser) uses() map[string]*swanherdv1.PathUse {
	if c == nil {
		return nil
	}
	switches := c.Recent()
	out := map[string]*swanherdv1.PathUse{}
	for _, of := range c.Choices() {
		inUse := of.InUse()
		for _, p := range of.Paths {
			use := out[p.Tunnel]
			if use == nil {
				use = &swanherdv1.PathUse{}
				out[p.Tunnel] = use
			}
			switch used := slices.Contains(inUse, p.Tunnel); {
			case of.Class == "":
				use.InUse, use.Since = used, timestamppb.New(of.Since)
				use.Cause, use.Reason = causeOf(of, switches)
			case used:
				use.Classes = append(use.Classes, of.Class)
			}
		}
	}
	return out
}

// causeOf says why what is chosen was. A switch that was long ago is no longer known.
func causeOf(c path.Choice, switches []path.Switch) (cause, reason string) {
	for _, s := range slices.Backward(switches) {
		if s.Group == c.Group && s.Class == c.Class && s.Time.Equal(c.Since) {
			return s.Cause.String(), s.Reason
		}
	}
	return "", ""
}

// received is how many packets each tunnel's SAs have received.
func (a *agent) received() map[string]uint64 {
	out := map[string]uint64{}
	for _, n := range a.plane.Counters() {
		if n.Direction == dataplane.Inbound {
			out[n.Tunnel] += n.Packets
		}
	}
	return out
}

// choose runs the chooser, if there is one.
func (a *agent) choose(ctx context.Context) {
	if a.chooser != nil {
		a.chooser.Run(ctx)
	}
}
