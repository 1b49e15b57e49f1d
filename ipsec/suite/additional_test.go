package suite

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// RFC 9370, Section 2.2.1.
func TestChooseAdditional(t *testing.T) {
	const base = "aes128gcm16-prfsha256-"
	for _, tt := range []struct{ name, offer, policy, want string }{
		{"agree", "x25519-ke1_ecp256", "x25519-ke1_ecp256", "x25519-ke1_ecp256"},
		{"the responder's order decides", "x25519-ke1_ecp256-ke1_ecp384", "x25519-ke1_ecp384-ke1_ecp256", "x25519-ke1_ecp384"},
		{"left out means NONE", "x25519", "x25519-ke1_ecp256-ke1_none", "x25519"},
		{"left out by the responder means NONE", "x25519-ke1_ecp256-ke1_none", "x25519", "x25519"},
		{"NONE preferred", "x25519-ke1_ecp256-ke1_none", "x25519-ke1_none-ke1_ecp256", "x25519"},
		{"not offered", "x25519", "x25519-ke1_ecp256", ""},
		{"not accepted", "x25519-ke1_ecp256", "x25519", ""},
		{"another type", "x25519-ke2_ecp256", "x25519-ke1_ecp256", ""},
		{"types need not follow each other", "x25519-ke2_ecp256-ke7_ecp384", "x25519-ke2_ecp256-ke7_ecp384", "x25519-ke2_ecp256-ke7_ecp384"},
		{"a second choice avoids a duplicate", "x25519-ecp256-ke1_x25519-ke1_ecp256", "x25519-ke1_x25519-ke1_ecp256", "x25519-ke1_ecp256"},
		{"an earlier choice is taken back", "x25519-ecp256-ke1_x25519", "x25519-ecp256-ke1_x25519", "ecp256-ke1_x25519"},
		{"NONE is no duplicate", "x25519-ke1_none-ke2_none-ke3_ecp256", "x25519-ke3_ecp256", "x25519-ke3_ecp256"},
		{"duplicates only", "x25519-ecp384-ke1_x25519-ke1_ecp256", "x25519-ecp256-ke1_x25519", ""},
	} {
		offered := parseIKETest(t, base+tt.offer)
		offer := OfferIKE(offered, nil)
		s, answer, err := ChooseIKE(offer, parseIKETest(t, base+tt.policy))
		if tt.want == "" {
			if err == nil {
				t.Errorf("%s: accepted as %s", tt.name, s)
			}
			continue
		}
		if err != nil || s.String() != base+tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.name, s, err, tt.want)
			continue
		}
		checkSubset(t, answer, offer[0])
		if got, err := AcceptIKE(answer, offered); err != nil || got != s {
			t.Errorf("%s: initiator takes %v, %v", tt.name, got, err)
		}
		if !offered[0].Allows(s) || !parseIKETest(t, base+tt.policy)[0].Allows(s) {
			t.Errorf("%s: %s is not allowed by both", tt.name, s)
		}
	}
}

// An initiator refuses an answer that uses a method twice (RFC 9370, Section
// 2.2.1), leaves out a type that is not optional, or adds one.
func TestAcceptAdditional(t *testing.T) {
	offered := parseIKETest(t, "aes128gcm16-prfsha256-x25519-ke1_x25519-ke1_ecp256-ke2_ecp256-ke2_none")
	ke := func(n int, id wire.KeyExchangeID) wire.Transform { return tr(keyExchangeType(n), uint16(id)) }
	head := []wire.Transform{
		encr(wire.EncryptionAESGCM16, 128), tr(wire.TransformPRF, uint16(wire.PRFHMACSHA256)), ke(0, wire.KeyExchangeCurve25519),
	}
	for _, tt := range []struct {
		name string
		ts   []wire.Transform
		want string
	}{
		{"good", []wire.Transform{ke(1, wire.KeyExchangeECP256), ke(2, 0)}, "aes128gcm16-prfsha256-x25519-ke1_ecp256"},
		{"the first one again", []wire.Transform{ke(1, wire.KeyExchangeCurve25519), ke(2, 0)}, ""},
		{"the additional one again", []wire.Transform{ke(1, wire.KeyExchangeECP256), ke(2, wire.KeyExchangeECP256)}, ""},
		{"an optional type left out", []wire.Transform{ke(1, wire.KeyExchangeECP256)}, "aes128gcm16-prfsha256-x25519-ke1_ecp256"},
		{"a type left out", []wire.Transform{ke(2, 0)}, ""},
		{"all left out", nil, ""},
		{"not offered", []wire.Transform{ke(1, wire.KeyExchangeECP384), ke(2, 0)}, ""},
		{"a type too many", []wire.Transform{ke(1, wire.KeyExchangeECP256), ke(2, 0), ke(3, 0)}, ""},
		{"NONE where it was not offered", []wire.Transform{ke(1, 0), ke(2, 0)}, ""},
	} {
		answer := wire.Proposal{Number: 1, Protocol: wire.ProtocolIKE, Transforms: slices.Concat(head, tt.ts)}
		s, err := AcceptIKE(answer, offered)
		if (err == nil) != (tt.want != "") || err == nil && s.String() != tt.want {
			t.Errorf("%s: got %s, %v, want %q", tt.name, s, err, tt.want)
		}
	}
}

func TestAdditionalOfChildSA(t *testing.T) {
	spi := []byte{1, 2, 3, 4}
	for _, tt := range []struct{ offer, policy, want string }{
		{"aes128gcm16-x25519-ke1_ecp256", "aes128gcm16-x25519-ke1_ecp256", "aes128gcm16-x25519-ke1_ecp256"},
		{"aes128gcm16-x25519-modpnone-ke1_ecp256-ke1_none", "aes128gcm16-modpnone-x25519-ke1_ecp256-ke1_none", "aes128gcm16"},
		{"aes128gcm16-x25519-modpnone-ke1_ecp256", "aes128gcm16-modpnone-x25519-ke1_ecp256", "aes128gcm16-x25519-ke1_ecp256"},
		{"aes128gcm16-x25519-ke1_ecp256", "aes128gcm16-x25519", ""},
	} {
		s, _, err := ChooseESP(OfferESP(parseESPTest(t, tt.offer), spi), parseESPTest(t, tt.policy))
		if (err == nil) != (tt.want != "") || err == nil && s.String() != tt.want {
			t.Errorf("%s for %s: got %s, %v, want %q", tt.offer, tt.policy, s, err, tt.want)
		}
	}
	if ps := WithoutKeyExchange(parseESPTest(t, "aes128gcm16-x25519-ke1_ecp256", "aes128gcm16-ecp256")); len(ps) != 1 || ps[0].String() != "aes128gcm16" {
		t.Errorf("IKE_AUTH offers %v", ps)
	}
}

func TestWithoutAdditional(t *testing.T) {
	got := WithoutAdditional(parseIKETest(t,
		"aes128gcm16-prfsha256-x25519-ke1_ecp256",
		"aes256gcm16-prfsha256-x25519-ke1_ecp256-ke1_none",
		"aes128gcm16-prfsha256-ecp256"))
	if len(got) != 2 || got[0].String() != "aes256gcm16-prfsha256-x25519" || got[1].String() != "aes128gcm16-prfsha256-ecp256" {
		t.Errorf("got %v", got)
	}
}

func TestParseAdditional(t *testing.T) {
	for _, s := range []string{"aes128gcm16-prfsha256-x25519-ke1_ecp256-ke1_none-ke7_ecp384"} {
		if got := parseIKETest(t, s)[0].String(); got != s {
			t.Errorf("%s is printed as %s", s, got)
		}
	}
	for s, want := range map[string]string{
		"ke1_bogus":             `unknown keyword "ke1_bogus"`,
		"ke0_ecp256":            `unknown keyword "ke0_ecp256"`,
		"ke8_ecp256":            `unknown keyword "ke8_ecp256"`,
		"ke_ecp256":             `unknown keyword "ke_ecp256"`,
		"ke1_aes128":            `unknown keyword "ke1_aes128"`,
		"ke1_ecp256-ke1_ecp256": "the same additional key exchange 1 is listed twice",
		"ke1_x25519":            "makes the same one twice",
		"ke1_ecp256-ke2_ecp256": "makes the same one twice",
	} {
		_, err := ParseIKE("aes128gcm16-prfsha256-x25519-" + s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", s, err, want)
		}
	}
	if _, err := ParseESP("aes128gcm16-ke1_ecp256"); err == nil || !strings.Contains(err.Error(), "without a first one") {
		t.Errorf("an additional key exchange alone gives %v", err)
	}
}

// What a responder chooses is in the policy of both ends, and nothing is chosen
// only if there is nothing.
func TestChooseAdditionalModel(t *testing.T) {
	methods := []wire.KeyExchangeID{0, wire.KeyExchangeCurve25519, wire.KeyExchangeECP256, wire.KeyExchangeECP384}
	list := rapid.SliceOfNDistinct(rapid.SampledFrom(methods), 0, 3, rapid.ID[wire.KeyExchangeID])
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) IKEProposal {
			p := IKEProposal{
				Encryption: []Encryption{{wire.EncryptionAESGCM16, 128}}, PRF: []PRF{PRFHMACSHA256},
				KeyExchange: rapid.SliceOfNDistinct(rapid.SampledFrom(methods[1:]), 1, 3, rapid.ID[wire.KeyExchangeID]).Draw(t, name),
			}
			for i := range 3 {
				p.Additional[i] = list.Draw(t, name)
			}
			return p
		}
		offered, policy := draw("offered"), draw("policy")
		if offered.Validate() != nil || policy.Validate() != nil {
			return
		}
		possible := false
		for _, s := range allSuites(policy) {
			possible = possible || offered.Allows(s)
		}
		s, answer, err := ChooseIKE(OfferIKE([]IKEProposal{offered}, nil), []IKEProposal{policy})
		if (err == nil) != possible {
			t.Fatalf("chose %s, %v; possible: %v", s, err, possible)
		}
		if err != nil {
			return
		}
		if !policy.Allows(s) {
			t.Errorf("chose %s, which the policy does not allow", s)
		}
		if got, err := AcceptIKE(answer, []IKEProposal{offered}); err != nil || got != s {
			t.Errorf("initiator takes %s, %v instead of %s", got, err, s)
		}
	})
}

// allSuites lists the suites of p that use no method twice.
func allSuites(p IKEProposal) []IKESuite {
	var out []IKESuite
	for _, first := range p.KeyExchange {
		for _, a := range noneIfEmpty(p.Additional[0]) {
			for _, b := range noneIfEmpty(p.Additional[1]) {
				for _, c := range noneIfEmpty(p.Additional[2]) {
					s := IKESuite{
						Encryption: p.Encryption[0].ID, KeyBits: p.Encryption[0].KeyBits, PRF: p.PRF[0],
						KeyExchange: first, Additional: AdditionalMethods{a, b, c},
					}
					used := s.KeyExchanges()
					slices.Sort(used)
					if len(slices.Compact(used)) == len(s.KeyExchanges()) {
						out = append(out, s)
					}
				}
			}
		}
	}
	return out
}
