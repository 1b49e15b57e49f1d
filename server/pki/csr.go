package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
)

const (
	// maxCSR bounds a request in octets.
	maxCSR = 8192
	// minRSABits and maxRSABits bound an RSA key: below is weak, above costs
	// every peer that verifies.
	minRSABits = 3072
	maxRSABits = 8192
)

// ErrRequest is a certificate request that is refused, by whoever made it to
// be mended.
var ErrRequest = errors.New("certificate request is not acceptable")

// ParseRequest reads a PKCS #10 request in DER and proves that its maker has
// the key (RFC 2986, Section 4.2). The key is ECDSA P-256 or P-384, Ed25519, or
// RSA of at least 3072 bits. The error is ErrRequest.
func ParseRequest(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%w: %d octets, at most %d", ErrRequest, len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: not PKCS #10 in DER: %w", ErrRequest, err)
	}
	// Before the signature: verifying with a huge key would be work for nothing.
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: its signature is not by its key: %w", ErrRequest, err)
	}
	return csr, nil
}

func checkKey(key any) error {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("%w: ECDSA on %s; use P-256 or P-384", ErrRequest, key.Curve.Params().Name)
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("%w: RSA of %d bits; use %d to %d", ErrRequest, bits, minRSABits, maxRSABits)
		}
		return nil
	default:
		return fmt.Errorf("%w: key of type %T; use ECDSA P-256 or P-384, Ed25519, or RSA of at least %d bits", ErrRequest, key, minRSABits)
	}
}
