package api

import (
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Of several paths an explanation names the preferred one of those that are up, and how all
// of them are.
func TestExplanationGoesByThePathThatIsUp(t *testing.T) {
	const (
		up       = swanherdv1.TunnelStatus_TUNNEL_STATUS_UP
		degraded = swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED
		down     = swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN
	)
	for _, c := range []struct {
		one, two swanherdv1.TunnelStatus
		want     string
	}{{up, up, "one"}, {down, up, "two"}, {down, degraded, "two"}, {degraded, up, "one"}, {down, down, "one"}} {
		hop := &swanherdv1.ExplainHop{Tunnel: "one", Paths: []*swanherdv1.ExplainPath{{Tunnel: "one"}, {Tunnel: "two"}, {Reason: "none"}}}
		status := map[string]swanherdv1.TunnelStatus{"one": c.one, "two": c.two}
		tellStatus(hop, func(tunnel string) swanherdv1.TunnelStatus { return status[tunnel] })
		if hop.GetTunnel() != c.want || hop.GetStatus() != status[c.want] {
			t.Errorf("%v: over %s, which is %s, want %s", status, hop.GetTunnel(), hop.GetStatus(), c.want)
		}
		if p := hop.GetPaths(); p[0].GetStatus() != c.one || p[1].GetStatus() != c.two || p[2].GetStatus() != 0 {
			t.Errorf("%v: the paths are %v", status, p)
		}
	}
}
