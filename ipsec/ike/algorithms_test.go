package ike

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestAlgorithms negotiates every algorithm, for the IKE SA and for the Child SA
// with a key exchange of its own, rekeys both, sends an IKE message in fragments,
// and has an ESP packet pass in each direction.
func TestAlgorithms(t *testing.T) {
	for _, tt := range []struct{ ike, esp string }{
		{"aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519-esn"},
		{"aes192gcm16-prfsha384-ecp384", "aes192gcm16-ecp384"},
		{"aes256gcm16-prfsha512-ecp521", "aes256gcm16-ecp521-esn"},
		{"aes128gcm12-prfsha256-ecp256", "aes128gcm12-ecp256"},
		{"aes256gcm8-prfsha512-x25519", "aes256gcm8-x25519-esn"},
		{"chacha20poly1305-prfsha256-x25519", "chacha20poly1305-x25519"},
		{"aes128ccm8-prfaesxcbc-ecp256", "aes128ccm8-ecp256"},
		{"aes256ccm12-prfsha256-x25519", "aes256ccm12-esn"},
		{"aes128ccm16-prfsha256-x25519", "aes256ccm16"},
		{"aes128-sha1-modp2048", "aes128-sha1-modp2048"},
		{"aes192-sha384-modp3072", "aes192-sha384-modp3072-esn"},
		{"aes256-sha512-modp4096", "aes256-sha512-modp4096"},
		{"aes128-aesxcbc-prfaesxcbc-ecp256", "aes128-aesxcbc-esn"},
		{"aes128ctr-sha256-x25519", "aes128ctr-sha256-x25519"},
		{"aes192ctr-sha1-prfsha256-x25519", "aes192ctr-sha512-esn"},
		{"aes256ctr-aesxcbc-prfsha512-x25519", "aes256ctr-sha384"},
	} {
		t.Run(tt.ike, func(t *testing.T) {
			w := pair(1, func(a, b *Config) {
				for _, c := range []*Config{a, b} {
					c.Proposals, c.Children[0].Proposals = mustIKE(tt.ike), mustESP(tt.esp)
					// A rekeying that is too long for one datagram.
					for i := range 60 {
						more := mustTS(fmt.Sprintf("192.168.%d.0/25", i))
						c.Children[0].LocalTS = append(c.Children[0].LocalTS, more...)
						c.Children[0].RemoteTS = append(c.Children[0].RemoteTS, more...)
					}
					c.FragmentSize = 576
				}
			})
			fragments := 0
			w.trace = func(_ *world, p *packet) {
				if h, err := wire.ParseHeader(p.data); err == nil && h.NextPayload == wire.PayloadSKF {
					fragments++
				}
			}
			w.b.step(Connect{})
			w.a.step(Connect{})
			w.settle()
			w.a.step(RekeyChild{})
			w.settle()
			w.b.step(RekeyIKE{})
			w.settle()
			w.b.step(RekeyChild{})
			w.settle()
			w.check(t)
			s := w.a.t.Status()
			if s.State != StateUp || s.IKE[len(s.IKE)-1].Suite.String() != mustIKE(tt.ike)[0].String() {
				t.Fatalf("state %s, %+v, last error %v", s.State, s.IKE, s.LastError)
			}
			if fragments < 2*2*3 { // two messages for each of three Child SAs
				t.Errorf("%d fragments were sent", fragments)
			}
			sends(t, w.a, mustESP(tt.esp)[0])
			sends(t, w.b, mustESP(tt.esp)[0])
		})
	}
}

// sends has a packet pass from a node to its peer, by the newest SA.
func sends(t *testing.T, from *node, want suite.ESPProposal) {
	t.Helper()
	spis := slices.Sorted(maps.Keys(from.out))
	if len(spis) == 0 {
		t.Fatalf("%s has no outbound SA", from.name)
	}
	spi := spis[len(spis)-1]
	sa, there := from.out[spi], from.peer().in[spi]
	if sa.Suite.String() != want.String() {
		t.Errorf("%s sends by %s, want %s", from.name, sa.Suite, want)
	}
	out, err1 := esp.NewOutbound(esp.Config{SPI: spi, Suite: sa.Suite, Key: sa.Key})
	in, err2 := esp.NewInbound(esp.Config{SPI: spi, Suite: there.Suite, Key: there.Key})
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	packet, err := out.Seal(nil, make([]byte, 100, 200), esp.NextHeaderIPv4)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := in.Open(packet); err != nil || len(p.Payload) != 100 {
		t.Errorf("%s to its peer by %s: %v", from.name, sa.Suite, err)
	}
}
