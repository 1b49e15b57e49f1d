package ike

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestEvilBeforeAuth: an initiator that has done IKE_SA_INIT, and so has keys,
// tries every other exchange before it has authenticated.
func TestEvilBeforeAuth(t *testing.T) {
	for _, exchange := range []wire.ExchangeType{wire.ExchangeCreateChildSA, wire.ExchangeInformational} {
		for id := range uint32(3) {
			t.Run(fmt.Sprintf("%s %d", exchange, id), func(t *testing.T) {
				w := pair(5, nil)
				half, twin := halfOpenTwin(t, w)
				sent := w.lastID
				twin(exchange, id, &wire.Delete{Protocol: wire.ProtocolIKE})
				if w.lastID != sent || half.state != stateHalfOpen {
					t.Errorf("%s was heard before IKE_AUTH: state %s", exchange, half.state)
				}
				w.settle()
				w.check(t)
			})
		}
	}
}

// halfOpenTwin has a begin an IKE SA with b, and returns what b has of it and a
// function that sends b a request under its keys.
func halfOpenTwin(t *testing.T, w *world) (*ikeSA, func(wire.ExchangeType, uint32, ...wire.Payload)) {
	t.Helper()
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.deliver(w.flight[0])
	half := w.b.halves[0].sa
	twin := &ikeSA{m: half.m, initiator: true, localSPI: half.remoteSPI, remoteSPI: half.localSPI, protection: protection{suite: half.suite}}
	if err := twin.useKeys(cloneKeys(half.keys)); err != nil {
		t.Fatal(err)
	}
	return half, func(exchange wire.ExchangeType, id uint32, payloads ...wire.Payload) {
		t.Helper()
		datagrams, err := twin.protect(wire.Header{Exchange: exchange, MessageID: id}, payloads)
		if err != nil {
			t.Fatal(err)
		}
		(&evil{world: w, t: t}).inject(w.b, datagrams[0])
	}
}

// TestEvilSpareIntermediate: an initiator that is not authenticated goes on with
// exchanges that nothing is left to agree on in. A few are answered, the next one
// ends it, and so does one that carries something.
func TestEvilSpareIntermediate(t *testing.T) {
	t.Run("too many", func(t *testing.T) {
		w := pair(5, nil)
		half, send := halfOpenTwin(t, w)
		for id := range uint32(mostSpare) {
			sent := w.lastID
			send(wire.ExchangeIKEIntermediate, 1+id)
			if w.lastID != sent+1 || half.state != stateHalfOpen {
				t.Fatalf("empty exchange %d: %d messages in answer, state %s", id, w.lastID-sent, half.state)
			}
		}
		send(wire.ExchangeIKEIntermediate, 1+mostSpare)
		if half.state != stateDead {
			t.Errorf("empty exchange %d leaves state %s", mostSpare, half.state)
		}
	})
	t.Run("something in it", func(t *testing.T) {
		half, send := halfOpenTwin(t, pair(5, nil))
		send(wire.ExchangeIKEIntermediate, 1, &wire.KE{Group: wire.KeyExchangeMLKEM768, Data: make([]byte, 1184)})
		if half.state != stateDead {
			t.Errorf("a key exchange too many leaves state %s", half.state)
		}
	})
}

func cloneKeys(k *suite.IKEKeys) *suite.IKEKeys {
	c := *k
	for _, b := range []*[]byte{&c.D, &c.Ai, &c.Ar, &c.Ei, &c.Er, &c.Pi, &c.Pr} {
		*b = bytes.Clone(*b)
	}
	return &c
}
