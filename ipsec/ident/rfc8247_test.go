package ident

import (
	"crypto/rsa"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// RFC 8247, Section 3, row by row. Its other sections are in package suite.

// checkStatus wants a MUST or SHOULD of any kind to be there, and a MUST NOT or
// SHOULD NOT not to be.
func checkStatus(t *testing.T, name, status string, accepted bool) {
	t.Helper()
	if want := !strings.HasSuffix(status, "NOT"); accepted != want {
		t.Errorf("%s is %s; accepted: %v", name, status, accepted)
	}
}

// Section 3.1. Methods 1 and 9 to 11 are used where a profile allows them, the
// others without.
func TestRFC8247Methods(t *testing.T) {
	for _, r := range []struct {
		method wire.AuthMethod
		status string
		older  bool
	}{
		{wire.AuthRSA, "MUST", true},
		{wire.AuthSharedKey, "MUST", false},
		{3, "SHOULD NOT", false}, // DSS
		{wire.AuthECDSAP256, "SHOULD", true},
		{wire.AuthECDSAP384, "SHOULD", true},
		{wire.AuthECDSAP521, "SHOULD", true},
		{wire.AuthDigitalSignature, "SHOULD", false},
	} {
		remote := Remote{Roots: NewRoots(), PSK: PSK("a pre-shared key for tests only")}
		checkStatus(t, r.method.String(), r.status, canUse(remote, r.method) != r.older)
		remote.Legacy = []wire.AuthMethod{r.method}
		if (validateLegacy(remote.Legacy) == nil) != r.older {
			t.Errorf("%s can be allowed as an older method: %v", r.method, !r.older)
		}
		if r.older {
			checkStatus(t, r.method.String(), r.status, canUse(remote, r.method))
		}
	}
}

// canUse reports whether a peer may authenticate by the method at all.
func canUse(remote Remote, method wire.AuthMethod) bool {
	octets := Octets{prf: suite.PRFHMACSHA256, b: []byte("octets")}
	if method == wire.AuthSharedKey {
		_, err := verifySharedKey(remote, Claim{Method: method, Data: octets.sharedKeyAuth(remote.PSK), Octets: octets})
		return err == nil
	}
	id := schemes[0].identifiers[0]
	data := append([]byte{byte(len(id))}, id+"signature"...)
	_, err := signatureCheck(remote, Claim{Method: method, Data: data, Octets: octets})
	return err == nil
}

// Section 3.1.1.
func TestRFC8247KeyLengths(t *testing.T) {
	for bits, status := range map[uint]string{
		1024: "SHOULD NOT", 2047: "SHOULD NOT", 2048: "MUST", 2049: "MAY", 3072: "SHOULD", 4095: "MAY", 4096: "SHOULD",
	} {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		err := checkKey(&rsa.PublicKey{N: n.SetBit(n, 0, 1), E: 65537})
		checkStatus(t, n.String(), status, err == nil)
	}
}

// Section 3.2, hash functions.
func TestRFC8247Hashes(t *testing.T) {
	for hash, status := range map[wire.HashAlgorithm]string{
		wire.HashSHA1: "MUST NOT", wire.HashSHA256: "MUST", wire.HashSHA384: "MAY", wire.HashSHA512: "SHOULD",
	} {
		checkStatus(t, hash.String(), status, slices.Contains(HashAlgorithms(), hash))
		read, err := ParseHashAlgorithms([]byte{0, byte(hash)})
		checkStatus(t, hash.String(), status, err == nil && slices.Contains(read, hash))
	}
}

// Section 3.2, algorithms, by the identifiers of RFC 7427, Appendix A.
func TestRFC8247Signatures(t *testing.T) {
	for _, r := range []struct{ name, status, identifier string }{
		{"RSASSA-PSS with SHA-256", "MUST", `30460609 2a864886 f70d0101 0a3039a0 0f300d06 09608648 01650304 02010500
			a11c301a 06092a86 4886f70d 01010830 0d060960 86480165 03040201 0500a203 020120a3 030201 01`},
		{"ecdsa-with-sha256", "SHOULD", "300a06082a8648ce3d040302"},
		{"ecdsa-with-sha384", "MAY", "300a06082a8648ce3d040303"},
		{"ecdsa-with-sha512", "MAY", "300a06082a8648ce3d040304"},
		{"RSASSA-PKCS1-v1.5 with SHA-256", "MAY", "300d06092a864886f70d01010b0500"},
		{"sha1WithRSAEncryption", "MUST NOT", "300d06092a864886f70d0101050500"},
		{"dsa-with-sha1", "MUST NOT", "300906072a8648ce380403"},
		{"ecdsa-with-sha1", "MUST NOT", "300906072a8648ce3d0401"},
		{"RSASSA-PSS with empty parameters", "MUST NOT", "300d06092a864886f70d01010a3000"},
		{"RSASSA-PSS with default parameters", "MUST NOT", `303e0609 2a864886 f70d0101 0a3031a0 0b300906 052b0e03 021a0500
			a1183016 06092a86 4886f70d 01010830 0906052b 0e03021a 0500a203 020114a3 03020101`},
	} {
		identifier := unhex(t, strings.Join(strings.Fields(r.identifier), ""))
		_, ok := schemeOf(identifier)
		checkStatus(t, r.name, r.status, ok)
	}
}
