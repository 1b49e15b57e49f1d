package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// flood sends what strangers send: noise, damaged headers, unknown SPIs, and
// IKE_SA_INIT requests that are in order, from many forged addresses.
func flood(t *testing.T, sw *memory.Switch) {
	t.Helper()
	random := rand.New(rand.NewPCG(7, 7))
	octets := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	ke, err := suite.NewKeyExchange(wire.KeyExchangeCurve25519, rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	good := initRequest(t,
		&wire.SA{Proposals: suite.OfferIKE(suite.DefaultIKE(), nil)},
		&wire.KE{Group: wire.KeyExchangeCurve25519, Data: ke.Public()},
		&wire.Nonce{Data: testNonce})
	for i := range 2000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 4500)
		init := bytes.Clone(good)
		copy(init, octets(8)) // the initiator's SPI
		noise := octets(random.IntN(300))
		sized := octets(28 + random.IntN(300))
		binary.BigEndian.PutUint32(sized[24:], uint32(len(sized)))
		versioned := bytes.Clone(sized)
		versioned[17], versioned[18] = 0x20, byte(wire.ExchangeInformational)
		noResponder := bytes.Clone(versioned)
		clear(noResponder[8:16])
		noNonce := initRequest(t)
		for _, b := range [][]byte{noise, sized, versioned, noResponder, noNonce, init} {
			sw.Inject(from, addrB, b)
		}
	}
}

// What costs nothing to send must cost nothing to drop: no allocation, and no
// place in a mailbox.
func TestGarbageDoesNotAllocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := pair(t, memory.NewSwitch())
		spi := b.status("to-a").IKE[0].LocalSPI
		informational := func(edit func(*wire.Header)) []byte {
			h := wire.Header{
				InitiatorSPI: wire.SPI{9}, ResponderSPI: spi, Major: 2,
				Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator,
			}
			edit(&h)
			m, err := (&wire.Message{Header: h}).Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		datagrams := [][]byte{
			nil, make([]byte, 27), make([]byte, 1500), initRequest(t),
			informational(func(h *wire.Header) { h.ResponderSPI[7]++ }), // in the front's table
			informational(func(h *wire.Header) { h.ResponderSPI = wire.SPI{} }),
			informational(func(h *wire.Header) { h.ResponderSPI[0] = 1 }),    // in a loop's
			informational(func(h *wire.Header) { h.ResponderSPI[0] = 0x77 }), // in none
		}
		from := netip.MustParseAddrPort("203.0.113.9:4500")
		if n := testing.AllocsPerRun(100, func() {
			for _, d := range datagrams {
				b.receive(way{addrB, from, false}, d)
			}
		}); n != 0 {
			t.Errorf("%v allocations for %d datagrams", n, len(datagrams))
		}
		if n := b.Counters().Drops[DropMailboxFull]; n != 0 {
			t.Errorf("%d datagrams went to mailboxes", n)
		}
	})
}

func TestManyTunnels(t *testing.T) {
	const tunnels = 200
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		hub := startNode(t, sw, "hub.example", addrB)
		var spokes []*node
		var atHub []TunnelConfig
		var added []Change
		for i := range tunnels {
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(100 + i/200), byte(1 + i%200)}), 4500)
			s := startNode(t, sw, fmt.Sprintf("spoke%d.example", i), addr, func(c *Config) { c.Shards = 1 })
			spokes = append(spokes, s)
			atHub = append(atHub, hub.tunnelConfig(s.id, ike.RoleResponder, s, lan(2, 0), lan(20, i)))
			added = append(added, Added)
		}
		hub.apply(atHub, added...)
		for i, s := range spokes {
			s.apply([]TunnelConfig{s.tunnelConfig("to-hub", ike.RoleInitiator, hub, lan(20, i), lan(2, 0))}, Added)
		}
		for _, s := range spokes {
			s.waitState("to-hub", ike.StateUp, 2*time.Minute)
		}
		for i, s := range spokes {
			ping(t, s, hub, lan(20, i), lan(2, 0))
			ping(t, hub, s, lan(2, 0), lan(20, i))
		}
		if n := len(hub.plane.SAs()); n != 2*tunnels {
			t.Errorf("the hub holds %d SAs, want %d", n, 2*tunnels)
		}
		// All but one go; the hub does not touch that one.
		spi := hub.status(spokes[7].id).IKE[0].LocalSPI
		removed := []Change{Unchanged}
		for range tunnels - 1 {
			removed = append(removed, Removed)
		}
		hub.apply(atHub[7:8], removed...)
		within(t, 2*time.Minute, "the others are gone at the hub", func() bool { return len(hub.plane.SAs()) == 2 })
		if got := hub.status(spokes[7].id).IKE[0].LocalSPI; got != spi {
			t.Error("the tunnel that stays got a new IKE SA")
		}
		ping(t, hub, spokes[7], lan(2, 0), lan(20, 7))
	})
}

// panickyPlane panics where a machine asks it for an SPI.
type panickyPlane struct {
	*memory.Plane
	panics bool
}

func (p *panickyPlane) AllocateSPI(replaces uint32) (uint32, error) {
	if p.panics {
		panic("defect for this test")
	}
	return p.Plane.AllocateSPI(replaces)
}

func TestPanicTakesDownOneTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		var plane *panickyPlane
		a := startNode(t, sw, "a.example", addrA, func(c *Config) {
			plane = &panickyPlane{Plane: c.Plane.(*memory.Plane)}
			c.Plane = plane
			c.Shards = 1
		})
		b := startNode(t, sw, "b.example", addrB)
		addrC := netip.MustParseAddrPort("192.0.2.3:4500")
		c := startNode(t, sw, "c.example", addrC)
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		c.apply([]TunnelConfig{c.tunnelConfig("to-a", ike.RoleResponder, a, lan(3, 0), lan(1, 0))}, Added)
		configs := []TunnelConfig{
			a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0)),
			a.tunnelConfig("to-c", ike.RoleInitiator, c, lan(1, 0), lan(3, 0)),
		}
		a.apply(configs, Added, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)
		a.waitState("to-c", ike.StateUp, time.Minute)

		plane.panics = true
		if err := a.RekeyChild("to-b", ""); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, "the tunnel has panicked", func() bool { return a.status("to-b").Panicked != "" })
		plane.panics = false
		for tunnel, want := range map[string]string{"to-b": "! Child SA up: lan", "to-c": "> IKE_AUTH req 2 {IDi"} {
			if entries, err := a.Transcript(tunnel); err != nil || !strings.Contains(fmt.Sprint(entries), want) {
				t.Errorf("transcript of %s: %v, %v, want %q in it", tunnel, entries, err, want)
			}
		}
		if _, err := a.Transcript("to-nobody"); err == nil {
			t.Error("a transcript of a tunnel that is not there")
		}
		ping(t, a, c, lan(1, 0), lan(3, 0))
		if n := a.Counters().Panics; n != 1 {
			t.Errorf("%d panics counted, want 1", n)
		}
		if sas, policies := len(a.plane.SAs()), len(a.plane.Policies()); sas != 2 || policies != 2 {
			t.Errorf("%d SAs and %d policies left, want those of the other tunnel and both policies", sas, policies)
		}
		a.apply(configs, Changed, Unchanged) // begins it anew
		a.waitState("to-b", ike.StateUp, 5*time.Minute)
		ping(t, a, b, lan(1, 0), lan(2, 0))
	})
}
