package ike

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

const (
	// ticketLife is how long a ticket may be used: an hour, as RFC 5723, Section
	// 9.8, suggests where tickets cannot be taken back. Keys are as old at the
	// most when they seal their last one.
	ticketLife = time.Hour
	// leastTicketLife is worth a ticket.
	leastTicketLife = time.Minute
	// sessionLife is how long a session can be resumed after its peer proved its
	// identity.
	sessionLife = 24 * time.Hour
	// maxTicket bounds a ticket in octets: it goes back in the first message,
	// which cannot be fragmented.
	maxTicket = 900
	// maxSpent bounds the memory of tickets that are used or revoked.
	maxSpent = 8192

	ticketVersion  = 1
	ticketKeyID    = 8
	ticketHead     = 1 + ticketKeyID // version and key ID, not encrypted
	ticketNonce    = 12
	ticketTag      = 16
	ticketOverhead = ticketHead + ticketNonce + ticketTag
)

// TicketKeys seal the tickets of a host by value (RFC 5723, Sections 6.1 and 9.5):
// with AES-256-GCM, under keys that are replaced and, with the tickets under
// them, forgotten. It is safe for concurrent use.
type TicketKeys struct {
	rand    io.Reader
	changed func()

	mu   sync.Mutex
	keys []ticketKey // the newest first
	// spent are the tickets that must not be used again, told by their tags;
	// order are the same, the oldest first.
	spent map[ticketID]struct{}
	order []ticketID
}

// ticketKey is one key and when it was made.
type ticketKey struct {
	ID, Key []byte
	Made    time.Time
}

// ticketID tells tickets of this host apart.
type ticketID [ticketTag]byte

// NewTicketKeys returns the keys that Save gave, or none yet. changed, which may
// be nil, is called, from whatever goroutine, when Save would give others.
func NewTicketKeys(rand io.Reader, saved []byte, changed func()) (*TicketKeys, error) {
	k := &TicketKeys{rand: rand, changed: changed, spent: make(map[ticketID]struct{})}
	if len(saved) == 0 {
		return k, nil
	}
	if err := json.Unmarshal(saved, &k.keys); err != nil {
		return nil, errors.New("saved ticket keys are malformed") // the cause may quote a key
	}
	return k, nil
}

// Save returns the keys, to be kept as private keys are.
func (k *TicketKeys) Save() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := json.Marshal(k.keys)
	if err != nil {
		return nil // octets and times can always be encoded
	}
	return b
}

// seal makes a ticket of s. now is the time of the clock on the wall, as in open.
func (k *TicketKeys) seal(now time.Time, s *session) ([]byte, error) {
	key, err := k.current(now)
	if err != nil {
		return nil, err
	}
	plain := s.append(nil)
	defer clear(plain)
	if len(plain)+ticketOverhead > maxTicket {
		return nil, fmt.Errorf("ticket would have %d octets, at most %d fit: the peer's certificates are too long", len(plain)+ticketOverhead, maxTicket)
	}
	ticket := append(make([]byte, 0, maxTicket), ticketVersion)
	ticket = append(ticket, key.ID...)
	nonce := make([]byte, ticketNonce)
	if _, err := io.ReadFull(k.rand, nonce); err != nil {
		return nil, err
	}
	aead, err := key.aead()
	if err != nil {
		return nil, err
	}
	return aead.Seal(append(ticket, nonce...), nonce, plain, ticket), nil
}

// current returns the key to seal with: a new one when the last is old. Those whose
// tickets have all expired are forgotten. A clock that went back makes a new key
// too.
func (k *TicketKeys) current(now time.Time) (ticketKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.keys) > 0 {
		if age := now.Sub(k.keys[0].Made); age >= 0 && age < ticketLife {
			return k.keys[0], nil
		}
	}
	fresh := ticketKey{ID: make([]byte, ticketKeyID), Key: make([]byte, 32), Made: now.Round(0)}
	for _, b := range [][]byte{fresh.ID, fresh.Key} {
		if _, err := io.ReadFull(k.rand, b); err != nil {
			return fresh, err
		}
	}
	keys := []ticketKey{fresh}
	for _, old := range k.keys {
		if old.Made.After(now) || now.Sub(old.Made) >= 2*ticketLife {
			clear(old.Key)
		} else {
			keys = append(keys, old)
		}
	}
	k.keys = keys
	if k.changed != nil {
		defer k.changed()
	}
	return fresh, nil
}

func (t *ticketKey) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(t.Key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

var (
	errTicketUnknown = errors.New("ticket is not of this host, or older than its keys")
	errTicketExpired = errors.New("ticket has expired")
	errTicketSpent   = errors.New("ticket was used before, or its IKE SA deleted")
)

// open returns the session of a ticket. Whatever is wrong with it costs no more than
// one decryption.
func (k *TicketKeys) open(now time.Time, ticket []byte) (*session, error) {
	if len(ticket) < ticketOverhead || len(ticket) > maxTicket || ticket[0] != ticketVersion {
		return nil, errTicketUnknown
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(k.keys, func(o ticketKey) bool { return bytes.Equal(o.ID, ticket[1:ticketHead]) })
	if i < 0 {
		return nil, errTicketUnknown
	}
	aead, err := k.keys[i].aead()
	if err != nil {
		return nil, err
	}
	nonce, sealed := ticket[ticketHead:ticketHead+ticketNonce], ticket[ticketHead+ticketNonce:]
	plain, err := aead.Open(nil, nonce, sealed, ticket[:ticketHead])
	if err != nil {
		return nil, errTicketUnknown
	}
	defer clear(plain)
	s, err := parseSession(plain)
	if err != nil {
		return nil, err
	}
	_, spent := k.spent[idOf(ticket)]
	switch {
	case !now.Before(s.expires) || now.Before(s.proved.Add(-leastTicketLife)):
		err = errTicketExpired
	case spent:
		err = errTicketSpent
	}
	if err != nil {
		s.destroy()
		return nil, err
	}
	return s, nil
}

// idOf tells a ticket of this host from all others.
func idOf(ticket []byte) (id ticketID) {
	copy(id[:], ticket[len(ticket)-ticketTag:])
	return id
}

// spend notes that a ticket was used, or that its IKE SA was deleted, and reports
// whether it was good until now (RFC 5723, Sections 4.3.1 and 9.8). The memory is
// bounded and does not survive a restart: this is a precaution more, as a
// ticket is of no use without the keys of its IKE SA.
func (k *TicketKeys) spend(id ticketID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, spent := k.spent[id]; spent {
		return false
	}
	if len(k.order) >= maxSpent {
		delete(k.spent, k.order[0])
		k.order = k.order[1:]
	}
	k.spent[id] = struct{}{}
	k.order = append(k.order, id)
	return true
}
