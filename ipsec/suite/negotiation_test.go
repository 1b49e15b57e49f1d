package suite

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func parseIKETest(t testing.TB, words ...string) []IKEProposal {
	t.Helper()
	var out []IKEProposal
	for _, w := range words {
		p, err := ParseIKE(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func parseESPTest(t testing.TB, words ...string) []ESPProposal {
	t.Helper()
	var out []ESPProposal
	for _, w := range words {
		p, err := ParseESP(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestParseErrors(t *testing.T) {
	long := strings.Repeat("aes128gcm16-", 100)
	for _, tt := range []struct {
		text string
		ike  bool
		want string // must be in the error
	}{
		{"", true, "is empty"},
		{"", false, "is empty"},
		{"aes256gcm16--x25519", true, "empty keyword"},
		{"-aes256gcm16", false, "empty keyword"},
		{"aes256gcm16-bogus-x25519", true, `unknown keyword "bogus"; known are`},
		{"aes256gcm16-modp1024", false, `unknown keyword "modp1024"`},
		{"3des-sha1-modp1024", true, `unknown keyword "3des"`},
		{"aes256gcm16-x25519", true, "no pseudorandom function: add one of prfsha256"},
		{"aes256gcm16-prfsha256", true, "no key exchange group: add one of x25519"},
		{"prfsha256-x25519", true, "no encryption algorithm"},
		{"x25519", false, "no encryption algorithm"},
		{"aes256-x25519-prfsha256", true, "no integrity algorithm: add one of sha256"},
		{"aes256", false, "no integrity algorithm"},
		{"aes256gcm16-sha256-x25519", true, "takes no integrity algorithm: remove sha256"},
		{"aes256gcm16-aes256-sha256-x25519", true, "write two proposals"},
		{"aes256gcm16-aes128gcm16-aes256gcm16-prfsha256-x25519", true, "listed twice"},
		{"aes256gcm16-x25519-curve25519", false, "listed twice"},
		{"aes256gcm16-esn-esn", false, "listed twice"},
		{"aes256gcm16-prfsha256", false, `"prfsha256" belongs into an IKE proposal`},
		{"aes256gcm16-prfsha256-x25519-esn", true, `"esn" belongs into an ESP proposal`},
		{"aes256gcm16-prfsha256-modpnone", true, `"modpnone" belongs into an ESP proposal`},
		{long, true, "split it into several proposals"},
	} {
		var err error
		if tt.ike {
			_, err = ParseIKE(tt.text)
		} else {
			_, err = ParseESP(tt.text)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got error %v, want one with %q", tt.text, err, tt.want)
		}
	}
}

func TestStringRoundTrip(t *testing.T) {
	for in, want := range map[string]string{
		"aes256gcm16-aes128gcm16-prfsha384-x25519-ecp256": "",
		"AES128-SHA256-ecp384":                            "aes128-sha256-prfsha256-ecp384",
		"chacha20poly1305-prfsha512-curve25519":           "chacha20poly1305-prfsha512-x25519",
	} {
		p := parseIKETest(t, in)[0]
		if want == "" {
			want = in
		}
		if got := p.String(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"aes128gcm16":                         "",
		"aes128gcm16-noesn":                   "aes128gcm16",
		"aes128gcm16-aes256gcm16-x25519-esn":  "",
		"aes128gcm16-esn-noesn":               "",
		"aes256-sha512-x25519-modpnone-noesn": "aes256-sha512-x25519-modpnone",
	} {
		p := parseESPTest(t, in)[0]
		if want == "" {
			want = in
		}
		if got := p.String(); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// The responder's order decides, not the initiator's (contrary to what the
// order of proposals suggests, RFC 7296 leaves the choice to the responder).
func TestChooseIKEOrder(t *testing.T) {
	offer := OfferIKE(parseIKETest(t,
		"aes128-sha256-ecp256",
		"aes128gcm16-aes256gcm16-prfsha256-prfsha512-ecp256-x25519"), nil)
	for policy, want := range map[string]string{
		"aes256gcm16-aes128gcm16-prfsha512-prfsha256-x25519-ecp256": "aes256gcm16-prfsha512-x25519",
		"aes128gcm16-prfsha256-ecp256":                              "aes128gcm16-prfsha256-ecp256",
		"aes256-aes128-sha256-ecp384-ecp256":                        "aes128-sha256-prfsha256-ecp256",
	} {
		s, answer, err := ChooseIKE(offer, parseIKETest(t, policy))
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != want {
			t.Errorf("policy %s chose %s, want %s", policy, s, want)
		}
		if got, err := AcceptIKE(answer, parseIKETest(t,
			"aes128-sha256-ecp256",
			"aes128gcm16-aes256gcm16-prfsha256-prfsha512-ecp256-x25519")); err != nil || got != s {
			t.Errorf("policy %s: initiator takes %v, %v, want %s", policy, got, err, s)
		}
	}
	// The first proposal of the policy that fits wins, whatever its place
	// in the offer.
	s, answer, err := ChooseIKE(offer, parseIKETest(t, "chacha20poly1305-prfsha256-x25519", "aes128-sha256-ecp256", "aes128gcm16-prfsha256-ecp256"))
	if err != nil || answer.Number != 1 || s.Integrity != wire.IntegrityHMACSHA256 {
		t.Errorf("got %s in proposal %d, %v", s, answer.Number, err)
	}
}

func TestChooseNothing(t *testing.T) {
	_, _, err := ChooseIKE(OfferIKE(parseIKETest(t, "aes128gcm16-prfsha256-x25519"), nil), parseIKETest(t, "aes256gcm16-prfsha256-x25519"))
	var none *NoProposalError
	if !errors.As(err, &none) {
		t.Fatalf("got %v, want *NoProposalError", err)
	}
	for _, want := range []string{"peer offers aes128gcm16-prfsha256-x25519", "accepted here is aes256gcm16-prfsha256-x25519"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

// An offer as large as a datagram costs little, and so does its error.
func TestHugeOffer(t *testing.T) {
	var offer []wire.Proposal
	for n := range 60 {
		p := wire.Proposal{Number: uint8(n + 1), Protocol: wire.ProtocolIKE}
		for id := range 120 {
			p.Transforms = append(p.Transforms, tr(wire.TransformPRF, uint16(1000+id)))
		}
		offer = append(offer, p)
	}
	_, _, err := ChooseIKE(offer, DefaultIKE())
	if err == nil || len(err.Error()) > 4096 {
		t.Errorf("error of %d characters", len(err.Error()))
	}
	if n := len(usable(offer, wire.ProtocolIKE)); n != 4 {
		t.Errorf("%d proposals are looked at, want 4", n)
	}
}

func tr(t wire.TransformType, id uint16) wire.Transform { return wire.Transform{Type: t, ID: id} }

func encr(id wire.EncryptionID, bits uint16) wire.Transform {
	return wire.Transform{Type: wire.TransformEncryption, ID: uint16(id), KeyLength: bits}
}

func TestChooseIKERules(t *testing.T) {
	policy := parseIKETest(t, "aes128gcm16-prfsha256-x25519", "aes128-sha256-prfsha256-x25519", "chacha20poly1305-prfsha256-x25519")
	gcm := encr(wire.EncryptionAESGCM16, 128)
	cbc := encr(wire.EncryptionAESCBC, 128)
	prf := tr(wire.TransformPRF, uint16(wire.PRFHMACSHA256))
	sha := tr(wire.TransformIntegrity, uint16(wire.IntegrityHMACSHA256))
	none := tr(wire.TransformIntegrity, 0)
	x := tr(wire.TransformKeyExchange, uint16(wire.KeyExchangeCurve25519))
	for _, tt := range []struct {
		name string
		ts   []wire.Transform
		want string // "" for unacceptable
	}{
		{"combined mode", []wire.Transform{gcm, prf, x}, "aes128gcm16-prfsha256-x25519"},
		{"combined mode with NONE", []wire.Transform{gcm, prf, none, x}, "aes128gcm16-prfsha256-x25519"},
		{"combined mode with HMAC", []wire.Transform{gcm, prf, sha, x}, ""},
		{"combined mode with NONE or HMAC", []wire.Transform{gcm, prf, none, sha, x}, ""},
		{"mixed modes with HMAC", []wire.Transform{gcm, cbc, prf, sha, x}, "aes128-sha256-prfsha256-x25519"},
		{"CBC without integrity", []wire.Transform{cbc, prf, x}, ""},
		{"CBC with NONE", []wire.Transform{cbc, prf, none, x}, ""},
		{"no cipher", []wire.Transform{prf, x}, ""},
		{"no PRF", []wire.Transform{gcm, x}, ""},
		{"no key exchange", []wire.Transform{gcm, prf}, ""},
		{"key exchange NONE", []wire.Transform{gcm, prf, tr(wire.TransformKeyExchange, 0)}, ""},
		{"AES without key length", []wire.Transform{encr(wire.EncryptionAESGCM16, 0), prf, x}, ""},
		{"AES with odd key length", []wire.Transform{encr(wire.EncryptionAESGCM16, 129), prf, x}, ""},
		{"AES with 192 bits", []wire.Transform{encr(wire.EncryptionAESGCM16, 192), prf, x}, ""},
		{"ChaCha20 with key length", []wire.Transform{encr(wire.EncryptionChaCha20Poly1305, 256), prf, x}, ""},
		{"ChaCha20", []wire.Transform{encr(wire.EncryptionChaCha20Poly1305, 0), prf, x}, "chacha20poly1305-prfsha256-x25519"},
		{"PRF with key length", []wire.Transform{gcm, {Type: prf.Type, ID: prf.ID, KeyLength: 256}, x}, ""},
		{"unknown attribute", []wire.Transform{{Type: gcm.Type, ID: gcm.ID, KeyLength: 128, Unsupported: "\x80\x63\x00\x01"}, prf, x}, ""},
		{"unknown attribute beside a good one", []wire.Transform{{Type: gcm.Type, ID: gcm.ID, KeyLength: 128, Unsupported: "\x80\x63\x00\x01"}, gcm, prf, x}, "aes128gcm16-prfsha256-x25519"},
		{"unknown algorithm beside a good one", []wire.Transform{encr(65000, 7), gcm, prf, x}, "aes128gcm16-prfsha256-x25519"},
		{"duplicate", []wire.Transform{gcm, gcm, prf, x}, ""},
		{"sequence numbers", []wire.Transform{gcm, prf, x, tr(wire.TransformSequenceNumbers, 0)}, ""},
		{"additional key exchange", []wire.Transform{gcm, prf, x, tr(wire.TransformAdditionalKE1, 36)}, ""},
		{"unknown transform type", []wire.Transform{gcm, prf, x, tr(99, 1)}, ""},
		{"nothing", nil, ""},
	} {
		offer := wire.Proposal{Number: 1, Protocol: wire.ProtocolIKE, Transforms: tt.ts}
		s, answer, err := ChooseIKE([]wire.Proposal{offer}, policy)
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%s: accepted as %s", tt.name, s)
		case tt.want != "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && s.String() != tt.want:
			t.Errorf("%s: got %s, want %s", tt.name, s, tt.want)
		case tt.want != "":
			checkSubset(t, answer, offer)
			// A bad first proposal does not spoil a good second
			// one.
			good := wire.Proposal{Number: 2, Protocol: wire.ProtocolIKE, Transforms: tt.ts}
			bad := wire.Proposal{Number: 1, Protocol: wire.ProtocolIKE, Transforms: []wire.Transform{tr(99, 1)}}
			if _, answer, err := ChooseIKE([]wire.Proposal{bad, good}, policy); err != nil || answer.Number != 2 {
				t.Errorf("%s after a bad proposal: number %d, %v", tt.name, answer.Number, err)
			}
		}
	}
}

// checkSubset holds RFC 7296, Section 2.7: one transform of each type in the
// offer, and none besides.
func checkSubset(t rapid.TB, answer, offer wire.Proposal) {
	t.Helper()
	types := map[wire.TransformType]int{}
	for _, o := range offer.Transforms {
		types[o.Type] = 1
	}
	for _, a := range answer.Transforms {
		if !slices.Contains(offer.Transforms, a) {
			t.Errorf("answer holds %v, which was not offered", a)
		}
		types[a.Type]--
	}
	for typ, n := range types {
		if n != 0 {
			t.Errorf("answer has %d transforms too few of type %v", n, typ)
		}
	}
	if answer.Number != offer.Number || answer.Protocol != offer.Protocol {
		t.Errorf("answer is number %d of %v, offered %d of %v", answer.Number, answer.Protocol, offer.Number, offer.Protocol)
	}
}

func TestProposalFraming(t *testing.T) {
	policy := parseIKETest(t, "aes128gcm16-prfsha256-x25519")
	good := policy[0].Wire(1, nil)
	for name, change := range map[string]func(*wire.Proposal){
		"first number is 0":    func(p *wire.Proposal) { p.Number = 0 },
		"first number is 2":    func(p *wire.Proposal) { p.Number = 2 },
		"another protocol":     func(p *wire.Proposal) { p.Protocol = wire.ProtocolESP },
		"SPI of 4 octets":      func(p *wire.Proposal) { p.SPI = make([]byte, 4) },
		"SPI of 9 octets":      func(p *wire.Proposal) { p.SPI = make([]byte, 9) },
		"unknown protocol":     func(p *wire.Proposal) { p.Protocol = 77 },
		"no transforms at all": func(p *wire.Proposal) { p.Transforms = nil },
	} {
		p := good
		change(&p)
		if s, _, err := ChooseIKE([]wire.Proposal{p}, policy); err == nil {
			t.Errorf("%s: accepted as %s", name, s)
		}
	}
	for _, n := range []int{0, 8} {
		p := good
		p.SPI = make([]byte, n)
		if _, _, err := ChooseIKE([]wire.Proposal{p}, policy); err != nil {
			t.Errorf("SPI of %d octets: %v", n, err)
		}
	}
	if _, _, err := ChooseIKE(nil, policy); err == nil {
		t.Error("accepted an empty offer")
	}
}

func TestChooseESP(t *testing.T) {
	spi := []byte{1, 2, 3, 4}
	for _, tt := range []struct{ offer, policy, want string }{
		{"aes128gcm16-esn-noesn", "aes128gcm16-noesn-esn", "aes128gcm16"},
		{"aes128gcm16-esn-noesn", "aes128gcm16-esn", "aes128gcm16-esn"},
		{"aes128gcm16", "aes128gcm16-esn", ""},
		{"aes128gcm16-x25519", "aes128gcm16-x25519-ecp256", "aes128gcm16-x25519"},
		{"aes128gcm16", "aes128gcm16-x25519", ""}, // forward secrecy is required here
		{"aes128gcm16-x25519", "aes128gcm16", ""}, // and the other way round
		{"aes128gcm16", "aes128gcm16-x25519-modpnone", "aes128gcm16"},
		{"aes128gcm16-x25519-modpnone", "aes128gcm16", "aes128gcm16"},
		{"aes128gcm16-x25519-modpnone", "aes128gcm16-modpnone-x25519", "aes128gcm16"},
		{"aes128gcm16-x25519-modpnone", "aes128gcm16-x25519-modpnone", "aes128gcm16-x25519"},
		{"aes256-sha512-sha256", "aes256-sha256", "aes256-sha256"},
	} {
		offered := parseESPTest(t, tt.offer)
		offer := OfferESP(offered, spi)
		s, answer, err := ChooseESP(offer, parseESPTest(t, tt.policy))
		if (err == nil) != (tt.want != "") {
			t.Errorf("%s for %s: %v, want %q", tt.offer, tt.policy, err, tt.want)
			continue
		}
		if err != nil {
			continue
		}
		if s.String() != tt.want {
			t.Errorf("%s for %s: got %s, want %s", tt.offer, tt.policy, s, tt.want)
		}
		checkSubset(t, answer, offer[0])
		answer.SPI = []byte{5, 6, 7, 8}
		if got, err := AcceptESP(answer, offered); err != nil || got != s {
			t.Errorf("%s: initiator takes %v, %v", tt.offer, got, err)
		}
	}
}

func TestESPNeedsSequenceNumbers(t *testing.T) {
	policy := parseESPTest(t, "aes128gcm16")
	offer := policy[0].Wire(1, make([]byte, 4))
	offer.Transforms = offer.Transforms[:1]
	if s, _, err := ChooseESP([]wire.Proposal{offer}, policy); err == nil {
		t.Errorf("accepted as %s without the mandatory transform type", s)
	}
	offer = policy[0].Wire(1, make([]byte, 4))
	offer.Transforms = append(offer.Transforms, tr(wire.TransformPRF, uint16(wire.PRFHMACSHA256)))
	if s, _, err := ChooseESP([]wire.Proposal{offer}, policy); err == nil {
		t.Errorf("accepted as %s with a PRF", s)
	}
}

func TestWithoutKeyExchange(t *testing.T) {
	ps := WithoutKeyExchange(parseESPTest(t, "aes128gcm16-x25519", "aes128gcm16-ecp256", "aes256gcm16-esn-x25519"))
	var got []string
	for _, p := range ps {
		got = append(got, p.String())
	}
	if want := []string{"aes128gcm16", "aes256gcm16-esn"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAcceptRejects(t *testing.T) {
	offered := parseIKETest(t, "aes128gcm16-aes256gcm16-prfsha256-x25519-ecp256", "aes128-sha256-ecp256")
	_, good, err := ChooseIKE(OfferIKE(offered, nil), parseIKETest(t, "aes128gcm16-prfsha256-x25519"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := AcceptIKE(good, offered); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*wire.Proposal){
		"number not offered":      func(p *wire.Proposal) { p.Number = 3 },
		"number 0":                func(p *wire.Proposal) { p.Number = 0 },
		"number of another":       func(p *wire.Proposal) { p.Number = 2 },
		"another protocol":        func(p *wire.Proposal) { p.Protocol = wire.ProtocolESP; p.SPI = make([]byte, 4) },
		"odd SPI":                 func(p *wire.Proposal) { p.SPI = make([]byte, 3) },
		"a type left out":         func(p *wire.Proposal) { p.Transforms = p.Transforms[:2] },
		"two of a type":           func(p *wire.Proposal) { p.Transforms = append(p.Transforms, encr(wire.EncryptionAESGCM16, 256)) },
		"the same twice":          func(p *wire.Proposal) { p.Transforms = append(p.Transforms, p.Transforms[0]) },
		"a type not offered":      func(p *wire.Proposal) { p.Transforms = append(p.Transforms, tr(wire.TransformIntegrity, 0)) },
		"unknown type":            func(p *wire.Proposal) { p.Transforms = append(p.Transforms, tr(99, 0)) },
		"additional key exchange": func(p *wire.Proposal) { p.Transforms = append(p.Transforms, tr(wire.TransformAdditionalKE1, 0)) },
		"algorithm not offered":   func(p *wire.Proposal) { p.Transforms[1].ID = uint16(wire.PRFHMACSHA512) },
		"key length not offered":  func(p *wire.Proposal) { p.Transforms[0].KeyLength = 192 },
		"key length left out":     func(p *wire.Proposal) { p.Transforms[0].KeyLength = 0 },
		"attribute added":         func(p *wire.Proposal) { p.Transforms[0].Unsupported = "\x80\x63\x00\x01" },
		"group not offered":       func(p *wire.Proposal) { p.Transforms[2].ID = uint16(wire.KeyExchangeECP384) },
		"group NONE":              func(p *wire.Proposal) { p.Transforms[2].ID = 0 },
		"nothing":                 func(p *wire.Proposal) { p.Transforms = nil },
	} {
		p := good
		p.Transforms = slices.Clone(good.Transforms)
		change(&p)
		if s, err := AcceptIKE(p, offered); !errors.Is(err, ErrInvalidAnswer) {
			t.Errorf("%s: got %s, %v, want ErrInvalidAnswer", name, s, err)
		}
	}
}

// TestAcceptWithoutNone takes an answer that leaves out what the offer makes
// optional, as strongSwan's do.
func TestAcceptWithoutNone(t *testing.T) {
	offered := parseIKETest(t, "aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke1_none-ke2_ecp384")
	answer := offered[0].Wire(1, nil)
	without := func(types ...wire.TransformType) wire.Proposal {
		p := answer
		p.Transforms = slices.DeleteFunc(slices.Clone(answer.Transforms), func(tr wire.Transform) bool { return slices.Contains(types, tr.Type) })
		return p
	}
	s, err := AcceptIKE(without(wire.TransformAdditionalKE1), offered)
	if err != nil || s.String() != "aes128gcm16-prfsha256-x25519-ke2_ecp384" {
		t.Errorf("without ADDKE1, which is optional: %s, %v", s, err)
	}
	for _, needed := range []wire.TransformType{wire.TransformAdditionalKE2, wire.TransformKeyExchange, wire.TransformPRF} {
		if s, err := AcceptIKE(without(wire.TransformAdditionalKE1, needed), offered); !errors.Is(err, ErrInvalidAnswer) {
			t.Errorf("without %s: got %s, %v, want ErrInvalidAnswer", needed, s, err)
		}
	}
}

// genIKE makes valid proposals.
func genIKE(t *rapid.T) IKEProposal {
	p := IKEProposal{
		PRF:         rapid.SliceOfNDistinct(rapid.SampledFrom([]PRF{PRFHMACSHA256, PRFHMACSHA384, PRFHMACSHA512}), 1, 3, rapid.ID).Draw(t, "PRF"),
		KeyExchange: rapid.SliceOfNDistinct(rapid.SampledFrom([]wire.KeyExchangeID{wire.KeyExchangeCurve25519, wire.KeyExchangeECP256, wire.KeyExchangeECP384}), 1, 3, rapid.ID).Draw(t, "KE"),
	}
	p.Encryption, p.Integrity = genCiphers(t, false)
	return p
}

func genESP(t *rapid.T) ESPProposal {
	p := ESPProposal{
		KeyExchange:     rapid.SliceOfNDistinct(rapid.SampledFrom([]wire.KeyExchangeID{0, wire.KeyExchangeCurve25519, wire.KeyExchangeECP256}), 0, 3, rapid.ID).Draw(t, "KE"),
		SequenceNumbers: rapid.SliceOfNDistinct(rapid.SampledFrom([]wire.SequenceNumbersID{0, 1}), 1, 2, rapid.ID).Draw(t, "SN"),
	}
	if p.AH = rapid.IntRange(0, 3).Draw(t, "AH") == 0; p.AH {
		p.Integrity = genIntegrity(t, append(slices.Clone(integrities), gmacs...))
		return p
	}
	p.Encryption, p.Integrity = genCiphers(t, true)
	return p
}

func genCiphers(t *rapid.T, esp bool) (es []Encryption, is []wire.IntegrityID) {
	combined := rapid.Bool().Draw(t, "combined")
	var known []Encryption
	for _, c := range ciphers {
		if c.aead() == combined && (esp || !c.espOnly) {
			known = append(known, c.Encryption)
		}
	}
	es = rapid.SliceOfNDistinct(rapid.SampledFrom(known), 1, 3, rapid.ID).Draw(t, "ENCR")
	if combined {
		return es, nil
	}
	return es, genIntegrity(t, integrities)
}

func genIntegrity(t *rapid.T, from []macSpec) []wire.IntegrityID {
	var macs []wire.IntegrityID
	for _, m := range from {
		macs = append(macs, wire.IntegrityID(m.id))
	}
	return rapid.SliceOfNDistinct(rapid.SampledFrom(macs), 1, 3, rapid.ID).Draw(t, "INTEG")
}

// Whatever the responder chooses, the initiator accepts as the same suite, it
// satisfies both sides, and there is a choice if and only if brute force finds
// one.
func TestNegotiationProperties(t *testing.T) {
	t.Run("IKE", rapid.MakeCheck(func(t *rapid.T) {
		offered := rapid.SliceOfN(rapid.Custom(genIKE), 1, 3).Draw(t, "offered")
		policy := rapid.SliceOfN(rapid.Custom(genIKE), 1, 3).Draw(t, "policy")
		offer := OfferIKE(offered, nil)
		s, answer, err := ChooseIKE(offer, policy)
		if common := commonIKE(offered, policy); common != (err == nil) {
			t.Fatalf("common is %v, Choose says %v", common, err)
		}
		if err != nil {
			return
		}
		checkSubset(t, answer, offer[answer.Number-1])
		got, err := AcceptIKE(answer, offered)
		if err != nil || got != s {
			t.Fatalf("initiator takes %v, %v, responder chose %v", got, err, s)
		}
		if !commonIKE([]IKEProposal{s.proposal()}, policy) {
			t.Fatalf("%s is not in the policy", s)
		}
	}))
	t.Run("ESP", rapid.MakeCheck(func(t *rapid.T) {
		offered := rapid.SliceOfN(rapid.Custom(genESP), 1, 3).Draw(t, "offered")
		policy := rapid.SliceOfN(rapid.Custom(genESP), 1, 3).Draw(t, "policy")
		offer := OfferESP(offered, make([]byte, 4))
		s, answer, err := ChooseESP(offer, policy)
		if err != nil {
			return
		}
		checkSubset(t, answer, offer[answer.Number-1])
		answer.SPI = make([]byte, 4)
		got, err := AcceptESP(answer, offered)
		if err != nil || got != s {
			t.Fatalf("initiator takes %v, %v, responder chose %v", got, err, s)
		}
	}))
}

func commonIKE(offered, policy []IKEProposal) bool {
	for _, o := range offered {
		for _, p := range policy {
			if intersects(o.Encryption, p.Encryption) && intersects(o.PRF, p.PRF) && intersects(o.KeyExchange, p.KeyExchange) &&
				(len(o.Integrity) == 0 && len(p.Integrity) == 0 || intersects(o.Integrity, p.Integrity)) {
				return true
			}
		}
	}
	return false
}

func intersects[T comparable](a, b []T) bool {
	return slices.ContainsFunc(a, func(v T) bool { return slices.Contains(b, v) })
}

func TestStringRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genIKE(t)
		q, err := ParseIKE(p.String())
		if err != nil || q.String() != p.String() {
			t.Fatalf("%s: %v, %v", p, q, err)
		}
		e := genESP(t)
		f, err := ParseESP(e.String())
		if err != nil || f.String() != e.String() {
			t.Fatalf("%s: %v, %v", e, f, err)
		}
	})
}

// maxErrorLen bounds an error about keywords: all that there are, and twice what
// was given, clipped and quoted octet by octet.
const maxErrorLen = 1500

func FuzzParseIKE(f *testing.F) {
	for _, s := range []string{"aes256gcm16-prfsha384-x25519", "aes128-sha256-ecp256", "", "-", "aes256gcm16-bogus", "AES128CBC-sha2_256-curve25519"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseIKE(s)
		if err != nil {
			if len(err.Error()) > maxErrorLen {
				t.Errorf("error of %d characters", len(err.Error()))
			}
			return
		}
		q, err := ParseIKE(p.String())
		if err != nil || q.String() != p.String() {
			t.Errorf("%q prints as %q, which parses as %v, %v", s, p, q, err)
		}
	})
}

func FuzzParseESP(f *testing.F) {
	for _, s := range []string{"aes128gcm16-x25519-esn", "aes256-sha512", "", "-", "aes128gcm16-modpnone-noesn"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseESP(s)
		if err != nil {
			if len(err.Error()) > maxErrorLen {
				t.Errorf("error of %d characters", len(err.Error()))
			}
			return
		}
		q, err := ParseESP(p.String())
		if err != nil || q.String() != p.String() {
			t.Errorf("%q prints as %q, which parses as %v, %v", s, p, q, err)
		}
	})
}
