package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// ErrRevoked is a control certificate that was revoked.
var ErrRevoked = errors.New("certificate was revoked")

// VerifyControl proves that leaf is the control certificate of an enrolled
// edge, and returns which: it chains to the authority of the very network that
// it names, is meant for clients, has not expired, was not revoked, and the
// edge still exists. It is to run in tls.Config.VerifyConnection, which also
// runs when a TLS session is resumed.
func VerifyControl(snap *store.Snapshot, leaf *x509.Certificate, now time.Time) (model.EdgeName, error) {
	edge, err := EdgeOf(leaf)
	if err != nil {
		return model.EdgeName{}, err
	}
	network := model.NetworkName{Network: edge.Network}
	stored, ok := snap.Authorities.Get(network.AuthorityName())
	if !ok {
		return model.EdgeName{}, fmt.Errorf("verify control certificate of %s: %s does not exist", edge, network)
	}
	roots := x509.NewCertPool()
	for _, der := range model.TrustAnchors(stored.Value) {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return model.EdgeName{}, fmt.Errorf("parse the authority of %s: %w", network, err)
		}
		roots.AddCert(root)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return model.EdgeName{}, fmt.Errorf("verify control certificate of %s: %w", edge, err)
	}
	if Revoked(snap, network, Serial(leaf)) {
		return model.EdgeName{}, fmt.Errorf("verify control certificate of %s: %w", edge, ErrRevoked)
	}
	if _, ok := snap.Edges.Get(edge.String()); !ok {
		return model.EdgeName{}, fmt.Errorf("verify control certificate: %s does not exist", edge)
	}
	return edge, nil
}
