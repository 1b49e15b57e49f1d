package health

import (
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// StateWord is a state as people read it: "established".
func StateWord(s swanherdv1.TunnelState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TUNNEL_STATE_"))
}
