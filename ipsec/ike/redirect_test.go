package ike

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// parseTestGateway reads ADDR, NAME, NAME@ADDR or none.
func parseTestGateway(text string) Gateway {
	var g Gateway
	if text == "none" {
		return g
	}
	name, addr, both := strings.Cut(text, "@")
	if !both {
		name, addr = "", text
		if _, err := netip.ParseAddr(text); err != nil {
			name, addr = text, ""
		}
	}
	g.Name = name
	if addr != "" {
		g.Addr = netip.AddrPortFrom(netip.MustParseAddr(addr), 500)
	}
	return g
}

func TestGatewayEncoding(t *testing.T) {
	nonce := bytes.Repeat([]byte{5}, 32)
	for _, text := range []string{"198.51.100.9", "2001:db8::9", "hub.example"} {
		g := parseTestGateway(text)
		n := redirectNotice(g, nonce)
		got, rest, err := parseGateway(n.Data)
		if err != nil || got.Name != g.Name || got.Addr.Addr() != g.Addr.Addr() || !bytes.Equal(rest, nonce) {
			t.Errorf("%s: %v, %x, %v", text, got, rest, err)
		}
		for cut := range len(n.Data) - len(nonce) {
			if _, _, err := parseGateway(n.Data[:cut]); err == nil {
				t.Errorf("%s: %d octets are accepted", text, cut)
			}
		}
	}
	for _, bad := range [][]byte{{1, 16, 0}, {2, 4, 1, 2, 3, 4}, {3, 0}, {4, 1, 0}, {0, 4, 1, 2, 3, 4}} {
		if g, _, err := parseGateway(bad); err == nil {
			t.Errorf("%x is %v", bad, g)
		}
	}
}

// TestEvilRedirect: nobody redirects an initiator without having seen its nonce,
// to a gateway that is not configured, or if it did not ask for it; an initiator
// redirects nobody.
func TestEvilRedirect(t *testing.T) {
	gateway := parseTestGateway("198.51.100.9")
	for name, test := range map[string]struct {
		gateways []Gateway
		to       Gateway
		nonce    func(ni []byte) []byte
		follows  bool
	}{
		"good":          {[]Gateway{gateway}, gateway, func(ni []byte) []byte { return ni }, true},
		"wrong nonce":   {[]Gateway{gateway}, gateway, func(ni []byte) []byte { return make([]byte, len(ni)) }, false},
		"no nonce":      {[]Gateway{gateway}, gateway, func([]byte) []byte { return nil }, false},
		"elsewhere":     {[]Gateway{gateway}, parseTestGateway("203.0.113.66"), func(ni []byte) []byte { return ni }, false},
		"unknown name":  {[]Gateway{gateway}, parseTestGateway("evil.example"), func(ni []byte) []byte { return ni }, false},
		"to itself":     {[]Gateway{gateway}, parseTestGateway("198.51.100.1"), func(ni []byte) []byte { return ni }, false},
		"not asked for": {nil, gateway, func(ni []byte) []byte { return ni }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, func(a, b *Config) { a.Gateways = test.gateways })
			w.b.step(Connect{})
			w.a.step(Connect{})
			sa := w.a.t.sas[0]
			n := redirectNotice(test.to, test.nonce(sa.init.ni))
			m := wire.Message{Header: wire.Header{InitiatorSPI: sa.localSPI, Major: 2, Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagResponse}, Payloads: []wire.Payload{n}}
			b, err := m.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			w.a.receive(Datagram{Local: w.a.cfg.Local, Remote: strangerAddr, Data: b})
			if got := w.a.t.sas[0].remote.Addr() == gateway.Addr.Addr(); got != test.follows {
				t.Errorf("follows: %v, want %v:\n%s", got, test.follows, w.a.state())
			}
			if test.follows {
				return
			}
			w.settle()
			w.check(t)
		})
	}

	w := pair(1, func(a, b *Config) { a.Gateways, b.Gateways = []Gateway{gateway}, []Gateway{gateway} })
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	sa := w.a.t.primary()
	datagrams, err := sa.protect(wire.Header{Exchange: wire.ExchangeInformational, MessageID: sa.window.nextSend}, []wire.Payload{redirectNotice(gateway, nil)})
	if err != nil {
		t.Fatal(err)
	}
	w.b.receive(Datagram{Local: w.b.cfg.Local, Remote: w.a.cfg.Local, Data: datagrams[0]})
	if len(w.flight) != 1 || len(w.b.t.sas) != 1 {
		t.Errorf("a responder follows its initiator: %d messages\n%s", len(w.flight), w.b.state())
	}
}
