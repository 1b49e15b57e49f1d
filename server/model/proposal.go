package model

import (
	"fmt"
	"slices"
	"strings"
)

// The keywords that edges know, in the order in which people are told of them.
// They are kept here by hand: the controller does not link the IPsec library,
// and decides for edges of several versions what may be stored.
var (
	combinedCiphers = []string{
		"aes128gcm16", "aes192gcm16", "aes256gcm16", "chacha20poly1305",
		"aes128gcm12", "aes192gcm12", "aes256gcm12", "aes128gcm8", "aes192gcm8", "aes256gcm8",
		"aes128ccm16", "aes256ccm16", "aes128ccm12", "aes256ccm12", "aes128ccm8", "aes256ccm8",
	}
	plainCiphers = []string{"aes128", "aes192", "aes256", "aes128ctr", "aes192ctr", "aes256ctr"}
	// Those that do not encrypt are of ESP alone. AH is not for meshes: it is never
	// encapsulated in UDP, which their tunnels are.
	combinedIntegrity = []string{"aes128gmac", "aes192gmac", "aes256gmac"}
	noCipher          = []string{"null"}
	integrities       = []string{"sha256", "sha384", "sha512", "sha1", "aesxcbc"}
	pseudorandom      = []string{"prfsha256", "prfsha384", "prfsha512", "prfsha1", "prfaesxcbc"}
	keyExchanges      = []string{"x25519", "ecp256", "ecp384", "ecp521", "modp2048", "modp3072", "modp4096", "mlkem768", "mlkem1024"}
	optionalExchange  = []string{"modpnone"}
	sequenceNumbers   = []string{"esn", "noesn"}
)

// keywordAliases are other names in use for the same algorithm.
var keywordAliases = map[string]string{
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

// Proposal is which protocol a proposal is for.
type Proposal int

const (
	// ProposalIKE is a proposal for an IKE SA.
	ProposalIKE Proposal = iota
	// ProposalESP is a proposal for a Child SA.
	ProposalESP
)

// CheckProposal checks the keyword form of a proposal; see Profile. The
// violation has Problem and Remedy set; ok is true when there is none.
func CheckProposal(p Proposal, text string) (v Violation, ok bool) {
	known := [][]string{combinedCiphers, plainCiphers, integrities, pseudorandom, keyExchanges}
	example := "aes256gcm16-prfsha384-x25519"
	if p == ProposalESP {
		known = [][]string{combinedCiphers, plainCiphers, combinedIntegrity, noCipher, integrities, keyExchanges, optionalExchange, sequenceNumbers}
		example = "aes256gcm16-x25519-esn"
	}
	words := strings.Split(strings.ToLower(text), "-")
	for i, w := range words {
		words[i] = canonical(w)
		if _, _, ok := additional(words[i]); !ok && !slices.ContainsFunc(known, func(group []string) bool { return slices.Contains(group, words[i]) }) {
			return Violation{
				Problem: fmt.Sprintf("unknown keyword %q in proposal %q", clip(w), clip(text)),
				Remedy: fmt.Sprintf("valid are %s, and ke1_ to ke7_ before a key exchange or none, joined by hyphens as in %s",
					strings.Join(slices.Concat(known...), ", "), example),
			}, false
		}
		if slices.Contains(words[:i], words[i]) {
			return Violation{
				Problem: fmt.Sprintf("keyword %q is twice in proposal %q", clip(w), clip(text)),
				Remedy:  "remove one",
			}, false
		}
	}
	if problem, remedy := composition(p, words); problem != "" {
		return Violation{Problem: fmt.Sprintf("proposal %q %s", clip(text), problem), Remedy: remedy + ", as in " + example}, false
	}
	return Violation{}, true
}

// composition checks that a proposal has what RFC 7296, Section 3.3.3, makes
// mandatory, and nothing that excludes another.
func composition(p Proposal, words []string) (problem, remedy string) {
	has := func(group []string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(group, w) })
	}
	combined := has(combinedCiphers) || has(combinedIntegrity)
	plain := has(plainCiphers) || has(noCipher)
	switch {
	case !combined && !plain:
		return "has no encryption algorithm", "add one of " + strings.Join(slices.Concat(combinedCiphers, plainCiphers), ", ")
	case combined && plain:
		return "mixes combined-mode ciphers with others (RFC 7296, Section 3.3)", "make two proposals of it"
	case combined && has(integrities):
		return "has an integrity algorithm beside a combined-mode cipher", "remove the integrity algorithm"
	case plain && !has(integrities):
		return "has no integrity algorithm", "add one of " + strings.Join(integrities, ", ")
	case p == ProposalIKE && !has(pseudorandom) && !has(integrities):
		return "has no pseudorandom function", "add one of " + strings.Join(pseudorandom, ", ")
	case p == ProposalIKE && !has(keyExchanges):
		return "has no key exchange", "add one of " + strings.Join(keyExchanges, ", ")
	}
	return exchanges(words)
}

// clip keeps messages readable whatever was sent.
func clip(s string) string {
	if len(s) <= 64 {
		return s
	}
	return strings.ToValidUTF8(s[:64], "") + "..."
}
