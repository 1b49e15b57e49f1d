package model

import (
	"fmt"
	"regexp"
	"strings"
)

// Resource names, as in the API. Each is a type of its own, so that an edge's
// name is never taken for a site's; the zero value names nothing.
type (
	// NetworkName is `networks/{network}`.
	NetworkName struct{ Network string }
	// SiteName is `networks/{network}/sites/{site}`.
	SiteName struct{ Network, Site string }
	// EdgeName is `networks/{network}/edges/{edge}`.
	EdgeName struct{ Network, Edge string }
	// MeshName is `networks/{network}/meshes/{mesh}`.
	MeshName struct{ Network, Mesh string }
	// ProfileName is `networks/{network}/profiles/{profile}`.
	ProfileName struct{ Network, Profile string }
	// SegmentName is `networks/{network}/segments/{segment}`.
	SegmentName struct{ Network, Segment string }
	// AssertionName is `networks/{network}/assertions/{assertion}`.
	AssertionName struct{ Network, Assertion string }
	// GatewayName is `networks/{network}/gateways/{gateway}`.
	GatewayName struct{ Network, Gateway string }
	// PreSharedKeyName is `networks/{network}/preSharedKeys/{pre_shared_key}`.
	PreSharedKeyName struct{ Network, Key string }
	// TunnelName is `networks/{network}/tunnels/{tunnel}`.
	TunnelName struct{ Network, Tunnel string }
	// EnrollmentTokenName is `networks/{network}/enrollmentTokens/{token}`.
	EnrollmentTokenName struct{ Network, Token string }
	// EnrollmentRequestName is `networks/{network}/enrollmentRequests/{request}`.
	EnrollmentRequestName struct{ Network, Request string }
	// DeviceName is `networks/{network}/devices/{device}`.
	DeviceName struct{ Network, Device string }
	// JobName is `networks/{network}/jobs/{job}`.
	JobName struct{ Network, Job string }
	// ChangeSetName is `networks/{network}/changeSets/{change_set}`.
	ChangeSetName struct{ Network, ChangeSet string }
	// RolloutName is `networks/{network}/rollouts/{rollout}`.
	RolloutName struct{ Network, Rollout string }
)

// idPattern is the form of the last segment that a person chooses: a DNS label
// (RFC 1035, Section 2.3.1), since identities of edges are made from it.
var idPattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// tunnelPattern also admits what the planner makes of two ids, a segment and two uplinks.
var tunnelPattern = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,319}$`)

// ValidID says whether id can be the last segment of a resource name.
func ValidID(id string) bool { return idPattern.MatchString(id) }

func (n NetworkName) String() string { return "networks/" + n.Network }
func (n SiteName) String() string    { return "networks/" + n.Network + "/sites/" + n.Site }
func (n EdgeName) String() string    { return "networks/" + n.Network + "/edges/" + n.Edge }
func (n SegmentName) String() string { return "networks/" + n.Network + "/segments/" + n.Segment }
func (n GatewayName) String() string { return "networks/" + n.Network + "/gateways/" + n.Gateway }
func (n TunnelName) String() string  { return "networks/" + n.Network + "/tunnels/" + n.Tunnel }
func (n EnrollmentTokenName) String() string {
	return "networks/" + n.Network + "/enrollmentTokens/" + n.Token
}

func (n EnrollmentRequestName) String() string {
	return "networks/" + n.Network + "/enrollmentRequests/" + n.Request
}
func (n DeviceName) String() string { return "networks/" + n.Network + "/devices/" + n.Device }
func (n JobName) String() string    { return "networks/" + n.Network + "/jobs/" + n.Job }
func (n ChangeSetName) String() string {
	return "networks/" + n.Network + "/changeSets/" + n.ChangeSet
}
func (n RolloutName) String() string { return "networks/" + n.Network + "/rollouts/" + n.Rollout }

// IKEIdentity is the edge's name on the wire, an FQDN identity of RFC 7296,
// Section 3.5, and the DNS name of its IKE certificate.
func (n EdgeName) IKEIdentity() string { return n.Edge + "." + n.Network + ".swanherd.internal" }

// ParseNetworkName parses `networks/{network}`.
func ParseNetworkName(s string) (NetworkName, error) {
	id, ok := strings.CutPrefix(s, "networks/")
	if !ok || !idPattern.MatchString(id) {
		return NetworkName{}, nameError(s, "networks/{network}")
	}
	return NetworkName{id}, nil
}

// NetworkOf returns the network that a resource is in, or is.
func NetworkOf(name string) (NetworkName, error) {
	part := strings.SplitN(name, "/", 3)
	if len(part) < 2 || part[0] != "networks" || !idPattern.MatchString(part[1]) {
		return NetworkName{}, nameError(name, "networks/{network}/...")
	}
	return NetworkName{part[1]}, nil
}

// ParseSiteName parses `networks/{network}/sites/{site}`.
func ParseSiteName(s string) (SiteName, error) {
	network, id, err := parseChild(s, "sites", "site", idPattern)
	return SiteName{network, id}, err
}

// ParseEdgeName parses `networks/{network}/edges/{edge}`.
func ParseEdgeName(s string) (EdgeName, error) {
	network, id, err := parseChild(s, "edges", "edge", idPattern)
	return EdgeName{network, id}, err
}

// ParseMeshName parses `networks/{network}/meshes/{mesh}`.
func ParseMeshName(s string) (MeshName, error) {
	network, id, err := parseChild(s, "meshes", "mesh", idPattern)
	return MeshName{network, id}, err
}

// ParseProfileName parses `networks/{network}/profiles/{profile}`.
func ParseProfileName(s string) (ProfileName, error) {
	network, id, err := parseChild(s, "profiles", "profile", idPattern)
	return ProfileName{network, id}, err
}

// ParseSegmentName parses `networks/{network}/segments/{segment}`.
func ParseSegmentName(s string) (SegmentName, error) {
	network, id, err := parseChild(s, "segments", "segment", idPattern)
	return SegmentName{network, id}, err
}

// ParseAssertionName parses `networks/{network}/assertions/{assertion}`.
func ParseAssertionName(s string) (AssertionName, error) {
	network, id, err := parseChild(s, "assertions", "assertion", idPattern)
	return AssertionName{network, id}, err
}

// ParseGatewayName parses `networks/{network}/gateways/{gateway}`.
func ParseGatewayName(s string) (GatewayName, error) {
	network, id, err := parseChild(s, "gateways", "gateway", idPattern)
	return GatewayName{network, id}, err
}

// ParsePreSharedKeyName parses `networks/{network}/preSharedKeys/{pre_shared_key}`.
func ParsePreSharedKeyName(s string) (PreSharedKeyName, error) {
	network, id, err := parseChild(s, "preSharedKeys", "pre_shared_key", idPattern)
	return PreSharedKeyName{network, id}, err
}

// ParseTunnelName parses `networks/{network}/tunnels/{tunnel}`.
func ParseTunnelName(s string) (TunnelName, error) {
	network, id, err := parseChild(s, "tunnels", "tunnel", tunnelPattern)
	return TunnelName{network, id}, err
}

// ParseEnrollmentTokenName parses `networks/{network}/enrollmentTokens/{token}`.
func ParseEnrollmentTokenName(s string) (EnrollmentTokenName, error) {
	network, id, err := parseChild(s, "enrollmentTokens", "token", idPattern)
	return EnrollmentTokenName{network, id}, err
}

// ParseEnrollmentRequestName parses `networks/{network}/enrollmentRequests/{request}`.
func ParseEnrollmentRequestName(s string) (EnrollmentRequestName, error) {
	network, id, err := parseChild(s, "enrollmentRequests", "request", idPattern)
	return EnrollmentRequestName{network, id}, err
}

// ParseDeviceName parses `networks/{network}/devices/{device}`.
func ParseDeviceName(s string) (DeviceName, error) {
	network, id, err := parseChild(s, "devices", "device", idPattern)
	return DeviceName{network, id}, err
}

// ParseJobName parses `networks/{network}/jobs/{job}`.
func ParseJobName(s string) (JobName, error) {
	network, id, err := parseChild(s, "jobs", "job", idPattern)
	return JobName{network, id}, err
}

// ParseChangeSetName parses `networks/{network}/changeSets/{change_set}`.
func ParseChangeSetName(s string) (ChangeSetName, error) {
	network, id, err := parseChild(s, "changeSets", "change_set", idPattern)
	return ChangeSetName{network, id}, err
}

// ParseRolloutName parses `networks/{network}/rollouts/{rollout}`.
func ParseRolloutName(s string) (RolloutName, error) {
	network, id, err := parseChild(s, "rollouts", "rollout", idPattern)
	return RolloutName{network, id}, err
}

// CheckFleetName says what is wrong with a name of what networks have, and the fleet as a
// whole, as `networks/-`: `networks/{network}/{collection}/{kind}`.
func CheckFleetName(s, collection, kind string) error {
	if rest, ok := strings.CutPrefix(s, "networks/-/"+collection+"/"); ok && idPattern.MatchString(rest) {
		return nil
	}
	_, _, err := parseChild(s, collection, kind, idPattern)
	return err
}

// ParseAuthorityName parses `networks/{network}/certificateAuthority`; the controller's own,
// ControllerAuthority, is that of NoNetwork.
func ParseAuthorityName(s string) (NetworkName, error) {
	if s == ControllerAuthority {
		return NoNetwork, nil
	}
	network, ok := strings.CutSuffix(s, "/certificateAuthority")
	if n, err := ParseNetworkName(network); ok && err == nil {
		return n, nil
	}
	return NetworkName{}, nameError(s, "networks/{network}/certificateAuthority or "+ControllerAuthority)
}

func parseChild(s, collection, kind string, pattern *regexp.Regexp) (network, id string, err error) {
	part := strings.Split(s, "/")
	if len(part) != 4 || part[0] != "networks" || part[2] != collection ||
		!idPattern.MatchString(part[1]) || !pattern.MatchString(part[3]) {
		return "", "", nameError(s, "networks/{network}/"+collection+"/{"+kind+"}")
	}
	return part[1], part[3], nil
}

func nameError(s, form string) error {
	return fmt.Errorf("%q is not a name of the form %s with ids of lower-case letters, digits and hyphens", clip(s), form)
}
