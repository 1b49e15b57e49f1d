package engine_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// waitFor waits for an event that is.
func (h *host) waitFor(events *engine.Subscription, what string, is func(any) bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		ev, err := events.Next(ctx)
		if err != nil {
			h.t.Fatalf("%s: no %s: %v; status %+v", h.id, what, err, h.engine.Status())
		}
		if is(ev.What) {
			return
		}
	}
}

// A tunnel comes back by itself when the uplink was down for longer than the
// peers have patience, and on another address as soon as the engine is told of
// that: by MOBIKE without another IKE SA, otherwise by a new one. While the host
// refuses every datagram no loop ends.
func TestUplinkGoesAndComes(t *testing.T) {
	t.Run("with MOBIKE", func(t *testing.T) { uplinkGoesAndComes(t, true) })
	t.Run("without", func(t *testing.T) { uplinkGoesAndComes(t, false) })
}

func uplinkGoesAndComes(t *testing.T, mobike bool) {
	a, b := twoHosts(t)
	for _, h := range []*host{a, b} {
		h.run(netip.AddrPort{})
	}
	a.route(b)
	b.route(a)
	psk := ident.PSK("a pre-shared key for tests only")
	at := a.tunnel(b, ike.RoleInitiator, 4500, ident.Local{ID: id(t, a.id), PSK: psk}, ident.Remote{ID: id(t, b.id), PSK: psk})
	bt := b.tunnel(a, ike.RoleResponder, 4500, ident.Local{ID: id(t, b.id), PSK: psk}, ident.Remote{ID: id(t, a.id), PSK: psk})
	quick := ike.Timing{
		DPD: 300 * time.Millisecond, RetransmitBase: 100 * time.Millisecond, RetransmitTries: 4,
		ReconnectBase: 50 * time.Millisecond, ReconnectMax: 200 * time.Millisecond,
		Patience: -1,
	}
	at.Timing, bt.Timing = quick, quick
	at.Mobility.Disable = !mobike
	eventsA, eventsB := a.engine.Subscribe(64), b.engine.Subscribe(64)
	up := func() {
		t.Helper()
		a.waitUp(eventsA)
		b.waitUp(eventsB)
		a.ping(b.echo())
		b.ping(a.echo())
	}
	down := func(h *host, events *engine.Subscription) {
		t.Helper()
		h.waitFor(events, "IKEDown", func(e any) bool { _, is := e.(ike.IKEDown); return is })
	}
	b.apply(bt)
	a.apply(at)
	up()

	a.ip("link set wire down")
	down(a, eventsA)
	down(b, eventsB)
	// Attempts while there is no network.
	for range 2 {
		a.waitFor(eventsA, "failed attempt", func(e any) bool { _, is := e.(ike.Failed); return is })
	}
	a.ip("link set wire up")
	up()

	// Only what happens after the move counts from here on.
	eventsA.Close()
	eventsB.Close()
	eventsA, eventsB = a.engine.Subscribe(64), b.engine.Subscribe(64)
	moved := a.outer.Next().Next()
	a.ip(fmt.Sprintf("addr add %s/24 dev wire", moved))
	a.ip(fmt.Sprintf("addr del %s/24 dev wire", a.outer))
	a.ip(fmt.Sprintf("addr replace %s/24 dev wire", moved)) // goes with its primary where that is configured
	at.Local = netip.AddrPortFrom(moved, 4500)
	if !mobike {
		a.apply(at)
		up()
	} else {
		spi := a.engine.Status()[0].Children[0].InboundSPI
		a.apply(at)
		for h, events := range map[*host]*engine.Subscription{a: eventsA, b: eventsB} {
			h.waitFor(events, "IKEMoved", func(e any) bool { _, is := e.(ike.IKEMoved); return is })
		}
		a.ping(b.echo())
		b.ping(a.echo())
		if c := a.engine.Status()[0].Children; len(c) != 1 || c[0].InboundSPI != spi {
			t.Errorf("the move cost the Child SA: %+v, before SPI %08x", c, spi)
		}
	}
	if s := b.engine.Status(); len(s) != 1 || !slices.ContainsFunc(s[0].IKE, func(sa ike.IKEStatus) bool { return sa.Remote.Addr() == moved }) {
		t.Errorf("status after the move: %+v", s)
	}
}
