package ike

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// mobile gives both ends MOBIKE.
func mobile(a, b *Config) { a.Mobility.Disable, b.Mobility.Disable = false, false }

// evilUpdates has the evil end move to another of its addresses.
func evilUpdates(e *evilPeer) {
	to := netip.MustParseAddr("192.0.2.7")
	e.evil.addrs = []netip.Addr{to}
	e.evil.step(AddressChange{Local: to})
}

// goodUpdates has the good end do so.
func goodUpdates(e *evilPeer) {
	to := netip.MustParseAddr("192.0.2.7")
	e.good.addrs = []netip.Addr{to}
	e.good.step(AddressChange{Local: to})
}

// replaced puts notifications in place of those of the kind.
func replaced(kind wire.NotifyType, by ...rawPayload) change {
	return func(_ *evilPeer, ps []rawPayload) []rawPayload {
		ps = slices.DeleteFunc(ps, func(p rawPayload) bool {
			return p.kind == wire.PayloadNotify && p.body[2] == byte(kind>>8) && p.body[3] == byte(kind)
		})
		return append(ps, by...)
	}
}

func status(kind wire.NotifyType, data ...byte) rawPayload { return rawNotify(kind, 0, nil, data) }

// TestEvilMobile has a peer that has proved itself say about addresses what it must
// not.
func TestEvilMobile(t *testing.T) {
	prohibited := func(a, b *Config) {
		mobile(a, b)
		a.Mobility.ProhibitNAT, b.Mobility.ProhibitNAT = true, true
	}
	cookie := func(n int) rawPayload { return status(wire.NotifyCookie2, make([]byte, n)...) }
	update := status(wire.NotifyUpdateSAAddresses)
	for _, c := range []misdeedCase{
		{name: "update with data", initiator: true, begin: evilUpdates, misdeed: inInform.with(replaced(wire.NotifyUpdateSAAddresses, status(wire.NotifyUpdateSAAddresses, 1, 2, 3))), want: "accepted, INFORMATIONAL request; up"},
		{name: "update twice", initiator: true, begin: evilUpdates, misdeed: inInform.with(more(1, update)), want: "accepted, INFORMATIONAL request; up"},
		{name: "update without anything else", initiator: true, begin: evilUpdates, misdeed: inInform.with(only(update)), want: "accepted, INFORMATIONAL request; down"},
		{name: "update of another protocol", initiator: true, begin: evilUpdates, misdeed: inInform.with(replaced(wire.NotifyUpdateSAAddresses, rawNotify(wire.NotifyUpdateSAAddresses, wire.ProtocolESP, []byte{1, 2, 3, 4}, nil))), want: "accepted, INFORMATIONAL request; up"},
		{name: "update and Delete", initiator: true, begin: evilUpdates, misdeed: inInform.with(more(1, rawDelete(wire.ProtocolIKE, 0))), want: "accepted; down"},
		{name: "COOKIE2 of 0 octets", initiator: true, begin: evilInforms, misdeed: inInform.with(only(cookie(0))), want: "accepted; up"},
		{name: "COOKIE2 of 65 octets", initiator: true, begin: evilInforms, misdeed: inInform.with(only(cookie(65))), want: "accepted; up"},
		{name: "COOKIE2 many times", initiator: true, begin: evilInforms, misdeed: inInform.with(more(15, cookie(64))), want: "accepted; up"},
		{name: "many hashes", initiator: true, begin: evilUpdates, misdeed: inInform.with(more(14, status(wire.NotifyNATDetectionSourceIP, make([]byte, 20)...))), want: "accepted, INFORMATIONAL request; up"},
		{name: "hashes where NATs are prohibited", initiator: true, change: prohibited, begin: evilUpdates, misdeed: inInform.with(more(1, status(wire.NotifyNATDetectionSourceIP, make([]byte, 20)...))), want: "accepted, INFORMATIONAL request; up"},
		{name: "NO_NATS_ALLOWED of 11 octets", initiator: true, change: prohibited, begin: evilUpdates, misdeed: inInform.with(replaced(wire.NotifyNoNATsAllowed, status(wire.NotifyNoNATsAllowed, make([]byte, 11)...))), want: "UNEXPECTED_NAT_DETECTED; up"},
		{name: "NO_NATS_ALLOWED of other addresses", initiator: true, change: prohibited, begin: evilUpdates, misdeed: inInform.with(replaced(wire.NotifyNoNATsAllowed, status(wire.NotifyNoNATsAllowed, make([]byte, 12)...))), want: "UNEXPECTED_NAT_DETECTED; up"},
		{name: "no NO_NATS_ALLOWED", initiator: true, change: prohibited, begin: evilUpdates, misdeed: inInform.with(replaced(wire.NotifyNoNATsAllowed)), want: "UNEXPECTED_NAT_DETECTED; up"},
		{name: "NO_NATS_ALLOWED of other addresses in IKE_AUTH", initiator: true, change: prohibited, misdeed: inAuth.with(replaced(wire.NotifyNoNATsAllowed, status(wire.NotifyNoNATsAllowed, make([]byte, 12)...))), want: "UNEXPECTED_NAT_DETECTED; down"},
		{name: "MOBIKE_SUPPORTED twice, with data", initiator: true, misdeed: inAuth.with(more(2, status(wire.NotifyMOBIKESupported, 1, 2, 3))), want: "accepted; up"},
		{name: "update by the end that does not decide", begin: evilInforms, misdeed: inInform.with(only(update)), want: "accepted; up"},
		{name: "answers an update with another cookie", begin: goodUpdates, misdeed: inInformed.with(replaced(wire.NotifyCookie2, cookie(16))), want: "INFORMATIONAL request; down"},
		{name: "answers an update with no cookie", begin: goodUpdates, misdeed: inInformed.with(replaced(wire.NotifyCookie2)), want: "INFORMATIONAL request; down"},
		{name: "answers an update with nothing", begin: goodUpdates, misdeed: inInformed.with(only()), want: "INFORMATIONAL request; down"},
		{name: "accepts no address", begin: goodUpdates, misdeed: inInformed.with(more(1, status(wire.NotifyUnacceptableAddresses))).each(), want: "IKE_SA_INIT request; up"},
		{name: "finds a NAT for ever", begin: goodUpdates, misdeed: inInformed.with(more(1, status(wire.NotifyUnexpectedNATDetected))).each(), want: "INFORMATIONAL request; up"},
		{name: "answers an update with hashes where NATs are prohibited", change: prohibited, begin: goodUpdates, misdeed: inInformed.with(more(1, status(wire.NotifyNATDetectionDestinationIP, make([]byte, 20)...))), want: "nothing; up"},
	} {
		if c.change == nil {
			c.change = mobile
		}
		t.Run(c.name, c.run)
	}
}

// TestEvilAddresses has a peer announce addresses that are nobody's, or that of a
// third party. They are looked at only when the path fails: then few messages go
// there, and no Child SA does.
func TestEvilAddresses(t *testing.T) {
	ip4 := func(b ...byte) rawPayload { return status(wire.NotifyAdditionalIP4Address, b...) }
	ip6 := func(s string) rawPayload {
		a := netip.MustParseAddr(s).As16()
		return status(wire.NotifyAdditionalIP6Address, a[:]...)
	}
	var many []rawPayload
	for i := range 18 {
		many = append(many, ip4(203, 0, 113, byte(i)))
	}
	for _, c := range []struct {
		name string
		list []rawPayload
		want int
	}{
		{"of 3 octets", []rawPayload{ip4(203, 0, 113)}, 0},
		{"of 16 octets as IPv4", []rawPayload{ip4(make([]byte, 16)...)}, 0},
		{"of 4 octets as IPv6", []rawPayload{status(wire.NotifyAdditionalIP6Address, 203, 0, 113, 66)}, 0},
		{"empty", []rawPayload{ip4(), status(wire.NotifyAdditionalIP6Address)}, 0},
		{"unspecified", []rawPayload{ip4(0, 0, 0, 0), ip6("::")}, 0},
		{"multicast", []rawPayload{ip4(224, 0, 0, 1), ip4(239, 255, 255, 250), ip6("ff02::1")}, 0},
		{"broadcast", []rawPayload{ip4(255, 255, 255, 255)}, 0},
		{"loopback", []rawPayload{ip4(127, 0, 0, 1), ip6("::1")}, 0},
		{"link-local", []rawPayload{ip4(169, 254, 1, 1), ip6("fe80::1")}, 0},
		{"IPv4 in IPv6", []rawPayload{ip6("::ffff:203.0.113.66")}, 0},
		{"a third party's", []rawPayload{ip4(203, 0, 113, 66)}, 1},
		{"a third party's and none", []rawPayload{status(wire.NotifyNoAdditionalAddresses), ip4(203, 0, 113, 66)}, 1},
		{"many", many, maxPeerAddresses},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEvilPeer(t, false, mobile)
			e.b.step(Connect{})
			e.a.step(Connect{})
			e.settle()
			e.misdeed = inInform.with(only(c.list...))
			evilInforms(e)
			e.settle()
			if got := len(e.good.t.peerAddresses); got != c.want {
				t.Errorf("%d addresses are believed: %v, want %d", got, e.good.t.peerAddresses, c.want)
			}
			before := e.good.where()
			ours, theirs := e.good.cfg.Local.Addr(), e.evil.cfg.Local.Addr()
			e.blocked[linkOf(ours, theirs)] = true
			places := map[netip.Addr]int{}
			e.trace = func(_ *world, p *packet) {
				if p.from == e.good {
					places[p.dst.Addr()]++
				}
			}
			e.advance(40*time.Second, e.settle)
			for to, n := range places {
				if to != theirs && n > 10 {
					t.Errorf("%d messages to %s", n, to)
				}
			}
			if c.want > 0 && len(places) < 2 {
				t.Error("no other address was tried")
			}
			if len(places) > maxWays {
				t.Errorf("messages to %d addresses", len(places))
			}
			if after := e.good.where(); e.good.t.primary() != nil && after != before {
				t.Errorf("moved from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// TestEvilReplayMoves replays everything from a stranger's address after a session
// with moves of all kinds: nothing moves.
func TestEvilReplayMoves(t *testing.T) {
	e := &evil{world: pair(7, mobile), t: t}
	e.trace = func(_ *world, p *packet) { e.seen = append(e.seen, p) }
	e.b.step(Connect{})
	e.a.step(Connect{})
	e.settle()
	move := func(n *node, list ...string) {
		n.addrs = nil
		for _, a := range list {
			n.addrs = append(n.addrs, netip.MustParseAddr(a))
		}
		n.tellAddresses()
		e.settle()
		e.advance(6*time.Second, e.settle)
	}
	move(e.a, "192.0.2.7", "192.0.2.8")
	move(e.b, "198.51.100.1", "198.51.100.2")
	e.a.step(RekeyIKE{})
	e.settle()
	move(e.b, "198.51.100.2")
	move(e.a, "192.0.2.8")
	e.nat[e.a] = netip.MustParseAddrPort("203.0.113.7:20000")
	move(e.a, "192.0.2.9")
	e.advance(time.Minute, e.settle)
	e.check(t)
	before := e.a.where() + e.b.where()
	e.harmless(func() {
		for _, p := range e.seen {
			if h, _ := wire.ParseHeader(p.data); isFirst(h.Exchange) {
				continue
			}
			for _, from := range []netip.AddrPort{strangerAddr, p.src} {
				p.to.receive(Datagram{Local: p.dst, Remote: from, Data: p.data})
				p.from.receive(Datagram{Local: p.src, Remote: from, Data: p.data})
			}
		}
		e.settle()
	})
	if after := e.a.where() + e.b.where(); after != before {
		t.Errorf("moved from\n%s\nto\n%s", before, after)
	}
}

// TestEvilRewrites has somebody on the path change where every second datagram comes
// from after IKE_AUTH, whatever the ends do. Whom it names gets no packet of a Child SA, and when
// it stops both ends find each other again.
func TestEvilRewrites(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			w := pair(1+seed, func(a, b *Config) {
				mobile(a, b)
				a.Timing.DPD, b.Timing.DPD = 10*time.Second, 20*time.Second
			})
			if seed%2 == 0 {
				w.nat[w.a] = netip.MustParseAddrPort("203.0.113.7:20000")
			}
			deliver := func() {
				for len(w.flight) > 0 {
					p := *w.flight[0]
					w.flight = w.flight[1:]
					if r.IntN(2) == 0 && p.movable() {
						p.src = netip.AddrPortFrom(stranger, p.src.Port())
					}
					w.deliver(&p)
				}
			}
			w.b.step(Connect{})
			w.a.step(Connect{})
			moves := []func(){
				func() { w.a.step(RekeyIKE{}) },
				func() { w.b.step(RekeyChild{}) },
				func() {
					w.a.addrs = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 1+r.IntN(9)))}
					w.a.tellAddresses()
				},
				func() {
					w.b.addrs = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", 2+r.IntN(9)))}
					w.b.tellAddresses()
				},
				func() { w.a.sendESP() },
				func() { w.b.sendESP() },
			}
			for range 40 {
				moves[r.IntN(len(moves))]()
				deliver()
				w.advance(time.Duration(r.IntN(4))*time.Second, deliver)
				if w.broken != nil {
					t.Fatal(w.broken)
				}
			}
			w.calm(3 * time.Minute)
			w.check(t)
		})
	}
}

// TestEvilAnswerElsewhere has the answer to IKE_AUTH come from a stranger: the
// initiator stays with who it asked (RFC 7296, Section 2.11).
func TestEvilAnswerElsewhere(t *testing.T) {
	w := pair(5, mobile)
	w.b.step(Connect{})
	w.a.step(Connect{})
	for range 3 {
		w.deliver(w.take(0))
	}
	p := w.take(0)
	if h, _ := wire.ParseHeader(p.data); h.Exchange != wire.ExchangeIKEAuth || !h.IsResponse() {
		t.Fatal("this is not the answer to IKE_AUTH")
	}
	spoilt := *p
	spoilt.data, spoilt.src = bytes.Clone(p.data), strangerAddr
	w.deliver(&spoilt)
	w.settle()
	w.check(t)
	if sa := w.a.t.primary(); sa == nil || sa.remote.Addr() == strangerAddr.Addr() {
		t.Errorf("the initiator has its IKE SA with a stranger: %s", w.a.where())
	}
}
