package ident

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"regexp"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

type wycheproofGroup struct {
	Sha, MgfSha  string
	SLen         int
	PublicKeyDer hexOctets
	Tests        []struct {
		TcID            int
		Comment, Result string
		Msg, Sig        hexOctets
	}
}

type hexOctets []byte

func (o *hexOctets) UnmarshalText(text []byte) (err error) {
	*o, err = hex.DecodeString(string(text))
	return err
}

// Wycheproof's vectors as the Authentication Data of AUTH payloads, over octets
// that are the message of the vector. What it calls acceptable is refused: there
// is one encoding of everything (RFC 8017, Section 8.2.2; RFC 5480).
func TestWycheproof(t *testing.T) {
	for _, c := range []struct {
		file, scheme string
		method       wire.AuthMethod
		least        int // tests that are valid, and as many at least that are not
	}{
		{"ed25519_test.json", "Ed25519", wire.AuthDigitalSignature, 60},
		{"ecdsa_secp256r1_sha256_test.json", "ECDSA with SHA-256", wire.AuthDigitalSignature, 170},
		{"ecdsa_secp256r1_sha512_test.json", "ECDSA with SHA-512", wire.AuthDigitalSignature, 170},
		{"ecdsa_secp384r1_sha384_test.json", "ECDSA with SHA-384", wire.AuthDigitalSignature, 170},
		{"ecdsa_secp384r1_sha512_test.json", "ECDSA with SHA-512", wire.AuthDigitalSignature, 170},
		{"ecdsa_secp521r1_sha512_test.json", "ECDSA with SHA-512", wire.AuthDigitalSignature, 170},
		{"ecdsa_secp256r1_sha256_p1363_test.json", "", wire.AuthECDSAP256, 80},
		{"ecdsa_secp384r1_sha384_p1363_test.json", "", wire.AuthECDSAP384, 80},
		{"ecdsa_secp521r1_sha512_p1363_test.json", "", wire.AuthECDSAP521, 80},
		{"rsa_signature_2048_sha256_test.json", "RSA PKCS #1 v1.5 with SHA-256", wire.AuthDigitalSignature, 5},
		{"rsa_signature_2048_sha384_test.json", "RSA PKCS #1 v1.5 with SHA-384", wire.AuthDigitalSignature, 5},
		{"rsa_signature_2048_sha512_test.json", "RSA PKCS #1 v1.5 with SHA-512", wire.AuthDigitalSignature, 5},
		{"rsa_signature_3072_sha256_test.json", "RSA PKCS #1 v1.5 with SHA-256", wire.AuthDigitalSignature, 5},
		{"rsa_signature_3072_sha384_test.json", "RSA PKCS #1 v1.5 with SHA-384", wire.AuthDigitalSignature, 5},
		{"rsa_signature_3072_sha512_test.json", "RSA PKCS #1 v1.5 with SHA-512", wire.AuthDigitalSignature, 5},
		{"rsa_signature_4096_sha256_test.json", "RSA PKCS #1 v1.5 with SHA-256", wire.AuthDigitalSignature, 5},
		{"rsa_signature_4096_sha384_test.json", "RSA PKCS #1 v1.5 with SHA-384", wire.AuthDigitalSignature, 5},
		{"rsa_signature_4096_sha512_test.json", "RSA PKCS #1 v1.5 with SHA-512", wire.AuthDigitalSignature, 5},
		{"rsa_signature_2048_sha256_test.json", "", wire.AuthRSA, 5},
		{"rsa_signature_4096_sha512_test.json", "", wire.AuthRSA, 5},
		{"rsa_pss_2048_sha256_mgf1_32_test.json", "RSASSA-PSS with SHA-256", wire.AuthDigitalSignature, 40},
		{"rsa_pss_3072_sha256_mgf1_32_test.json", "RSASSA-PSS with SHA-256", wire.AuthDigitalSignature, 40},
		{"rsa_pss_4096_sha256_mgf1_32_test.json", "RSASSA-PSS with SHA-256", wire.AuthDigitalSignature, 40},
		{"rsa_pss_2048_sha384_mgf1_48_test.json", "RSASSA-PSS with SHA-384", wire.AuthDigitalSignature, 40},
		{"rsa_pss_4096_sha384_mgf1_48_test.json", "RSASSA-PSS with SHA-384", wire.AuthDigitalSignature, 40},
		{"rsa_pss_4096_sha512_mgf1_64_test.json", "RSASSA-PSS with SHA-512", wire.AuthDigitalSignature, 40},
	} {
		valid, invalid := 0, 0
		for _, g := range wycheproofGroups(t, c.file) {
			public := wycheproofKey(t, c.file, g)
			if public == nil {
				continue
			}
			for _, v := range g.Tests {
				// The oldest method leaves the hash to the signer.
				want := v.Result == "valid" || c.method == wire.AuthRSA && otherHash.MatchString(v.Comment)
				if verifies(t, c.method, c.scheme, public, v.Msg, v.Sig) != want {
					t.Errorf("%s, test %d (%s, %s): verified is %v", c.file, v.TcID, v.Comment, v.Result, !want)
				}
				if want {
					valid++
				} else {
					invalid++
				}
			}
		}
		if valid < c.least || invalid < c.least {
			t.Errorf("%s: %d valid and %d other tests, want %d of both", c.file, valid, invalid, c.least)
		}
	}
}

// Signatures by parameters that are not accepted, although they verify: SHA-1,
// another mask, another length of salt (RFC 8247, Section 3.2).
func TestWycheproofOtherPSS(t *testing.T) {
	for _, file := range []string{
		"rsa_pss_2048_sha1_mgf1_20_test.json", "rsa_pss_2048_sha256_mgf1_0_test.json", "rsa_pss_2048_sha256_mgf1sha1_20_test.json",
		"rsa_pss_4096_sha512_mgf1_32_test.json", "rsa_pss_2048_sha512_256_mgf1_32_test.json",
	} {
		for _, g := range wycheproofGroups(t, file) {
			public := wycheproofKey(t, file, g)
			for _, v := range g.Tests {
				for _, s := range schemes {
					if v.Result == "valid" && s.pss && verifies(t, wire.AuthDigitalSignature, s.name, public, v.Msg, v.Sig) {
						t.Errorf("%s, test %d: verifies by %s", file, v.TcID, s.name)
					}
				}
			}
		}
	}
}

var otherHash = regexp.MustCompile(`^The message is hashed with SHA-(1|256|384|512) instead of `)

func wycheproofGroups(t *testing.T, file string) []wycheproofGroup {
	t.Helper()
	b, err := fs.ReadFile(wycheproof.TestVectors, file)
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ TestGroups []wycheproofGroup }
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return all.TestGroups
}

// wycheproofKey reads the key of a group, nil if no certificate may have it.
func wycheproofKey(t *testing.T, file string, g wycheproofGroup) crypto.PublicKey {
	t.Helper()
	public, err := x509.ParsePKIXPublicKey(g.PublicKeyDer)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if checkKey(public) != nil {
		return nil
	}
	return public
}

// verifies puts a signature into an AUTH payload and verifies that.
func verifies(t *testing.T, method wire.AuthMethod, schemeName string, public crypto.PublicKey, msg, sig []byte) bool {
	t.Helper()
	data := sig
	if method == wire.AuthDigitalSignature {
		for _, s := range schemes {
			if s.name == schemeName {
				id := s.identifiers[0]
				data = append(append([]byte{byte(len(id))}, id...), sig...)
			}
		}
	}
	claim := Claim{Method: method, Data: data, Octets: Octets{prf: suite.PRFHMACSHA256, b: msg}}
	check, err := signatureCheck(Remote{Roots: NewRoots(), Legacy: []wire.AuthMethod{method}}, claim)
	if err != nil {
		return false // an empty signature: nothing to verify
	}
	return check.verify(public)
}
