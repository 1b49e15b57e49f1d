package ike

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// collector is an IKE SA that only reassembles.
type collector struct{ *ikeSA }

func newCollector() collector {
	return collector{&ikeSA{m: &machine{clock: clock{now: epoch}}, state: stateEstablished, protection: protection{fragment: true}}}
}

// add gives a fragment of the request or response with that message ID, as if it
// had passed the integrity check.
func (c collector) add(id uint32, response bool, number, total, size int) (opened, error) {
	h := wire.Header{MessageID: id}
	if response {
		h.Flags = wire.FlagResponse
	}
	p := &wire.EncryptedFragment{FirstInner: wire.PayloadIDi, Number: uint16(number), Total: uint16(total)}
	if !c.expects(h, p) {
		return opened{}, errors.New("not expected")
	}
	return c.reassemble(h, p, nil, bytes.Repeat([]byte{byte(number)}, size), Datagram{Remote: strangerAddr, Data: make([]byte, size)})
}

// Even a peer that has keys cannot make reassembly keep more than its bounds (RFC
// 7383, Sections 2.6 and 5).
func TestReassemblyIsBounded(t *testing.T) {
	for state, limit := range map[saState]int{stateHalfOpen: maxLarval, stateEstablished: maxReassembled} {
		sa := newCollector()
		sa.state = state
		refused := func(what string, number, total, size int) {
			t.Helper()
			before := sa.held()
			if _, err := sa.add(1, false, number, total, size); err == nil || sa.held() != before {
				t.Errorf("%s: %d octets are kept, before %d; error %v", what, sa.held(), before, err)
			}
		}
		refused("too many fragments", 1, maxFragments+1, 1)
		refused("as many as the field can say", 65535, 65535, 1)
		sa.fragment = false
		refused("fragments that were not negotiated", 1, 2, 10)
		sa.fragment = true
		var err error
		for number := 1; number < maxFragments && !errors.Is(err, errTooLong); number++ {
			_, err = sa.add(1, false, number, maxFragments, 2000)
			if sa.held() > limit {
				t.Fatalf("%s: %d octets are kept, the bound is %d", state, sa.held(), limit)
			}
		}
		if !errors.Is(err, errTooLong) || sa.held() != 0 {
			t.Errorf("%s: beyond the bound: %v, %d octets kept", state, err, sa.held())
		}

		sa.parts = [2]*reassembly{}
		sa.add(1, false, 1, 2, 10)
		refused("the same again", 1, 2, 10)
		sa.add(1, false, 2, 3, 5) // smaller pieces: anew
		refused("larger pieces after that", 2, 2, 10)
		sa.add(1, false, 3, 3, 5)
		o, err := sa.add(1, false, 1, 3, 5)
		if want := []byte("\x01\x01\x01\x01\x01\x02\x02\x02\x02\x02\x03\x03\x03\x03\x03"); err != nil || !bytes.Equal(o.plain, want) || sa.held() != 0 {
			t.Errorf("reassembled %x, %v, want %x", o.plain, err, want)
		}
	}
}

// Fragments of another message, or of a response with the same ID, do not mix; a
// request that stays incomplete is forgotten.
func TestReassemblyKeepsMessagesApart(t *testing.T) {
	sa := newCollector()
	sa.add(1, false, 1, 2, 10)
	sa.add(1, true, 2, 2, 10)
	if o, err := sa.add(1, false, 2, 2, 10); err != nil || len(o.plain) != 20 {
		t.Errorf("request beside a response: %d octets, %v", len(o.plain), err)
	}
	if o, err := sa.add(1, true, 1, 2, 10); err != nil || len(o.plain) != 20 {
		t.Errorf("response beside a request: %d octets, %v", len(o.plain), err)
	}
	sa.add(2, false, 1, 2, 10)
	sa.add(3, false, 1, 2, 10)
	if _, err := sa.add(3, false, 1, 2, 10); err == nil {
		t.Error("a repeated fragment completed a message")
	}
	if o, err := sa.add(3, false, 2, 2, 10); err != nil || len(o.plain) != 20 {
		t.Errorf("after fragments of another message: %d octets, %v", len(o.plain), err)
	}
	sa.add(4, false, 1, 2, 10)
	sa.m.now = sa.m.now.Add(reassemblyTime)
	sa.forgetParts()
	if sa.held() != 0 {
		t.Errorf("%d octets are kept for ever", sa.held())
	}
}

// established returns both ends of an IKE SA that can fragment.
func established(t *testing.T, change func(a, b *Config)) (*world, *ikeSA, *ikeSA) {
	t.Helper()
	w := pair(1, change)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.check(t)
	return w, w.a.t.primary(), w.b.t.primary()
}

// long is a payload that takes so many octets.
func long(n int) []wire.Payload { return []wire.Payload{&wire.VendorID{Data: make([]byte, n)}} }

// Messages of any length arrive whole, in pieces of any allowed size and in any
// order with repetitions, and no datagram is larger than it may be.
func TestFragmentSizes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, size := range []int{leastDatagram, 600, 1000, DefaultDatagram, 1500, 9000, 65535} {
		_, a, b := established(t, func(a, b *Config) { a.FragmentSize = size })
		for _, n := range []int{0, 1, size - 200, size - 120, size - 80, size, 3 * size, 20000, 40000} {
			if n < 0 || n > 60000 {
				continue
			}
			h := wire.Header{Exchange: wire.ExchangeInformational, MessageID: b.window.nextReceive}
			w, datagrams, err := a.seal(h, long(n), a.datagram())
			if err != nil {
				t.Fatal(err)
			}
			order := append(r.Perm(len(datagrams)), r.Perm(len(datagrams))...)
			var got opened
			err = errIncomplete
			for _, i := range order {
				d := Datagram{Remote: b.remote, Data: datagrams[i]}
				if datagramSize(d) > size {
					t.Errorf("size %d, message of %d: datagram of %d octets", size, n, datagramSize(d))
				}
				parsed, _ := wire.ParseHeader(d.Data)
				if got, err = b.open(parsed, d); err == nil {
					break
				}
			}
			if err != nil || !bytes.Equal(got.plain, w.plain) || got.first != w.first {
				t.Errorf("size %d, message of %d: %d of %d octets, %v", size, n, len(got.plain), len(w.plain), err)
			}
			b.parts = [2]*reassembly{}
		}
	}
}

// In a TCP connection nothing is cut (RFC 9329, Section 7.5).
func TestNoFragmentsByTCP(t *testing.T) {
	_, a, _ := established(t, nil)
	a.tcp = true
	_, datagrams, err := a.seal(wire.Header{Exchange: wire.ExchangeInformational}, long(20000), a.datagram())
	if err != nil || len(datagrams) != 1 || len(datagrams[0]) < 20000 {
		t.Errorf("%d datagrams, %v", len(datagrams), err)
	}
}

// Payloads outside of the encryption come with the first fragment only, are
// skipped if nobody knows them, and never taken for what is inside (RFC 7383,
// Section 2.5.3; RFC 7296, Section 2.5).
func TestOuterPayloads(t *testing.T) {
	_, a, b := established(t, nil)
	unknown := &wire.Unknown{Kind: 200, Data: []byte("outside")}
	send := func(outer []wire.Payload, number, total uint16, inner []byte) (opened, error) {
		h := wire.Header{Exchange: wire.ExchangeInformational, MessageID: b.window.nextReceive}
		a.fillHeader(&h)
		n := a.sealer.SealedLen(len(inner))
		var last wire.Payload = &wire.Encrypted{FirstInner: wire.PayloadVendorID, Body: make([]byte, n)}
		if total > 0 {
			f := &wire.EncryptedFragment{Number: number, Total: total, Body: make([]byte, n)}
			if number == 1 {
				f.FirstInner = wire.PayloadVendorID
			}
			last = f
		}
		raw, err := (&wire.Message{Header: h, Payloads: append(slices.Clone(outer), last)}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		raw = raw[:len(raw)-n]
		raw = a.sealer.Seal(raw, raw, inner)
		return b.open(h, Datagram{Remote: a.local, Data: raw})
	}
	_, inner, _ := wire.AppendPayloads(nil, long(100))
	o, err := send([]wire.Payload{unknown}, 0, 0, inner)
	if err != nil || !bytes.Equal(o.plain, inner) || string(o.head[wire.HeaderLen+4:len(o.head)-4]) != "outside" {
		t.Errorf("with an unknown payload outside: %x, head %q, %v", o.plain, o.head, err)
	}
	if _, err := send([]wire.Payload{&wire.Notify{Kind: wire.NotifyInitialContact}}, 0, 0, inner); !errors.Is(err, errNotProtected) {
		t.Errorf("with a notification outside: %v", err)
	}
	if _, err := send([]wire.Payload{unknown}, 2, 2, inner[50:]); !errors.Is(err, errNotProtected) {
		t.Errorf("second fragment with a payload outside: %v", err)
	}
	if _, err := send(nil, 2, 2, inner[50:]); !errors.Is(err, errIncomplete) {
		t.Errorf("second fragment: %v", err)
	}
	o, err = send([]wire.Payload{unknown}, 1, 2, inner[:50])
	if err != nil || !bytes.Equal(o.plain, inner) || string(o.head[wire.HeaderLen+4:len(o.head)-4]) != "outside" {
		t.Errorf("fragments with an unknown payload outside: %x, head %q, %v", o.plain, o.head, err)
	}
	// In an extreme case there is no room for anything else in the first one.
	send([]wire.Payload{unknown}, 1, 2, nil)
	if o, err = send(nil, 2, 2, inner); err != nil || !bytes.Equal(o.plain, inner) {
		t.Errorf("empty first fragment: %x, %v", o.plain, err)
	}
}

// A request that was answered comes again in smaller pieces, because the answer
// was lost: its first fragment gets the answer once more, the others get nothing,
// a forged one neither (RFC 7383, Section 2.6.1).
func TestRepeatedInSmallerPieces(t *testing.T) {
	w, a, b := established(t, nil)
	request := &wire.Notify{Kind: wire.NotifySetWindowSize, Data: make([]byte, 2000)}
	h := wire.Header{Exchange: wire.ExchangeInformational, MessageID: b.window.nextReceive}
	cut, datagrams, err := a.seal(h, []wire.Payload{request}, a.datagram())
	if err != nil {
		t.Fatal(err)
	}
	deliver := func(data []byte) int {
		w.flight = nil
		w.b.receive(Datagram{Local: b.local, Remote: a.local, Data: data})
		return len(w.flight)
	}
	if n := deliver(datagrams[0]) + deliver(datagrams[1]); n != 1 {
		t.Fatalf("%d answers", n)
	}
	answer := w.flight[0].data
	again := a.cutSmaller(cut, leastDatagram)
	if len(again) <= len(datagrams) {
		t.Fatalf("%d pieces, before %d", len(again), len(datagrams))
	}
	for i, data := range again {
		forged := bytes.Clone(data)
		forged[len(forged)-1] ^= 1
		if n := deliver(forged); n != 0 {
			t.Errorf("forged fragment %d is answered", i+1)
		}
		n := deliver(data)
		if want := map[bool]int{true: 1}[i == 0]; n != want {
			t.Errorf("fragment %d gets %d answers, want %d", i+1, n, want)
		} else if n == 1 && !bytes.Equal(w.flight[0].data, answer) {
			t.Errorf("the answer changed")
		}
	}
	w.flight = nil
	w.check(t)
}

// A long answer to a short request: the peer can only repeat the request, so the
// responder makes smaller pieces by itself after some repetitions, and no smaller
// ones after that (RFC 7383, Section 2.4).
func TestAnswerInSmallerPieces(t *testing.T) {
	w, a, b := established(t, nil)
	datagrams, err := a.protect(wire.Header{Exchange: wire.ExchangeInformational, MessageID: b.window.nextReceive}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := Datagram{Local: b.local, Remote: a.local, Data: datagrams[0]}
	w.b.receive(d)
	b.respond(&message{
		Header: wire.Header{Exchange: wire.ExchangeInformational, MessageID: b.window.nextReceive - 1}, route: d.route(),
	}, long(3000))
	w.b.drain(w.b.t, nil)
	var got []int
	for range 8 {
		w.flight = nil
		w.b.receive(d)
		got = append(got, len(w.flight))
	}
	if want := []int{3, 3, 7, 7, 7, 7, 7, 7}; !slices.Equal(got, want) {
		t.Errorf("answers of %v datagrams, want %v", got, want)
	}
}

// A fuzzed stream of fragments never panics, never keeps more than its bound, and
// never yields anything but the message that was sent.
func FuzzReassembly(f *testing.F) {
	f.Add([]byte{1, 2, 2, 2})
	f.Add([]byte{1, 3, 3, 3, 2, 3, 1, 2, 2, 2})
	f.Add([]byte{0, 0, 1, 0, 255, 255})
	f.Fuzz(func(t *testing.T, script []byte) {
		sa := newCollector()
		for len(script) >= 2 {
			number, total := int(script[0]), int(script[1])
			script = script[2:]
			if number == 0 || number > total {
				continue // the codec refuses these
			}
			o, err := sa.add(1, total%2 == 0, number, total, 600)
			if sa.held() > 2*maxReassembled {
				t.Fatalf("%d octets held", sa.held())
			}
			if err != nil {
				continue
			}
			var want []byte
			for i := range total {
				want = append(want, bytes.Repeat([]byte{byte(i + 1)}, 600)...)
			}
			if !bytes.Equal(o.plain, want) {
				t.Fatal(fmt.Sprintf("reassembled %d octets of %d", len(o.plain), len(want)))
			}
			sa.m.now = sa.m.now.Add(time.Second)
		}
	})
}
