package gatewayconfig

import (
	"fmt"
	"slices"
	"strings"
)

// proposal is the keyword form of a proposal, taken apart.
type proposal struct {
	text, field                        string
	ciphers, integrities, prfs, groups []string
	// other is what no vendor but strongSwan knows.
	other      []string
	esn, noESN bool
}

// combined says whether the ciphers need no integrity algorithm beside them.
func (p proposal) combined() bool {
	return slices.ContainsFunc(p.ciphers, func(c string) bool {
		return strings.Contains(c, "gcm") || strings.Contains(c, "ccm") || strings.Contains(c, "gmac") || strings.Contains(c, "poly")
	})
}

var aliases = strings.NewReplacer("gcm128", "gcm16", "gcm96", "gcm12", "gcm64", "gcm8", "sha2_", "sha", "curve25519", "x25519", "cbc", "")

func parseProposals(field string, texts []string) []proposal {
	var out []proposal
	for i, text := range texts {
		p := proposal{text: text, field: fmt.Sprintf("%s[%d]", field, i)}
		for _, word := range strings.Split(aliases.Replace(strings.ToLower(text)), "-") {
			switch {
			case word == "esn":
				p.esn = true
			case word == "noesn":
				p.noESN = true
			case strings.HasPrefix(word, "ke") && strings.Contains(word, "_"), word == "modpnone":
				p.other = append(p.other, word)
			case strings.HasPrefix(word, "prf"):
				p.prfs = append(p.prfs, strings.TrimPrefix(word, "prf"))
			case strings.HasPrefix(word, "aes") && word != "aesxcbc", strings.HasPrefix(word, "chacha"), word == "null":
				p.ciphers = append(p.ciphers, word)
			case strings.HasPrefix(word, "sha"), word == "aesxcbc":
				p.integrities = append(p.integrities, word)
			default:
				p.groups = append(p.groups, word)
			}
		}
		if len(p.prfs) == 0 { // as the integrity algorithm has it
			p.prfs = p.integrities
		}
		out = append(out, p)
	}
	return out
}

func (d *document) ike() []proposal {
	return parseProposals("ike_proposals", d.Tunnels[0].Intent.GetIkeProposals())
}

func (d *document) esp() []proposal {
	return parseProposals("esp_proposals", d.Tunnels[0].child().GetEspProposals())
}

// vendor is what a vendor calls algorithms, by our keywords.
type vendor struct {
	name string
	// ike and esp ciphers; those in combined modes have their integrity in them.
	ike, esp map[string]string
	// integrity algorithms and pseudorandom functions of IKE, integrity algorithms of ESP.
	integrity, espIntegrity map[string]string
	groups                  map[string]string
}

// translate finds the vendor's word for each of ours.
func (d *document) translate(v *vendor, p proposal, what string, table map[string]string, words []string) ([]string, error) {
	var out []string
	for _, w := range words {
		theirs, ok := table[w]
		if !ok {
			known := make([]string, 0, len(table))
			for ours := range table {
				known = append(known, ours)
			}
			slices.Sort(known)
			return nil, d.profileFault(p.field, fmt.Sprintf("%s has no %s %s", v.name, what, w), "choose of "+strings.Join(known, ", "))
		}
		if !slices.Contains(out, theirs) {
			out = append(out, theirs)
		}
	}
	return out, nil
}

// words are a proposal in a vendor's.
type words struct{ ciphers, integrities, prfs, groups []string }

// translateAll puts a proposal of IKE or ESP into a vendor's words.
func (d *document) translateAll(v *vendor, p proposal, ofESP bool) (w words, err error) {
	if len(p.other) > 0 {
		return w, d.profileFault(p.field, fmt.Sprintf("%s has no further key exchanges, as %s is", v.name, p.other[0]), "use a profile without them for this gateway")
	}
	if p.esn && !p.noESN {
		return w, d.profileFault(p.field, v.name+" is not set up for extended sequence numbers", "propose noesn, alone or beside esn")
	}
	ciphers, integrity := v.ike, v.integrity
	if ofESP {
		ciphers, integrity = v.esp, v.espIntegrity
	}
	if w.ciphers, err = d.translate(v, p, "cipher", ciphers, p.ciphers); err != nil {
		return w, err
	}
	if w.integrities, err = d.translate(v, p, "integrity algorithm", integrity, p.integrities); err != nil {
		return w, err
	}
	if !ofESP {
		if w.prfs, err = d.translate(v, p, "pseudorandom function", v.integrity, p.prfs); err != nil {
			return w, err
		}
	}
	w.groups, err = d.translate(v, p, "key exchange", v.groups, p.groups)
	return w, err
}

// groupNumbers are the transform ids of key exchange methods (IANA, IKEv2 parameters).
var groupNumbers = map[string]string{
	"modp2048": "14", "modp3072": "15", "modp4096": "16", "ecp256": "19", "ecp384": "20", "ecp521": "21",
}
