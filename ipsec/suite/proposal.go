package suite

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// IKEProposal is one proposal for an IKE SA: alternatives for each transform
// type, the preferred one first (RFC 7296, Section 2.7). The ciphers are all
// combined-mode (then Integrity is empty) or none is.
type IKEProposal struct {
	Encryption  []Encryption
	Integrity   []wire.IntegrityID
	PRF         []PRF
	KeyExchange []wire.KeyExchangeID
	Additional  AdditionalOffers // RFC 9370
}

// ESPProposal is one proposal for a pair of ESP SAs, or of AH SAs. An empty
// KeyExchange means no key exchange besides that of the IKE SA.
type ESPProposal struct {
	AH              bool // AH (RFC 4302): Integrity and no Encryption
	Encryption      []Encryption
	Integrity       []wire.IntegrityID
	KeyExchange     []wire.KeyExchangeID // NONE (0) among others makes it optional
	Additional      AdditionalOffers     // RFC 9370
	SequenceNumbers []wire.SequenceNumbersID
}

// DefaultIKE returns what is offered and accepted for an IKE SA where nothing
// is configured (RFC 8247, without what it calls legacy): first a key exchange
// that also withstands a quantum computer, then one for peers that have none.
// AUTH covers the offer, so nobody in between can take the first one away.
func DefaultIKE() []IKEProposal {
	p := IKEProposal{
		Encryption: []Encryption{
			{wire.EncryptionAESGCM16, 256}, {wire.EncryptionAESGCM16, 128}, {wire.EncryptionChaCha20Poly1305, 0},
		},
		PRF:         []PRF{PRFHMACSHA256, PRFHMACSHA384, PRFHMACSHA512},
		KeyExchange: defaultKeyExchange(),
	}
	hybrid := p
	hybrid.Additional[0] = []wire.KeyExchangeID{wire.KeyExchangeMLKEM768}
	return []IKEProposal{hybrid, p}
}

func defaultKeyExchange() []wire.KeyExchangeID {
	return []wire.KeyExchangeID{wire.KeyExchangeCurve25519, wire.KeyExchangeECP256, wire.KeyExchangeECP384}
}

// DefaultESP returns what is offered and accepted for a Child SA where nothing
// is configured: what every data plane has (RFC 8221), with key exchanges at each
// rekey as for the IKE SA.
func DefaultESP() []ESPProposal {
	p := ESPProposal{
		Encryption:  []Encryption{{wire.EncryptionAESGCM16, 256}, {wire.EncryptionAESGCM16, 128}},
		KeyExchange: defaultKeyExchange(),
		SequenceNumbers: []wire.SequenceNumbersID{
			wire.SequenceNumbersExtended, wire.SequenceNumbers32,
		},
	}
	hybrid := p
	hybrid.Additional[0] = []wire.KeyExchangeID{wire.KeyExchangeMLKEM768}
	return []ESPProposal{hybrid, p}
}

// Validate reports the first rule that p breaks. A proposal from ParseIKE or
// DefaultIKE is valid unless an algorithm fails its self-test.
func (p IKEProposal) Validate() error {
	if err := checkCiphers(p.Encryption, p.Integrity); err != nil {
		return err
	}
	if i := slices.IndexFunc(p.Encryption, espOnly); i >= 0 {
		return fmt.Errorf("%s does not encrypt, which IKE needs: choose another cipher (RFC 7296, Section 3.3.2)", p.Encryption[i])
	}
	if len(p.PRF) == 0 {
		return missing(kindPRF)
	}
	if err := checkEach(kindPRF, p.PRF, testPRF); err != nil {
		return err
	}
	if len(p.KeyExchange) == 0 {
		return missing(kindKeyExchange)
	}
	if err := checkEach(kindKeyExchange, p.KeyExchange, testKeyExchange); err != nil {
		return err
	}
	return p.Additional.validate(p.KeyExchange)
}

// Validate reports the first rule that p breaks. A proposal from ParseESP or
// DefaultESP is valid unless an algorithm fails its self-test.
func (p ESPProposal) Validate() error {
	check := checkCiphers
	if p.AH {
		check = checkAH
	}
	if err := check(p.Encryption, p.Integrity); err != nil {
		return err
	}
	if err := checkEach(kindKeyExchange, p.KeyExchange, testOptionalKeyExchange); err != nil {
		return err
	}
	if err := p.Additional.validate(p.KeyExchange); err != nil {
		return err
	}
	if len(p.SequenceNumbers) == 0 {
		return missing(kindSequenceNumbers)
	}
	return checkEach(kindSequenceNumbers, p.SequenceNumbers, knownSequenceNumbers)
}

// checkCiphers holds RFC 7296, Section 3.3: combined-mode ciphers and others
// never share a proposal, and the latter need an integrity algorithm.
func checkCiphers(es []Encryption, is []wire.IntegrityID) error {
	if len(es) == 0 {
		return missing(kindEncryption)
	}
	if err := checkEach(kindEncryption, es, testEncryption); err != nil {
		return err
	}
	combined := 0
	for _, e := range es {
		if isAEAD(e) {
			combined++
		}
	}
	switch {
	case combined != 0 && combined != len(es):
		return errors.New("combined-mode ciphers (such as aes128gcm16) and others (such as aes128) are in one proposal: write two proposals")
	case combined != 0 && len(is) != 0:
		return fmt.Errorf("a combined-mode cipher takes no integrity algorithm: remove %s", integrityKeyword(is[0]))
	case combined == 0 && len(is) == 0:
		return missing(kindIntegrity)
	}
	return checkEach(kindIntegrity, is, testIntegrity)
}

// checkAH holds RFC 7296, Section 3.3.3, for AH.
func checkAH(es []Encryption, is []wire.IntegrityID) error {
	if len(es) != 0 {
		return fmt.Errorf("AH does not encrypt: remove %s, or write a proposal without %q", es[0], keywordAH)
	}
	if len(is) == 0 {
		return missing(kindIntegrity)
	}
	return checkEach(kindIntegrity, is, testAHIntegrity)
}

func checkEach[T comparable](k kind, values []T, test func(T) error) error {
	for i, v := range values {
		if slices.Contains(values[:i], v) {
			return fmt.Errorf("the same %s is listed twice: remove one", k)
		}
		if err := test(v); err != nil {
			return err
		}
	}
	return nil
}

func missing(k kind) error {
	return fmt.Errorf("no %s: add one of %s", k, keywords(k))
}

// Wire returns p as proposal number of an SA payload. spi is empty for an
// initial IKE SA and 8 octets for a rekeyed one (RFC 7296, Section 3.3.1).
func (p IKEProposal) Wire(number uint8, spi []byte) wire.Proposal {
	ts := encryptionTransforms(p.Encryption)
	for _, f := range p.PRF {
		ts = append(ts, wire.Transform{Type: wire.TransformPRF, ID: uint16(f)})
	}
	ts = append(ts, integrityTransforms(p.Integrity)...)
	ts = append(ts, keyExchangeTransforms(p.KeyExchange)...)
	ts = append(ts, p.Additional.transforms()...)
	return wire.Proposal{Number: number, Protocol: wire.ProtocolIKE, SPI: spi, Transforms: ts}
}

// Wire returns p as proposal number of an SA payload with the 4-octet SPI of
// the sender's inbound SA.
func (p ESPProposal) Wire(number uint8, spi []byte) wire.Proposal {
	ts := encryptionTransforms(p.Encryption)
	ts = append(ts, integrityTransforms(p.Integrity)...)
	ts = append(ts, keyExchangeTransforms(p.KeyExchange)...)
	ts = append(ts, p.Additional.transforms()...)
	for _, sn := range p.SequenceNumbers {
		ts = append(ts, wire.Transform{Type: wire.TransformSequenceNumbers, ID: uint16(sn)})
	}
	return wire.Proposal{Number: number, Protocol: childProtocol(p.AH), SPI: spi, Transforms: ts}
}

// OfferIKE numbers proposals from 1 in order of preference, as AcceptIKE
// expects them, all with the same SPI.
func OfferIKE(ps []IKEProposal, spi []byte) []wire.Proposal {
	out := make([]wire.Proposal, len(ps))
	for i, p := range ps {
		out[i] = p.Wire(uint8(i+1), spi)
	}
	return out
}

// OfferESP numbers proposals from 1 in order of preference, as AcceptESP
// expects them, all with the same SPI.
func OfferESP(ps []ESPProposal, spi []byte) []wire.Proposal {
	out := make([]wire.Proposal, len(ps))
	for i, p := range ps {
		out[i] = p.Wire(uint8(i+1), spi)
	}
	return out
}

// WithoutKeyExchange returns the proposals with no key exchange of their own:
// what IKE_AUTH offers and accepts, because its Child SA takes its keys from
// the key exchange of IKE_SA_INIT (RFC 7296, Section 1.2). Proposals that
// become equal are merged.
func WithoutKeyExchange(ps []ESPProposal) []ESPProposal {
	var out []ESPProposal
	for _, p := range ps {
		p.KeyExchange, p.Additional = nil, AdditionalOffers{}
		if !slices.ContainsFunc(out, func(q ESPProposal) bool { return q.String() == p.String() }) {
			out = append(out, p)
		}
	}
	return out
}

func encryptionTransforms(es []Encryption) []wire.Transform {
	ts := make([]wire.Transform, 0, len(es)+8)
	for _, e := range es {
		ts = append(ts, wire.Transform{Type: wire.TransformEncryption, ID: uint16(e.ID), KeyLength: e.KeyBits})
	}
	return ts
}

func integrityTransforms(is []wire.IntegrityID) []wire.Transform {
	ts := make([]wire.Transform, 0, len(is))
	for _, id := range is {
		ts = append(ts, wire.Transform{Type: wire.TransformIntegrity, ID: uint16(id)})
	}
	return ts
}

func keyExchangeTransforms(ks []wire.KeyExchangeID) []wire.Transform {
	ts := make([]wire.Transform, 0, len(ks))
	for _, id := range ks {
		ts = append(ts, wire.Transform{Type: wire.TransformKeyExchange, ID: uint16(id)})
	}
	return ts
}

// String returns the keyword form that ParseIKE reads.
func (p IKEProposal) String() string {
	ws := cipherKeywords(p.Encryption, p.Integrity)
	for _, f := range p.PRF {
		ws = append(ws, f.String())
	}
	for _, g := range p.KeyExchange {
		ws = append(ws, groupKeyword(g))
	}
	ws = append(ws, p.Additional.keywords()...)
	return strings.Join(ws, "-")
}

// String returns the keyword form that ParseESP reads. 32-bit sequence numbers
// alone are the default of that form and not written.
func (p ESPProposal) String() string {
	var ws []string
	if p.AH {
		ws = append(ws, keywordAH)
	}
	ws = append(ws, cipherKeywords(p.Encryption, p.Integrity)...)
	for _, g := range p.KeyExchange {
		ws = append(ws, groupKeyword(g))
	}
	ws = append(ws, p.Additional.keywords()...)
	if !slices.Equal(p.SequenceNumbers, defaultSequenceNumbers()) {
		for _, sn := range p.SequenceNumbers {
			ws = append(ws, sequenceNumbersKeyword(sn))
		}
	}
	return strings.Join(ws, "-")
}

func cipherKeywords(es []Encryption, is []wire.IntegrityID) []string {
	var ws []string
	for _, e := range es {
		ws = append(ws, e.String())
	}
	for _, id := range is {
		ws = append(ws, integrityKeyword(id))
	}
	return ws
}
