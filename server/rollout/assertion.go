package rollout

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/plan"
)

// Broken are the assertions that do not hold, each with the reason; those that are for
// the end only when it is reached.
func (v *View) Broken(assertions []*swanherdv1.Assertion, end bool) []string {
	return Broken(v.Plan, v.Network, assertions, end, v.up)
}

// Broken are the assertions that do not hold by a plan over tunnels that are usable.
func Broken(p *plan.Plan, network model.NetworkName, assertions []*swanherdv1.Assertion, end bool, usable func(string) bool) []string {
	if len(assertions) == 0 {
		return nil
	}
	var out []string
	ways := plan.NewWays(p, network)
	for _, a := range assertions {
		if a.GetAfterOnly() && !end {
			continue
		}
		if reason := breaks(ways, a, usable); reason != "" {
			out = append(out, reason)
		}
	}
	return out
}

// breaks is why an assertion does not hold; empty: it does.
func breaks(ways *plan.Ways, a *swanherdv1.Assertion, usable func(string) bool) string {
	source, destination, err := model.ParseAssertion(a)
	if err != nil {
		return "" // refused before it was stored
	}
	segment, in := model.SegmentID(a.GetSegment()), ""
	if segment != "" {
		in = " in segment " + segment
	}
	reason, ok := ways.Reach(segment, source, destination, usable)
	if ok {
		return ""
	}
	return fmt.Sprintf("%s does not reach %s%s: %s", source, destination, in, reason)
}

func anyTunnel(string) bool { return true }

// Planned are the network's own assertions that do not hold by a plan, by their names, each
// with the reason.
func Planned(p *plan.Plan, network model.NetworkName, t *model.Topology) map[string]string {
	out := map[string]string{}
	ways := plan.NewWays(p, network)
	for row := range t.Assertions.InNetwork(network) {
		if reason := breaks(ways, row.Value, anyTunnel); reason != "" {
			out[row.Name] = reason
		}
	}
	return out
}

// Test says of each of the network's own assertions whether it holds.
func (v *View) Test(t *model.Topology) []*swanherdv1.AssertionResult {
	var out []*swanherdv1.AssertionResult
	ways := plan.NewWays(v.Plan, v.Network)
	for row := range t.Assertions.InNetwork(v.Network) {
		r := &swanherdv1.AssertionResult{Assertion: row.Name, State: swanherdv1.AssertionResult_STATE_HOLDS}
		if r.Reason = breaks(ways, row.Value, anyTunnel); r.GetReason() != "" {
			r.State = swanherdv1.AssertionResult_STATE_BROKEN
		} else if r.Reason = breaks(ways, row.Value, v.up); r.GetReason() != "" {
			r.State = swanherdv1.AssertionResult_STATE_DOWN
		}
		out = append(out, r)
	}
	return out
}

// Standing are the network's own assertions to which a rollout from one topology to another
// is held: those that hold now, and those that it brings once it is through.
func (v *View) Standing(from, to *model.Topology) []*swanherdv1.Assertion {
	var out []*swanherdv1.Assertion
	ways := plan.NewWays(v.Plan, v.Network)
	for row := range to.Assertions.InNetwork(v.Network) {
		a := proto.CloneOf(row.Value)
		a.Uid, a.Etag, a.CreateTime, a.UpdateTime = "", "", nil, nil
		if before, ok := from.Assertions.Get(row.Name); !ok || !proto.Equal(before.Value, row.Value) {
			a.AfterOnly = true
		} else if breaks(ways, a, v.up) != "" {
			continue
		}
		out = append(out, a)
	}
	return out
}
