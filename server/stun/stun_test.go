package stun_test

import (
	"bytes"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	pion "github.com/pion/stun/v3"

	"github.com/swanherd/swanherd/server/stun"
)

var (
	from4 = netip.MustParseAddrPort("203.0.113.7:31022")
	from6 = netip.MustParseAddrPort("[2001:db8::7]:4500")
	room  = pion.NewSoftware("room for the address of v6")
)

func request(t testing.TB, setters ...pion.Setter) []byte {
	t.Helper()
	m, err := pion.Build(append([]pion.Setter{pion.TransactionID, pion.BindingRequest}, setters...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

// raw is an attribute without a value.
func raw(kind pion.AttrType) pion.RawAttribute { return pion.RawAttribute{Type: kind} }

func TestAnswer(t *testing.T) {
	marked := func(b []byte) []byte { return append(make([]byte, 4), b...) }
	good := request(t, room)
	wrongSum := request(t, room, pion.Fingerprint)
	wrongSum[len(wrongSum)-1]++
	otherCookie := bytes.Clone(good)
	otherCookie[4]++
	answer, err := pion.Build(pion.TransactionID, pion.BindingSuccess, &pion.XORMappedAddress{IP: net.IP{192, 0, 2, 1}, Port: 9}, room)
	if err != nil {
		t.Fatal(err)
	}
	indication, err := pion.Build(pion.TransactionID, pion.NewType(pion.MethodBinding, pion.ClassIndication), room)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		from    netip.AddrPort
		request []byte
		want    stun.Result
		code    pion.ErrorCode
	}{
		"IPv4":                     {from4, good, stun.Answered, 0},
		"IPv6":                     {from6, good, stun.Answered, 0},
		"IPv4 in IPv6":             {netip.AddrPortFrom(netip.AddrFrom16(from4.Addr().As16()), from4.Port()), good, stun.Answered, 0},
		"marked":                   {from4, marked(good), stun.Answered, 0},
		"fingerprint":              {from4, request(t, room, pion.Fingerprint), stun.Answered, 0},
		"credentials":              {from4, request(t, room, pion.NewUsername("u"), pion.NewShortTermIntegrity("p")), stun.Answered, 0},
		"wrong fingerprint":        {from4, wrongSum, stun.Malformed, 0},
		"an attribute not known":   {from4, request(t, room, raw(0x0003)), stun.Answered, pion.CodeUnknownAttribute},
		"one that may be ignored":  {from4, request(t, room, raw(0x8003)), stun.Answered, 0},
		"unknown without room":     {from4, request(t, raw(0x0003)), stun.NoRoom, 0},
		"no room":                  {from4, request(t), stun.NoRoom, 0},
		"room for IPv4 alone":      {from6, request(t, pion.NewSoftware("12345678")), stun.NoRoom, 0},
		"as much as is needed":     {from4, request(t, pion.NewSoftware("12345678")), stun.Answered, 0},
		"an answer":                {from4, answer.Raw, stun.Malformed, 0},
		"an indication":            {from4, indication.Raw, stun.Malformed, 0},
		"no port":                  {netip.AddrPortFrom(from4.Addr(), 0), good, stun.Malformed, 0},
		"another cookie":           {from4, otherCookie, stun.Malformed, 0},
		"octets left over":         {from4, append(bytes.Clone(good), 0, 0, 0, 0), stun.Malformed, 0},
		"cut short":                {from4, good[:len(good)-4], stun.Malformed, 0},
		"long":                     {from4, request(t, pion.RawAttribute{Type: 0x8003, Value: make([]byte, 600)}), stun.Malformed, 0},
		"empty":                    {from4, nil, stun.Malformed, 0},
		"the marker alone":         {from4, make([]byte, 4), stun.Malformed, 0},
		"a keepalive of RFC 3948":  {from4, []byte{0xff}, stun.Malformed, 0},
		"marked twice":             {from4, marked(marked(good)), stun.Malformed, 0},
		"attribute longer than it": {from4, append(good[:20:20], 0x80, 3, 0xff, 0xff, 0, 0, 0, 0), stun.Malformed, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var a stun.Answerer
			got, result := a.Answer(test.from, test.request)
			if result != test.want {
				t.Fatalf("%s, want %s", result, test.want)
			}
			if result != stun.Answered {
				if got != nil {
					t.Errorf("answers %x", got)
				}
				return
			}
			check(t, test.from, test.request, got, test.code)
		})
	}
}

// check holds an answer to its request.
func check(t *testing.T, from netip.AddrPort, request, got []byte, code pion.ErrorCode) {
	t.Helper()
	if len(got) > len(request) {
		t.Errorf("%d octets for %d", len(got), len(request))
	}
	if bytes.HasPrefix(request, make([]byte, 4)) {
		if !bytes.HasPrefix(got, make([]byte, 4)) {
			t.Fatalf("no marker before %x", got)
		}
		request, got = request[4:], got[4:]
	}
	var m pion.Message
	if err := pion.Decode(got, &m); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.TransactionID[:], request[8:20]) {
		t.Error("another transaction")
	}
	if code != 0 {
		var e pion.ErrorCodeAttribute
		var unknown pion.UnknownAttributes
		if err := m.Parse(&e, &unknown); err != nil || e.Code != code || len(unknown) != 1 || unknown[0] != 3 {
			t.Errorf("%v: error %v, unknown %v", err, e, unknown)
		}
		return
	}
	var mapped pion.XORMappedAddress
	if err := m.Parse(&mapped); err != nil || m.Type != pion.BindingSuccess {
		t.Fatalf("%v: %v", m.Type, err)
	}
	if addr, _ := netip.AddrFromSlice(mapped.IP); addr.Unmap() != from.Addr().Unmap() || mapped.Port != int(from.Port()) {
		t.Errorf("says %v to %s", mapped, from)
	}
}

// Whatever comes, nothing longer goes back, and only to what is a request.
func FuzzAnswer(f *testing.F) {
	f.Add(request(f, room), true)
	f.Add(request(f, room, raw(0x0003)), false)
	f.Add(append(make([]byte, 4), request(f, room, pion.Fingerprint)...), false)
	f.Add([]byte{0xff}, true)
	f.Fuzz(func(t *testing.T, b []byte, six bool) {
		from := from4
		if six {
			from = from6
		}
		var a stun.Answerer
		before := bytes.Clone(b)
		got, result := a.Answer(from, b)
		if !bytes.Equal(b, before) {
			t.Error("the request was changed")
		}
		if (got == nil) == (result == stun.Answered) || len(got) > len(b) {
			t.Errorf("%s: %d octets for %d", result, len(got), len(b))
		}
		if got != nil {
			// It is no request itself, so that two of us cannot talk to each other for ever.
			var other stun.Answerer
			if again, _ := other.Answer(from, got); again != nil {
				t.Errorf("an answer is answered: %x", again)
			}
		}
	})
}

// counts are results as a server told them.
type counts struct {
	mu sync.Mutex
	of map[stun.Result]int
}

func (c *counts) add(r stun.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[r]++
}

func (c *counts) get(r stun.Result) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[r]
}

// A server answers on both ports, from the address that it was asked at, and stops to when
// a source asks too often.
func TestServer(t *testing.T) {
	for asked, address := range map[string]string{"127.0.0.2": "0.0.0.0:0", "127.0.0.3": "127.0.0.3:0", "::1": "[::]:0"} {
		t.Run(asked+" of "+address, func(t *testing.T) {
			c := &counts{of: map[stun.Result]int{}}
			s, err := stun.Listen(t.Context(), address, c.add)
			if err != nil {
				t.Skipf("SKIPPED: %v", err)
			}
			done := make(chan struct{})
			go func() { defer close(done); s.Serve() }()
			t.Cleanup(func() { s.Close(); <-done })
			if p := s.Ports(); len(p) != 2 || p[0] == p[1] {
				t.Fatalf("ports %v", p)
			}
			for _, port := range s.Ports() {
				conn := dial(t, asked, port)
				exchange(t, conn, request(t, room))
			}
			flood(t, dial(t, asked, s.Ports()[1]), c)
		})
	}
}

// dial connects: then the kernel drops what does not come from the address asked.
func dial(t *testing.T, asked string, port uint32) *net.UDPConn {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(asked), Port: int(port)})
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func exchange(t *testing.T, conn *net.UDPConn, request []byte) {
	t.Helper()
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	check(t, conn.LocalAddr().(*net.UDPAddr).AddrPort(), request, buf[:n], 0)
}

func flood(t *testing.T, conn *net.UDPConn, c *counts) {
	t.Helper()
	b := request(t, room)
	for end := time.Now().Add(20 * time.Second); c.get(stun.Limited) == 0; {
		if time.Now().After(end) {
			t.Fatalf("no limit: %v answered", c.get(stun.Answered))
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.get(stun.Answered); n < 500 {
		t.Errorf("only %d were answered before the limit", n)
	}
}

func TestListenRefuses(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "127.0.0.1:x", "127.0.0.1:65535", "127.0.0.1:-1", "256.0.0.1:3478"} {
		if s, err := stun.Listen(t.Context(), address, func(stun.Result) {}); err == nil {
			s.Close()
			t.Errorf("%s is taken", address)
		}
	}
}
