package ike

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// An evil peer is a real end whose messages are changed on their way out: their
// payloads before they are encoded, the octets before they are encrypted, the
// datagrams after that. It holds the keys and knows the secret, so nothing of
// what it sends is refused for want of them.
type evilPeer struct {
	*world
	t          *testing.T
	evil, good *node
	misdeed    misdeed
	seen       int // messages that the misdeed is about
	done       bool
	more       []*packet // that the misdeed sends after the first
	keys       []IKEKeys // of the evil end, in the order in which it got them
	// request and response are IKE_SA_INIT as sent, for AUTH.
	request, response []byte
}

// misdeed is what an evil peer does to one message of its own.
type misdeed struct {
	exchange wire.ExchangeType
	response bool
	skip     int  // so many of these messages go out as they are
	always   bool // not only to the first one after them
	// meddling is somebody else's, on the way: the end believes that it sent
	// what it meant to.
	meddling bool

	header   func(b []byte) // the octets of the IKE header, once all lengths are in it
	payloads func(e *evilPeer, ps []rawPayload) []rawPayload
	plain    func(b []byte) []byte                // what is to be encrypted
	datagram func(e *evilPeer, b []byte) [][]byte // what is sent instead
}

// rawPayload is a payload that need not obey any rule.
type rawPayload struct {
	kind  wire.PayloadType
	flags byte // of its generic header
	body  []byte
	lie   int // added to its length field
}

// newEvilPeer returns two ends of which b is evil, or a if it is the initiator
// who is to be.
func newEvilPeer(t *testing.T, initiator bool, change func(a, b *Config)) *evilPeer {
	e := &evilPeer{world: pair(11, func(a, b *Config) {
		a.Timing.DPD, b.Timing.DPD = 10*time.Second, 10*time.Second
		if change != nil {
			change(a, b)
		}
	}), t: t}
	e.evil, e.good = e.b, e.a
	if initiator {
		e.evil, e.good = e.a, e.b
	}
	e.evil.cfg.Runtime.LogKeys = true
	e.evil.disclose = func(k IKEKeys) { e.keys = append(e.keys, k) }
	e.evil.restart()
	e.trace = func(_ *world, p *packet) { e.intercept(p) }
	return e
}

// intercept changes a packet of the evil end if it is the one.
func (e *evilPeer) intercept(p *packet) {
	h, err := wire.ParseHeader(p.data)
	if err != nil || p.esp != 0 {
		return
	}
	if h.Exchange == wire.ExchangeIKESAInit {
		defer func() {
			if h.IsResponse() {
				e.response = bytes.Clone(p.data)
			} else {
				e.request = bytes.Clone(p.data)
			}
		}()
	}
	m := &e.misdeed
	if p.from != e.evil || h.Exchange != m.exchange || h.IsResponse() != m.response || e.done && !m.always {
		return
	}
	if e.seen++; e.seen <= m.skip {
		return
	}
	e.done = true
	honest := p.data
	p.data = bytes.Clone(e.rebuild(h, p.data))
	if m.header != nil {
		m.header(p.data)
	}
	if !m.meddling {
		e.standBy(honest, p.data)
	}
	if m.datagram != nil {
		all := m.datagram(e, p.data)
		p.data = all[0]
		for _, b := range all[1:] {
			more := *p
			more.data = b
			e.more = append(e.more, &more)
		}
	}
}

// standBy has the evil end take what it really sent for what it sent: AUTH covers
// IKE_SA_INIT (RFC 7296, Section 2.15).
func (e *evilPeer) standBy(honest, sent []byte) {
	sas := e.evil.t.sas
	for _, h := range e.evil.halves {
		sas = append(sas, h.sa)
	}
	for _, sa := range sas {
		switch {
		case sa.init == nil:
		case bytes.Equal(sa.init.request, honest) && sa.initiator:
			sa.init.request = sent
		case bytes.Equal(sa.init.response, honest) && !sa.initiator:
			sa.init.response = sent
		}
	}
}

// rebuild makes the message anew with its payloads changed.
func (e *evilPeer) rebuild(h wire.Header, data []byte) []byte {
	m := &e.misdeed
	if m.payloads == nil && m.plain == nil {
		return data
	}
	if h.Exchange == wire.ExchangeIKESAInit {
		first, chain := packRaw(m.payloads(e, unpackRaw(h.NextPayload, data[wire.HeaderLen:])))
		out := append(bytes.Clone(data[:wire.HeaderLen]), chain...)
		out[16] = byte(first)
		binary.BigEndian.PutUint32(out[24:], uint32(len(out)))
		return out
	}
	first, plain := e.open(data)
	if m.payloads != nil {
		first, plain = packRaw(m.payloads(e, unpackRaw(first, plain)))
	}
	if m.plain != nil {
		plain = m.plain(plain)
	}
	return e.seal(h, first, plain)
}

// protector returns what the evil end seals messages with under k.
func (e *evilPeer) protector(k IKEKeys, h wire.Header) *suite.Protector {
	ek, ak := k.Ei, k.Ai
	if !h.FromInitiator() {
		ek, ak = k.Er, k.Ar
	}
	p, err := suite.NewProtector(k.Suite, ek, ak)
	if err != nil {
		e.t.Fatal(err)
	}
	return p
}

// open decrypts a message of the evil end's own.
func (e *evilPeer) open(data []byte) (wire.PayloadType, []byte) {
	e.t.Helper()
	m, err := wire.Parse(data)
	if err != nil {
		e.t.Fatal(err)
	}
	header, body, _ := m.Protected()
	for _, k := range slices.Backward(e.keys) {
		if k.InitiatorSPI != m.InitiatorSPI || k.ResponderSPI != m.ResponderSPI {
			continue
		}
		if plain, err := e.protector(k, m.Header).Open(nil, header, body); err == nil {
			return m.Payloads[0].(*wire.Encrypted).FirstInner, plain
		}
	}
	e.t.Fatal("the evil end cannot read its own message")
	return 0, nil
}

// seal encrypts under the latest keys.
func (e *evilPeer) seal(h wire.Header, first wire.PayloadType, plain []byte) []byte {
	e.t.Helper()
	p := e.protector(e.keysOf(h), h)
	b, err := h.AppendEncrypted(nil, first, p.SealedLen(len(plain)))
	if err != nil {
		e.t.Fatal(err)
	}
	return p.Seal(b, b, plain)
}

func (e *evilPeer) keysOf(h wire.Header) IKEKeys {
	for _, k := range slices.Backward(e.keys) {
		if k.InitiatorSPI == h.InitiatorSPI && k.ResponderSPI == h.ResponderSPI {
			return k
		}
	}
	e.t.Fatal("the evil end has no keys for its message")
	return IKEKeys{}
}

// fragment is one piece of a message as the evil end wants it.
type fragment struct {
	number, total uint16
	content       []byte
}

// sealFragments encrypts pieces; number and total are whatever they are.
func (e *evilPeer) sealFragments(h wire.Header, first wire.PayloadType, pieces []fragment) (out [][]byte) {
	e.t.Helper()
	for _, f := range pieces {
		p := e.protector(e.keysOf(h), h)
		b, err := h.AppendEncryptedFragment(nil, first, max(f.number, 1), max(f.total, f.number, 1), p.SealedLen(len(f.content)))
		if err != nil {
			e.t.Fatal(err)
		}
		binary.BigEndian.PutUint16(b[wire.HeaderLen+4:], f.number)
		binary.BigEndian.PutUint16(b[wire.HeaderLen+6:], f.total)
		out = append(out, p.Seal(b, b, f.content))
	}
	return out
}

// proveAgain makes the AUTH payload anew over the identity that is in ps now.
func (e *evilPeer) proveAgain(ps []rawPayload) []rawPayload {
	initiator := e.evil == e.a
	kind, own, other := wire.PayloadIDr, e.response, e.request
	if initiator {
		kind, own, other = wire.PayloadIDi, e.request, e.response
	}
	parsed, err := wire.Parse(other)
	if err != nil {
		e.t.Fatal(err)
	}
	nonce := find[*wire.Nonce](&message{payloads: parsed.Payloads}).Data
	skP := e.skP(initiator)
	octets := ident.SignedOctets(own, nonce, suite.PRFHMACSHA256, skP, ps[indexRaw(ps, kind)].body, nil)
	signed, err := ident.Sign(e.evil.cfg.Credentials, octets, ident.Announced{}, nil, e.evil)
	if err != nil {
		e.t.Fatal(err)
	}
	ps[indexRaw(ps, wire.PayloadAuth)].body = append([]byte{byte(signed.Method), 0, 0, 0}, signed.Data...)
	return ps
}

// skP is SK_pi or SK_pr of the IKE SA in the making.
func (e *evilPeer) skP(initiator bool) []byte {
	for _, sa := range slices.Backward(e.allSAs()) {
		if sa.keys != nil {
			return sa.skP(initiator)
		}
	}
	e.t.Fatal("no IKE SA has keys")
	return nil
}

func unpackRaw(first wire.PayloadType, b []byte) (out []rawPayload) {
	for kind := first; kind != wire.PayloadNone; {
		n := int(binary.BigEndian.Uint16(b[2:]))
		out = append(out, rawPayload{kind: kind, flags: b[1], body: bytes.Clone(b[4:n])})
		kind, b = wire.PayloadType(b[0]), b[n:]
	}
	return out
}

func packRaw(ps []rawPayload) (first wire.PayloadType, b []byte) {
	for i, p := range ps {
		next := wire.PayloadNone
		if i+1 < len(ps) {
			next = ps[i+1].kind
		}
		b = append(b, byte(next), p.flags)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(p.body)+p.lie))
		b = append(b, p.body...)
	}
	if len(ps) > 0 {
		first = ps[0].kind
	}
	return first, b
}

func indexRaw(ps []rawPayload, kind wire.PayloadType) int {
	return slices.IndexFunc(ps, func(p rawPayload) bool { return p.kind == kind })
}

// outcome is what came of a misdeed at the good end: its answer to the message,
// and whether it has an IKE SA and a Child SA in use right after.
func (e *evilPeer) outcome() string {
	var answers []string
	sent := func(p *packet) {
		if p.from == e.good && p.esp == 0 {
			answers = append(answers, e.errorsIn(p.data))
		}
	}
	for range 200 {
		e.flight, e.more = append(e.flight, e.more...), nil
		if len(e.flight) == 0 {
			break
		}
		p := e.take(0)
		judged := e.done && len(answers) == 0 && p.from == e.evil && p.esp == 0
		at := len(e.flight)
		e.deliver(p)
		if judged {
			for _, q := range e.flight[min(at, len(e.flight)):] {
				sent(q)
			}
			if len(answers) == 0 {
				answers = append(answers, "nothing")
			}
		}
	}
	state := "down"
	if sa := e.good.t.primary(); sa != nil {
		state = "up without Child SA"
		if len(e.good.out) > 0 {
			state = "up"
		}
	}
	return strings.Join(answers, ", ") + "; " + state
}

// errorsIn names the error notifications of a message of the good end.
func (e *evilPeer) errorsIn(data []byte) string {
	m, err := wire.Parse(data)
	if err != nil {
		return "garbage"
	}
	payloads := m.Payloads
	if len(payloads) == 1 {
		switch p := payloads[0].(type) {
		case *wire.Encrypted:
			payloads, _ = e.peek(m, p.FirstInner)
		case *wire.EncryptedFragment:
			return "fragments"
		}
	}
	for _, p := range payloads {
		if n, ok := p.(*wire.Notify); ok && (n.Kind.IsError() || n.Kind == wire.NotifyCookie) {
			return n.Kind.String()
		}
	}
	if !m.IsResponse() {
		return fmt.Sprintf("%s request", m.Exchange)
	}
	return "accepted"
}

// recovers holds that whatever the evil end did, the tunnel is well again some
// time after it has become honest.
func (e *evilPeer) recovers() {
	e.t.Helper()
	e.misdeed = misdeed{}
	e.broken = nil // what the misdeed itself broke is in the outcome
	e.advance(3*time.Minute, e.settle)
	e.evil.step(RekeyChild{}) // nobody may think that it has an SA which the other end has not
	e.good.step(RekeyChild{})
	e.settle()
	e.advance(10*time.Minute, e.settle)
	e.broken = nil
	e.check(e.t)
}
