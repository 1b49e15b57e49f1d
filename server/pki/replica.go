package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// ReplicaID is the SPIFFE id in the certificate of a replica of the controller,
// `replicas/{replica}`.
func ReplicaID(replica string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: TrustDomain, Path: "/" + replica}
}

// IssueReplica issues the certificate with which a replica proves itself to the others,
// as a client and as a server. It names no host: replicas are found by the store.
func (a *Authority) IssueReplica(key crypto.PublicKey, replica string, now time.Time) (*Certificate, error) {
	return a.issue(key, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "swanherd controller replica"},
		NotAfter:    now.Add(ServerLifetime),
		URIs:        []*url.URL{ReplicaID(replica)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, now)
}

// VerifyReplica proves that leaf is the certificate of a replica of the controller whose
// authority a is, or is about to be or was while one takes the place of the other, and
// returns which. Edges, whose certificates come from authorities of
// networks, are none.
func (a *Authority) VerifyReplica(leaf *x509.Certificate, now time.Time) (string, error) {
	pool, err := a.trustedPool()
	if err != nil {
		return "", err
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:       pool,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return "", fmt.Errorf("verify the certificate of a replica: %w", err)
	}
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == "spiffe" && leaf.URIs[0].Host == TrustDomain {
		if name, ok := strings.CutPrefix(leaf.URIs[0].Path, "/"); ok && strings.HasPrefix(name, "replicas/") {
			return name, nil
		}
	}
	return "", fmt.Errorf("certificate %s names no replica: its URI is not spiffe://%s/replicas/{replica}", Serial(leaf), TrustDomain)
}
