package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
)

// Attributes of an object, TPMA_OBJECT (Part 2, 8.3).
const (
	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	adminWithPolicy     = 1 << 7
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18
)

// rsaExponent is the exponent that a TPM's keys have when none is named.
const rsaExponent = 65537

// public is a TPMT_PUBLIC that may be good (Part 2, 12.2.4).
type public struct {
	raw        []byte
	nameHash   crypto.Hash
	attributes uint32
	policy     []byte
	scheme     tpm2.TPMAlgID
	key        crypto.PublicKey
}

var errEncoding = errors.New("is not a public area as a TPM makes it, or has octets too many or too few")

// parsePublic reads a TPMT_PUBLIC of an ECC or RSA key, without octets behind it. A key for
// storage has AES in CFB mode, another one no symmetric algorithm.
func parsePublic(b []byte) (*public, error) {
	p := &public{raw: b}
	s := cryptobyte.String(b)
	var kind, nameAlg uint16
	var policy cryptobyte.String
	if !s.ReadUint16(&kind) || !s.ReadUint16(&nameAlg) || !s.ReadUint32(&p.attributes) || !s.ReadUint16LengthPrefixed(&policy) {
		return nil, errEncoding
	}
	p.policy = policy
	switch tpm2.TPMAlgID(nameAlg) {
	case tpm2.TPMAlgSHA256:
		p.nameHash = crypto.SHA256
	case tpm2.TPMAlgSHA384:
		p.nameHash = crypto.SHA384
	default:
		return nil, fmt.Errorf("has a name by hash algorithm %#04x; use SHA-256 or SHA-384", nameAlg)
	}
	if err := readSymmetric(&s, p.has(decrypt)); err != nil {
		return nil, err
	}
	var err error
	if p.scheme, err = readScheme(&s); err != nil {
		return nil, err
	}
	switch tpm2.TPMAlgID(kind) {
	case tpm2.TPMAlgECC:
		p.key, err = readECC(&s)
	case tpm2.TPMAlgRSA:
		p.key, err = readRSA(&s)
	default:
		err = fmt.Errorf("is a key of type %#04x; use ECC or RSA", kind)
	}
	if err == nil && !s.Empty() {
		err = errEncoding
	}
	return p, err
}

// readSymmetric reads a TPMT_SYM_DEF_OBJECT (Part 2, 11.1.7).
func readSymmetric(s *cryptobyte.String, wanted bool) error {
	var alg, bits, mode uint16
	if !s.ReadUint16(&alg) {
		return errEncoding
	}
	if !wanted {
		if tpm2.TPMAlgID(alg) != tpm2.TPMAlgNull {
			return errors.New("has a symmetric algorithm, as only keys for storage have")
		}
		return nil
	}
	if !s.ReadUint16(&bits) || !s.ReadUint16(&mode) {
		return errEncoding
	}
	if tpm2.TPMAlgID(alg) != tpm2.TPMAlgAES || tpm2.TPMAlgID(mode) != tpm2.TPMAlgCFB || bits != 128 && bits != 256 {
		return errors.New("has another symmetric algorithm than AES-128 or AES-256 in CFB mode")
	}
	return nil
}

// readScheme reads the scheme of a key, which is none or ECDSA with SHA-256 (Part 2, 12.2.3).
func readScheme(s *cryptobyte.String) (tpm2.TPMAlgID, error) {
	var alg, hash uint16
	if !s.ReadUint16(&alg) {
		return 0, errEncoding
	}
	switch tpm2.TPMAlgID(alg) {
	case tpm2.TPMAlgNull:
		return tpm2.TPMAlgNull, nil
	case tpm2.TPMAlgECDSA:
		if !s.ReadUint16(&hash) {
			return 0, errEncoding
		}
		if tpm2.TPMAlgID(hash) == tpm2.TPMAlgSHA256 {
			return tpm2.TPMAlgECDSA, nil
		}
	}
	return 0, errors.New("has another scheme than none, or ECDSA with SHA-256")
}

// readECC reads curve, key derivation and point of a key (Part 2, 12.2.3.6 and 11.2.5.2).
func readECC(s *cryptobyte.String) (*ecdsa.PublicKey, error) {
	var id, kdf uint16
	var x, y cryptobyte.String
	if !s.ReadUint16(&id) || !s.ReadUint16(&kdf) || !s.ReadUint16LengthPrefixed(&x) || !s.ReadUint16LengthPrefixed(&y) {
		return nil, errEncoding
	}
	var curve elliptic.Curve
	switch tpm2.TPMECCCurve(id) {
	case tpm2.TPMECCNistP256:
		curve = elliptic.P256()
	case tpm2.TPMECCNistP384:
		curve = elliptic.P384()
	default:
		return nil, fmt.Errorf("is on curve %#04x; use P-256 or P-384", id)
	}
	if tpm2.TPMAlgID(kdf) != tpm2.TPMAlgNull {
		return nil, errors.New("has a key derivation of its own")
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		return nil, errEncoding
	}
	point := make([]byte, 1+2*size)
	point[0] = 4                     // not compressed (SEC 1, 2.3.3)
	copy(point[1+size-len(x):], x)   // TPMs before version 1.38 leave out
	copy(point[1+2*size-len(y):], y) // leading zeros
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, errors.New("is a point that is not on its curve")
	}
	return key, nil
}

// readRSA reads size, exponent and modulus of a key (Part 2, 12.2.3.5 and 11.2.4.5).
func readRSA(s *cryptobyte.String) (*rsa.PublicKey, error) {
	var bits uint16
	var exponent uint32
	var modulus cryptobyte.String
	if !s.ReadUint16(&bits) || !s.ReadUint32(&exponent) || !s.ReadUint16LengthPrefixed(&modulus) {
		return nil, errEncoding
	}
	switch {
	case bits != 2048 && bits != 3072 && bits != 4096:
		return nil, fmt.Errorf("is RSA of %d bits; use 2048, 3072 or 4096", bits)
	case exponent != 0 && exponent != rsaExponent:
		return nil, fmt.Errorf("is RSA with the exponent %d; use %d", exponent, rsaExponent)
	}
	n := new(big.Int).SetBytes(modulus)
	if len(modulus) != int(bits)/8 || n.BitLen() != int(bits) || n.Bit(0) == 0 {
		return nil, errors.New("is RSA with a modulus of another size, or an even one")
	}
	return &rsa.PublicKey{N: n, E: rsaExponent}, nil
}

func (p *public) has(attributes uint32) bool { return p.attributes&attributes == attributes }

// name is the Name of the object: the algorithm and the hash of its public area (Part 1, 16).
func (p *public) name() []byte {
	alg := tpm2.TPMAlgSHA256
	if p.nameHash == crypto.SHA384 {
		alg = tpm2.TPMAlgSHA384
	}
	h := p.nameHash.New()
	h.Write(p.raw)
	return h.Sum([]byte{byte(alg >> 8), byte(alg)})
}

// demand is an error unless the object has all attributes of with and none of without.
func (p *public) demand(with, without uint32) error {
	for _, a := range []struct {
		bit  uint32
		name string
	}{
		{fixedTPM, "fixedTPM"}, {fixedParent, "fixedParent"}, {sensitiveDataOrigin, "sensitiveDataOrigin"},
		{adminWithPolicy, "adminWithPolicy"}, {restricted, "restricted"}, {decrypt, "decrypt"}, {sign, "sign"},
	} {
		if with&a.bit != 0 && !p.has(a.bit) {
			return fmt.Errorf("does not have the attribute %s", a.name)
		}
		if without&a.bit != 0 && p.has(a.bit) {
			return fmt.Errorf("has the attribute %s", a.name)
		}
	}
	return nil
}

// demandNoPolicy is an error if the object may be used by a policy. One whose public area
// alone was loaded into a TPM can be, whatever its attributes claim, and by its auth value
// it cannot.
func (p *public) demandNoPolicy() error {
	if len(p.policy) > 0 {
		return errors.New("has an authorization policy")
	}
	return nil
}
