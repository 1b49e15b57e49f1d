package planetest

import (
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// testTransport: what the two hosts say to each other, in each way that an SA can have
// (RFC 4301, Section 4.1), also with headers that are read on the way (RFC 4303 and 4302,
// Section 3.1.1).
func testTransport(_ *testing.T, h *harness) {
	h.mode = dataplane.Transport
	a, b := h.A.Outer.Addr(), h.B.Outer.Addr()
	only := func(x netip.Addr) netip.Prefix { return netip.PrefixFrom(x, x.BitLen()) }
	h.tsA, h.tsB = selectors(only(a)), selectors(only(b))
	toB, toA := func() []byte { return h.packet(a, b) }, func() []byte { return h.packet(b, a) }
	encapsulated := !h.Native
	for n, of := range []struct {
		suite        string
		encapsulated bool
	}{
		{"aes128gcm16-esn", encapsulated}, {"aes256-sha256", encapsulated}, {"aes128gcm16-esn", false}, {"aes256-sha512-esn", false},
		{"ah-sha256-esn", false}, {"ah-sha512", false},
	} {
		h.choose(of.suite)
		h.Native = !of.encapsulated
		h.Logf("%s in UDP: %t", of.suite, of.encapsulated)
		h.carries(byte(n+1), toB, toA)
		h.carries(byte(n+100), func() []byte { return withWay(toB()) }, func() []byte { return withWay(toA()) })
	}
}

// testAH: the addresses before AH are authenticated too, so that it is never in UDP.
func testAH(t *testing.T, h *harness) {
	for n, text := range []string{"ah-sha256-esn", "ah-sha1", "ah-sha384", "ah-sha512-esn", "ah-aesxcbc"} {
		h.choose(text)
		h.Logf("%s", text)
		h.carries(byte(n+1), h.toB, h.toA)
		h.carries(byte(n+100), func() []byte { return h.packet(hostA6, hostB6) }, func() []byte { return h.packet(hostB6, hostA6) })
	}
	if _, read := h.Wire.Legible(); read == 0 && h.A.Plane.Name() != "memory" {
		t.Error("nothing could be read of packets that AH does not hide: nobody looked at the wire")
	}
}

// carries makes a Child SA of the suite at hand, whose first packet asks for it, passes
// packets both ways, replays one, and removes it.
func (h *harness) carries(n byte, toB, toA func() []byte) {
	h.Helper()
	s := h.newSAs(n)
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA})
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	waiting := toB()
	_ = h.A.Send(waiting) // must not arrive in clear
	h.apply(h.A, dataplane.InstallSA{SA: s.outA})
	h.arrives(h.B, waiting)
	sent := h.Wire.Sent()
	for range 3 {
		h.passes(h.A, h.B, toB())
		h.passes(h.B, h.A, toA())
	}
	h.again(sent)
	h.eventually(h.B, s.inB, "a replayed packet", func(c dataplane.Counters) bool { return c.ReplayDrops == 1 && c.Packets == 4 })
	h.eventually(h.A, s.inA, "three packets", func(c dataplane.Counters) bool { return c.Packets == 3 })
	h.apply(h.A, remove(s.outA), remove(s.inA), dataplane.RemovePolicy{Tunnel: tunnel, Child: child})
	h.apply(h.B, remove(s.outB), remove(s.inB), dataplane.RemovePolicy{Tunnel: tunnel, Child: child})
}
