package ident

import (
	"fmt"
	"log/slog"
	"slices"
)

// PPK is a post-quantum preshared key (RFC 8784) with the identifier that both
// ends know it by. It prints without the key wherever it goes.
type PPK struct {
	// ID is the identifier, without the type octet that precedes it on the wire
	// (RFC 8784, Section 5.1). Peers that are configured by text want characters
	// of base64.
	ID  []byte
	Key PSK
}

const (
	// minPPKLen is 256 bits (RFC 8784, Section 6).
	minPPKLen = 32
	maxPPKID  = 255
	// ppkIDFixed is the type of an identifier that stands for one key (RFC
	// 8784, Section 5.1).
	ppkIDFixed = 2
)

// String names the key.
func (p PPK) String() string { return fmt.Sprintf("post-quantum preshared key %q", p.ID) }

// Format implements fmt.Formatter for every verb.
func (p PPK) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(p.String())) }

// MarshalText keeps the key out of JSON and YAML.
func (p PPK) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// LogValue keeps the key out of structured logs.
func (p PPK) LogValue() slog.Value { return slog.StringValue(p.String()) }

// Validate reports why p cannot be used.
func (p PPK) Validate() error {
	switch {
	case len(p.ID) == 0 || len(p.ID) > maxPPKID:
		return configError(fmt.Sprintf("a post-quantum preshared key has an identifier of %d octets", len(p.ID)), fmt.Sprintf("give it one of 1 to %d octets, the same at both ends", maxPPKID))
	case len(p.Key) < minPPKLen:
		return configError(fmt.Sprintf("%s has %d octets", p, len(p.Key)), fmt.Sprintf("make one of at least %d random octets (RFC 8784, Section 6)", minPPKLen))
	}
	return nil
}

// WireID is the PPK_ID of p: the type octet, then the identifier.
func (p PPK) WireID() []byte { return append([]byte{ppkIDFixed}, p.ID...) }

// Equal reports whether both are the same key under the same identifier.
func (p PPK) Equal(other PPK) bool {
	return string(p.ID) == string(other.ID) && string(p.Key) == string(other.Key)
}

// PPKSet holds post-quantum preshared keys to be found by their identifiers: those
// of all peers that a responder may have to do with. It is immutable and safe for
// concurrent use; nil is empty.
type PPKSet struct{ byID map[string][]PPK }

// NewPPKSet returns the set of all keys in lists. Several keys may have the same
// identifier, as peers choose theirs independently.
func NewPPKSet(lists ...[]PPK) *PPKSet {
	s := &PPKSet{byID: make(map[string][]PPK)}
	for _, list := range lists {
		for _, p := range list {
			if id := string(p.WireID()); !slices.ContainsFunc(s.byID[id], p.Equal) {
				s.byID[id] = append(s.byID[id], p)
			}
		}
	}
	if len(s.byID) == 0 {
		return nil
	}
	return s
}

// Find returns the keys with that identifier, as it is on the wire.
func (s *PPKSet) Find(wireID []byte) []PPK {
	if s == nil {
		return nil
	}
	return s.byID[string(wireID)]
}
