package ike

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Quick crash detection (RFC 6290). Each end gives the other, under encryption,
// a token that it can make again from a secret that survives a crash. When it
// then gets a request for an IKE SA that it no longer knows, it shows the token
// in the clear: proof that the IKE SA is lost, where INVALID_IKE_SPI alone is a
// hint that anybody can send.

const (
	// tokenLen is the least that RFC 6290, Section 5, allows, so that the answer
	// to an unknown SPI is hardly larger than the smallest protected request.
	tokenLen = 16
	// maxTokens is how many tokens of an IKE SA are remembered. The maker may
	// replace them (RFC 6290, Section 4.4) and a message may show several
	// (Section 4.5).
	maxTokens = 4
	// minTokenSecret is the length of QCD_SECRET in RFC 6290, Section 5.1.
	minTokenSecret = 32
)

// crashTokens are by what the peer of an IKE SA can prove that it has lost it.
type crashTokens struct {
	tokens    [][]byte
	wantToken bool // the peer is to get ours
}

// forgetTokens zeroes them: who has one can end the IKE SA.
func (c *crashTokens) forgetTokens() {
	for _, token := range c.tokens {
		clear(token)
	}
	c.tokens = nil
}

// TokenSecret makes the tokens of a host, without state (RFC 6290, Section
// 5.1). Hosts that may hold IKE SAs at the same time must not share one: who has
// the token of an IKE SA can end it (Section 9.2). It is safe for concurrent use.
type TokenSecret struct{ key [sha256.Size]byte }

// NewTokenSecret returns the secret that secret stands for: at least 32 octets
// that nobody else knows, the same after a restart.
func NewTokenSecret(secret []byte) (*TokenSecret, error) {
	if len(secret) < minTokenSecret {
		return nil, fmt.Errorf("secret of quick crash detection has %d octets, want at least %d (RFC 6290, Section 5.1)", len(secret), minTokenSecret)
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("quick crash detection"))
	t := &TokenSecret{}
	mac.Sum(t.key[:0])
	return t, nil
}

// token is what proves that this host has lost the IKE SA of the two SPIs.
// Whether this host is the original initiator is part of it: a request whose
// Initiator flag is wrong names our SPI as the other end's, so that a living IKE SA
// looks unknown, and its token must not be had that way (RFC 6290, Section 9.2).
func (t *TokenSecret) token(initiator bool, spii, spir wire.SPI) []byte {
	mac := hmac.New(sha256.New, t.key[:])
	role := []byte{0}
	if initiator {
		role[0] = 1
	}
	mac.Write(role)
	mac.Write(spii[:])
	mac.Write(spir[:])
	return mac.Sum(nil)[:tokenLen]
}

// AnswerUnknown returns what to answer a datagram whose SPI on this side no IKE
// SA has: INVALID_IKE_SPI in the clear (RFC 7296, Section 2.21.4), with the
// token if t is not nil (RFC 6290, Section 4.5). It returns nil if there must be
// no answer: to a response, or to something that is not protected. The caller
// limits the rate.
func (t *TokenSecret) AnswerUnknown(request []byte) []byte {
	h, err := wire.ParseHeader(request)
	protected := h.NextPayload == wire.PayloadSK || h.NextPayload == wire.PayloadSKF
	if err != nil || h.Major != 2 || h.IsResponse() || !protected || h.InitiatorSPI.IsZero() || h.ResponderSPI.IsZero() {
		return nil
	}
	payloads := []wire.Payload{&wire.Notify{Kind: wire.NotifyInvalidIKESPI}}
	if t != nil {
		token := t.token(!h.FromInitiator(), h.InitiatorSPI, h.ResponderSPI)
		payloads = append(payloads, &wire.Notify{Kind: wire.NotifyQuickCrashDetection, Data: token})
	}
	answer := wire.Message{
		Header: wire.Header{
			InitiatorSPI: h.InitiatorSPI, ResponderSPI: h.ResponderSPI, Major: 2,
			Exchange: h.Exchange, MessageID: h.MessageID, Flags: wire.FlagResponse | (h.Flags&wire.FlagInitiator ^ wire.FlagInitiator),
		},
		Payloads: payloads,
	}
	b, err := answer.Append(nil)
	if err != nil || len(b) > len(request)+len(request)/4 {
		return nil // too short to be a request, and no way to have us send more than we get
	}
	return b
}

// ownToken is the notification that gives the peer our token, if we make any.
func (sa *ikeSA) ownToken() []wire.Payload {
	secret := sa.m.runtime.Tokens
	if secret == nil {
		return nil
	}
	spii, spir := sa.localSPI, sa.remoteSPI
	if !sa.initiator {
		spii, spir = spir, spii
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyQuickCrashDetection, Data: secret.token(sa.initiator, spii, spir)}}
}

// keepTokens remembers the tokens that the peer sent in a message that was
// protected (RFC 6290, Sections 3 and 4.4), the latest of them.
func (sa *ikeSA) keepTokens(m *message) {
	for _, n := range m.all(wire.NotifyQuickCrashDetection) {
		// RFC 6290, Section 5: 16 to 128 octets.
		if len(n.Data) < tokenLen || len(n.Data) > 128 {
			continue
		}
		if len(sa.tokens) == maxTokens {
			clear(sa.tokens[0])
			sa.tokens = append(sa.tokens[:0], sa.tokens[1:]...)
		}
		sa.tokens = append(sa.tokens, bytes.Clone(n.Data))
	}
}

// receiveClear looks at a message in the clear that names an IKE SA with keys.
// Only a token that the peer gave us can end the IKE SA; a mere complaint is a
// hint (RFC 7296, Section 2.21.4). It is never answered. A token is looked for
// whatever the message ID and the source address are (RFC 6290, Section 3), and
// comparing it costs less than the integrity check that refuses other forgeries.
func (sa *ikeSA) receiveClear(d Datagram) {
	parsed, _ := wire.Parse(d.Data)
	if parsed != nil && sa.state.in(stateUsable) && sa.provesLoss(&message{payloads: parsed.Payloads}) {
		sa.lost()
		return
	}
	sa.notProtected(parsed)
}

// provesLoss reports whether a message shows one of the peer's tokens.
func (sa *ikeSA) provesLoss(m *message) bool {
	found := 0
	for _, n := range m.all(wire.NotifyQuickCrashDetection) {
		for _, token := range sa.tokens {
			found |= subtle.ConstantTimeCompare(token, n.Data)
		}
	}
	return found == 1
}

// lost ends an IKE SA that the peer has proved to have lost, without a word (RFC
// 6290, Section 4.5), and begins anew at once.
func (sa *ikeSA) lost() {
	t := sa.t
	current := sa == t.primary()
	t.ikeDown(sa, ReasonPeerRestarted)
	if !current || !t.wanted {
		return
	}
	t.connectAt = t.now
	if !t.mayInitiate() {
		// The peer's turn: it has to begin as much as we have.
		t.connectAt = time.Time{}
		t.attemptForTraffic()
	}
}

// tokenTask gives the peer the token of an IKE SA that we made by rekeying: the
// request that makes it cannot carry one, as half of the SPIs are still unknown
// (RFC 6290, Section 4.3).
type tokenTask struct{ sa *ikeSA }

func (k *tokenTask) start() {
	k.sa.wantToken = false
	k.sa.ask(wire.ExchangeInformational, k.sa.ownToken(), func(*message) { k.sa.finish() })
}

func (k *tokenTask) abandon() {}
