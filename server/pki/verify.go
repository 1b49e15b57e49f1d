package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// ErrRevoked is a control certificate that was revoked.
var ErrRevoked = errors.New("certificate was revoked")

// maxProofs is how many proofs a Verifier keeps: more than one replica has edges.
const maxProofs = 1 << 16

// Verifier proves control certificates. It remembers the chains that it has proved: an
// edge shows its certificate with each connection and each call, and all edges that have
// sessions are looked at again when one of them is deleted. The zero Verifier is ready,
// and may be used from any goroutine.
type Verifier struct {
	mu      sync.Mutex
	anchors map[model.NetworkName]anchors
	proofs  map[[sha256.Size]byte]proof // by the hash of the certificate
}

// anchors are what the certificates of a network chain to.
type anchors struct {
	revision int64 // of the stored authority
	pool     *x509.CertPool
}

// proof says that a certificate chains to its network's authority as stored at a
// revision, from now on and until its chain expires.
type proof struct {
	revision int64
	until    time.Time
}

// Control proves that leaf is the control certificate of an enrolled edge, and returns
// which: it chains to the authority of the very network that it names, is meant for
// clients, has not expired, was not revoked, and the edge still exists. It is to run in
// tls.Config.VerifyConnection, which also runs when a TLS session is resumed.
func (v *Verifier) Control(snap *store.Snapshot, leaf *x509.Certificate, now time.Time) (model.EdgeName, error) {
	edge, err := EdgeOf(leaf)
	if err != nil {
		return model.EdgeName{}, err
	}
	network := model.NetworkName{Network: edge.Network}
	stored, ok := snap.Authorities.Get(network.AuthorityName())
	if !ok {
		return model.EdgeName{}, fmt.Errorf("verify control certificate of %s: %s does not exist", edge, network)
	}
	if err := v.chains(leaf, network, stored, now); err != nil {
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

// chains proves that leaf chains to the stored authority of a network.
func (v *Verifier) chains(leaf *x509.Certificate, network model.NetworkName, stored model.Row[*storev1.CertificateAuthority], now time.Time) error {
	sum := sha256.Sum256(leaf.Raw)
	v.mu.Lock()
	known := v.proofs[sum]
	v.mu.Unlock()
	if known.revision == stored.Revision && !now.After(known.until) {
		return nil
	}
	pool, err := v.pool(network, stored)
	if err != nil {
		return err
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return err
	}
	until := leaf.NotAfter
	for _, c := range chains[0] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.proofs) >= maxProofs {
		v.proofs = nil
	}
	if v.proofs == nil {
		v.proofs = map[[sha256.Size]byte]proof{}
	}
	v.proofs[sum] = proof{stored.Revision, until}
	return nil
}

// pool returns what certificates of the network chain to.
func (v *Verifier) pool(network model.NetworkName, stored model.Row[*storev1.CertificateAuthority]) (*x509.CertPool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if known, ok := v.anchors[network]; ok && known.revision == stored.Revision {
		return known.pool, nil
	}
	pool := x509.NewCertPool()
	for _, der := range model.TrustAnchors(stored.Value) {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse the authority of %s: %w", network, err)
		}
		pool.AddCert(root)
	}
	if v.anchors == nil {
		v.anchors = map[model.NetworkName]anchors{}
	}
	v.anchors[network] = anchors{stored.Revision, pool}
	return pool, nil
}
