package model

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// The id of a tunnel between two edges is `{a}--{b}`, and behind it, each after a dot: a
// hash, if the ids hold "--"; the segment, if it is not the default one; and the uplinks at
// both ends, if the mesh has a tunnel for each pair of them. That with a gateway is
// `{edge}--{gateway}.gw`, with the hash behind it. No id and no name of an uplink has a dot,
// and what could be taken for something else has a word in front: a segment that is called
// as gateways' tunnels end, and the default segment before uplinks called so. Edges name
// their uplinks, so an uplink's name must never say what a tunnel is between.
const (
	gatewayMark = "gw"
	segmentMark = "segment"
)

// TunnelID is the id of the only tunnel between edges a and b in a segment, "" being the
// default one.
func TunnelID(a, b, segment string) string {
	id := a + "--" + b
	if strings.Count(id, "--") != 1 {
		id += "." + EndsHash(a, b)
	}
	switch segment {
	case "":
		return id
	case gatewayMark:
		return id + "." + segmentMark + "." + gatewayMark
	default:
		return id + "." + segment
	}
}

// PathID is the id of one of several tunnels between edges a and b in a segment, over the
// uplinks of these names.
func PathID(a, b, segment, uplinkA, uplinkB string) string {
	id := TunnelID(a, b, segment)
	if segment == "" && (uplinkA == gatewayMark || uplinkA == segmentMark) {
		id += "." + DefaultSegment
	}
	return id + "." + uplinkA + "." + uplinkB
}

// GatewayTunnelID is the id of the tunnel between an edge and a gateway.
func GatewayTunnelID(edge, gateway string) string {
	id := edge + "--" + gateway + "." + gatewayMark
	if strings.Count(id, "--") != 1 {
		id += "." + EndsHash(edge, gateway)
	}
	return id
}

// Ends are what a tunnel is between, by the name that the planner gives it: an edge, and
// another one or a gateway; the other of the two is empty, and all are where it is no such
// name.
func (n TunnelName) Ends() (a, b EdgeName, gateway GatewayName) {
	ids, behind, marked := strings.Cut(n.Tunnel, ".")
	var marks []string
	if marked {
		marks = strings.Split(behind, ".")
	}
	isGateway := marked && marks[0] == gatewayMark
	if isGateway {
		marks = marks[1:]
	}
	for i := range ids {
		left, right := ids[:i], strings.TrimPrefix(ids[i:], "--")
		if !strings.HasPrefix(ids[i:], "--") || !ValidID(left) || !ValidID(right) {
			continue
		}
		rest := marks
		if strings.Count(ids, "--") != 1 {
			if len(marks) == 0 || marks[0] != EndsHash(left, right) {
				continue
			}
			rest = marks[1:]
		}
		switch {
		case isGateway && len(rest) == 0:
			return EdgeName{n.Network, left}, EdgeName{}, GatewayName{n.Network, right}
		case !isGateway && areSegmentAndUplinks(rest):
			return EdgeName{n.Network, left}, EdgeName{n.Network, right}, GatewayName{}
		}
	}
	return EdgeName{}, EdgeName{}, GatewayName{}
}

// areSegmentAndUplinks says whether the marks behind the ends of a tunnel between edges can
// be: a segment or none, and two uplinks or none.
func areSegmentAndUplinks(marks []string) bool {
	if len(marks) > 1 && marks[0] == segmentMark && marks[1] == gatewayMark {
		marks = marks[1:]
	}
	return len(marks) <= 3 && !slices.ContainsFunc(marks, func(m string) bool { return !ValidID(m) })
}

// EndsHash is in the name of a tunnel between a and b that could be one between others, as
// their ids hold "--".
func EndsHash(a, b string) string {
	sum := sha256.Sum256([]byte(a + "/" + b))
	return hex.EncodeToString(sum[:8])
}
