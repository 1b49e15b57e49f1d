package model

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// Ends are what a tunnel is between, by the name that the planner gives it: an edge, and
// another one or a gateway; the other of the two is empty, and all are where it is no such
// name.
func (n TunnelName) Ends() (a, b EdgeName, gateway GatewayName) {
	ids, behind, _ := strings.Cut(n.Tunnel, ".")
	marks := strings.Split(behind, ".")
	for i := range ids {
		left, right := ids[:i], strings.TrimPrefix(ids[i:], "--")
		if !strings.HasPrefix(ids[i:], "--") || !ValidID(left) || !ValidID(right) {
			continue
		}
		if strings.Count(ids, "--") != 1 && !slices.Contains(marks, EndsHash(left, right)) {
			continue
		}
		if marks[0] == "gw" {
			return EdgeName{n.Network, left}, EdgeName{}, GatewayName{n.Network, right}
		}
		return EdgeName{n.Network, left}, EdgeName{n.Network, right}, GatewayName{}
	}
	return EdgeName{}, EdgeName{}, GatewayName{}
}

// EndsHash is in the name of a tunnel between a and b that could be one between others, as
// their ids hold "--".
func EndsHash(a, b string) string {
	sum := sha256.Sum256([]byte(a + "/" + b))
	return hex.EncodeToString(sum[:8])
}
