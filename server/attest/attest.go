package attest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
)

// Statement is what an edge shows, in the TPM's own encoding.
type Statement struct {
	// EKCertificate, DER, of EKPublic, a TPMT_PUBLIC; empty: the TPM has none.
	EKCertificate, EKPublic []byte
	// AKPublic and KeyPublic are TPMT_PUBLICs.
	AKPublic, KeyPublic []byte
	// CertifyInfo is the TPMS_ATTEST of TPM2_Certify of the key, Signature the
	// TPMT_SIGNATURE by the AK.
	CertifyInfo, Signature []byte
}

// Error is what is wrong with which part of a statement.
type Error struct {
	// Part is the field of the statement, as the API calls it.
	Part   string
	Reason error
}

func (e *Error) Error() string { return e.Part + " " + e.Reason.Error() }

func (e *Error) Unwrap() error { return e.Reason }

// Evidence is a statement that is good in itself. It is worth something when the
// challenge was answered.
type Evidence struct {
	// EKFingerprint is SHA-256 over the public key info of the EK, made from its public
	// area: it does not depend on how a certificate encodes the key.
	EKFingerprint [sha256.Size]byte
	// Issuer of the EK's certificate, and what that says of the TPM. All are empty when
	// nobody who is believed vouches for it.
	Issuer, Manufacturer, Model string

	ek     *public
	akName []byte
}

// Verify holds a statement about key to what it has to be. Its error is an *Error.
func Verify(s Statement, key crypto.PublicKey, authorities *Authorities, now time.Time) (*Evidence, error) {
	e := &Evidence{}
	var ak *public
	for _, part := range []struct {
		name  string
		check func() error
	}{
		{"ek_public", func() (err error) { e.ek, err = parseEK(s.EKPublic); return err }},
		{"ek_certificate", func() error { return e.vouch(s.EKCertificate, authorities, now) }},
		{"ak_public", func() (err error) { ak, err = parseAK(s.AKPublic); return err }},
		{"key_public", func() error { return checkKey(s.KeyPublic, key) }},
		{"certify_info", func() error { return checkCertify(s.CertifyInfo, s.KeyPublic) }},
		{"signature", func() error { return checkSignature(s.Signature, s.CertifyInfo, ak.key.(*ecdsa.PublicKey)) }},
	} {
		if err := part.check(); err != nil {
			return nil, &Error{part.name, err}
		}
	}
	der, err := x509.MarshalPKIXPublicKey(e.ek.key)
	if err != nil {
		return nil, &Error{"ek_public", err}
	}
	e.EKFingerprint, e.akName = sha256.Sum256(der), ak.name()
	return e, nil
}

// parseEK reads the public area of an endorsement key.
func parseEK(b []byte) (*public, error) {
	ek, err := parsePublic(b)
	if err != nil {
		return nil, err
	}
	if ek.scheme != tpm2.TPMAlgNull {
		return nil, errors.New("has a scheme, as endorsement keys do not")
	}
	return ek, ek.demand(fixedTPM|fixedParent|sensitiveDataOrigin|restricted|decrypt, sign)
}

// parseAK reads the public area of an attestation key. Being restricted, it signs nothing
// that claims to be the TPM's but what the TPM made.
func parseAK(b []byte) (*public, error) {
	ak, err := parsePublic(b)
	if err != nil {
		return nil, err
	}
	if k, ok := ak.key.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() || ak.scheme != tpm2.TPMAlgECDSA {
		return nil, errors.New("is not a key for ECDSA with SHA-256 on P-256")
	}
	if err := ak.demand(fixedTPM|fixedParent|sensitiveDataOrigin|restricted|sign, decrypt|adminWithPolicy); err != nil {
		return nil, err
	}
	return ak, ak.demandNoPolicy()
}

// checkKey holds the public area of the attested key to the key that the edge asks
// certificates for.
func checkKey(b []byte, key crypto.PublicKey) error {
	p, err := parsePublic(b)
	if err != nil {
		return err
	}
	if k, ok := p.key.(*ecdsa.PublicKey); !ok || !k.Equal(key) {
		return errors.New("is not the key of the certificate request")
	}
	if err := p.demand(fixedTPM|fixedParent|sensitiveDataOrigin|sign, restricted|decrypt|adminWithPolicy); err != nil {
		return err
	}
	return p.demandNoPolicy()
}

// checkCertify reads a TPMS_ATTEST, and holds it to be of TPM2_Certify of that object
// (Part 2, 10.12.12).
func checkCertify(b, object []byte) error {
	const (
		generated = 0xff544347 // TPM_GENERATED_VALUE
		clockInfo = 8 + 4 + 4 + 1
		firmware  = 8
	)
	s := cryptobyte.String(b)
	var magic uint32
	var kind uint16
	var signer, extra, name, qualified cryptobyte.String
	switch {
	case !s.ReadUint32(&magic) || magic != generated:
		return errors.New("was not made by a TPM")
	case !s.ReadUint16(&kind) || kind != uint16(tpm2.TPMSTAttestCertify):
		return errors.New("is not of TPM2_Certify")
	case !s.ReadUint16LengthPrefixed(&signer) || !s.ReadUint16LengthPrefixed(&extra) || !s.Skip(clockInfo+firmware),
		!s.ReadUint16LengthPrefixed(&name) || !s.ReadUint16LengthPrefixed(&qualified) || !s.Empty():
		return errors.New("is not what TPM2_Certify makes, or has octets too many or too few")
	}
	p, err := parsePublic(object)
	if err != nil {
		return err
	}
	if !bytes.Equal(name, p.name()) {
		return errors.New("is of another key than key_public")
	}
	return nil
}

// checkSignature holds a TPMT_SIGNATURE to be the AK's, by ECDSA with SHA-256 (Part 2, 11.3.4).
func checkSignature(b, message []byte, ak *ecdsa.PublicKey) error {
	const size = 32 // of a coordinate on P-256
	s := cryptobyte.String(b)
	var alg, hash uint16
	var r, t cryptobyte.String
	switch {
	case !s.ReadUint16(&alg) || !s.ReadUint16(&hash) || tpm2.TPMAlgID(alg) != tpm2.TPMAlgECDSA || tpm2.TPMAlgID(hash) != tpm2.TPMAlgSHA256:
		return errors.New("is not by ECDSA with SHA-256")
	case !s.ReadUint16LengthPrefixed(&r) || !s.ReadUint16LengthPrefixed(&t) || !s.Empty() || len(r) > size || len(t) > size:
		return errors.New("is not encoded as a TPM does it")
	}
	digest := sha256.Sum256(message)
	if !ecdsa.Verify(ak, digest[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(t)) {
		return errors.New("is not by ak_public")
	}
	return nil
}
