package ike

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// The ways to change payloads.
type change = func(e *evilPeer, ps []rawPayload) []rawPayload

func without(kind wire.PayloadType) change {
	return func(_ *evilPeer, ps []rawPayload) (out []rawPayload) {
		for _, p := range ps {
			if p.kind != kind {
				out = append(out, p)
			}
		}
		return out
	}
}

func twice(kind wire.PayloadType) change {
	return func(_ *evilPeer, ps []rawPayload) []rawPayload { return append(ps, ps[indexRaw(ps, kind)]) }
}

func body(kind wire.PayloadType, f func([]byte) []byte) change {
	return func(_ *evilPeer, ps []rawPayload) []rawPayload {
		p := &ps[indexRaw(ps, kind)]
		p.body = f(p.body)
		return ps
	}
}

func empty(kind wire.PayloadType) change {
	return body(kind, func([]byte) []byte { return nil })
}

// octet flips bits of one octet of a body.
func octet(kind wire.PayloadType, at int, bits byte) change {
	return body(kind, func(b []byte) []byte { b[at] ^= bits; return b })
}

func lie(kind wire.PayloadType, by int) change {
	return func(_ *evilPeer, ps []rawPayload) []rawPayload {
		ps[indexRaw(ps, kind)].lie = by
		return ps
	}
}

func flags(bits byte) change {
	return func(_ *evilPeer, ps []rawPayload) []rawPayload {
		for i := range ps {
			ps[i].flags |= bits
		}
		return ps
	}
}

func reversed(_ *evilPeer, ps []rawPayload) (out []rawPayload) {
	for _, p := range ps {
		out = append([]rawPayload{p}, out...)
	}
	return out
}

// more adds payloads at the end.
func more(count int, p rawPayload) change {
	return func(_ *evilPeer, ps []rawPayload) []rawPayload {
		for range count {
			ps = append(ps, p)
		}
		return ps
	}
}

func rawNotify(kind wire.NotifyType, protocol wire.ProtocolID, spi, data []byte) rawPayload {
	b := []byte{byte(protocol), byte(len(spi))}
	b = binary.BigEndian.AppendUint16(b, uint16(kind))
	return rawPayload{kind: wire.PayloadNotify, body: append(append(b, spi...), data...)}
}

func rawDelete(protocol wire.ProtocolID, size int, spis ...[]byte) rawPayload {
	b := []byte{byte(protocol), byte(size)}
	b = binary.BigEndian.AppendUint16(b, uint16(len(spis)))
	return rawPayload{kind: wire.PayloadDelete, body: append(b, bytes.Join(spis, nil)...)}
}

// only replaces everything.
func only(ps ...rawPayload) change {
	return func(*evilPeer, []rawPayload) []rawPayload { return ps }
}

func all(changes ...change) change {
	return func(e *evilPeer, ps []rawPayload) []rawPayload {
		for _, c := range changes {
			ps = c(e, ps)
		}
		return ps
	}
}

func (c misdeedCase) run(t *testing.T) {
	e := newEvilPeer(t, c.initiator, c.change)
	e.b.step(Connect{})
	if c.begin == nil {
		e.misdeed = c.misdeed
		e.a.step(Connect{})
	} else {
		e.a.step(Connect{})
		e.settle()
		e.misdeed = c.misdeed
		c.begin(e)
	}
	if got := e.outcome(); got != c.want {
		t.Errorf("%s, want %s\n%v", got, c.want, e.good.events)
	}
	if !e.done {
		t.Error("the misdeed was not done")
	}
	e.recovers()
}

// misdeedCase is a misdeed and what must come of it: what the good end answers to
// the message, and whether it has its SAs right after.
type misdeedCase struct {
	name      string
	initiator bool // is evil
	change    func(a, b *Config)
	begin     func(e *evilPeer) // after both are up; nil: the misdeed is in the initial exchanges
	misdeed   misdeed
	want      string
}

// The messages in which misdeeds are done.
var (
	inInit      = misdeed{exchange: wire.ExchangeIKESAInit}
	inInitReply = misdeed{exchange: wire.ExchangeIKESAInit, response: true}
	inAuth      = misdeed{exchange: wire.ExchangeIKEAuth}
	inAuthReply = misdeed{exchange: wire.ExchangeIKEAuth, response: true}
	inCreate    = misdeed{exchange: wire.ExchangeCreateChildSA}
	inCreated   = misdeed{exchange: wire.ExchangeCreateChildSA, response: true}
	inInform    = misdeed{exchange: wire.ExchangeInformational}
	inInformed  = misdeed{exchange: wire.ExchangeInformational, response: true}
)

func (m misdeed) with(c change) misdeed { m.payloads = c; return m }

func (m misdeed) withHeader(f func(b []byte)) misdeed { m.header = f; return m }

func (m misdeed) withPlain(f func(b []byte) []byte) misdeed { m.plain = f; return m }

func (m misdeed) withDatagram(f func(e *evilPeer, b []byte) [][]byte) misdeed {
	m.datagram = f
	return m
}

func (m misdeed) each() misdeed { m.always = true; return m }

// What begins an exchange between ends that are up.
func evilRekeysChild(e *evilPeer) { e.evil.step(RekeyChild{}) }
func evilRekeysIKE(e *evilPeer)   { e.evil.step(RekeyIKE{}) }
func goodRekeysChild(e *evilPeer) { e.good.step(RekeyChild{}) }
func goodRekeysIKE(e *evilPeer)   { e.good.step(RekeyIKE{}) }

// evilInforms has the evil end send an empty request, to be filled.
func evilInforms(e *evilPeer) {
	e.evil.t.primary().wantProbe = true
	e.evil.step(Tick{})
}

func goodInforms(e *evilPeer) {
	e.good.t.primary().wantProbe = true
	e.good.step(Tick{})
}
