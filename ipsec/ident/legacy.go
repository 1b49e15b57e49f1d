package ident

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha1" // registers crypto.SHA1
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// legacyMethod is an authentication method that fixes its hash or its curve. RFC
// 8247, Section 3.1, still wants them for peers that know no other.
type legacyMethod struct {
	method wire.AuthMethod
	curve  elliptic.Curve // nil for RSA
	digest crypto.Hash
}

// legacyMethods are RSA (RFC 7296, Section 3.8) and ECDSA (RFC 4754, Section 4).
var legacyMethods = []legacyMethod{
	{wire.AuthRSA, nil, crypto.SHA1},
	{wire.AuthECDSAP256, elliptic.P256(), crypto.SHA256},
	{wire.AuthECDSAP384, elliptic.P384(), crypto.SHA384},
	{wire.AuthECDSAP521, elliptic.P521(), crypto.SHA512},
}

func legacyOf(method wire.AuthMethod) (legacyMethod, bool) {
	i := slices.IndexFunc(legacyMethods, func(l legacyMethod) bool { return l.method == method })
	if i < 0 {
		return legacyMethod{}, false
	}
	return legacyMethods[i], true
}

func (l legacyMethod) name() string {
	if l.curve == nil {
		return "RSA PKCS #1 v1.5 (method 1)"
	}
	return fmt.Sprintf("ECDSA on %s (method %d)", l.curve.Params().Name, l.method)
}

func validateLegacy(methods []wire.AuthMethod) error {
	for _, m := range methods {
		if _, ok := legacyOf(m); !ok {
			return configError(fmt.Sprintf("%s is no older method of signing", m), "allow RSA (1), ECDSA_P256 (9), ECDSA_P384 (10) or ECDSA_P521 (11), or none")
		}
	}
	return nil
}

// fits reports whether a key can sign by the method.
func (l legacyMethod) fits(public crypto.PublicKey) bool {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return l.curve == nil
	case *ecdsa.PublicKey:
		return l.curve == k.Curve
	}
	return false
}

// sign makes the Authentication Data. RSA signs over SHA-1, which RFC 7296,
// Section 3.8, has as the default: a peer that does not do RFC 7427 may know no
// other.
func (l legacyMethod) sign(signer crypto.Signer, o Octets, rand io.Reader) ([]byte, error) {
	signature, err := signer.Sign(rand, sum(l.digest, o.b), l.digest)
	if err != nil {
		return nil, signError(err)
	}
	if l.curve == nil {
		return signature, nil
	}
	var rs ecdsaSignature
	if rest, err := asn1.Unmarshal(signature, &rs); err != nil || len(rest) != 0 || !rs.in(l.curve) {
		return nil, signError(fmt.Errorf("the signature is not one of ECDSA on %s", l.curve.Params().Name))
	}
	n := l.size()
	out := make([]byte, 2*n)
	rs.R.FillBytes(out[:n])
	rs.S.FillBytes(out[n:])
	return out, nil
}

// verify reports whether data signs the octets. RSA accepts the hashes of SHA-2
// as well: RFC 7296, Section 3.8, leaves them to the signer, and the signature
// says which.
func (l legacyMethod) verify(public crypto.PublicKey, o Octets, data []byte) bool {
	if !l.fits(public) {
		return false
	}
	if l.curve == nil {
		for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			if verifyPKCS1(public, h, o.b, data) {
				return true
			}
		}
		return false
	}
	n := l.size()
	if len(data) != 2*n {
		return false
	}
	der, err := asn1.Marshal(ecdsaSignature{new(big.Int).SetBytes(data[:n]), new(big.Int).SetBytes(data[n:])})
	return err == nil && verifyECDSA(public, l.digest, o.b, der)
}

// size is the octets of each of r and s (RFC 4754, Section 7).
func (l legacyMethod) size() int { return (l.curve.Params().N.BitLen() + 7) / 8 }

type ecdsaSignature struct{ R, S *big.Int }

func (s ecdsaSignature) in(curve elliptic.Curve) bool {
	n := curve.Params().N
	return s.R.Sign() > 0 && s.S.Sign() > 0 && s.R.Cmp(n) < 0 && s.S.Cmp(n) < 0
}
