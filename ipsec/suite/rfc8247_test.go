package suite

import (
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// What RFC 8247 (IKEv2) and RFC 8221 (ESP) say of each algorithm, and what is
// done here. The authentication methods of RFC 8247, Section 3, are in package
// ident. RFC 8221, Section 7, is about compression: IPComp is not there at all.
//
// A row is met if a MUST or SHOULD of any kind can be used and a MUST NOT
// cannot. What is never a default is known to be on its way out, or to be for
// the Internet of Things.
type requirement struct {
	name      string
	transform wire.Transform
	status    string
	ours      support
}

type support int

const (
	refused    support = iota // unknown keyword, in nobody's proposal, never accepted
	configured                // accepted where a profile names it
	byDefault                 // and without a profile
)

func (s support) String() string { return []string{"refused", "configured", "default"}[s] }

func integ(id wire.IntegrityID) wire.Transform { return tr(wire.TransformIntegrity, uint16(id)) }
func prf(id wire.PRFID) wire.Transform         { return tr(wire.TransformPRF, uint16(id)) }
func group(id wire.KeyExchangeID) wire.Transform {
	return tr(wire.TransformKeyExchange, uint16(id))
}

var rfc8247 = []requirement{
	// Section 2.1.
	{"ENCR_AES_CBC, 128 bits", encr(wire.EncryptionAESCBC, 128), "MUST", configured},
	{"ENCR_AES_CBC, 192 bits", encr(wire.EncryptionAESCBC, 192), "MAY", configured},
	{"ENCR_AES_CBC, 256 bits", encr(wire.EncryptionAESCBC, 256), "MUST", configured},
	{"ENCR_CHACHA20_POLY1305", encr(wire.EncryptionChaCha20Poly1305, 0), "SHOULD", byDefault},
	{"ENCR_AES_GCM_16, 128 bits", encr(wire.EncryptionAESGCM16, 128), "SHOULD", byDefault},
	{"ENCR_AES_GCM_16, 192 bits", encr(wire.EncryptionAESGCM16, 192), "MAY", configured},
	{"ENCR_AES_GCM_16, 256 bits", encr(wire.EncryptionAESGCM16, 256), "SHOULD", byDefault},
	{"ENCR_AES_GCM_12, 128 bits", encr(wire.EncryptionAESGCM12, 128), "MAY", configured},
	{"ENCR_AES_GCM_8, 128 bits", encr(wire.EncryptionAESGCM8, 128), "MAY", configured},
	{"ENCR_AES_CCM_8, 128 bits", encr(wire.EncryptionAESCCM8, 128), "SHOULD (IoT)", configured},
	{"ENCR_AES_CCM_8, 192 bits", encr(wire.EncryptionAESCCM8, 192), "MAY", refused},
	{"ENCR_AES_CCM_8, 256 bits", encr(wire.EncryptionAESCCM8, 256), "MAY", configured},
	{"ENCR_AES_CTR, 128 bits", encr(wire.EncryptionAESCTR, 128), "MAY", configured},
	{"ENCR_3DES", encr(wire.Encryption3DES, 0), "MAY", refused},
	{"ENCR_DES", encr(2, 0), "MUST NOT", refused},
	{"ENCR_NULL", encr(wire.EncryptionNull, 0), "MUST NOT", refused},
	// Section 2.2.
	{"PRF_HMAC_SHA2_256", prf(wire.PRFHMACSHA256), "MUST", byDefault},
	{"PRF_HMAC_SHA2_512", prf(wire.PRFHMACSHA512), "SHOULD+", byDefault},
	{"PRF_HMAC_SHA1", prf(wire.PRFHMACSHA1), "MUST-", configured},
	{"PRF_AES128_XCBC", prf(wire.PRFAES128XCBC), "SHOULD (IoT)", configured},
	{"PRF_HMAC_MD5", prf(wire.PRFHMACMD5), "MUST NOT", refused},
	// Section 2.3.
	{"AUTH_HMAC_SHA2_256_128", integ(wire.IntegrityHMACSHA256), "MUST", configured},
	{"AUTH_HMAC_SHA2_512_256", integ(wire.IntegrityHMACSHA512), "SHOULD", configured},
	{"AUTH_HMAC_SHA1_96", integ(wire.IntegrityHMACSHA1), "MUST-", configured},
	{"AUTH_AES_XCBC_96", integ(wire.IntegrityAESXCBC), "SHOULD (IoT)", configured},
	{"AUTH_HMAC_MD5_96", integ(wire.IntegrityHMACMD5), "MUST NOT", refused},
	{"AUTH_DES_MAC", integ(3), "MUST NOT", refused},
	{"AUTH_KPDK_MD5", integ(4), "MUST NOT", refused},
	// Section 2.4.
	{"2048-bit MODP group", group(wire.KeyExchangeMODP2048), "MUST", configured},
	{"256-bit random ECP group", group(wire.KeyExchangeECP256), "SHOULD", byDefault},
	{"1536-bit MODP group", group(wire.KeyExchangeMODP1536), "SHOULD NOT", refused},
	{"1024-bit MODP group", group(wire.KeyExchangeMODP1024), "SHOULD NOT", refused},
	{"768-bit MODP group", group(wire.KeyExchangeMODP768), "MUST NOT", refused},
	{"1024-bit MODP group with 160-bit prime order subgroup", group(22), "MUST NOT", refused},
	{"2048-bit MODP group with 224-bit prime order subgroup", group(23), "SHOULD NOT", refused},
	{"2048-bit MODP group with 256-bit prime order subgroup", group(24), "SHOULD NOT", refused},
}

var rfc8221 = []requirement{
	// Section 5.
	{"ENCR_DES_IV64", encr(1, 0), "MUST NOT", refused},
	{"ENCR_DES", encr(2, 0), "MUST NOT", refused},
	{"ENCR_3DES", encr(wire.Encryption3DES, 0), "SHOULD NOT", refused},
	{"ENCR_BLOWFISH", encr(7, 0), "MUST NOT", refused},
	{"ENCR_BLOWFISH, 128 bits", encr(7, 128), "MUST NOT", refused},
	{"ENCR_3IDEA", encr(8, 0), "MUST NOT", refused},
	{"ENCR_DES_IV32", encr(9, 0), "MUST NOT", refused},
	{"ENCR_NULL", encr(wire.EncryptionNull, 0), "MUST", configured},
	{"ENCR_AES_CBC, 128 bits", encr(wire.EncryptionAESCBC, 128), "MUST", configured},
	{"ENCR_AES_CBC, 192 bits", encr(wire.EncryptionAESCBC, 192), "MAY", configured},
	{"ENCR_AES_CBC, 256 bits", encr(wire.EncryptionAESCBC, 256), "MUST", configured},
	{"ENCR_AES_CCM_8, 128 bits", encr(wire.EncryptionAESCCM8, 128), "SHOULD (IoT)", configured},
	{"ENCR_AES_GCM_16, 128 bits", encr(wire.EncryptionAESGCM16, 128), "MUST", byDefault},
	{"ENCR_AES_GCM_16, 192 bits", encr(wire.EncryptionAESGCM16, 192), "MAY", configured},
	{"ENCR_AES_GCM_16, 256 bits", encr(wire.EncryptionAESGCM16, 256), "MUST", byDefault},
	{"ENCR_CHACHA20_POLY1305", encr(wire.EncryptionChaCha20Poly1305, 0), "SHOULD", configured},
	{"ENCR_AES_CTR, 128 bits", encr(wire.EncryptionAESCTR, 128), "MAY", configured}, // Section 8
	// Section 6. AUTH_NONE is in TestIntegrityNone.
	{"AUTH_HMAC_MD5_96", integ(wire.IntegrityHMACMD5), "MUST NOT", refused},
	{"AUTH_HMAC_SHA1_96", integ(wire.IntegrityHMACSHA1), "MUST-", configured},
	{"AUTH_DES_MAC", integ(3), "MUST NOT", refused},
	{"AUTH_KPDK_MD5", integ(4), "MUST NOT", refused},
	{"AUTH_AES_XCBC_96", integ(wire.IntegrityAESXCBC), "SHOULD / MAY (IoT)", configured},
	{"AUTH_AES_128_GMAC", integ(wire.IntegrityAES128GMAC), "MAY", refused},
	{"AUTH_AES_256_GMAC", integ(wire.IntegrityAES256GMAC), "MAY", refused},
	{"AUTH_HMAC_SHA2_256_128", integ(wire.IntegrityHMACSHA256), "MUST", configured},
	{"AUTH_HMAC_SHA2_512_256", integ(wire.IntegrityHMACSHA512), "SHOULD", configured},
}

func TestRFC8247(t *testing.T) { checkRequirements(t, wire.ProtocolIKE, rfc8247) }
func TestRFC8221(t *testing.T) { checkRequirements(t, wire.ProtocolESP, rfc8221) }

func checkRequirements(t *testing.T, protocol wire.ProtocolID, rows []requirement) {
	for _, r := range rows {
		if got := supported(protocol, r.transform); got != r.ours {
			t.Errorf("%s for %s: %s, the table says %s", r.name, protocol, got, r.ours)
		}
		switch {
		case r.status == "MUST NOT" || r.status == "SHOULD NOT":
			if r.ours != refused {
				t.Errorf("%s for %s is %s and not refused", r.name, protocol, r.status)
			}
		case strings.HasPrefix(r.status, "MUST") || strings.HasPrefix(r.status, "SHOULD"):
			if r.ours == refused {
				t.Errorf("%s for %s is %s and refused", r.name, protocol, r.status)
			}
			if r.ours == byDefault && (r.status == "MUST-" || strings.Contains(r.status, "IoT")) {
				t.Errorf("%s for %s is %s and a default", r.name, protocol, r.status)
			}
		case r.ours == byDefault:
			t.Errorf("%s for %s is %s and a default", r.name, protocol, r.status)
		}
	}
}

// supported finds out what is done with a transform: by what a peer offers that
// has it, to somebody whose proposal has it, and by the defaults.
func supported(protocol wire.ProtocolID, x wire.Transform) support {
	offer := wire.Proposal{Number: 1, Protocol: protocol, Transforms: []wire.Transform{x}}
	add := func(t wire.Transform) {
		if len(ofType(offer, t.Type)) == 0 {
			offer.Transforms = append(offer.Transforms, t)
		}
	}
	combined := x.Type == wire.TransformEncryption && isAEAD(Encryption{wire.EncryptionID(x.ID), x.KeyLength})
	if x.Type == wire.TransformPRF || x.Type == wire.TransformKeyExchange {
		add(encr(wire.EncryptionAESGCM16, 256))
		combined = true
	}
	add(encr(wire.EncryptionAESCBC, 128))
	if !combined {
		add(integ(wire.IntegrityHMACSHA256))
	}
	if protocol == wire.ProtocolESP {
		offer.SPI = []byte{0, 0, 1, 0}
		add(tr(wire.TransformSequenceNumbers, 0))
		return supportedESP(offer, x)
	}
	add(prf(wire.PRFHMACSHA256))
	add(group(wire.KeyExchangeCurve25519))
	return supportedIKE(offer, x)
}

func supportedIKE(offer wire.Proposal, x wire.Transform) support {
	policy := ikeSuite(offer.Transforms).proposal()
	if _, _, err := ChooseIKE([]wire.Proposal{offer}, []IKEProposal{policy}); err != nil {
		return refused
	}
	if read, err := ParseIKE(policy.String()); err != nil || !slices.Contains(read.Wire(1, nil).Transforms, x) {
		return refused
	}
	for _, p := range DefaultIKE() {
		if slices.Contains(p.Wire(1, nil).Transforms, x) {
			return byDefault
		}
	}
	return configured
}

func supportedESP(offer wire.Proposal, x wire.Transform) support {
	policy := espSuite(offer).proposal()
	if _, _, err := ChooseESP([]wire.Proposal{offer}, []ESPProposal{policy}); err != nil {
		return refused
	}
	if read, err := ParseESP(policy.String()); err != nil || !slices.Contains(read.Wire(1, nil).Transforms, x) {
		return refused
	}
	for _, p := range DefaultESP() {
		if slices.Contains(p.Wire(1, nil).Transforms, x) {
			return byDefault
		}
	}
	return configured
}

// RFC 8221, Section 6: AUTH_NONE is a MUST with combined-mode ciphers and a MUST
// NOT with any other.
func TestIntegrityNone(t *testing.T) {
	none := integ(wire.IntegrityNone)
	sn := tr(wire.TransformSequenceNumbers, 0)
	for _, c := range ciphers {
		e := encr(c.ID, c.KeyBits)
		offer := wire.Proposal{Number: 1, Protocol: wire.ProtocolESP, SPI: []byte{0, 0, 1, 0}, Transforms: []wire.Transform{e, none, sn}}
		policy := ESPProposal{Encryption: []Encryption{c.Encryption}, SequenceNumbers: defaultSequenceNumbers()}
		if !c.aead() {
			policy.Integrity = []wire.IntegrityID{wire.IntegrityHMACSHA256}
		}
		if _, _, err := ChooseESP([]wire.Proposal{offer}, []ESPProposal{policy}); (err == nil) != c.aead() {
			t.Errorf("%s with AUTH_NONE: %v", c.keyword, err)
		}
		policy.Integrity = []wire.IntegrityID{wire.IntegrityNone}
		if err := policy.Validate(); err == nil {
			t.Errorf("a proposal of %s with AUTH_NONE is valid", c.keyword)
		}
	}
}
