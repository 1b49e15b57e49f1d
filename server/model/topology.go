package model

import (
	"strings"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Topology is all that the plan of a fleet depends on, as of one revision of
// the store: what the operator wants, and what the edges report of their
// uplinks.
type Topology struct {
	// Revision is the store revision that the topology reflects.
	Revision int64

	Networks Table[*swanherdv1.Network]
	Profiles Table[*swanherdv1.Profile]
	Sites    Table[*swanherdv1.Site]
	Meshes   Table[*swanherdv1.Mesh]
	// Segments but for the default one, which is always there.
	Segments Table[*swanherdv1.Segment]
	Gateways Table[*swanherdv1.Gateway]
	// Assertions are those that stand; change sets have more.
	Assertions Table[*swanherdv1.Assertion]
	// PreSharedKeys by `networks/{network}/preSharedKeys/{pre_shared_key}`; sealed.
	PreSharedKeys Table[*storev1.PreSharedKey]
	// Edges as stored: uplinks and status are in EdgeStatuses.
	Edges Table[*swanherdv1.Edge]
	// EdgeStatuses holds the reported uplinks, by the edge's name.
	EdgeStatuses Table[*storev1.EdgeStatus]
	// Authorities by `certificateAuthorities/networks/{network}`; keys sealed.
	Authorities Table[*storev1.CertificateAuthority]
	// Revocations by `networks/{network}/revocations/{serial}`.
	Revocations Table[*storev1.Revocation]
}

// NoNetwork stands in the place of a network for what belongs to none: the controller's own
// authority, and events such as changes of API tokens.
var NoNetwork = NetworkName{Network: "-"}

const (
	// ControllerAuthority is the controller's own authority, in the store and in the API.
	ControllerAuthority = "certificateAuthorities/controller"
	// NetworkAuthorities is what names of networks' authorities in the store begin with.
	NetworkAuthorities = "certificateAuthorities/networks/"
)

// AuthorityName is the name that the store has for the network's certificate authority, or
// for NoNetwork the controller's own.
func (n NetworkName) AuthorityName() string {
	if n == NoNetwork {
		return ControllerAuthority
	}
	return NetworkAuthorities + n.Network
}

// AuthorityOf is the network of which an authority is, by the name that the store has for it:
// the other way round than AuthorityName.
func AuthorityOf(name string) NetworkName {
	network, ok := strings.CutPrefix(name, NetworkAuthorities)
	if !ok {
		return NoNetwork
	}
	return NetworkName{Network: network}
}

// AuthorityResource is what the API calls it, see ParseAuthorityName.
func (n NetworkName) AuthorityResource() string {
	if n == NoNetwork {
		return ControllerAuthority
	}
	return n.String() + "/certificateAuthority"
}

// TrustAnchors are the certificates, in DER, that a certificate of the authority's
// network may chain to. While one authority takes the place of another there are
// two; the one that issues comes first. Of the controller's authority, it is what the
// controller's certificate may chain to.
func TrustAnchors(a *storev1.CertificateAuthority) [][]byte {
	anchors := [][]byte{a.GetCertificate()}
	if other := a.GetRotation().GetOtherCertificate(); len(other) > 0 {
		anchors = append(anchors, other)
	}
	return anchors
}

// RevocationName is the name of the revocation of a serial number.
func (n NetworkName) RevocationName(serial string) string {
	return n.String() + "/revocations/" + serial
}
