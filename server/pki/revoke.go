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
	return &storev1.IssuedCertificate{Serial: c.Serial, Purpose: purpose, ExpireTime: timestamppb.New(c.Leaf.NotAfter)}
}

// RevokeIn revokes every certificate of an edge that is still good, as a part
// of t: the session ends, and peers learn the serial numbers with their intent.
func RevokeIn(t *store.Txn, s *store.Store, edge model.EdgeName, identity *storev1.EdgeIdentity, reason string, now time.Time) {
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
	}
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
