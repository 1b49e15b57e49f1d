package ident

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The authentication payloads of RFC 4754, Sections 8.1 to 8.3, over "abc".
func TestLegacyVectors(t *testing.T) {
	for _, tt := range []struct {
		curve        elliptic.Curve
		x, y         string
		payload      string
		payloadOfLen int
	}{
		{
			elliptic.P256(),
			"2442A5CC 0ECD015F A3CA31DC 8E2BBC70 BF42D60C BCA20085 E0822CB0 4235E970",
			"6FC98BD7 E50211A4 A27102FA 3549DF79 EBCB4BF2 46B80945 CDDFE7D5 09BBFD7D",
			"00000048 00090000 CB28E099 9B9C7715 FD0A80D8 E47A7707 9716CBBF 917DD72E 97566EA1 C066957C" +
				"86FA3BB4 E26CAD5B F90B7F81 899256CE 7594BB1E A0C89212 748BFF3B 3D5B0315", 0x48,
		},
		{
			elliptic.P384(),
			"96281BF8 DD5E0525 CA049C04 8D345D30 82968D10 FEDF5C5A CA0C64E6 465A97EA 5CE10C9D FEC21797 41571072 1F437922",
			"447688BA 94708EB6 E2E4D59F 6AB6D7ED FF9301D2 49FE49C3 3096655F 5D502FAD 3D383B91 C5E7EDAA 2B714CC9 9D5743CA",
			"00000068 000A0000 FB017B91 4E291494 32D8BAC2 9A514640 B46F53DD AB2C6994 8084E293 0F1C8F7E 08E07C9C 63F2D21A 07DCB56A 6AF56EB3" +
				"B263A130 5E057F98 4D38726A 1B468741 09F417BC A112674C 528262A4 0A629AF1 CBB9F516 CE0FA7D2 FF630863 A00E8B9F", 0x68,
		},
		{
			elliptic.P521(),
			"0151518F 1AF0F563 517EDD54 85190DF9 5A4BF57B 5CBA4CF2 A9A3F647 4725A35F 7AFE0A6D DEB8BEDB CD6A197E 592D4018 8901CECD 650699C9 B5E456AE A5ADD190 52A8",
			"006F3B14 2EA1BFFF 7E2837AD 44C9E4FF 6D2D34C7 3184BBAD 90026DD5 E6E85317 D9DF45CA D7803C6C 20035B2F 3FF63AFF 4E1BA64D 1C077577 DA3F4286 C58F0AEA E643",
			"0000008C 000B0000 0154FD38 36AF92D0 DCA57DD5 341D3053 988534FD E8318FC6 AAAAB68E 2E6F4339 B19F2F28 1A7E0B22 C269D93C F8794A92 78880ED7 DBB8D936 2CAEACEE 54432055 2251" +
				"017705A7 030290D1 CEB605A9 A1BB03FF 9CDD521E 87A696EC 926C8C10 C8362DF4 97536710 1F67D1CF 9BCCBF2F 3D239534 FA509E70 AAC851AE 01AAC68D 62F86647 2660", 0x8c,
		},
	} {
		payload := unhex(t, tt.payload)
		if len(payload) != tt.payloadOfLen {
			t.Fatalf("%s: payload of %d octets", tt.curve.Params().Name, len(payload))
		}
		l, ok := legacyOf(wire.AuthMethod(payload[5]))
		if !ok || l.curve != tt.curve {
			t.Fatalf("method %d is %v", payload[5], l)
		}
		key := &ecdsa.PublicKey{Curve: tt.curve, X: new(big.Int).SetBytes(unhex(t, tt.x)), Y: new(big.Int).SetBytes(unhex(t, tt.y))}
		signed := Octets{b: []byte("abc")}
		if !l.verify(key, signed, payload[8:]) {
			t.Errorf("%s: the signature is refused", l.name())
		}
		if l.verify(key, Octets{b: []byte("abd")}, payload[8:]) {
			t.Errorf("%s: the signature of something else is accepted", l.name())
		}
	}
}

func TestLegacyBothWays(t *testing.T) {
	for method, key := range map[wire.AuthMethod]crypto.Signer{
		wire.AuthRSA: rsaKey(t, 2048), wire.AuthECDSAP256: ecdsaKey(elliptic.P256()),
		wire.AuthECDSAP384: ecdsaKey(elliptic.P384()), wire.AuthECDSAP521: ecdsaKey(elliptic.P521()),
	} {
		t.Run(method.String(), func(t *testing.T) {
			s := newUnsigned(t, key, nil)
			s.old = true
			s.local.Legacy, s.remote.Legacy = []wire.AuthMethod{method}, []wire.AuthMethod{method}
			// Short values of r and s have to be padded, which one in 256 is.
			for range 20 {
				proof, err := Sign(s.local, s.octets, Announced{}, nil, rand.Reader)
				if err != nil || proof.Method != method || len(proof.Certificates) != 2 {
					t.Fatal(proof, err)
				}
				s.method, s.data = proof.Method, proof.Data
				peer, err := s.verify()
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(peer.Method, "method") {
					t.Errorf("verified by %q", peer.Method)
				}
			}
			if _, err := Sign(s.local, s.octets, modern, nil, rand.Reader); err != nil {
				t.Errorf("a modern peer: %v", err)
			}
			good, remote := s.data, s.remote
			for name, change := range map[string]func(){
				"not allowed":                    func() { s.remote.Legacy = nil },
				"another one is allowed":         func() { s.remote.Legacy = without(method) },
				"downgrade of digital signature": func() { s.old = false },
			} {
				change()
				_, err := s.verify()
				wantReason(t, err, ReasonMethod)
				if !strings.Contains(err.Error(), "accepted is a digital signature") {
					t.Errorf("%s: %v does not say what is accepted", name, err)
				}
				s.remote, s.old = remote, true
			}
			for _, data := range [][]byte{nil, {0}, good[:len(good)-1], append(slices.Clone(good), 0), make([]byte, len(good)), bytes.Repeat([]byte{0xff}, len(good))} {
				s.data = data
				_, err := s.verify()
				wantReason(t, err, ReasonSignature)
			}
			for _, other := range without(method) {
				s.data, s.method, s.remote.Legacy = good, other, append(without(method), method)
				_, err := s.verify()
				wantReason(t, err, ReasonSignature)
			}
		})
	}
}

func without(method wire.AuthMethod) []wire.AuthMethod {
	var out []wire.AuthMethod
	for _, l := range legacyMethods {
		if l.method != method {
			out = append(out, l.method)
		}
	}
	return out
}

// RFC 7296, Section 3.8, leaves the hash of method 1 to the signer, with SHA-1
// as the default.
func TestLegacyRSAHashes(t *testing.T) {
	key := rsaKey(t, 2048)
	l, _ := legacyOf(wire.AuthRSA)
	for _, h := range []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		signature := must(rsa.SignPKCS1v15(nil, key, h, sum(h, octets.b)))
		if !l.verify(key.Public(), octets, signature) {
			t.Errorf("%v is refused", h)
		}
	}
	if data := must(l.sign(key, octets, rand.Reader)); rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA1, sum(crypto.SHA1, octets.b), data) != nil {
		t.Error("signs over something else than SHA-1")
	}
	if pss := must(rsa.SignPSS(rand.Reader, key, crypto.SHA256, sum(crypto.SHA256, octets.b), nil)); l.verify(key.Public(), octets, pss) {
		t.Error("PSS is accepted")
	}
}

// A device that returns nonsense makes an error and no AUTH payload.
func TestLegacySignerReturnsNonsense(t *testing.T) {
	l, _ := legacyOf(wire.AuthECDSAP256)
	for _, signature := range []string{"", "\x30\x06\x02\x01\x00\x02\x01\x01", "\x30\x06\x02\x01\x01\x02\x01\xff", "\x30\x03\x02\x01\x01"} {
		_, err := l.sign(broken{ecdsaKey(elliptic.P256()), signature}, octets, rand.Reader)
		wantReason(t, err, ReasonSignature)
	}
}

type broken struct {
	crypto.Signer
	signature string
}

func (b broken) Sign(_ io.Reader, _ []byte, _ crypto.SignerOpts) ([]byte, error) {
	return []byte(b.signature), nil
}
