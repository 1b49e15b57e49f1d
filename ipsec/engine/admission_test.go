package engine

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

func newTestAdmission(t *testing.T, l Limits) (*admission, *counters) {
	t.Helper()
	c := Config{Limits: l}.withDefaults()
	var counts counters
	a, err := newAdmission(c, &counts, func() time.Duration { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	return a, &counts
}

// cookieIn returns the cookie that a reply demands.
func cookieIn(t *testing.T, reply []byte) *wire.Notify {
	t.Helper()
	m, err := wire.Parse(reply)
	if err != nil {
		t.Fatalf("reply: %v", err)
	}
	n, ok := m.Payloads[0].(*wire.Notify)
	if !ok || n.Kind != wire.NotifyCookie || len(m.Payloads) != 1 {
		t.Fatalf("reply holds %v", m.Payloads)
	}
	if !m.IsResponse() || m.FromInitiator() || !m.ResponderSPI.IsZero() || m.MessageID != 0 {
		t.Errorf("reply has header %+v", m.Header)
	}
	return n
}

func TestAdmissionDemandsCookies(t *testing.T) {
	a, counts := newTestAdmission(t, Limits{CookieThreshold: -1})
	source, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	now := time.Now()
	nonce := &wire.Nonce{Data: testNonce}
	plain := initRequest(t, nonce)

	admitted, reply := a.decide(now, source, 0, false, plain)
	if admitted || len(reply) == 0 || len(reply) > len(plain)+32 {
		t.Fatalf("without a cookie: admitted %v, reply of %d octets", admitted, len(reply))
	}
	cookie := cookieIn(t, reply)
	with := initRequest(t, cookie, nonce)
	if admitted, _ := a.decide(now, other, 0, false, with); admitted {
		t.Error("admitted with the cookie of another address")
	}
	if admitted, _ := a.decide(now, source, 0, false, initRequest(t, cookie, &wire.Nonce{Data: bytes.Repeat([]byte{1}, 32)})); admitted {
		t.Error("admitted with the cookie of another nonce")
	}
	if admitted, _ := a.decide(now.Add(20*time.Second), source, 0, false, with); !admitted {
		t.Error("refused with the cookie")
	}
	if admitted, _ := a.decide(now.Add(5*time.Minute), source, 0, false, with); admitted {
		t.Error("admitted with an old cookie")
	}
	if admitted, _ := a.decide(now, other, 0, true, plain); !admitted {
		t.Error("refused without a cookie by TCP, which has proved the address (RFC 9329, Section 6.3)")
	}
	if got := counts.drops[DropCookieSent].Load(); got != 4 {
		t.Errorf("%d cookies demanded, want 4", got)
	}
}

func TestAdmissionByLoad(t *testing.T) {
	a, counts := newTestAdmission(t, Limits{CookieThreshold: 2, HalfOpen: 4})
	now := time.Now()
	request := initRequest(t, &wire.Nonce{Data: testNonce})
	n := byte(0)
	decide := func(at time.Duration) (bool, []byte) {
		n++
		return a.decide(now.Add(at), netip.AddrFrom4([4]byte{192, 0, 2, n}), 0, false, request)
	}
	for i := range 2 {
		if admitted, _ := decide(0); !admitted {
			t.Fatalf("request %d refused without load", i)
		}
	}
	if admitted, reply := decide(0); admitted || reply == nil {
		t.Error("no cookie demanded above the threshold")
	}
	counts.halfOpen.Store(0)
	if admitted, _ := decide(5 * time.Second); admitted {
		t.Error("cookies are no longer demanded as soon as the load is gone")
	}
	if admitted, _ := decide(11 * time.Second); !admitted {
		t.Error("cookies are still demanded long after the load is gone")
	}
	counts.halfOpen.Store(4)
	source := netip.MustParseAddr("198.51.100.1")
	_, reply := a.decide(now, source, 0, false, request)
	if admitted, reply := a.decide(now, source, 0, false, initRequest(t, cookieIn(t, reply), &wire.Nonce{Data: testNonce})); admitted || reply != nil {
		t.Error("admitted beyond the limit of half-open responders")
	}
	if counts.drops[DropHalfOpenFull].Load() != 1 || counts.halfOpen.Load() != 4 {
		t.Errorf("%d dropped as full, %d half open", counts.drops[DropHalfOpenFull].Load(), counts.halfOpen.Load())
	}
}

func TestAdmissionByRate(t *testing.T) {
	a, counts := newTestAdmission(t, Limits{InitPerSecond: 1, InitBurst: 2, CookieThreshold: 1000})
	now := time.Now()
	source := netip.MustParseAddr("192.0.2.1")
	request := initRequest(t, &wire.Nonce{Data: testNonce})
	admitted, challenged, refused := 0, 0, 0
	for range 40 {
		switch ok, reply := a.decide(now, source, 0, false, request); {
		case ok:
			admitted++
		case reply != nil:
			challenged++
		default:
			refused++
		}
	}
	if admitted != 2 || challenged != 14 || refused != 24 {
		t.Errorf("%d admitted, %d challenged, %d refused; want 2, 14 and 24", admitted, challenged, refused)
	}
	if counts.drops[DropRate].Load() != 24 {
		t.Errorf("%d counted as over the rate", counts.drops[DropRate].Load())
	}
	if ok, _ := a.decide(now, source, 1, false, request); !ok {
		t.Error("a configured peer shares the budget of strangers")
	}
}

func TestMatcherPicksTheBestFit(t *testing.T) {
	ours, theirs := mustID(t, "hub.example"), mustID(t, "edge.example")
	addr := netip.MustParseAddr
	describe := func(name string, edit func(*TunnelConfig)) target {
		c := TunnelConfig{Name: name, Role: ike.RoleResponder}
		c.Credentials.ID = ours
		edit(&c)
		return target{tunnel: newTunnel(name, nil), config: &c}
	}
	port := func(s string) netip.AddrPort { return netip.AddrPortFrom(addr(s), 4500) }
	targets := []target{
		describe("any", func(*TunnelConfig) {}),
		describe("by-address", func(c *TunnelConfig) { c.Remote = port("198.51.100.5") }),
		describe("by-id", func(c *TunnelConfig) { c.Peer.ID = theirs }),
		describe("by-id-uplink-1", func(c *TunnelConfig) { c.Peer.ID, c.Remote = theirs, port("198.51.100.1") }),
		describe("by-id-uplink-2", func(c *TunnelConfig) { c.Peer.ID, c.Remote = theirs, port("198.51.100.2") }),
		describe("initiates", func(c *TunnelConfig) {
			c.Role, c.Peer.ID, c.Remote = ike.RoleInitiator, theirs, port("198.51.100.3")
		}),
	}
	m := newMatcher(targets, ike.Runtime{})
	from := func(remote string, idi, idr ident.ID) claim {
		return claim{idi, idr, port(remote), addr("192.0.2.1"), func([]ike.ChildConfig) int { return 0 }, func([]ike.ChildConfig) bool { return true }}
	}
	for _, c := range []struct {
		remote   string
		idi, idr string
		want     string
	}{
		{"198.51.100.1", "edge.example", "", "by-id-uplink-1"},
		{"198.51.100.2", "edge.example", "hub.example", "by-id-uplink-2"},
		{"198.51.100.9", "edge.example", "", "by-id"}, // behind a NAT, say
		{"198.51.100.3", "edge.example", "", "by-id"}, // never the one that only initiates
		{"198.51.100.5", "other.example", "", "by-address"},
		{"198.51.100.6", "other.example", "", "any"},
		{"198.51.100.1", "edge.example", "another-hub.example", ""},
	} {
		var idr ident.ID
		if c.idr != "" {
			idr = mustID(t, c.idr)
		}
		got := ""
		if tun := m.pick(from(c.remote, mustID(t, c.idi), idr)); tun != nil {
			got = tun.name
		}
		if got != c.want {
			t.Errorf("%s from %s for %q: picked %q, want %q", c.idi, c.remote, c.idr, got, c.want)
		}
	}
	up := &TunnelStatus{}
	up.State = ike.StateUp
	m2 := newMatcher(targets[3:5], ike.Runtime{})
	targets[3].tunnel.status.Store(up)
	if got := m2.pick(from("203.0.113.1", theirs, ours)); got.name != "by-id-uplink-2" {
		t.Errorf("picked %s, which is up, when another fits as well", got.name)
	}
	if newMatcher(targets[1:2], ike.Runtime{}).welcome(addr("203.0.113.1")) != nil {
		t.Error("a stranger is welcome where only an address is configured")
	}
}

// TestAdmissionSharedAddress: sites behind one carrier's NAT have one address, and as
// much of a budget as if each had its own. Strangers get no more for pretending.
func TestAdmissionSharedAddress(t *testing.T) {
	now, request := time.Now(), initRequest(t, &wire.Nonce{Data: testNonce})
	for peers, want := range map[int]int{0: 16, 1: 16, 10: 160} {
		a, counts := newTestAdmission(t, Limits{CookieThreshold: 10000})
		admitted := 0
		for range 1000 {
			if ok, _ := a.decide(now, netip.MustParseAddr("192.0.2.1"), peers, false, request); ok {
				admitted++
			}
		}
		if admitted != want {
			t.Errorf("%d peers: %d admitted at once, want %d", peers, admitted, want)
		}
		if heard := 1000 - int(counts.drops[DropRate].Load()); heard != min(refuseFactor*want, 1000) {
			t.Errorf("%d peers: %d heard, want %d", peers, heard, min(refuseFactor*want, 1000))
		}
	}
}

// TestAdmissionReserve: however many strangers complete IKE_SA_INIT, configured peers
// find room.
func TestAdmissionReserve(t *testing.T) {
	a, counts := newTestAdmission(t, Limits{HalfOpen: 100, CookieThreshold: 10000})
	now, request := time.Now(), initRequest(t, &wire.Nonce{Data: testNonce})
	from := func(net byte, peers int) (admitted int) {
		for i := range byte(200) {
			if ok, _ := a.decide(now, netip.AddrFrom4([4]byte{net, 0, 2, i}), peers, false, request); ok {
				admitted++
			}
		}
		return admitted
	}
	if n := from(203, 0); n != 75 {
		t.Errorf("%d strangers have room, want 75", n)
	}
	if n := from(192, 1); n != 25 {
		t.Errorf("%d configured peers have room beside them, want 25", n)
	}
	if n := counts.halfOpen.Load(); n != 100 {
		t.Errorf("%d half open, want 100", n)
	}
}

// TestAdmissionByBacklog: what is admitted is what the workers can do, as measured.
func TestAdmissionByBacklog(t *testing.T) {
	for _, test := range []struct {
		backlog        time.Duration
		stranger, peer bool // admitted with a cookie
		cookie         bool
	}{
		{0, true, true, false},
		{300 * time.Millisecond, true, true, true},
		{2 * time.Second, false, true, true},
		{5 * time.Second, false, false, true},
	} {
		a, counts := newTestAdmission(t, Limits{})
		a.backlog = func() time.Duration { return test.backlog }
		now, source, nonce := time.Now(), netip.MustParseAddr("192.0.2.1"), &wire.Nonce{Data: testNonce}
		request := initRequest(t, nonce)
		_, reply := a.decide(now, source, 1, false, request)
		if got := reply != nil; got != test.cookie {
			t.Errorf("%s: cookie demanded %v, want %v", test.backlog, got, test.cookie)
		}
		if reply != nil {
			request = initRequest(t, cookieIn(t, reply), nonce)
		}
		stranger, _ := a.decide(now, source, 0, false, request)
		peer, _ := a.decide(now, source, 1, false, request)
		if stranger != test.stranger || peer != test.peer {
			t.Errorf("%s: stranger admitted %v, want %v; peer %v, want %v", test.backlog, stranger, test.stranger, peer, test.peer)
		}
		if busy := counts.drops[DropBusy].Load(); (busy > 0) != (!test.peer || !test.stranger) {
			t.Errorf("%s: %d dropped as busy", test.backlog, busy)
		}
	}
}

// TestPoolBacklog: the pool knows how long its queue takes.
func TestPoolBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCryptoPool(1000)
		p.start(2)
		defer p.close()
		work := func() { time.Sleep(10 * time.Millisecond) }
		for range 200 {
			p.submitStranger(work)
		}
		time.Sleep(500*time.Millisecond + time.Microsecond) // half of them, two at a time
		if got := p.backlog(); got < 400*time.Millisecond || got > 600*time.Millisecond {
			t.Errorf("100 jobs of 10 ms for two workers take %s, want about 500ms", got)
		}
		time.Sleep(time.Second)
		if got := p.backlog(); got != 0 {
			t.Errorf("an empty queue takes %s", got)
		}
	})
}
