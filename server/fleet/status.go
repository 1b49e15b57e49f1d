package fleet

import (
	"fmt"
	"path"
	"strings"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// endState is what the status of a tunnel depends on at one of its ends.
type endState struct {
	edge string // resource name
	// gateway is set where no edge is: nothing is heard of that end.
	gateway string
	report  *swanherdv1.TunnelReport
	// live is true while the edge has a session, or lost it too recently to
	// call its last report old.
	live bool
	// silence is how long the edge has been without a session; only when not
	// live. Zero: it never had one since the controller started.
	silence time.Duration
	// unreachable names the replica that would know whether the edge has a session, and
	// cannot be reached.
	unreachable string
}

func (e endState) id() string { return path.Base(e.edge) }

func (e endState) state() swanherdv1.TunnelState { return e.report.GetState() }

// established is true when the end has an IKE SA and every Child SA.
func (e endState) established() bool {
	return e.state() == swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED
}

// usable is true when the end has at least an IKE SA.
func (e endState) usable() bool {
	return e.established() || e.state() == swanherdv1.TunnelState_TUNNEL_STATE_PARTIAL
}

func (e endState) why() string {
	err := e.report.GetLastError()
	if err == nil {
		return ""
	}
	by := ""
	if err.GetRemote() {
		by = "peer reports "
	}
	var parts []string
	for _, part := range []struct{ key, value string }{
		{"", err.GetMessage()},
		{"ours: ", strings.Join(err.GetOurs(), " or ")},
		{"theirs: ", strings.Join(err.GetTheirs(), " or ")},
		{"remedy: ", err.GetRemedy()},
	} {
		if part.value != "" {
			parts = append(parts, part.key+part.value)
		}
	}
	if parts == nil {
		return fmt.Sprintf(": %s%s", by, err.GetCode())
	}
	return fmt.Sprintf(": %s%s (%s)", by, err.GetCode(), strings.Join(parts, "; "))
}

// maxWords bounds a reason, or what an event tells, in octets: much of it an edge says.
const maxWords = 2048

// clip cuts s to maxWords and a mark.
func clip(s string) string {
	if len(s) <= maxWords {
		return s
	}
	return strings.ToValidUTF8(s[:maxWords], "") + "..."
}

// statusOf computes a tunnel's status from both ends, and why it is not UP.
// A live end that says the tunnel is down is believed even when the other end
// is silent; a live end that says it is up is not, as the silent end may have
// lost its SAs since.
func statusOf(a, b endState) (swanherdv1.TunnelStatus, string) {
	if !a.live || !b.live {
		return statusWithSilentEnd(a, b)
	}
	if a.established() && b.established() {
		return statusOfPath(a, b)
	}
	if a.usable() && b.usable() {
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED, partialReason(a, b)
	}
	if a.usable() != b.usable() {
		return statusOneSided(a, b)
	}
	return statusWithoutSA(a, b)
}

// statusWithGateway is for a tunnel of which the other end is a gateway, by what the edge
// says of it.
func statusWithGateway(a endState) (swanherdv1.TunnelStatus, string) {
	switch {
	case !a.live:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE, silenceReason(a)
	case a.established():
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_UP, ""
	case a.usable():
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED, partialReason(a, a)
	case a.state() == swanherdv1.TunnelState_TUNNEL_STATE_IDLE:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, a.id() + " waits for the gateway: it has not initiated, or its name is not known yet"
	default:
		return statusWithoutSA(a, a)
	}
}

// statusWithSilentEnd is for a tunnel at least one end of which has no session.
func statusWithSilentEnd(a, b endState) (swanherdv1.TunnelStatus, string) {
	if a.live && a.state() == swanherdv1.TunnelState_TUNNEL_STATE_FAILED {
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, a.id() + " has no SA" + a.why() + "; " + silenceReason(b)
	}
	if b.live && b.state() == swanherdv1.TunnelState_TUNNEL_STATE_FAILED {
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, b.id() + " has no SA" + b.why() + "; " + silenceReason(a)
	}
	switch {
	case !a.live && !b.live:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE, silenceReason(a) + "; " + silenceReason(b)
	case !a.live:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE, silenceReason(a)
	default:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE, silenceReason(b)
	}
}

// silenceReason names no duration: it would change with every look at the
// row. The edge's last_seen_time says since when.
func silenceReason(e endState) string {
	if e.edge == "" {
		return "an end has no edge"
	}
	if e.unreachable != "" {
		return e.id() + " has its session with a replica of the controller that cannot be reached, " + e.unreachable
	}
	if e.silence == 0 {
		return e.id() + " has not connected since the controller started"
	}
	return e.id() + " has no session with the controller"
}

// statusOfPath is for a tunnel that has all its SAs: its path may not be good enough.
func statusOfPath(a, b endState) (swanherdv1.TunnelStatus, string) {
	var reasons []string
	for _, e := range []endState{a, b} {
		for _, v := range e.report.GetSlaViolations() {
			reasons = append(reasons, e.id()+" measured "+violation(v))
		}
	}
	if len(reasons) > 0 {
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED, strings.Join(reasons, "; ")
	}
	return swanherdv1.TunnelStatus_TUNNEL_STATUS_UP, ""
}

// OverSLA says whether a tunnel that has all its SAs is degraded because its path is over
// a limit of its SLA.
func OverSLA(t *swanherdv1.Tunnel) bool {
	for _, end := range []*swanherdv1.TunnelEnd{t.GetA(), t.GetB()} {
		if end.GetReport().GetState() != swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED {
			return false
		}
	}
	return t.GetStatus() == swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED
}

// violation says what was measured when it began, which does not change with every look.
func violation(v *swanherdv1.SlaViolation) string {
	of, unit := "a loss", "%"
	switch v.GetMetric() {
	case swanherdv1.SlaMetric_SLA_METRIC_LATENCY:
		of, unit = "a round trip", "ms"
	case swanherdv1.SlaMetric_SLA_METRIC_JITTER:
		of, unit = "a jitter", "ms"
	}
	return fmt.Sprintf("%s of %.3g %s, over the %.3g %s of its SLA", of, v.GetMeasured(), unit, v.GetLimit(), unit)
}

func partialReason(a, b endState) string {
	for _, e := range []endState{a, b} {
		if !e.established() {
			return e.id() + " lacks a Child SA" + e.why()
		}
	}
	return ""
}

// statusOneSided is for a tunnel with an IKE SA at one end only: during
// establishment one end is always first, otherwise something was lost.
func statusOneSided(a, b endState) (swanherdv1.TunnelStatus, string) {
	with, without := a, b
	if b.usable() {
		with, without = b, a
	}
	switch without.state() {
	case swanherdv1.TunnelState_TUNNEL_STATE_FAILED:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED,
			fmt.Sprintf("%s has an SA, %s has none%s", with.id(), without.id(), without.why())
	case swanherdv1.TunnelState_TUNNEL_STATE_UNSPECIFIED:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING, without.id() + " has not reported the tunnel yet"
	default:
		return swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING,
			fmt.Sprintf("%s has an SA, %s not yet%s", with.id(), without.id(), without.why())
	}
}

// statusWithoutSA is for a tunnel that has no SA at either end.
func statusWithoutSA(a, b endState) (swanherdv1.TunnelStatus, string) {
	for _, e := range []endState{a, b} {
		if e.state() == swanherdv1.TunnelState_TUNNEL_STATE_CONNECTING {
			if e.report.GetLastError() != nil {
				return swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING, e.id() + " tries again" + e.why()
			}
			return swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING, e.id() + " is negotiating"
		}
	}
	for _, e := range []endState{a, b} {
		if e.state() == swanherdv1.TunnelState_TUNNEL_STATE_FAILED {
			return swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, e.id() + " has no SA" + e.why()
		}
	}
	for _, e := range []endState{a, b} {
		if e.state() == swanherdv1.TunnelState_TUNNEL_STATE_UNSPECIFIED {
			return swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING, e.id() + " has not reported the tunnel yet"
		}
	}
	return swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN, "both ends wait for the other one to initiate"
}
