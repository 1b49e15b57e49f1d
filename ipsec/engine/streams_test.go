package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// pipeEnd is the engine's end of a connection that lives in memory, so that time
// can pass in no time.
type pipeEnd struct {
	net.Conn
	local, remote netip.AddrPort
}

func (p pipeEnd) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(p.local) }
func (p pipeEnd) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(p.remote) }

// streamHost is a node that takes connections, and what it got by them.
type streamHost struct {
	*node
	mu      sync.Mutex
	packets [][]byte
	known   bool // the data plane has an SA for what arrives
	forged  byte // packets that end so fail their integrity check
	last    uint16
}

func startStreamHost(t *testing.T, edit ...func(*Config)) *streamHost {
	h := &streamHost{known: true, last: 30000}
	h.node = startNode(t, memory.NewSwitch(), "b.example", addrB, edit...)
	synctest.Wait()
	h.streams.receive = func(_, _ netip.AddrPort, packets [][]byte) (known, forged int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, p := range packets {
			h.packets = append(h.packets, bytes.Clone(p))
			if h.forged != 0 && p[len(p)-1] == h.forged {
				forged++
			}
		}
		if h.known {
			known = len(packets)
		}
		return known, forged
	}
	return h
}

func (h *streamHost) received() [][]byte {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.packets)
}

// connect opens a connection from an address and returns the peer's end; ok is
// false if the engine refused it.
func (h *streamHost) connect(source netip.Addr) (c net.Conn, w way, ok bool) {
	h.last++
	ours, theirs := net.Pipe()
	w = way{addrB, netip.AddrPortFrom(source, h.last), true}
	h.t.Cleanup(func() { theirs.Close() })
	return theirs, w, h.streams.admit(pipeEnd{ours, w.local, w.remote})
}

// ended reports whether the engine has closed a connection, which sends nothing.
func ended(c net.Conn) bool {
	synctest.Wait()
	_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

func frame(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b)+lengthLen)), b...)
}

func espPacket(spi uint32, n int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, spi), bytes.Repeat([]byte{byte(n)}, n)...)
}

func write(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Errorf("write: %v", err)
	}
}

var stranger = netip.MustParseAddr("203.0.113.1")

// Nothing is looked at before the prefix is there, and it has to come soon (RFC
// 9329, Sections 4 and 6.1).
func TestStreamPrefix(t *testing.T) {
	for name, tc := range map[string]struct {
		sent string
		wait time.Duration
		ends bool
	}{
		"none":         {"", prefixTime + time.Second, true},
		"none yet":     {"", prefixTime - time.Second, false},
		"a part":       {"IKET", prefixTime + time.Second, true},
		"another":      {"GET / HTTP/1.1\r\n", 0, true},
		"ISAKMP":       {"\x00\x1cIKETCP", 0, true},
		"the right":    {streamPrefix, prefixTime + time.Second, false},
		"with a frame": {streamPrefix + "\x00\x06\x00\x00\x01\x01", prefixTime + time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startStreamHost(t)
				c, _, _ := h.connect(stranger)
				go func() { _, _ = c.Write([]byte(tc.sent)) }()
				time.Sleep(tc.wait)
				if got := ended(c); got != tc.ends {
					t.Errorf("closed: %v, want %v", got, tc.ends)
				}
			})
		})
	}
}

// Messages are found wherever the stream is cut, in their order; IKE is answered in
// the same connection.
func TestStreamMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startStreamHost(t, withStore(&testStore{}))
		c, _, _ := h.connect(stranger)
		rng := rand.New(rand.NewPCG(1, 2))
		stream := []byte(streamPrefix)
		var want [][]byte
		for i := range 300 {
			switch n := rng.IntN(10); n {
			case 0:
				stream = append(stream, 0, 2) // empty
			case 1:
				stream = append(stream, 0, 3, 0xff) // NAT keepalive
			default:
				p := espPacket(uint32(i+256), rng.IntN(3000))
				want, stream = append(want, p), append(stream, frame(p)...)
			}
		}
		large := espPacket(7777, 1<<16-1-lengthLen-4)
		want, stream = append(want, large), append(stream, frame(large)...)
		head := wire.Header{InitiatorSPI: wire.SPI{1}, ResponderSPI: wire.SPI{0, 2}, Major: 2, Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator}
		request, err := head.AppendEncrypted(nil, wire.PayloadNone, 40)
		if err != nil {
			t.Fatal(err)
		}
		stream = append(stream, frame(slices.Concat(make([]byte, markerLen), request, make([]byte, 40)))...)
		go func() {
			for len(stream) > 0 {
				n := min(1+rng.IntN(5000), len(stream))
				if rng.IntN(3) == 0 {
					n = 1
				}
				_, _ = c.Write(stream[:n])
				stream = stream[n:]
			}
		}()
		answer := make([]byte, lengthLen+markerLen+wire.HeaderLen)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		if got := h.received(); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%d packets arrived, want %d", len(got), len(want))
		}
		m, err := wire.ParseHeader(answer[lengthLen+markerLen:])
		if err != nil || !m.IsResponse() || m.InitiatorSPI != head.InitiatorSPI ||
			int(binary.BigEndian.Uint16(answer)) != lengthLen+markerLen+int(m.Length) || binary.BigEndian.Uint32(answer[lengthLen:]) != 0 {
			t.Errorf("answered %x, %v", answer, err)
		}
	})
}

// takenStreams are connections that a data plane took over. A pipe keeps messages apart, as
// the socket does then.
type takenStreams struct {
	dataplane.Plane
	taken   []net.Conn
	message time.Duration
	err     error
}

func (p *takenStreams) TakesStreams() error { return nil }

func (p *takenStreams) TakeStream(c net.Conn, message time.Duration) error {
	p.taken, p.message = append(p.taken, c), message
	return p.err
}

// A data plane that takes connections over gets each when its prefix has been read and
// before anything is sent, and after that whole messages pass, without lengths.
func TestStreamTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startStreamHost(t)
		plane := &takenStreams{}
		h.streams.taker = plane
		c, w, _ := h.connect(stranger)
		write(t, c, []byte(streamPrefix[:5]))
		synctest.Wait()
		if err := h.streams.sendIKE(w, []byte{1}); len(plane.taken) != 0 || !errors.Is(err, errNoStream) {
			t.Errorf("before the prefix %d connections are taken, and a message is sent: %v", len(plane.taken), err)
		}
		write(t, c, []byte(streamPrefix[5:]))
		synctest.Wait()
		if len(plane.taken) != 1 || plane.message != frameTime {
			t.Fatalf("%d connections are taken, in which a message has %v, want one and %v", len(plane.taken), plane.message, frameTime)
		}
		head := wire.Header{InitiatorSPI: wire.SPI{1}, ResponderSPI: wire.SPI{0, 2}, Major: 2, Exchange: wire.ExchangeInformational, Flags: wire.FlagInitiator}
		request, err := head.AppendEncrypted(nil, wire.PayloadNone, 40)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<16)
		for range 2 {
			write(t, c, slices.Concat(make([]byte, markerLen), request, make([]byte, 40)))
			n, err := c.Read(b)
			if m, bad := wire.ParseHeader(b[markerLen:]); err != nil || bad != nil || n != markerLen+int(m.Length) || !m.IsResponse() || binary.BigEndian.Uint32(b) != 0 {
				t.Errorf("answered %x, %v", b[:n], err)
			}
		}
		for _, n := range []int{100, 60000} { // at once
			if err := h.streams.sendIKE(w, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []int{100, 60000} {
			if n, err := c.Read(b); n != markerLen+want || err != nil {
				t.Errorf("%d octets arrive, %v, want %d", n, err, markerLen+want)
			}
		}
		for range maxBad + 1 {
			_, _ = c.Write(make([]byte, markerLen+10))
		}
		if !ended(c) {
			t.Error("much noise does not end the connection")
		}

		plane.err = errors.New("no")
		c, _, _ = h.connect(stranger)
		write(t, c, []byte(streamPrefix))
		if !ended(c) || h.Counters().StreamsRefused == 0 {
			t.Error("a connection that the data plane refuses stays")
		}
	})
}

// What cannot be a message ends the connection, and so does much that is for
// nobody (RFC 9329, Sections 3.1 and 6.1).
func TestStreamNonsense(t *testing.T) {
	unknown := func(n int) []byte { return bytes.Repeat(frame(espPacket(0x1234, 20)), n) }
	const forged = 0xba
	noise := func(n int) []byte { return bytes.Repeat(frame([]byte{0, 0, 0, 0, 1, 2, 3}), n) }
	for name, tc := range map[string]struct {
		sent  []byte
		known bool
		ends  bool
	}{
		"length 0":           {[]byte{0, 0}, true, true},
		"length 1":           {[]byte{0, 1}, true, true},
		"length 0 after":     {append(frame(espPacket(300, 9)), 0, 0), true, true},
		"some unknown":       {unknown(maxBad / 2), false, false},
		"much unknown":       {unknown(maxBad + 1), false, true},
		"much known":         {unknown(10 * maxBad), true, false},
		"some noise":         {noise(maxBad / 2), true, false},
		"much noise":         {noise(maxBad + 1), true, true},
		"noise among ESP":    {bytes.Repeat(append(noise(maxBad/2), unknown(1)...), 10), true, false},
		"short ones":         {bytes.Repeat([]byte{0, 4, 1, 2}, maxBad+1), true, true},
		"one forged":         {slices.Concat(unknown(3), frame(append(espPacket(300, 9), forged)), unknown(3)), true, true},
		"nothing but a part": {[]byte{0xff, 0xff, 1, 2, 3}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startStreamHost(t)
				h.known, h.forged = tc.known, forged
				c, _, _ := h.connect(stranger)
				go func() { _, _ = c.Write(append([]byte(streamPrefix), tc.sent...)) }()
				if got := ended(c); got != tc.ends {
					t.Errorf("closed: %v, want %v", got, tc.ends)
				}
			})
		})
	}
}

// A connection without an IKE SA has a short time, and a message that is begun has
// to be finished: who sends slowly holds nothing for long.
func TestStreamTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startStreamHost(t)
		idle, _, _ := h.connect(stranger)
		slow, _, _ := h.connect(stranger)
		kept, w, _ := h.connect(stranger)
		keptSlow, w2, _ := h.connect(stranger)
		for _, c := range []net.Conn{idle, slow, kept, keptSlow} {
			write(t, c, []byte(streamPrefix))
		}
		synctest.Wait()
		owner := newTunnel("t", h.shards[0])
		h.streams.keep(owner, w)
		h.streams.keep(owner, w2)
		go func() { // one octet of a long message every now and then
			for _, err := slow.Write([]byte{0xff, 0xff}); err == nil; _, err = slow.Write([]byte{1}) {
				time.Sleep(frameTime / 5)
			}
		}()
		time.Sleep(frameTime + time.Second)
		if !ended(slow) {
			t.Error("a message that takes too long is waited for")
		}
		time.Sleep(trialTime - frameTime - 3*time.Second)
		if ended(idle) {
			t.Error("the trial was too short")
		}
		time.Sleep(3 * time.Second)
		if !ended(idle) {
			t.Error("a connection without an IKE SA stays")
		}
		time.Sleep(24 * time.Hour)
		if ended(kept) || ended(keptSlow) {
			t.Error("a connection that an IKE SA uses was closed because it is silent")
		}
		write(t, keptSlow, []byte{0xff, 0xff})
		time.Sleep(frameTime + time.Second)
		if !ended(keptSlow) {
			t.Error("a message that takes too long is waited for on a connection in use")
		}
		h.streams.drop(owner, w)
		time.Sleep(strayTime - time.Second)
		if ended(kept) {
			t.Error("the peer had no time to close a connection that is done")
		}
		time.Sleep(2 * time.Second)
		if !ended(kept) {
			t.Error("a connection that nobody uses stays")
		}
		if n := h.Counters().Streams; n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

// The number of connections on trial is bounded, for each source and for all. If
// there are too many, the oldest of a stranger goes.
func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startStreamHost(t, func(c *Config) { c.Limits.Streams = 100 })
		peer := &node{t: t, id: "a.example", addr: addrA}
		h.apply([]TunnelConfig{h.tunnelConfig("to-a", ike.RoleResponder, peer, lan(2, 0), lan(1, 0))}, Added)
		var first net.Conn
		accepted := 0
		for range 100 {
			c, _, ok := h.connect(stranger)
			if ok && first == nil {
				first = c
			}
			if ok {
				accepted++
			}
		}
		if accepted != trialsPerSource {
			t.Errorf("one source has %d connections, want %d", accepted, trialsPerSource)
		}
		var known []net.Conn
		for range 10 {
			c, _, ok := h.connect(addrA.Addr())
			if !ok {
				t.Fatal("a configured peer is refused")
			}
			known = append(known, c)
		}
		for i := range 1000 {
			if _, _, ok := h.connect(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})); !ok {
				t.Fatalf("stranger %d is refused; the oldest was to go", i)
			}
		}
		synctest.Wait()
		if n := h.Counters().Streams; n != 100 {
			t.Errorf("%d connections on trial, want 100", n)
		}
		if !ended(first) {
			t.Error("the oldest is still there")
		}
		for _, c := range known {
			if ended(c) {
				t.Fatal("a configured peer went before strangers")
			}
		}
		if n := h.Counters().StreamsRefused; n != 8+10+1000-100 {
			t.Errorf("%d had to go", n)
		}
	})
}

// A peer that takes nothing makes ESP be dropped, then IKE, and nobody wait; in the
// end the connection goes.
func TestStreamBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startStreamHost(t)
		c, w, _ := h.connect(stranger)
		write(t, c, []byte(streamPrefix))
		synctest.Wait()
		h.streams.keep(newTunnel("t", h.shards[0]), w)
		packet := espPacket(500, 1400)
		sent := 0
		for h.streams.sendESP(w.local, w.remote, packet) == nil {
			sent++
		}
		if most := 2 * queueESP / len(packet); sent < queueESP/len(packet)-1 || sent > most {
			t.Errorf("%d packets were queued", sent)
		}
		if err := h.streams.sendIKE(w, make([]byte, 1000)); err != nil {
			t.Errorf("IKE has no room of its own: %v", err)
		}
		for h.streams.sendIKE(w, make([]byte, 1000)) == nil {
		}
		if n := h.Counters().StreamDrops; n != 1 {
			t.Errorf("%d drops counted", n)
		}
		time.Sleep(writeTime + time.Second)
		if h.Counters().Streams != 0 {
			t.Error("a peer that takes nothing keeps its connection")
		}
		if err := h.streams.sendESP(w.local, w.remote, packet); !errors.Is(err, errNoStream) {
			t.Errorf("sent on a connection that is gone: %v", err)
		}
	})
}

// What is queued is written before this end closes.
func TestStreamFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startStreamHost(t)
		c, w, _ := h.connect(stranger)
		write(t, c, []byte(streamPrefix))
		synctest.Wait()
		for i := range 10 {
			if err := h.streams.sendIKE(w, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		h.streams.find(w).finish()
		got, err := io.ReadAll(c)
		if err != nil || len(got) != 10*(lengthLen+markerLen+1) {
			t.Errorf("%d octets, %v", len(got), err)
		}
	})
}

// Who sends anything at all leaves nothing behind.
func FuzzStream(f *testing.F) {
	f.Add([]byte(streamPrefix))
	f.Add([]byte(streamPrefix + "\x00\x02\x00\x03\xff\x00\x00"))
	f.Add(append([]byte(streamPrefix), frame(make([]byte, 4+28))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			h := startStreamHost(t)
			h.known = false
			c, _, _ := h.connect(stranger)
			go func() { _, _ = c.Write(b) }()
			go func() { _, _ = io.Copy(io.Discard, c) }()
			time.Sleep(time.Minute)
			if n := h.Counters(); n.Streams != 0 || n.Panics != 0 || n.HalfOpen != 0 {
				t.Errorf("left behind: %+v", n)
			}
			c.Close()
		})
	})
}

// A connection in which a machine finds a message that is not intact is closed,
// whoever uses it (RFC 9329, Section 6.1).
func TestStreamCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startStreamHost(t)
		c, w, _ := h.connect(stranger)
		other, _, _ := h.connect(stranger)
		for _, c := range []net.Conn{c, other} {
			if _, err := c.Write([]byte(streamPrefix)); err != nil {
				t.Fatal(err)
			}
		}
		h.streams.cut(w)
		if !ended(c) || ended(other) {
			t.Errorf("closed: %v, and another one: %v; want true and false", ended(c), ended(other))
		}
		if h.streams.find(w) != nil {
			t.Error("it is still known")
		}
		h.streams.cut(w) // it is gone already
	})
}
