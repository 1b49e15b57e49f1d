package pki

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// Remember adds issued certificates to an edge's identity and forgets those
// that have expired.
func Remember(identity *storev1.EdgeIdentity, control, ike *Certificate, now time.Time) {
	kept := identity.GetCertificates()[:0]
	for _, c := range identity.GetCertificates() {
		if c.GetExpireTime().AsTime().After(now) {
			kept = append(kept, c)
		}
	}
	identity.Certificates = append(kept,
		issued(control, storev1.IssuedCertificate_PURPOSE_CONTROL),
		issued(ike, storev1.IssuedCertificate_PURPOSE_IKE))
}

func issued(c *Certificate, purpose storev1.IssuedCertificate_Purpose) *storev1.IssuedCertificate {
	return &storev1.IssuedCertificate{
		Serial: c.Serial, Purpose: purpose, ExpireTime: timestamppb.New(c.Leaf.NotAfter), IssuerPin: c.IssuerPin,
	}
}

// Issued reports whether the identity has a certificate with that serial number
// that was neither revoked nor has expired, and returns it.
func Issued(identity *storev1.EdgeIdentity, serial string, now time.Time) (*storev1.IssuedCertificate, bool) {
	for _, c := range identity.GetCertificates() {
		if c.GetSerial() == serial && c.GetExpireTime().AsTime().After(now) {
			return c, true
		}
	}
	return nil, false
}

// Disown is an identity without the certificates and the key that it had: for
// an edge whose certificates are revoked, until it enrols again.
func Disown(identity *storev1.EdgeIdentity) *storev1.EdgeIdentity {
	return &storev1.EdgeIdentity{Edge: identity.GetEdge()}
}

// RevokeIn revokes every certificate of an edge that is still good, as a part
// of t, and returns their serial numbers: the session ends, and peers learn them
// with their intent. The caller stores an identity without them.
func RevokeIn(t *store.Txn, s *store.Store, edge model.EdgeName, identity *storev1.EdgeIdentity, reason string, now time.Time) (serials []string) {
	network := model.NetworkName{Network: edge.Network}
	for _, c := range identity.GetCertificates() {
		if !c.GetExpireTime().AsTime().After(now) {
			continue
		}
		name := network.RevocationName(c.GetSerial())
		s.Revocations.PutIn(t, name, &storev1.Revocation{
			Name:       name,
			Edge:       edge.String(),
			RevokeTime: timestamppb.New(now),
			ExpireTime: c.GetExpireTime(),
			Reason:     reason,
		})
		serials = append(serials, c.GetSerial())
	}
	return serials
}

// Revoked says whether a certificate of the network was revoked.
func Revoked(snap *store.Snapshot, network model.NetworkName, serial string) bool {
	_, revoked := snap.Revocations.Get(network.RevocationName(serial))
	return revoked
}

// DropExpiredIn forgets revocations of certificates that have expired, as a
// part of t, at most limit of them; it returns how many.
func DropExpiredIn(t *store.Txn, s *store.Store, snap *store.Snapshot, now time.Time, limit int) int {
	dropped := 0
	for row := range snap.Revocations.All() {
		if dropped == limit {
			break
		}
		if row.Value.GetExpireTime().AsTime().Before(now) {
			s.Revocations.DropIn(t, row.Name)
			dropped++
		}
	}
	return dropped
}
