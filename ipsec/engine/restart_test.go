package engine

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// testStore is a Store in memory.
type testStore struct {
	mu      sync.Mutex
	content []byte
	saves   int
	err     error
}

func (s *testStore) Load() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.content), s.err
}

func (s *testStore) Save(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves++
	if s.err == nil {
		s.content = bytes.Clone(b)
	}
	return s.err
}

func withStore(s Store) func(*Config) { return func(c *Config) { c.Store = s } }

// TestCrashIsNoticedAtOnce: a responder dies without a word and comes back. The
// first packet that its peer sends into the old SA brings the tunnel up again: the
// complaint about the SPI (RFC 7296, Section 1.5) causes a liveness check, and the
// answer to that is the proof of the loss (RFC 6290). Without a store the peer
// repeats itself for a minute and more.
func TestCrashIsNoticedAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		store Store
		soon  bool
	}{"with a store": {&testStore{}, true}, "without": {nil, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sw := memory.NewSwitch()
				sw.SetFilter(memory.Latency(20 * time.Millisecond))
				edit := func(c *Config) {}
				if test.store != nil {
					edit = withStore(test.store)
				}
				a := startNode(t, sw, "a.example", addrA)
				b := startNode(t, sw, "b.example", addrB, edit)
				patient := func(c TunnelConfig) TunnelConfig {
					c.Timing.DPD, c.Timing.TakeOver = -1, -1
					return c
				}
				b.apply([]TunnelConfig{patient(b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0)))}, Added)
				a.apply([]TunnelConfig{patient(a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0)))}, Added)
				a.waitState("to-b", ike.StateUp, 10*time.Second)
				b.waitState("to-a", ike.StateUp, 10*time.Second)
				time.Sleep(2 * savePause)

				sw.SetFilter(memory.Lose)
				b.stop()
				sw.SetFilter(memory.Latency(20 * time.Millisecond))
				b = startNode(t, sw, "b.example", addrB, edit)
				b.apply([]TunnelConfig{patient(b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0)))}, Added)
				if err := a.plane.Send(packetFor(lan(1, 0), lan(2, 0))); err != nil {
					t.Fatal(err)
				}
				limit := 2 * time.Minute
				if test.soon {
					limit = 200 * time.Millisecond // four times there and back, and no repetition
				}
				begun := time.Now()
				b.waitState("to-a", ike.StateUp, limit)
				a.waitState("to-b", ike.StateUp, limit)
				if took := time.Since(begun); !test.soon && took < 5*time.Second {
					t.Errorf("up after %s without a proof", took)
				}
				ping := func() {
					sw.SetFilter(memory.Perfect)
					ping(t, a, b, lan(1, 0), lan(2, 0))
					ping(t, b, a, lan(2, 0), lan(1, 0))
				}
				ping()
				if n := b.Counters().UnknownAnswered; n == 0 {
					t.Error("nothing was answered outside of an IKE SA")
				}
			})
		})
	}
}

// TestUnknownIsLimited: who asks about SAs that are not there gets few answers, and
// none to what must not be answered.
func TestUnknownIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		b := startNode(t, sw, "b.example", addrB, withStore(&testStore{}))
		synctest.Wait() // what arrives before it has started is dropped
		request := func(flags wire.Flags, sources byte) {
			h := wire.Header{InitiatorSPI: wire.SPI{1}, ResponderSPI: wire.SPI{0, 2}, Major: 2, Exchange: wire.ExchangeInformational, Flags: flags}
			m, err := h.AppendEncrypted(nil, wire.PayloadNone, 40)
			if err != nil {
				t.Fatal(err)
			}
			m = append(m, make([]byte, 40)...)
			for i := range byte(200) {
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, i % sources}), 4500)
				sw.Inject(from, addrB, m)
			}
			synctest.Wait()
		}
		request(wire.FlagInitiator|wire.FlagResponse, 1)
		if n := b.Counters().UnknownAnswered; n != 0 {
			t.Errorf("%d responses were answered", n)
		}
		request(wire.FlagInitiator, 1)
		if n := b.Counters().UnknownAnswered; n == 0 || n > unknownBurst {
			t.Errorf("one source got %d answers at once, want 1 to %d", n, unknownBurst)
		}
		time.Sleep(time.Hour)
		before := b.Counters().UnknownAnswered
		for range 10 {
			request(wire.FlagInitiator, 200)
		}
		if n := b.Counters().UnknownAnswered - before; n == 0 || n > allUnknownBurst {
			t.Errorf("all sources got %d answers at once, want 1 to %d", n, allUnknownBurst)
		}
	})
}

// TestOtherVersionIsAnswered: who speaks a later version is told which one we do,
// and nobody else; if it is a peer of ours, people are told as well.
func TestOtherVersionIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		stranger := netip.MustParseAddrPort("203.0.113.9:500")
		for _, c := range []struct {
			name     string
			from     netip.AddrPort
			version  byte
			flags    wire.Flags
			answered uint64
		}{
			{"version 1", stranger, 0x10, wire.FlagInitiator, 0},
			{"version 3", stranger, 0x30, wire.FlagInitiator, 1},
			{"response of version 3", stranger, 0x30, wire.FlagInitiator | wire.FlagResponse, 0},
			{"version 1 of the peer", addrA, 0x10, wire.FlagInitiator, 0},
		} {
			request := initRequest(t, &wire.Nonce{Data: testNonce})
			request[17], request[19] = c.version, byte(c.flags)
			before := b.Counters().UnknownAnswered
			sw.Inject(c.from, addrB, request)
			synctest.Wait()
			if n := b.Counters().UnknownAnswered - before; n != c.answered {
				t.Errorf("%s: %d answers, want %d", c.name, n, c.answered)
			}
			e := b.status("to-a").Refused
			if fromPeer := c.from == addrA; fromPeer != (e != nil) {
				t.Errorf("%s: refused for %v", c.name, e)
			}
		}
		if e := b.status("to-a").Refused; e != nil && (e.Kind != ike.KindProtocol || e.Remedy == "") {
			t.Errorf("refused for\n%s", e.Detail())
		}
		if n := b.Counters().Drops[DropVersion]; n != 4 {
			t.Errorf("%d counted, want 4", n)
		}
	})
}

func TestKeeper(t *testing.T) {
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	load := func(s *testStore) *keeper {
		t.Helper()
		k, err := newKeeper(s, strings.NewReader(strings.Repeat("0123456789abcdef", 64)), logger)
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		close(stop)
		k.run(stop)
		return k
	}
	s := &testStore{}
	first := load(s)
	if s.saves != 1 || len(first.memory.Secret) != secretLen {
		t.Errorf("%d saves, secret of %d octets", s.saves, len(first.memory.Secret))
	}
	if again := load(s); s.saves != 1 || !slices.Equal(again.memory.Secret, first.memory.Secret) {
		t.Errorf("the secret does not survive a restart, or was saved without need (%d saves)", s.saves)
	}
	for _, broken := range []string{"garbage", `{"Version":99}`, `{"Version":1,"Secret":"AAAA"}`} {
		log.Reset()
		s := &testStore{content: []byte(broken)}
		if k := load(s); len(k.memory.Secret) != secretLen || s.saves != 1 || log.Len() == 0 {
			t.Errorf("after %q: secret of %d octets, %d saves, log %q", broken, len(k.memory.Secret), s.saves, log.String())
		}
	}
	if _, err := newKeeper(&testStore{err: errors.New("disk on fire")}, strings.NewReader(""), logger); err == nil {
		t.Error("a store that cannot be read is no error")
	}
	if _, err := newKeeper(&testStore{}, strings.NewReader("short"), logger); err == nil {
		t.Error("a secret without randomness")
	}
	log.Reset()
	full := &testStore{}
	k, err := newKeeper(full, strings.NewReader(strings.Repeat("x", 64)), logger)
	if err != nil {
		t.Fatal(err)
	}
	full.err = errors.New("no room")
	k.save()
	if !strings.Contains(log.String(), "no room") {
		t.Errorf("log %q does not say why saving failed", log.String())
	}
}

// TestResumption: engines that die without a word and come back resume all their
// tunnels by tickets (RFC 5723), whichever end it was.
func TestResumption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tunnels = 3
		sw := memory.NewSwitch()
		stores := map[string]*testStore{"a.example": {}, "b.example": {}}
		var a, b *node
		begin := func(id string, addr netip.AddrPort) *node {
			n := startNode(t, sw, id, addr, withStore(stores[id]))
			var configs []TunnelConfig
			var want []Change
			for i := range tunnels {
				peer, role, from, to := &node{t: t, id: "b.example", addr: addrB}, ike.RoleInitiator, 1, 2
				if id == "b.example" {
					peer, role, from, to = &node{t: t, id: "a.example", addr: addrA}, ike.RoleResponder, 2, 1
				}
				c := n.tunnelConfig(fmt.Sprintf("tunnel-%d", i), role, peer, lan(from, i), lan(to, i))
				c.Resume = true
				c.Credentials.ID = mustID(t, fmt.Sprintf("%d.%s", i, n.id))
				c.Peer.ID = mustID(t, fmt.Sprintf("%d.%s", i, peer.id))
				configs, want = append(configs, c), append(want, Added)
			}
			n.apply(configs, want...)
			return n
		}
		up := func(resumed bool) {
			t.Helper()
			for i := range tunnels {
				name := fmt.Sprintf("tunnel-%d", i)
				for _, n := range []*node{a, b} {
					within(t, time.Minute, name+" of "+n.id+" is up, once", func() bool {
						s := n.status(name)
						return s.State == ike.StateUp && len(s.IKE) == 1 && s.IKE[0].Resumed == resumed
					})
				}
			}
			for i := range tunnels {
				ping(t, a, b, lan(1, i), lan(2, i))
				ping(t, b, a, lan(2, i), lan(1, i))
			}
			time.Sleep(2 * savePause)
		}
		dies := func(n *node) {
			sw.SetFilter(memory.Lose)
			store := stores[n.id]
			content, _ := store.Load() // it does not know that it ends
			n.stop()
			_ = store.Save(content)
			sw.SetFilter(memory.Perfect)
		}
		b = begin("b.example", addrB)
		a = begin("a.example", addrA)
		up(false)

		dies(a)
		a = begin("a.example", addrA)
		up(true)

		dies(b)
		b = begin("b.example", addrB)
		for i := range tunnels {
			if err := a.plane.Send(packetFor(lan(1, i), lan(2, i))); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // the plane tells of one a second
		}
		up(true)

		// An orderly end takes the tickets along.
		a.stop()
		if s, _ := stores["a.example"].Load(); bytes.Contains(s, []byte("tunnel-")) {
			t.Error("tickets of deleted IKE SAs are kept")
		}
		a = begin("a.example", addrA)
		up(false)
	})
}
