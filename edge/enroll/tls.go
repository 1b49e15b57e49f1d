package enroll

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"github.com/swanherd/swanherd/edge/state"
)

// PinnedTLS authenticates the controller at endpoint by the pin in the token:
// the controller shows its authority's certificate with its own, and the
// authority's public key has to hash to the pin.
func PinnedTLS(t *Token, endpoint string) credentials.TransportCredentials {
	host := hostOf(endpoint)
	return credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: host,
		// The chain is verified below, against the pinned authority in place
		// of the system's.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			return verifyPinned(s.PeerCertificates, t.pin, host)
		},
	})
}

// verifyPinned verifies that the first certificate is a TLS server's for host
// and chains to a certificate among the others whose public key has the pin.
func verifyPinned(chain []*x509.Certificate, pin [sha256.Size]byte, host string) error {
	if len(chain) == 0 {
		return errors.New("controller showed no certificate")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	pinned := false
	for _, c := range chain[1:] {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		if subtle.ConstantTimeCompare(sum[:], pin[:]) == 1 {
			roots.AddCert(c)
			pinned = true
		} else {
			intermediates.AddCert(c)
		}
	}
	if !pinned {
		return errors.New("controller's authority is not the one that the enrollment token pins: " +
			"the token is another controller's, or somebody is in between")
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		DNSName: host, Roots: roots, Intermediates: intermediates,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("verify controller's certificate: %w", err)
	}
	return nil
}

// IdentityTLS authenticates the controller at endpoint by the trust anchors, and the edge
// by its control certificate.
func IdentityTLS(id *state.Identity, anchors []*x509.Certificate, endpoint string) credentials.TransportCredentials {
	roots := x509.NewCertPool()
	for _, c := range anchors {
		roots.AddCert(c)
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   hostOf(endpoint),
		RootCAs:      roots,
		Certificates: []tls.Certificate{id.TLSCertificate()},
	})
}

func hostOf(endpoint string) string {
	if host, _, err := net.SplitHostPort(endpoint); err == nil {
		return host
	}
	return endpoint
}
