package suite

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// kind is what a keyword stands for: one transform type.
type kind int

const (
	kindEncryption kind = iota
	kindIntegrity
	kindPRF
	kindKeyExchange
	kindSequenceNumbers
	kindAdditionalKE // ADDKE1; the next six are ADDKE2 to ADDKE7
)

func (k kind) String() string {
	switch k {
	case kindEncryption:
		return "encryption algorithm"
	case kindIntegrity:
		return "integrity algorithm"
	case kindPRF:
		return "pseudorandom function"
	case kindKeyExchange:
		return "key exchange group"
	case kindSequenceNumbers:
		return "sequence number size"
	default:
		return fmt.Sprintf("additional key exchange %d", k-kindAdditionalKE+1)
	}
}

// Keywords of an ESP proposal that name no algorithm.
const (
	keywordNoKeyExchange = "modpnone" // the key exchange is optional
	keywordESN           = "esn"
	keywordNoESN         = "noesn"
	// keywordAH goes first and makes it a proposal for AH.
	keywordAH = "ah"
	// keywordNone after "ke1_" to "ke7_" makes that key exchange optional.
	keywordNone = "none"
)

// aliases are other names in use for the same transform.
var aliases = map[string]string{
	"aes128gcm128": "aes128gcm16",
	"aes192gcm128": "aes192gcm16",
	"aes256gcm128": "aes256gcm16",
	"aes128gcm96":  "aes128gcm12",
	"aes192gcm96":  "aes192gcm12",
	"aes256gcm96":  "aes256gcm12",
	"aes128gcm64":  "aes128gcm8",
	"aes192gcm64":  "aes192gcm8",
	"aes256gcm64":  "aes256gcm8",
	"aes128ccm128": "aes128ccm16",
	"aes256ccm128": "aes256ccm16",
	"aes128ccm96":  "aes128ccm12",
	"aes256ccm96":  "aes256ccm12",
	"aes128ccm64":  "aes128ccm8",
	"aes256ccm64":  "aes256ccm8",
	"curve25519":   "x25519",
	"sha2_256":     "sha256",
	"sha2_384":     "sha384",
	"sha2_512":     "sha512",
	"aes128cbc":    "aes128",
	"aes192cbc":    "aes192",
	"aes256cbc":    "aes256",
}

func keywords(k kind) string {
	var ws []string
	switch k {
	case kindEncryption:
		for _, c := range ciphers {
			ws = append(ws, c.keyword)
		}
	case kindIntegrity:
		for _, h := range integrities {
			ws = append(ws, h.keyword)
		}
	case kindPRF:
		for _, h := range prfs {
			ws = append(ws, h.keyword)
		}
	case kindKeyExchange:
		for _, g := range groups {
			ws = append(ws, g.keyword)
		}
	case kindSequenceNumbers:
		ws = []string{keywordESN, keywordNoESN}
	default:
		ws = []string{"ke1_ to ke7_ and a key exchange group, or none"}
	}
	return strings.Join(ws, ", ")
}

// maxProposalText bounds the keyword form; the longest sensible one is under
// 200 octets.
const maxProposalText = 1024

// ParseIKE reads a proposal for an IKE SA: keywords joined by "-", several of
// one kind in order of preference, such as
// "aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256". Where it names integrity
// algorithms and no pseudorandom function, the functions on the same hashes
// are meant. "ke1_mlkem768" adds a key exchange after the first one (RFC 9370),
// "ke1_none" beside it makes that optional. The error names the keyword and what
// would be right.
func ParseIKE(s string) (IKEProposal, error) {
	p, err := parseIKE(s)
	if err != nil {
		return IKEProposal{}, fmt.Errorf("IKE proposal %q: %w", clip(s), err)
	}
	return p, nil
}

func parseIKE(s string) (IKEProposal, error) {
	var p IKEProposal
	words, err := split(s)
	if err != nil {
		return p, err
	}
	for _, w := range words {
		k, id, bits, ok := lookup(w)
		switch {
		case !ok:
			return p, unknown(w, kindEncryption, kindIntegrity, kindPRF, kindKeyExchange, kindAdditionalKE)
		case k == kindEncryption:
			p.Encryption = append(p.Encryption, Encryption{wire.EncryptionID(id), bits})
		case k == kindIntegrity:
			p.Integrity = append(p.Integrity, wire.IntegrityID(id))
		case k == kindPRF:
			p.PRF = append(p.PRF, PRF(id))
		case k == kindKeyExchange && id != 0:
			p.KeyExchange = append(p.KeyExchange, wire.KeyExchangeID(id))
		case k >= kindAdditionalKE:
			p.Additional.add(k, id)
		default:
			return p, fmt.Errorf("keyword %q belongs into an ESP proposal: remove it", w)
		}
	}
	if len(p.PRF) == 0 {
		for _, id := range p.Integrity {
			p.PRF = append(p.PRF, PRF(prfOfIntegrity(id)))
		}
	}
	return p, p.Validate()
}

// ParseESP reads a proposal for a Child SA, such as "aes128gcm16-x25519-esn".
// Without "esn" sequence numbers have 32 bits; "esn-noesn" offers both.
// "modpnone" beside a group makes the key exchange optional. Additional key
// exchanges are written as for ParseIKE. "ah" before all others makes it a
// proposal for AH, such as "ah-sha256". The error names the keyword and what
// would be right.
func ParseESP(s string) (ESPProposal, error) {
	p, err := parseESP(s)
	if err != nil {
		return ESPProposal{}, fmt.Errorf("ESP proposal %q: %w", clip(s), err)
	}
	return p, nil
}

func parseESP(s string) (ESPProposal, error) {
	var p ESPProposal
	words, err := split(s)
	if err != nil {
		return p, err
	}
	if words[0] == keywordAH {
		p.AH, words = true, words[1:]
	}
	for _, w := range words {
		k, id, bits, ok := lookup(w)
		if h, gmac := macOf(gmacs, w); p.AH && gmac {
			k, id, ok = kindIntegrity, h.id, true // not the cipher of that name
		}
		if !ok {
			return p, unknown(w, kindEncryption, kindIntegrity, kindKeyExchange, kindAdditionalKE, kindSequenceNumbers)
		}
		switch k {
		case kindEncryption:
			p.Encryption = append(p.Encryption, Encryption{wire.EncryptionID(id), bits})
		case kindIntegrity:
			p.Integrity = append(p.Integrity, wire.IntegrityID(id))
		case kindKeyExchange:
			p.KeyExchange = append(p.KeyExchange, wire.KeyExchangeID(id))
		case kindSequenceNumbers:
			p.SequenceNumbers = append(p.SequenceNumbers, wire.SequenceNumbersID(id))
		case kindPRF:
			return p, fmt.Errorf("keyword %q belongs into an IKE proposal: ESP has no pseudorandom function, remove it", w)
		default:
			p.Additional.add(k, id)
		}
	}
	if len(p.SequenceNumbers) == 0 {
		p.SequenceNumbers = defaultSequenceNumbers()
	}
	return p, p.Validate()
}

func defaultSequenceNumbers() []wire.SequenceNumbersID {
	return []wire.SequenceNumbersID{wire.SequenceNumbers32}
}

func split(s string) ([]string, error) {
	if s == "" {
		return nil, fmt.Errorf("is empty: write keywords joined by \"-\", such as aes256gcm16-prfsha256-x25519 for IKE or aes256gcm16-x25519 for ESP")
	}
	if len(s) > maxProposalText {
		return nil, fmt.Errorf("has %d characters, at most %d are allowed: split it into several proposals", len(s), maxProposalText)
	}
	words := strings.Split(strings.ToLower(s), "-")
	if slices.Contains(words, "") {
		return nil, fmt.Errorf("has an empty keyword: join keywords by a single \"-\"")
	}
	return words, nil
}

func unknown(w string, kinds ...kind) error {
	var b strings.Builder
	for i, k := range kinds {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %s", k, keywords(k))
	}
	return fmt.Errorf("unknown keyword %q; known are %s", clip(w), b.String())
}

// clip keeps errors readable whatever was in the file.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return s[:64] + "..."
}

// lookup finds the transform that keyword w stands for.
func lookup(w string) (k kind, id, bits uint16, ok bool) {
	if a, found := aliases[w]; found {
		w = a
	}
	for _, c := range ciphers {
		if c.keyword == w {
			return kindEncryption, uint16(c.ID), c.KeyBits, true
		}
	}
	if h, found := macOf(integrities, w); found {
		return kindIntegrity, h.id, 0, true
	}
	if h, found := macOf(prfs, w); found {
		return kindPRF, h.id, 0, true
	}
	for _, g := range groups {
		if g.keyword == w {
			return kindKeyExchange, uint16(g.id), 0, true
		}
	}
	if k, id, found := lookupAdditional(w); found {
		return k, id, 0, true
	}
	switch w {
	case keywordNoKeyExchange:
		return kindKeyExchange, 0, 0, true
	case keywordESN:
		return kindSequenceNumbers, uint16(wire.SequenceNumbersExtended), 0, true
	case keywordNoESN:
		return kindSequenceNumbers, uint16(wire.SequenceNumbers32), 0, true
	}
	return 0, 0, 0, false
}

func macOf(table []macSpec, keyword string) (macSpec, bool) {
	i := slices.IndexFunc(table, func(h macSpec) bool { return h.keyword == keyword })
	if i < 0 {
		return macSpec{}, false
	}
	return table[i], true
}

// String returns the keyword of e, such as "aes128gcm16".
func (e Encryption) String() string {
	if c, ok := cipherOf(e); ok {
		return c.keyword
	}
	return fmt.Sprintf("%s/%d", e.ID, e.KeyBits)
}

func integrityKeyword(id wire.IntegrityID) string {
	if h, ok := integrityOf(id); ok {
		return h.keyword
	}
	return id.String()
}

func groupKeyword(id wire.KeyExchangeID) string {
	if id == 0 {
		return keywordNoKeyExchange
	}
	if g, ok := groupOf(id); ok {
		return g.keyword
	}
	return id.String()
}

func sequenceNumbersKeyword(id wire.SequenceNumbersID) string {
	switch id {
	case wire.SequenceNumbersExtended:
		return keywordESN
	case wire.SequenceNumbers32:
		return keywordNoESN
	default:
		return id.String()
	}
}
