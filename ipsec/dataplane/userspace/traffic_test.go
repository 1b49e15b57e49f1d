package userspace

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// The hosts of the two sites are addresses of the gateways' own interfaces.
var (
	siteA, siteB   = netip.MustParsePrefix("10.1.0.1/24"), netip.MustParsePrefix("10.2.0.1/24")
	siteA6, siteB6 = netip.MustParsePrefix("fd01::1/64"), netip.MustParsePrefix("fd02::1/64")
)

// gateway is a plane with a host's network stack behind it.
type gateway struct {
	*Plane
	ns    *namespace
	outer netip.AddrPort
	local []ts.Selector
}

// tunnel is two gateways and the SAs between them.
type tunnel struct {
	t     testing.TB
	a, b  *gateway
	suite suite.ESPSuite
	mode  dataplane.Mode
	outer dataplane.Outer
	tfc   dataplane.TFC
	// socketOptions, if set, prepares the sockets that send datagrams.
	socketOptions func(network, address string, c syscall.RawConn) error
	generation    byte
	sas           []dataplane.SA // the present ones: in and out of a, then of b
	old           []dataplane.SA // those before, still installed
}

func newGateway(t testing.TB, ns *namespace, outer netip.Addr, c Config, sites, others []netip.Prefix) *gateway {
	t.Helper()
	g := &gateway{Plane: ns.plane(t, c), ns: ns, outer: netip.AddrPortFrom(outer, DefaultPort)}
	for i, p := range sites {
		args := ""
		if p.Addr().Is6() {
			args = " nodad" // no wait for duplicate address detection
		}
		ns.ip(fmt.Sprintf("addr add %s dev %s%s", p, g.Interface(), args))
		ns.ip(fmt.Sprintf("route add %s dev %s", others[i].Masked(), g.Interface()))
		ready := func() (ok bool) {
			ns.do(func() { ok = answersItself(p.Addr()) })
			return ok
		}
		if err := eventually(ready); err != nil {
			t.Fatalf("address %s is not there: %v", p, err)
		}
		g.local = append(g.local, ts.FromPrefix(p.Masked()))
	}
	return g
}

// answersItself reports whether the host takes packets for its address a, which
// for IPv6 is some time after it was added.
func answersItself(a netip.Addr) bool {
	c, err := net.ListenPacket("udp", netip.AddrPortFrom(a, 0).String())
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.WriteTo([]byte{1}, c.LocalAddr()); err != nil {
		return false
	}
	_, _, err = c.ReadFrom(make([]byte, 1))
	return err == nil
}

func newTunnel(t testing.TB, outerA, outerB netip.Addr, s suite.ESPSuite) *tunnel {
	t.Helper()
	nsA, nsB := joined(t)
	return newTunnelIn(t, nsA, nsB, outerA, outerB, s, Config{}, Config{})
}

func newTunnelIn(t testing.TB, nsA, nsB *namespace, outerA, outerB netip.Addr, s suite.ESPSuite, configA, configB Config) *tunnel {
	t.Helper()
	sitesA, sitesB := []netip.Prefix{siteA, siteA6}, []netip.Prefix{siteB, siteB6}
	x := &tunnel{
		t: t, suite: s,
		a: newGateway(t, nsA, outerA, configA, sitesA, sitesB),
		b: newGateway(t, nsB, outerB, configB, sitesB, sitesA),
	}
	x.start()
	return x
}

// start sets the policies and installs the first SAs.
func (x *tunnel) start() {
	x.t.Helper()
	x.apply(x.a, dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: "t", Child: "c", LocalTS: x.a.local, RemoteTS: x.b.local}})
	x.apply(x.b, dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: "t", Child: "c", LocalTS: x.b.local, RemoteTS: x.a.local}})
	x.rekey()
}

func (x *tunnel) apply(g *gateway, ops ...dataplane.Op) {
	x.t.Helper()
	if err := errors.Join(g.Apply(ops)...); err != nil {
		x.t.Fatal(err)
	}
}

// rekey installs the next generation beside the present one, as RFC 7296,
// Section 2.8 has it, and removes the one before that.
func (x *tunnel) rekey() {
	x.t.Helper()
	x.generation++
	old := x.sas
	spiA, err1 := x.a.AllocateSPI(0)
	spiB, err2 := x.b.AllocateSPI(0)
	if err := errors.Join(err1, err2); err != nil {
		x.t.Fatal(err)
	}
	keyA, keyB := bytes.Repeat([]byte{x.generation}, x.suite.KeyLen()), bytes.Repeat([]byte{^x.generation}, x.suite.KeyLen())
	sa := func(d dataplane.Direction, spi uint32, key []byte, here, there *gateway) dataplane.SA {
		made := dataplane.SA{
			SPI: spi, Direction: d, Tunnel: "t", Child: "c", Mode: x.mode, Local: here.outer, Remote: there.outer,
			Suite: x.suite, Key: key, LocalTS: here.local, RemoteTS: there.local, Outer: x.outer,
		}
		if d == dataplane.Outbound {
			made.TFC = x.tfc
		}
		return made
	}
	x.sas = []dataplane.SA{
		sa(dataplane.Inbound, spiA, keyA, x.a, x.b), sa(dataplane.Outbound, spiB, keyB, x.a, x.b),
		sa(dataplane.Inbound, spiB, keyB, x.b, x.a), sa(dataplane.Outbound, spiA, keyA, x.b, x.a),
	}
	x.apply(x.a, dataplane.InstallSA{SA: x.sas[0]})
	x.apply(x.b, dataplane.InstallSA{SA: x.sas[2]}, dataplane.InstallSA{SA: x.sas[3]})
	x.apply(x.a, dataplane.InstallSA{SA: x.sas[1]})
	x.finish()
	x.old = old
}

// finish removes the generation before the present one.
func (x *tunnel) finish() {
	x.t.Helper()
	if x.old == nil {
		return
	}
	x.drained(x.a, x.old[1], x.b, x.old[2])
	x.drained(x.b, x.old[3], x.a, x.old[0])
	for i, g := range []*gateway{x.a, x.a, x.b, x.b} {
		x.apply(g, dataplane.RemoveSA{Tunnel: "t", SPI: x.old[i].SPI, Direction: x.old[i].Direction})
	}
	x.old = nil
}

// drained waits until all that was sent on an SA was received.
func (x *tunnel) drained(from *gateway, out dataplane.SA, to *gateway, in dataplane.SA) {
	x.t.Helper()
	err := eventually(func() bool {
		return packets(from, out) == packets(to, in)
	})
	if err != nil {
		x.t.Errorf("SA %08x: %d packets sent, %d received", out.SPI, packets(from, out), packets(to, in))
	}
}

func packets(g *gateway, sa dataplane.SA) uint64 {
	for _, c := range g.Counters() {
		if c.SPI == sa.SPI && c.Direction == sa.Direction {
			return c.Packets
		}
	}
	return 0
}

// exchange sends size random octets to an echo server through the tunnel, and
// wants them back.
func (x *tunnel) exchange(network string, server netip.Addr, size int) error {
	var listener net.Listener
	var err error
	x.b.ns.do(func() {
		lc := net.ListenConfig{Control: x.socketOptions}
		listener, err = lc.Listen(x.t.Context(), network, netip.AddrPortFrom(server, 0).String())
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	var c net.Conn
	x.a.ns.do(func() {
		d := net.Dialer{Timeout: patience, Control: x.socketOptions}
		c, err = d.Dial(network, listener.Addr().String())
	})
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	sent, received := sha256.New(), sha256.New()
	go func() {
		src := rand.NewChaCha8([32]byte{7})
		io.CopyN(io.MultiWriter(c, sent), src, int64(size))
		c.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(received, c)
	if err != nil || n != int64(size) {
		return fmt.Errorf("%d of %d octets came back: %w", n, size, err)
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		return errors.New("what came back is not what was sent")
	}
	return nil
}

// datagrams sends UDP datagrams of all sizes to an echo server, one at a time,
// and wants each back.
func (x *tunnel) datagrams(network string, server netip.Addr) error {
	local := siteA.Addr()
	if server.Is6() {
		local = siteA6.Addr()
	}
	// Large ones go in fragments.
	return x.datagramsOf(network, local, server, 1, 2, 3, 7, 64, 500, 1000, 1369, 1390, 1391, 4000, 20000, 60000)
}

func (x *tunnel) datagramsOf(network string, local, server netip.Addr, sizes ...int) error {
	listen := func(ctx context.Context, addr netip.Addr) (conn net.PacketConn, err error) {
		ns := x.a.ns
		if addr == server {
			ns = x.b.ns
		}
		ns.do(func() {
			lc := net.ListenConfig{Control: x.socketOptions}
			conn, err = lc.ListenPacket(ctx, network, netip.AddrPortFrom(addr, 0).String())
		})
		return conn, err
	}
	s, err := listen(x.t.Context(), server)
	if err != nil {
		return err
	}
	defer s.Close()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := s.ReadFrom(b)
			if err != nil {
				return
			}
			s.WriteTo(b[:n], from)
		}
	}()
	c, err := listen(x.t.Context(), local)
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 65536)
	for _, size := range sizes {
		want := bytes.Repeat([]byte{byte(size)}, size)
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.WriteTo(want, s.LocalAddr()); err != nil {
			return fmt.Errorf("send %d octets: %w", size, err)
		}
		n, _, err := c.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], want) {
			return fmt.Errorf("datagram of %d octets: %d came back, %w", size, n, err)
		}
	}
	return nil
}

// ping sends ICMP echo requests and wants the replies.
func (x *tunnel) ping(from, to netip.Addr, count int) error {
	return x.pingWithin(patience, from, to, count)
}

// pingWithin waits so long for each answer.
func (x *tunnel) pingWithin(limit time.Duration, from, to netip.Addr, count int) error {
	kind, network := byte(8), "ip4:icmp"
	if to.Is6() {
		kind, network = 128, "ip6:ipv6-icmp"
	}
	var c net.PacketConn
	var err error
	x.a.ns.do(func() { c, err = net.ListenPacket(network, from.String()) })
	if err != nil {
		return err
	}
	defer c.Close()
	reply := make([]byte, 1500)
	for i := range count {
		m := make([]byte, 64)
		m[0] = kind
		binary.BigEndian.PutUint16(m[6:], uint16(i))
		if to.Is4() { // the kernel does it for ICMPv6
			binary.BigEndian.PutUint16(m[2:], ^naiveSum(m))
		}
		c.SetDeadline(time.Now().Add(limit))
		if _, err := c.WriteTo(m, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			return err
		}
		for {
			n, _, err := c.ReadFrom(reply)
			if err != nil {
				return fmt.Errorf("echo %d: %w", i, err)
			}
			if n == len(m) && (reply[0] == 0 || reply[0] == 129) && binary.BigEndian.Uint16(reply[6:]) == uint16(i) {
				break
			}
		}
	}
	return nil
}

// carriesAll passes every kind of traffic between the sites, so many octets by TCP, and
// wants no packet dropped.
func (x *tunnel) carriesAll(octets int) {
	x.t.Helper()
	x.succeed(map[string]func() error{
		"ping IPv4": func() error { return x.ping(siteA.Addr(), siteB.Addr(), 20) },
		"ping IPv6": func() error { return x.ping(siteA6.Addr(), siteB6.Addr(), 20) },
		"TCP IPv4":  func() error { return x.exchange("tcp4", siteB.Addr(), octets) },
		"TCP IPv6":  func() error { return x.exchange("tcp6", siteB6.Addr(), octets) },
		"UDP IPv4":  func() error { return x.datagrams("udp4", siteB.Addr()) },
		"UDP IPv6":  func() error { return x.datagrams("udp6", siteB6.Addr()) },
	})
	x.wantNoDrops()
}

// succeed runs each, and says of a failure what the planes counted.
func (x *tunnel) succeed(runs map[string]func() error) {
	x.t.Helper()
	for name, run := range runs {
		if err := run(); err != nil {
			x.t.Errorf("%s: %v; drops: %+v and %+v; counters %+v and %+v", name, err, x.a.Drops(), x.b.Drops(), x.a.Counters(), x.b.Counters())
		}
	}
}

// wantNoDrops fails if any packet was dropped.
func (x *tunnel) wantNoDrops() {
	x.t.Helper()
	for _, g := range []*gateway{x.a, x.b} {
		for _, c := range g.Counters() {
			if c.ReplayDrops+c.AuthFailures+c.SelectorDrops > 0 {
				x.t.Errorf("an SA dropped packets: %+v", c)
			}
		}
		if d := g.Drops(); d.Malformed+d.UnknownSPI+d.DeliverErrors+d.SendErrors+d.Unfit > 0 {
			x.t.Errorf("packets were dropped: %+v", d)
		}
	}
}

func naiveSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum&0xffff)
}

var gcm128 = suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, ESN: true}

func TestTrafficThroughSockets(t *testing.T) {
	for _, tt := range []struct {
		name           string
		outerA, outerB netip.Addr
		suite          suite.ESPSuite
	}{
		{"AES-GCM over IPv4", outerA, outerB, gcm128},
		{"AES-GCM over IPv6", outerA6, outerB6, gcm128},
		{"ChaCha20-Poly1305", outerA, outerB, suite.ESPSuite{Encryption: wire.EncryptionChaCha20Poly1305}},
		{"AES-GCM with 8 octets of ICV", outerA, outerB, suite.ESPSuite{Encryption: wire.EncryptionAESGCM8, KeyBits: 256, ESN: true}},
		{"AES-CCM", outerA, outerB, suite.ESPSuite{Encryption: wire.EncryptionAESCCM8, KeyBits: 128}},
		{"AES-CTR", outerA, outerB, suite.ESPSuite{Encryption: wire.EncryptionAESCTR, KeyBits: 128, Integrity: wire.IntegrityHMACSHA256, ESN: true}},
		{"AES-CBC", outerA, outerB, suite.ESPSuite{Encryption: wire.EncryptionAESCBC, KeyBits: 256, Integrity: wire.IntegrityHMACSHA256}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newTunnel(t, tt.outerA, tt.outerB, tt.suite)
			x.carriesAll(20 << 20)
		})
	}
}

// TestRekeyUnderTraffic changes the SAs again and again while four connections
// run both ways: no packet may be lost for it.
func TestRekeyUnderTraffic(t *testing.T) {
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) { rekeyUnderTraffic(t, workers) })
	}
}

func rekeyUnderTraffic(t *testing.T, workers int) {
	nsA, nsB := joined(t)
	x := newTunnelIn(t, nsA, nsB, outerA, outerB, gcm128, Config{Workers: workers}, Config{Workers: workers})
	var running sync.WaitGroup
	errs := make(chan error, 4)
	for i := range 4 {
		running.Go(func() {
			network, server := "tcp4", siteB.Addr()
			if i%2 == 1 {
				network, server = "tcp6", siteB6.Addr()
			}
			errs <- x.exchange(network, server, 32<<20)
		})
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	rekeys := 0
	for open := true; open; rekeys++ {
		x.rekey() // fails the test if a packet is missing
		// So much traffic on the new SAs that the transmitters have sent what
		// they gathered for the old ones.
		const enough = readsBeforeFlush * maxSegments
		tick := time.NewTicker(time.Millisecond)
		for open && min(packets(x.a, x.sas[1]), packets(x.b, x.sas[3])) < enough {
			select {
			case <-done:
				open = false
			case <-tick.C:
			}
		}
		tick.Stop()
	}
	x.finish()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if rekeys < 5 {
		t.Errorf("only %d rekeys took place", rekeys)
	}
	for _, g := range []*gateway{x.a, x.b} {
		if d := g.Drops(); d.UnknownSPI+d.NoSA+d.Malformed+d.SendErrors > 0 {
			t.Errorf("packets were lost over %d rekeys: %+v", rekeys, d)
		}
	}
}

// TestHostileDatagrams sends what an attacker may to the NAT traversal port.
func TestHostileDatagrams(t *testing.T) {
	x := newTunnel(t, outerA, outerB, gcm128)
	var c *net.UDPConn
	var err error
	x.a.ns.do(func() { c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(x.b.outer)) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	spi := binary.BigEndian.AppendUint32(nil, x.sas[2].SPI)
	packet := func(tail ...byte) []byte { return append(bytes.Clone(spi), tail...) }
	forged := packet(make([]byte, 200)...)
	forged[7] = 1 // sequence number
	for _, b := range [][]byte{
		{},
		{0},
		{0xff},
		{1, 2, 3},
		spi, packet(0, 0, 0), packet(0, 0, 0, 1), packet(make([]byte, 20)...), forged,
		{9, 9, 9, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		{0, 0, 0, 0},
		{0, 0, 0, 0, 1, 2, 3, 4},
		make([]byte, 9000),
	} {
		if _, err := c.Write(b); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
	err = eventually(func() bool {
		counters := x.b.Counters()
		d := x.b.Drops()
		return counters[0].AuthFailures == 1 && d.UnknownSPI == 1 && d.Malformed >= 4
	})
	if err != nil {
		t.Errorf("%v: %+v %+v", err, x.b.Counters(), x.b.Drops())
	}
	if err := x.ping(siteA.Addr(), siteB.Addr(), 3); err != nil {
		t.Errorf("the tunnel does not work any more: %v", err)
	}
}

// TestNarrowPath: the wire's MTU is smaller than the interface's expects. TCP
// senders are told and adapt; what may be fragmented passes all the same.
func TestNarrowPath(t *testing.T) {
	nsA, nsB := joined(t)
	x := newTunnelIn(t, nsA, nsB, outerA, outerB, gcm128, Config{KeepMSS: true}, Config{KeepMSS: true})
	for _, g := range []*gateway{x.a, x.b} {
		g.ns.ip("link set wire mtu 1420")
	}
	for _, run := range []struct {
		name string
		f    func() error
	}{
		{"TCP IPv4", func() error { return x.exchange("tcp4", siteB.Addr(), 4<<20) }},
		{"TCP IPv6", func() error { return x.exchange("tcp6", siteB6.Addr(), 4<<20) }},
		// Nobody repeats a datagram: this comes when both hosts know the MTU.
		{"UDP IPv4", func() error { return x.datagrams("udp4", siteB.Addr()) }},
	} {
		if err := run.f(); err != nil {
			t.Errorf("%s: %v; drops: %+v and %+v", run.name, err, x.a.Drops(), x.b.Drops())
		}
	}
	if d := x.a.Drops(); d.TooBig == 0 || d.TooBig > 1000 || d.SendErrors != 0 {
		t.Errorf("%d packets were too big, %d could not be sent", d.TooBig, d.SendErrors)
	}
	var out []byte
	x.a.ns.do(func() { out, _ = exec.Command("ip", "route", "get", siteB.Addr().String()).Output() })
	if !bytes.Contains(out, []byte("mtu 13")) {
		t.Errorf("the host did not learn the MTU of the path: %s", out)
	}
}

// TestRoutingLoop: a route leads the peer's outer address into the tunnel. The
// datagrams are dropped, not wrapped again and again.
func TestRoutingLoop(t *testing.T) {
	nsA, nsB := joined(t)
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	g := newGateway(t, nsA, outerA, Config{}, nil, nil)
	peer := newGateway(t, nsB, outerB, Config{}, nil, nil)
	g.local, peer.local = []ts.Selector{ts.FromPrefix(everything[0])}, []ts.Selector{ts.FromPrefix(everything[0])}
	x := &tunnel{t: t, suite: gcm128, a: g, b: peer}
	x.apply(g, dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: "t", Child: "c", LocalTS: g.local, RemoteTS: peer.local}})
	x.rekey()
	nsA.ip(fmt.Sprintf("route add %s/32 dev %s", outerB, g.Interface()))
	nsA.ip(fmt.Sprintf("route add 198.51.100.0/24 dev %s", g.Interface()))
	var c net.Conn
	var err error
	nsA.do(func() { c, err = net.Dial("udp4", "198.51.100.1:9") })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("once"))
	if err := eventually(func() bool { return g.Drops().Loops == 1 }); err != nil {
		t.Fatalf("%v: %+v", err, g.Drops())
	}
	if n := packets(g, x.sas[1]); n != 1 {
		t.Errorf("%d packets were sealed for one", n)
	}
}
