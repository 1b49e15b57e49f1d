package health

import (
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// KindWord is a kind of failure as people read it: "no answer".
func KindWord(k swanherdv1.TunnelErrorKind) string {
	if k == swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_UNSPECIFIED {
		return ""
	}
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(k.String(), "TUNNEL_ERROR_KIND_")), "_", " ")
}

// StateWord is a state as people read it: "established".
func StateWord(s swanherdv1.TunnelState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TUNNEL_STATE_"))
}

// metricWord is what a limit of an SLA is about: "loss".
func metricWord(m swanherdv1.SlaMetric) string {
	return strings.ToLower(strings.TrimPrefix(m.String(), "SLA_METRIC_"))
}
