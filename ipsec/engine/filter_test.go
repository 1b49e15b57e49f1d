package engine

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// initRequest returns an IKE_SA_INIT request that the filter lets pass.
func initRequest(tb testing.TB, payloads ...wire.Payload) []byte {
	tb.Helper()
	m := &wire.Message{
		Header: wire.Header{
			InitiatorSPI: wire.SPI{1, 2, 3, 4, 5, 6, 7, 8}, Major: 2,
			Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagInitiator,
		},
		Payloads: payloads,
	}
	b, err := m.Append(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

var testNonce = bytes.Repeat([]byte{0xaa}, 32)

// complaint is a message about an ESP SPI with zero IKE SPIs, as RFC 7296, Section
// 1.5, allows it.
func complaint(t *testing.T) []byte {
	b, err := ike.InvalidSPI(4711, rand.NewChaCha8([32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	clear(b[:16])
	return b
}

func TestClassify(t *testing.T) {
	theirs, ours := wire.SPI{1}, wire.SPI{2}
	header := func(h wire.Header) []byte {
		b, err := (&wire.Message{Header: h}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := initRequest(t, &wire.Nonce{Data: testNonce})
	edit := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	const I, R = wire.FlagInitiator, wire.FlagResponse
	for _, c := range []struct {
		name   string
		b      []byte
		route  route
		ours   wire.SPI
		reason DropReason
	}{
		{"IKE_SA_INIT request", good, routeInit, wire.SPI{}, 0},
		{"empty", nil, routeDrop, wire.SPI{}, DropTooShort},
		{"one octet less than a header", good[:27], routeDrop, wire.SPI{}, DropTooShort},
		{"shorter than it says", good[:len(good)-1], routeDrop, wire.SPI{}, DropLength},
		{"longer than it says", append(bytes.Clone(good), 0), routeDrop, wire.SPI{}, DropLength},
		{"version 1", edit(17, 0x10), routeVersion, wire.SPI{}, DropVersion},
		{"version 3", edit(17, 0x30), routeVersion, wire.SPI{}, DropVersion},
		{"minor version is ignored", edit(17, 0x2f), routeInit, wire.SPI{}, 0},
		{"no initiator SPI", append(make([]byte, 8), good[8:]...), routeDrop, wire.SPI{}, DropSPI},
		{"IKE_SA_INIT request with a responder SPI", edit(15, 1), routeDrop, wire.SPI{}, DropSPI},
		{"IKE_SA_INIT request with a message ID", edit(23, 1), routeDrop, wire.SPI{}, DropFlags},
		{"IKE_SA_INIT request without the initiator flag", edit(19, 0), routeDrop, wire.SPI{}, DropFlags},
		{"IKE_SA_INIT response with the initiator flag", edit(19, byte(I|R)), routeDrop, wire.SPI{}, DropFlags},
		{"IKE_SA_INIT response", header(wire.Header{InitiatorSPI: ours, ResponderSPI: theirs, Major: 2, Exchange: wire.ExchangeIKESAInit, Flags: R}), routeSPI, ours, 0},
		{"from the original initiator", header(wire.Header{InitiatorSPI: theirs, ResponderSPI: ours, Major: 2, Exchange: wire.ExchangeIKEAuth, Flags: I, MessageID: 1}), routeSPI, ours, 0},
		{"from the original responder", header(wire.Header{InitiatorSPI: ours, ResponderSPI: theirs, Major: 2, Exchange: wire.ExchangeInformational}), routeSPI, ours, 0},
		{"complaint without SPIs", append(make([]byte, 16), edit(18, byte(wire.ExchangeInformational))[16:]...), routeDrop, wire.SPI{}, DropSPI},
		{"complaint without SPIs, about an SPI", complaint(t), routeComplaint, wire.SPI{}, 0},
		{"without a responder SPI", header(wire.Header{InitiatorSPI: ours, Major: 2, Exchange: wire.ExchangeInformational}), routeDrop, wire.SPI{}, DropSPI},
	} {
		r, spi, reason := classify(c.b)
		if r != c.route || spi != c.ours || reason != c.reason {
			t.Errorf("%s: got (%d, %s, %s), want (%d, %s, %s)", c.name, r, spi, reason, c.route, c.ours, c.reason)
		}
	}
}

func TestScanInit(t *testing.T) {
	cookie := &wire.Notify{Kind: wire.NotifyCookie, Data: []byte("cookie")}
	nonce := &wire.Nonce{Data: testNonce}
	ke := &wire.KE{Group: 31, Data: bytes.Repeat([]byte{1}, 32)}
	for _, c := range []struct {
		name   string
		b      []byte
		cookie string
		ok     bool
	}{
		{"nonce", initRequest(t, ke, nonce), "", true},
		{"cookie first", initRequest(t, cookie, ke, nonce), "cookie", true},
		{"cookie later is none", initRequest(t, ke, cookie, nonce), "", true},
		{"no nonce", initRequest(t, cookie, ke), "cookie", false},
		{"nothing", initRequest(t), "", false},
	} {
		n, got, ok := scanInit(c.b)
		if ok != c.ok || string(got) != c.cookie || ok && !bytes.Equal(n, testNonce) {
			t.Errorf("%s: got nonce %x, cookie %q, %v", c.name, n, got, ok)
		}
	}
	whole := initRequest(t, cookie, ke, nonce)
	for n := wire.HeaderLen; n < len(whole); n++ {
		if _, _, ok := scanInit(whole[:n]); ok {
			t.Errorf("accepted the first %d of %d octets", n, len(whole))
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(initRequest(f, &wire.Nonce{Data: testNonce}))
	f.Add(initRequest(f, &wire.Notify{Kind: wire.NotifyCookie, Data: []byte("cookie")}, &wire.Nonce{Data: testNonce}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, _, _ := classify(b); r != routeInit {
			return
		}
		nonce, cookie, ok := scanInit(b)
		if ok && (len(nonce) < 16 || len(nonce) > 256) {
			t.Errorf("nonce of %d octets", len(nonce))
		}
		if len(nonce)+len(cookie) > len(b) {
			t.Error("more found than there is")
		}
	})
}

func TestFilterDoesNotAllocate(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	garbage := make([]byte, 400)
	for i := range garbage {
		garbage[i] = byte(random.Uint32())
	}
	good := initRequest(t, &wire.Notify{Kind: wire.NotifyCookie, Data: []byte("cookie")}, &wire.Nonce{Data: testNonce})
	limiter := newRateLimiter(4, 16, 64)
	from, now := netip.MustParseAddr("192.0.2.1"), time.Now()
	if n := testing.AllocsPerRun(100, func() {
		classify(garbage)
		binary.BigEndian.PutUint32(garbage[24:], 400)
		garbage[17] = 0x20
		classify(garbage)
		classify(good)
		scanInit(good)
		limiter.allow(from, now)
	}); n != 0 {
		t.Errorf("%v allocations per datagram", n)
	}
}

func TestRateLimiter(t *testing.T) {
	l := newRateLimiter(4, 8, 1024)
	now := time.Now()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	count := func(addr netip.Addr, now time.Time) (n int) {
		for range 100 {
			if l.allow(addr, now) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		addr netip.Addr
		at   time.Duration
		want int
	}{
		{a, 0, 8},
		{b, 0, 8},
		{a, time.Second, 4},
		{a, time.Hour, 8},
		{netip.MustParseAddr("2001:db8::1"), 0, 8},
		{netip.MustParseAddr("2001:db8::2"), 0, 0}, // the same /64
	} {
		if got := count(c.addr, now.Add(c.at)); got != c.want {
			t.Errorf("%s after %v: %d allowed, want %d", c.addr, c.at, got, c.want)
		}
	}
}

func BenchmarkClassify(b *testing.B) {
	good := initRequest(b, &wire.Nonce{Data: testNonce})
	b.ReportAllocs()
	for b.Loop() {
		classify(good)
		scanInit(good)
	}
}
