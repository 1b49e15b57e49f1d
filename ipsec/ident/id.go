package ident

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ID is the identity of a peer (RFC 7296, Section 3.5). Data is as on the
// wire: 4 or 16 octets for addresses, DER for distinguished names, text
// without terminator for names and e-mail addresses. The zero ID means that
// none is configured. Compare with Equal, which knows where letter case
// counts, and not with ==.
type ID struct {
	Kind wire.IDType
	Data string
}

// maxIDLen bounds the Data of an identity, octets. A distinguished name is the
// longest in use and stays far below.
const maxIDLen = 1024

// Prefixes that state the kind where the text alone does not.
const (
	prefixFQDN  = "fqdn:"
	prefixEmail = "email:"
	prefixDN    = "dn:"
	prefixKeyID = "keyid:"
)

// ParseID reads the text form of an identity: an IP address, a name
// ("edge1.example"), an e-mail address ("user@example"), a distinguished name
// of RFC 4514 ("CN=edge1,O=Example", the common name first), or opaque octets
// ("keyid:0a1b2c"). The prefixes "fqdn:", "email:" and "dn:" force the kind.
func ParseID(s string) (ID, error) {
	id, err := parseID(s)
	if err != nil {
		return ID{}, fmt.Errorf("identity %q: %w", clip(s), err)
	}
	return id, nil
}

func parseID(s string) (ID, error) {
	if s == "" {
		return ID{}, fmt.Errorf("is empty: write an address, a name, user@domain, CN=..., or keyid: with hexadecimal octets")
	}
	if len(s) > 2*maxIDLen {
		return ID{}, fmt.Errorf("has %d characters, at most %d are allowed", len(s), 2*maxIDLen)
	}
	if rest, ok := strings.CutPrefix(s, prefixKeyID); ok {
		b, err := hex.DecodeString(rest)
		if err != nil || len(b) == 0 {
			return ID{}, fmt.Errorf("%q is followed by something else than hexadecimal octets", prefixKeyID)
		}
		return ID{wire.IDKeyID, string(b)}, nil
	}
	if rest, ok := strings.CutPrefix(s, prefixDN); ok {
		return parseDN(rest)
	}
	if rest, ok := strings.CutPrefix(s, prefixEmail); ok {
		return textID(wire.IDRFC822, rest)
	}
	if rest, ok := strings.CutPrefix(s, prefixFQDN); ok {
		return textID(wire.IDFQDN, rest)
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return addressID(addr)
	}
	switch {
	case strings.Contains(s, "="):
		return parseDN(s)
	case strings.Contains(s, "@"):
		return textID(wire.IDRFC822, s)
	default:
		return textID(wire.IDFQDN, s)
	}
}

func addressID(addr netip.Addr) (ID, error) {
	if addr.Zone() != "" {
		return ID{}, fmt.Errorf("an address identity has no zone: remove %q", "%"+addr.Zone())
	}
	addr = addr.Unmap()
	if addr.Is4() {
		return ID{wire.IDIPv4, string(addr.AsSlice())}, nil
	}
	return ID{wire.IDIPv6, string(addr.AsSlice())}, nil
}

// textID checks names and e-mail addresses: printable ASCII in the length
// bound. Which names exist is for the certificate or the peer's configuration
// to say.
func textID(kind wire.IDType, s string) (ID, error) {
	if s == "" || len(s) > maxIDLen {
		return ID{}, fmt.Errorf("%s has %d characters, want 1 to %d", kind, len(s), maxIDLen)
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return ID{}, fmt.Errorf("%s holds the character %q: only printable ASCII is allowed, write international names in their xn-- form", kind, r)
		}
	}
	at := strings.LastIndexByte(s, '@')
	if kind == wire.IDRFC822 && (at <= 0 || at == len(s)-1) {
		return ID{}, fmt.Errorf("an e-mail address has the form user@domain")
	}
	return ID{kind, s}, nil
}

// FromPayload returns the identity in an ID payload. It fails on a kind that
// can prove nothing here and on data that does not fit the kind.
func FromPayload(p *wire.ID) (ID, error) {
	id := ID{p.Kind, string(p.Data)}
	if len(p.Data) == 0 || len(p.Data) > maxIDLen {
		return ID{}, fmt.Errorf("identity %s of the peer has %d octets, want 1 to %d", p.Kind, len(p.Data), maxIDLen)
	}
	var err error
	switch p.Kind {
	case wire.IDIPv4, wire.IDIPv6:
		if want := addressLen(p.Kind); len(p.Data) != want {
			err = fmt.Errorf("%d octets, want %d", len(p.Data), want)
		}
	case wire.IDFQDN, wire.IDRFC822:
		_, err = textID(p.Kind, id.Data)
	case wire.IDDERDN:
		_, err = parseRDNs(p.Data)
	case wire.IDKeyID:
	default:
		err = fmt.Errorf("this kind of identity is not supported: configure the peer to send an address, a name, an e-mail address, a distinguished name or a key ID")
	}
	if err != nil {
		return ID{}, fmt.Errorf("identity %s of the peer: %w", p.Kind, err)
	}
	return id, nil
}

func addressLen(k wire.IDType) int {
	if k == wire.IDIPv4 {
		return 4
	}
	return 16
}

// FromSubject returns the distinguished name of a certificate as an identity,
// octet by octet as it is encoded there.
func FromSubject(cert *x509.Certificate) ID {
	return ID{wire.IDDERDN, string(cert.RawSubject)}
}

// IsZero reports whether no identity is configured.
func (id ID) IsZero() bool { return id == ID{} }

// Payload returns the ID payload of the initiator (IDi) or the responder
// (IDr).
func (id ID) Payload(initiator bool) *wire.ID {
	return &wire.ID{Initiator: initiator, Kind: id.Kind, Data: []byte(id.Data)}
}

// String returns the text form that ParseID reads. What a peer sent beyond
// that appears as the kind and hexadecimal octets, so that it is safe in a
// log.
func (id ID) String() string {
	switch id.Kind {
	case 0:
		return "any"
	case wire.IDIPv4, wire.IDIPv6:
		if addr, ok := netip.AddrFromSlice([]byte(id.Data)); ok {
			return addr.String()
		}
	case wire.IDFQDN, wire.IDRFC822:
		if s, ok := id.text(); ok {
			return s
		}
	case wire.IDDERDN:
		if rdns, err := parseRDNs([]byte(id.Data)); err == nil {
			if s := rdns.String(); !strings.ContainsFunc(s, unicode.IsControl) {
				return s
			}
		}
	case wire.IDKeyID:
		return prefixKeyID + hex.EncodeToString([]byte(id.Data))
	}
	return id.Kind.String() + ":" + hex.EncodeToString([]byte(id.Data))
}

// text prints names and e-mail addresses, with a prefix where ParseID would
// take them for something else.
func (id ID) text() (string, bool) {
	if _, err := textID(id.Kind, id.Data); err != nil {
		return "", false
	}
	if back, err := parseID(id.Data); err == nil && back == id {
		return id.Data, true
	}
	if id.Kind == wire.IDFQDN {
		return prefixFQDN + id.Data, true
	}
	return prefixEmail + id.Data, true
}

// Equal reports whether both name the same: letter case does not count in
// domain names and in distinguished names (RFC 5280, Sections 7.1, 7.2 and
// 7.5). It is for public values; its time depends on them.
func (id ID) Equal(other ID) bool {
	if id.Kind != other.Kind {
		return false
	}
	switch id.Kind {
	case wire.IDFQDN:
		return equalFoldASCII(id.Data, other.Data)
	case wire.IDRFC822:
		return equalEmail(id.Data, other.Data)
	case wire.IDDERDN:
		return id.Data == other.Data || equalDN([]byte(id.Data), []byte(other.Data))
	default:
		return id.Data == other.Data
	}
}

// Key returns a text that equal identities share, for use in a map; Equal still
// decides. It is not for people.
func (id ID) Key() string {
	data := id.Data
	switch id.Kind {
	case wire.IDFQDN, wire.IDRFC822:
		data = lowerASCII(data) // a local part that differs in case alone collides
	case wire.IDDERDN:
		if rdns, err := parseRDNs([]byte(data)); err == nil {
			data = rdns.key()
		}
	}
	return string([]byte{byte(id.Kind)}) + data
}

// equalEmail compares the local part exactly and the domain without letter
// case (RFC 5280, Section 7.5).
func equalEmail(a, b string) bool {
	i, j := strings.LastIndexByte(a, '@'), strings.LastIndexByte(b, '@')
	if i < 0 || j < 0 {
		return a == b
	}
	return a[:i] == b[:j] && equalFoldASCII(a[i:], b[j:])
}

// equalFoldASCII does not fold beyond ASCII as strings.EqualFold does: the
// Kelvin sign is no k in a domain name.
func equalFoldASCII(a, b string) bool {
	return len(a) == len(b) && lowerASCII(a) == lowerASCII(b)
}

func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// bind reports why id is not an identity of the certificate: it must be one of
// its subject alternative names or, for a distinguished name, its subject (RFC
// 4945, Sections 3.1 and 5.1.3.6). The common name never stands for a domain
// name.
func (id ID) bind(cert *x509.Certificate) error {
	if id.Kind == wire.IDKeyID {
		return &Error{
			Reason: ReasonIdentity,
			Detail: fmt.Sprintf("identity %s is of a kind that no certificate can prove", id),
			Remedy: "use a name, an address, an e-mail address or the subject of the certificate; key IDs are for pre-shared keys (RFC 4945, Section 3.1.7)",
		}
	}
	var have []string
	bound := false
	switch id.Kind {
	case wire.IDIPv4, wire.IDIPv6:
		addr, _ := netip.AddrFromSlice([]byte(id.Data))
		for _, ip := range cert.IPAddresses {
			have = append(have, ip.String())
			a, ok := netip.AddrFromSlice(ip)
			bound = bound || ok && a.Unmap() == addr.Unmap()
		}
	case wire.IDFQDN:
		have = cert.DNSNames
		bound = slices.ContainsFunc(have, func(n string) bool { return equalFoldASCII(n, id.Data) })
	case wire.IDRFC822:
		have = cert.EmailAddresses
		bound = slices.ContainsFunc(have, func(n string) bool { return equalEmail(n, id.Data) })
	case wire.IDDERDN:
		have = []string{FromSubject(cert).String()}
		bound = id.Equal(FromSubject(cert))
	}
	if bound {
		return nil
	}
	return &Error{
		Reason: ReasonIdentity,
		Detail: fmt.Sprintf("identity %s is not in the certificate, which names %s", id, listNames(have)),
		Remedy: "issue a certificate with this identity as subject alternative name, or use an identity that it has",
	}
}

// listNames prints names out of a certificate, bounded and quoted.
func listNames(names []string) string {
	if len(names) == 0 {
		return "none of this kind"
	}
	var b strings.Builder
	for i, n := range names {
		if i == 4 {
			fmt.Fprintf(&b, " and %d more", len(names)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", clip(n))
	}
	return b.String()
}

func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
