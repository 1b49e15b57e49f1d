package planetest

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

func testTraffic(_ *testing.T, h *harness) {
	h.up(1)
	for range 3 {
		h.passes(h.A, h.B, h.toB())
		h.passes(h.B, h.A, h.toA())
	}
}

func testIPv6(_ *testing.T, h *harness) {
	h.up(1)
	h.passes(h.A, h.B, h.packet(hostA6, hostB6))
	h.passes(h.B, h.A, h.packet(hostB6, hostA6))
}

func testIdempotent(t *testing.T, h *harness) {
	s := h.up(1)
	h.passes(h.A, h.B, h.toB())
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: s.outA})
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	// Had the sequence numbers begun anew, this would be a replay.
	h.passes(h.A, h.B, h.toB())
	h.sent(h.A, s.outA, 2)
	for range 2 {
		h.apply(h.A, remove(s.outA), remove(s.inA), dataplane.RemovePolicy{Tunnel: tunnel, Child: child})
	}
	h.apply(h.A, dataplane.UpdateEndpoints{Tunnel: "nobody", Local: s.outA.Local, Remote: s.outA.Remote})
	if c := h.A.Plane.Counters(); len(c) != 0 {
		t.Errorf("%d SAs left after their removal", len(c))
	}
}

// testPathMTU tells of a path that takes less than the host knows, and takes it back. What
// fits passes before and after. A plane that leaves it to routes says what is for them.
func testPathMTU(t *testing.T, h *harness) {
	s := h.newSAs(1)
	s.outA.PathMTU = 1400
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: s.outA})
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	for _, mtu := range []int{1400, 1280, 1280, 0, 0, 9000} {
		h.passes(h.A, h.B, h.toB())
		h.apply(h.A, dataplane.SetPathMTU{Tunnel: tunnel, MTU: mtu}, dataplane.SetPathMTU{Tunnel: "nobody", MTU: mtu})
		h.passes(h.A, h.B, h.toB())
		h.passes(h.B, h.A, h.toA())
		s.outA.PathMTU = mtu
		wantInnerMTU(t, h.A.Plane, &s.outA)
	}
	h.apply(h.A, dataplane.SetPathMTU{Tunnel: tunnel, MTU: 1280}, remove(s.outA))
	s.outA.PathMTU = 0
	wantInnerMTU(t, h.A.Plane, &s.outA)
}

// wantInnerMTU looks at what a plane says is for the routes to the one outbound SA.
func wantInnerMTU(t *testing.T, p dataplane.Plane, sa *dataplane.SA) {
	t.Helper()
	routed, ok := p.(dataplane.RoutedPlane)
	if !ok {
		return
	}
	want := map[string]int{}
	if sa.PathMTU != 0 && sa.Mode == dataplane.Tunnel {
		want[sa.Tunnel] = sa.InnerMTU(sa.PathMTU)
	}
	if got := routed.InnerMTUs(); !maps.Equal(got, want) {
		t.Errorf("with a path of %d octets, 0 for unknown, routes are to have the MTUs %v, want %v", sa.PathMTU, got, want)
	}
	select {
	case <-routed.InnerMTUsChanged():
	default:
	}
}

func testConflict(t *testing.T, h *harness) {
	s := h.up(1)
	for _, sa := range []dataplane.SA{s.inA, s.outA} {
		sa.Key = h.key(99)
		if err := h.A.Plane.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}})[0]; err == nil {
			t.Errorf("%s SA installed again with another key", sa.Direction)
		}
	}
	h.passes(h.A, h.B, h.toB())
	h.passes(h.B, h.A, h.toA())
}

func testAllocate(t *testing.T, h *harness) {
	seen := make(map[uint32]bool)
	for range 2000 {
		spi, err := h.A.Plane.AllocateSPI(0)
		if err != nil {
			t.Fatal(err)
		}
		if spi < 256 || seen[spi] {
			t.Fatalf("SPI %08x is reserved or was given before", spi)
		}
		seen[spi] = true
	}
	for spi := range seen {
		h.apply(h.A, dataplane.RemoveSA{Tunnel: tunnel, SPI: spi, Direction: dataplane.Inbound})
	}
}

func testInboundFirst(_ *testing.T, h *harness) {
	s := h.newSAs(1)
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}) // no outbound SA yet
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: s.outA})
	h.passes(h.A, h.B, h.toB())
	h.apply(h.B, dataplane.InstallSA{SA: s.outB})
	h.passes(h.B, h.A, h.toA())
}

func testRekey(t *testing.T, h *harness) {
	old := h.up(1)
	h.passes(h.A, h.B, h.toB())
	next := h.newSAs(2)
	h.apply(h.A, dataplane.InstallSA{SA: next.inA})
	h.apply(h.B, dataplane.InstallSA{SA: next.inB}, dataplane.InstallSA{SA: next.outB})
	h.passes(h.A, h.B, h.toB()) // A has no new outbound SA yet
	h.sent(h.A, old.outA, 2)
	h.apply(h.A, dataplane.InstallSA{SA: next.outA})
	h.passes(h.A, h.B, h.toB())
	h.passes(h.B, h.A, h.toA())
	h.sent(h.A, next.outA, 1)
	h.apply(h.A, remove(old.outA), remove(old.inA))
	h.apply(h.B, remove(old.outB), remove(old.inB))
	h.passes(h.A, h.B, h.toB())
	h.passes(h.B, h.A, h.toA())
}

// testSuites rekeys through one suite of each kind, by cipher, by length of ICV
// and by integrity algorithm.
func testSuites(t *testing.T, h *harness) {
	last := h.up(1)
	for n, text := range []string{
		"aes128gcm16", "aes192gcm16-esn", "aes256gcm12", "aes256gcm8-esn", "chacha20poly1305-esn",
		"aes128ccm8", "aes256ccm16-esn", "aes128-sha256", "aes192-sha384-esn", "aes256-sha512", "aes128-sha1", "aes128-aesxcbc",
		"aes128ctr-sha256-esn", "aes256ctr-sha512", "aes128gmac", "aes256gmac-esn", "null-sha256-esn",
	} {
		h.choose(text)
		s := h.newSAs(byte(n + 2))
		h.apply(h.A, dataplane.InstallSA{SA: s.inA})
		h.apply(h.B, dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
		h.apply(h.A, dataplane.InstallSA{SA: s.outA}, remove(last.outA), remove(last.inA))
		h.apply(h.B, remove(last.outB), remove(last.inB))
		h.passes(h.A, h.B, h.toB())
		h.passes(h.B, h.A, h.packet(hostB6, hostA6))
		last = s
	}
}

func testOverlap(t *testing.T, h *harness) {
	old := h.up(1)
	next := h.newSAs(2)
	h.apply(h.A, dataplane.InstallSA{SA: next.inA}, dataplane.InstallSA{SA: next.outA})
	h.apply(h.B, dataplane.InstallSA{SA: next.inB})
	h.passes(h.A, h.B, h.toB()) // on the new SA
	h.passes(h.B, h.A, h.toA()) // B still sends on the old one
	h.sent(h.B, old.outB, 1)
	// The new outbound SA goes: the one before it carries the traffic again.
	h.apply(h.A, remove(next.outA))
	h.passes(h.A, h.B, h.toB())
	h.sent(h.A, old.outA, 1)
}

func testReplay(t *testing.T, h *harness) {
	s := h.up(1)
	h.passes(h.A, h.B, h.toB())
	h.again(0)
	h.eventually(h.B, s.inB, "replayed packet", func(c dataplane.Counters) bool { return c.ReplayDrops == 1 })
	h.passes(h.A, h.B, h.toB())
	// The host may have a packet before it is counted.
	h.eventually(h.B, s.inB, "two accepted packets", func(c dataplane.Counters) bool { return c.Packets == 2 })
}

func testWrongKey(_ *testing.T, h *harness) {
	s := h.newSAs(1)
	wrong := s.outA
	wrong.Key = h.key(77)
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: wrong})
	_ = h.A.Send(h.toB())
	h.eventually(h.B, s.inB, "packet under another key", func(c dataplane.Counters) bool {
		return c.AuthFailures == 1 && c.Packets == 0
	})
	h.apply(h.A, remove(wrong), dataplane.InstallSA{SA: s.outA})
	h.passes(h.A, h.B, h.toB())
}

func testCounters(t *testing.T, h *harness) {
	s := h.up(1)
	var octets uint64
	for range 4 {
		p := h.toB()
		octets += uint64(len(p))
		h.passes(h.A, h.B, p)
	}
	for _, at := range []struct {
		side Side
		sa   dataplane.SA
	}{{h.A, s.outA}, {h.B, s.inB}} {
		h.eventually(at.side, at.sa, "four packets", func(c dataplane.Counters) bool {
			return c.Packets == 4 && c.Bytes == octets
		})
		c := h.counters(at.side, at.sa)
		if c.Child != child || time.Since(c.LastUsed) > time.Minute {
			t.Errorf("counters of the %s SA: %+v", at.sa.Direction, c)
		}
	}
	if c := h.counters(h.A, s.inA); c.Packets != 0 || !c.LastUsed.IsZero() {
		t.Errorf("counters of an SA that was not used: %+v", c)
	}
}

func testAcquire(t *testing.T, h *harness) {
	s := h.newSAs(1)
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB})
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA})
	for generation := range byte(2) {
		waiting := h.toB()
		_ = h.A.Send(waiting) // must not arrive before there is an SA, in whatever form
		if generation == 0 {  // the next is told a second later
			ev := h.event(h.A, dataplane.Acquire)
			if ev.Tunnel != tunnel || ev.Child != child {
				t.Errorf("Acquire names %q/%q", ev.Tunnel, ev.Child)
			}
			if ev.Source != hostA || ev.Destination != hostB {
				t.Errorf("Acquire is for a packet from %s to %s, want %s to %s", ev.Source, ev.Destination, hostA, hostB)
			}
		}
		select {
		case got := <-h.B.Received:
			if _, ours := payload(got); ours {
				t.Errorf("received %q without an SA", got)
			}
		default:
		}
		h.apply(h.A, dataplane.InstallSA{SA: s.outA})
		h.arrives(h.B, waiting)
		h.passes(h.A, h.B, h.toB())
		h.apply(h.A, remove(s.outA))
		s = h.newSAs(generation + 2)
		h.apply(h.B, dataplane.InstallSA{SA: s.inB})
	}
}

// testWaiting: of many packets without an SA the first arrive, in their order; of the others
// how many there is room for is the plane's choice.
func testWaiting(t *testing.T, h *harness) {
	onOneProcessor(t)
	s := h.newSAs(1)
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB})
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA})
	var all []byte // a plane may merge packets, so what they say is compared in one piece
	for range 40 {
		packet := h.toB()
		body, _ := payload(packet)
		all = append(all, body...)
		_ = h.A.Send(packet)
	}
	h.event(h.A, dataplane.Acquire)
	h.apply(h.A, dataplane.InstallSA{SA: s.outA})
	last := h.toB()
	if err := h.A.Send(last); err != nil {
		t.Fatal(err)
	}
	end, _ := payload(last)
	var got []byte
	for !bytes.HasSuffix(got, end) {
		got = append(got, h.receive(h.B)...)
	}
	if waited := bytes.TrimSuffix(got, end); len(waited) == 0 || !bytes.HasPrefix(all, waited) {
		t.Errorf("received %q before the packet that did not wait", waited)
	}
}

func testNoPolicy(_ *testing.T, h *harness) {
	h.up(1)
	_ = h.A.Send(h.packet(hostA, netip.MustParseAddr("10.99.9.9")))
	h.passes(h.A, h.B, h.toB())
	h.apply(h.A, dataplane.RemovePolicy{Tunnel: tunnel, Child: child})
	_ = h.A.Send(h.toB())
	h.apply(h.A, h.policyA())
	h.passes(h.A, h.B, h.toB())
}

func testSelectors(_ *testing.T, h *harness) {
	s := h.newSAs(1)
	// B was told a narrower range than A has.
	narrow := netip.MustParsePrefix("10.91.1.1/32")
	s.inB.RemoteTS, s.outB.RemoteTS = selectors(narrow), selectors(narrow)
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.inA}, dataplane.InstallSA{SA: s.outA})
	_ = h.A.Send(h.packet(netip.MustParseAddr("10.91.1.2"), hostB))
	if h.lacks&SelectorDrops == 0 {
		h.eventually(h.B, s.inB, "packet outside of the selectors", func(c dataplane.Counters) bool { return c.SelectorDrops == 1 })
	}
	h.passes(h.A, h.B, h.toB())
}

func testLimits(t *testing.T, h *harness) {
	size := uint64(len(h.toB()))
	for n, limits := range []dataplane.Limits{{SoftPackets: 2, HardPackets: 4}, {SoftBytes: 2 * size, HardBytes: 4 * size}} {
		h.limited(t, byte(2*n+1), limits)
	}
}

// limited wants an SA to carry four packets and no fifth.
func (h *harness) limited(t *testing.T, n byte, limits dataplane.Limits) {
	t.Helper()
	s := h.newSAs(n)
	s.outA.Limits = limits
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB})
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.outA})
	for range 4 {
		h.passes(h.A, h.B, h.toB())
	}
	_ = h.A.Send(h.toB()) // must not arrive
	for _, kind := range []dataplane.EventKind{dataplane.SoftExpire, dataplane.HardExpire} {
		ev := h.event(h.A, kind)
		if ev.SPI != s.outA.SPI || ev.Direction != dataplane.Outbound || ev.Tunnel != tunnel || ev.Child != child {
			t.Errorf("%s names %+v with %+v", kind, ev, limits)
		}
	}
	next := h.newSAs(n + 1)
	h.apply(h.B, dataplane.InstallSA{SA: next.inB})
	h.apply(h.A, dataplane.InstallSA{SA: next.outA})
	h.passes(h.A, h.B, h.toB())
	h.apply(h.A, remove(s.outA), remove(next.outA))
	h.apply(h.B, remove(s.inB), remove(next.inB))
}

func testTimeLimits(t *testing.T, h *harness) {
	s := h.newSAs(1)
	s.outA.Limits = dataplane.Limits{SoftTime: time.Second, HardTime: 2 * time.Second}
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB})
	h.apply(h.A, h.policyA(), dataplane.InstallSA{SA: s.outA})
	h.passes(h.A, h.B, h.toB())
	for _, kind := range []dataplane.EventKind{dataplane.SoftExpire, dataplane.HardExpire} {
		ev := h.event(h.A, kind)
		if ev.SPI != s.outA.SPI || ev.Direction != dataplane.Outbound || ev.Tunnel != tunnel || ev.Child != child {
			t.Errorf("%s names %+v", kind, ev)
		}
	}
	_ = h.A.Send(h.toB()) // must not arrive
	next := h.newSAs(2)
	h.apply(h.B, dataplane.InstallSA{SA: next.inB})
	h.apply(h.A, remove(s.outA), dataplane.InstallSA{SA: next.outA})
	h.passes(h.A, h.B, h.toB())
}

func testDiscard(t *testing.T, h *harness) {
	h.up(1)
	h.passes(h.A, h.B, h.toB())
	discard := h.policyA()
	discard.Policy.Action = dataplane.Discard
	h.apply(h.A, discard)
	_ = h.A.Send(h.toB()) // must not arrive, in whatever form
	h.apply(h.A, h.policyA())
	h.passes(h.A, h.B, h.toB())
	bypass := h.policyA()
	bypass.Policy.Action = dataplane.Bypass
	if err := h.A.Plane.Apply([]dataplane.Op{bypass})[0]; err == nil {
		t.Error("a policy that lets packets pass in clear was taken")
	}
	h.passes(h.A, h.B, h.toB())
}

func testFirstInbound(t *testing.T, h *harness) {
	s := h.up(1)
	h.passes(h.A, h.B, h.toB())
	h.passes(h.A, h.B, h.toB())
	ev := h.event(h.B, dataplane.FirstInbound)
	if ev.SPI != s.inB.SPI || ev.Tunnel != tunnel || ev.Child != child || ev.Direction != dataplane.Inbound {
		t.Errorf("FirstInbound names %+v", ev)
	}
	select {
	case ev := <-h.B.Plane.Events():
		t.Errorf("unexpected %s event", ev.Kind)
	default:
	}
}

func testUnknownSPI(t *testing.T, h *harness) {
	s := h.up(1)
	h.passes(h.A, h.B, h.toB())
	h.apply(h.B, remove(s.inB))
	for range 3 {
		if err := h.A.Send(h.toB()); err != nil {
			t.Fatal(err)
		}
	}
	endA, endB := h.ends()
	ev := h.event(h.B, dataplane.UnknownSPI)
	if ev.SPI != s.inB.SPI || ev.Remote != endA || ev.Local != endB || ev.Tunnel != "" {
		t.Errorf("UnknownSPI is %+v, want SPI %08x from %s at %s", ev, s.inB.SPI, endA, endB)
	}
	select {
	case ev := <-h.B.Plane.Events():
		t.Errorf("unexpected %s event", ev.Kind)
	default:
	}
}

func testRebind(t *testing.T, h *harness) {
	if h.Rebind == nil {
		t.Skip("SKIPPED: this pair cannot move an endpoint; give planetest.Pair.Rebind to run it")
	}
	s := h.up(1)
	h.passes(h.A, h.B, h.toB())
	moved, err := h.Rebind()
	if err != nil {
		t.Fatalf("rebind: %v", err)
	}
	h.passes(h.A, h.B, h.toB())
	ev := h.event(h.B, dataplane.MappingChanged)
	if ev.Remote != moved || ev.SPI != s.inB.SPI || ev.Tunnel != tunnel {
		t.Errorf("MappingChanged is %+v, want remote %s", ev, moved)
	}
	h.apply(h.B, dataplane.UpdateEndpoints{Tunnel: tunnel, Local: s.inB.Local, Remote: moved})
	h.passes(h.B, h.A, h.toA())
	h.eventually(h.B, s.inB, "counters that go on with the new endpoint", func(c dataplane.Counters) bool { return c.Packets == 2 })
}

func testIKE(t *testing.T, h *harness) {
	type message struct {
		local, remote netip.AddrPort
		data          []byte
	}
	at := make(chan message, 16)
	senderA, err := h.A.Plane.Listen(func(dataplane.IKEDatagram) {})
	if err != nil {
		t.Fatalf("Listen: %v", err)
	}
	_, err = h.B.Plane.Listen(func(d dataplane.IKEDatagram) {
		at <- message{d.Local, d.Remote, bytes.Clone(d.Data)}
	})
	if err != nil {
		t.Fatalf("Listen: %v", err)
	}
	h.up(1)
	local, err := senderA.LocalFor(h.B.Outer.Addr())
	if err != nil || local.Addr() != h.A.Outer.Addr() {
		t.Errorf("LocalFor = %v, %v; want %v", local, err, h.A.Outer)
	}
	if err := senderA.SendKeepAlive(h.A.Outer, h.B.Outer); err != nil {
		t.Errorf("SendKeepAlive: %v", err)
	}
	want := bytes.Repeat([]byte{0x5a}, 1200)
	if err := senderA.SendIKE(h.A.Outer, h.B.Outer, want); err != nil {
		t.Fatalf("SendIKE: %v", err)
	}
	select {
	case m := <-at:
		if !bytes.Equal(m.data, want) || m.remote != h.A.Outer || m.local != h.B.Outer {
			t.Errorf("received %d octets from %v to %v", len(m.data), m.remote, m.local)
		}
	case <-time.After(patience):
		t.Error("the IKE message did not arrive")
	}
	h.passes(h.A, h.B, h.toB())
}

func testInvalid(t *testing.T, h *harness) {
	good := h.newSAs(1).inA
	for name, spoil := range map[string]func(*dataplane.SA){
		"reserved SPI":   func(sa *dataplane.SA) { sa.SPI = 255 },
		"no direction":   func(sa *dataplane.SA) { sa.Direction = 0 },
		"no owner":       func(sa *dataplane.SA) { sa.Tunnel = "" },
		"short key":      func(sa *dataplane.SA) { sa.Key = sa.Key[1:] },
		"no remote":      func(sa *dataplane.SA) { sa.Remote = netip.AddrPort{} },
		"no selectors":   func(sa *dataplane.SA) { sa.LocalTS = nil },
		"unknown label":  func(sa *dataplane.SA) { sa.Label = "nowhere" },
		"unknown cipher": func(sa *dataplane.SA) { sa.Suite.Encryption = 0xfff0 },
	} {
		sa := good
		spoil(&sa)
		if err := h.A.Plane.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}})[0]; err == nil {
			t.Errorf("%s: installed", name)
		}
	}
	labelled := h.policyA()
	labelled.Policy.Label = "nowhere"
	if err := h.A.Plane.Apply([]dataplane.Op{labelled})[0]; err == nil {
		t.Error("a policy of an unknown label is set")
	}
	if c := h.A.Plane.Counters(); len(c) != 0 {
		t.Errorf("%d SAs installed by operations that failed", len(c))
	}
}

func testPartial(t *testing.T, h *harness) {
	s := h.newSAs(1)
	bad := s.outA
	bad.Key = nil
	results := h.A.Plane.Apply([]dataplane.Op{h.policyA(), dataplane.InstallSA{SA: bad}, dataplane.InstallSA{SA: s.outA}})
	if len(results) != 3 || results[0] != nil || results[1] == nil || results[2] != nil {
		t.Fatalf("results are %v, want only the second to fail", results)
	}
	h.apply(h.B, h.policyB(), dataplane.InstallSA{SA: s.inB})
	h.passes(h.A, h.B, h.toB())
}

func testClose(t *testing.T, h *harness) {
	s := h.up(1)
	for range 2 {
		if err := h.A.Plane.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	timeout := time.After(patience)
	for open := true; open; {
		select {
		case _, open = <-h.A.Plane.Events():
		case <-timeout:
			t.Fatal("the channel of events was not closed")
		}
	}
	if _, err := h.A.Plane.AllocateSPI(0); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("AllocateSPI after Close: %v", err)
	}
	results := h.A.Plane.Apply([]dataplane.Op{dataplane.InstallSA{SA: s.outA}})
	if !errors.Is(results[0], dataplane.ErrClosed) {
		t.Errorf("Apply after Close: %v", results[0])
	}
	if c := h.A.Plane.Counters(); len(c) != 0 {
		t.Errorf("%d SAs after Close", len(c))
	}
}
