package userspace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

var (
	ah256  = suite.ESPSuite{AH: true, Integrity: wire.IntegrityHMACSHA256, ESN: true}
	ah512  = suite.ESPSuite{AH: true, Integrity: wire.IntegrityHMACSHA512}
	cbc256 = suite.ESPSuite{Encryption: wire.EncryptionAESCBC, KeyBits: 256, Integrity: wire.IntegrityHMACSHA256}
)

// protocols counts what passes a wire.
type protocols map[uint8]int

// watch counts the protocols of what arrives at an interface until it is asked.
func watch(t *testing.T, ns *namespace) (seen func() protocols) {
	wire := ns.tap(t, "wire")
	return func() protocols {
		all := protocols{}
		for len(wire.packets) > 0 {
			var in inner
			if b := <-wire.packets; in.parse(b) {
				all[in.protocol]++
			}
		}
		return all
	}
}

// wantOnly fails unless all packets but ICMPv6 (neighbours) are of one protocol.
func (p protocols) wantOnly(t *testing.T, protocol uint8) {
	t.Helper()
	for got := range p {
		if got != protocol && got != protoICMPv6 {
			t.Errorf("%d packets of protocol %d are on the wire, want %d alone: %v", p[got], got, protocol, p)
		}
	}
	if p[protocol] == 0 {
		t.Errorf("nothing of protocol %d is on the wire: %v", protocol, p)
	}
}

// TestNative: ESP and AH as IP protocols of their own, in tunnel mode.
func TestNative(t *testing.T) {
	for _, tt := range []struct {
		name           string
		outerA, outerB netip.Addr
		suite          suite.ESPSuite
		protocol       uint8
	}{
		{"ESP over IPv4", outerA, outerB, gcm128, protoESP},
		{"ESP over IPv6", outerA6, outerB6, gcm128, protoESP},
		{"ESP with AES-CBC", outerA, outerB, cbc256, protoESP},
		{"AH over IPv4", outerA, outerB, ah256, protoAH},
		{"AH over IPv6", outerA6, outerB6, ah256, protoAH},
		{"AH with SHA-512", outerA6, outerB6, ah512, protoAH},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nsA, nsB := joined(t)
			seen := watch(t, nsB)
			sitesA, sitesB := []netip.Prefix{siteA, siteA6}, []netip.Prefix{siteB, siteB6}
			x := &tunnel{
				t: t, suite: tt.suite,
				a: newGateway(t, nsA, tt.outerA, Config{MTU: 1400, Workers: 2}, sitesA, sitesB),
				b: newGateway(t, nsB, tt.outerB, Config{MTU: 1400, Workers: 2}, sitesB, sitesA),
			}
			x.a.outer, x.b.outer = netip.AddrPortFrom(tt.outerA, 0), netip.AddrPortFrom(tt.outerB, 0)
			x.start()
			x.carriesAll(4 << 20)
			seen().wantOnly(t, tt.protocol)
		})
	}
}

// TestTransport: two hosts protect what they say to each other.
func TestTransport(t *testing.T) {
	for _, tt := range []struct {
		name           string
		outerA, outerB netip.Addr
		suite          suite.ESPSuite
		port           uint16
		protocol       uint8
	}{
		{"ESP over IPv4", outerA, outerB, gcm128, 0, protoESP},
		{"ESP over IPv6", outerA6, outerB6, gcm128, 0, protoESP},
		{"ESP in UDP over IPv4", outerA, outerB, gcm128, DefaultPort, protoUDP},
		{"ESP in UDP over IPv6", outerA6, outerB6, cbc256, DefaultPort, protoUDP},
		{"AH over IPv4", outerA, outerB, ah256, 0, protoAH},
		{"AH over IPv6", outerA6, outerB6, ah512, 0, protoAH},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nsA, nsB := joined(t)
			seen := watch(t, nsB)
			x := &tunnel{
				t: t, suite: tt.suite, mode: dataplane.Transport,
				a: newGateway(t, nsA, tt.outerA, Config{Mark: testMark, Workers: 2}, nil, nil),
				b: newGateway(t, nsB, tt.outerB, Config{Mark: testMark, Workers: 2}, nil, nil),
			}
			for _, g := range []*gateway{x.a, x.b} {
				g.local = []ts.Selector{ts.FromPrefix(netip.PrefixFrom(g.outer.Addr(), g.outer.Addr().BitLen()))}
				g.outer = netip.AddrPortFrom(g.outer.Addr(), tt.port)
			}
			x.a.intercept(x.b.outer.Addr())
			x.b.intercept(x.a.outer.Addr())
			x.start()
			family := "4"
			if tt.outerA.Is6() {
				family = "6"
			}
			x.succeed(map[string]func() error{
				"ping": func() error { return x.ping(tt.outerA, tt.outerB, 20) },
				"TCP":  func() error { return x.exchange("tcp"+family, tt.outerB, 4<<20) },
				"UDP":  func() error { return x.datagramsOf("udp"+family, tt.outerA, tt.outerB, 1, 2, 7, 64, 500, 1300) },
			})
			// The stack cuts them, and what carries them whole is cut too.
			if err := x.datagramsOf("udp"+family, tt.outerA, tt.outerB, 1400, 1500, 2900, 9000, 60000, 64000); err != nil {
				t.Errorf("UDP in fragments: %v", err)
			}
			x.wantNoDrops()
			seen().wantOnly(t, tt.protocol)
		})
	}
}

const testMark = 4500

// intercept leads what this host says to another into the interface, but for what
// the plane itself sends.
func (g *gateway) intercept(to netip.Addr) {
	family := ""
	if to.Is6() {
		family = "-6 "
	}
	g.ns.ip(fmt.Sprintf("%srule add to %s not fwmark %d lookup 100", family, to, testMark))
	g.ns.ip(fmt.Sprintf("%sroute add default dev %s src %s table 100", family, g.Interface(), g.outer.Addr()))
}

// TestTransportRefuses says what transport mode and AH cannot do here.
func TestTransportRefuses(t *testing.T) {
	a, _ := joined(t)
	p := a.plane(t, Config{})
	host := func(a netip.Addr) []ts.Selector { return []ts.Selector{ts.FromPrefix(netip.PrefixFrom(a, a.BitLen()))} }
	good := dataplane.SA{
		SPI: 1000, Direction: dataplane.Outbound, Tunnel: "t", Child: "c", Mode: dataplane.Transport,
		Local: netip.AddrPortFrom(outerA, 0), Remote: netip.AddrPortFrom(outerB, 0),
		Suite: gcm128, Key: make([]byte, gcm128.KeyLen()), LocalTS: host(outerA), RemoteTS: host(outerB),
	}
	if err := p.Apply([]dataplane.Op{dataplane.InstallSA{SA: good}})[0]; err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*dataplane.SA)
		want   string
	}{
		{"a prefix", func(sa *dataplane.SA) { sa.RemoteTS = []ts.Selector{ts.FromPrefix(siteB.Masked())} }, "is not of the outer address 192.0.2.2"},
		{"behind a NAT", func(sa *dataplane.SA) { sa.LocalTS = host(siteA.Addr()) }, "local selector"},
		{"any address", func(sa *dataplane.SA) { sa.Local = netip.AddrPortFrom(netip.IPv4Unspecified(), 0) }, "local outer address must be known"},
		{"one port", func(sa *dataplane.SA) { sa.Remote = netip.AddrPortFrom(outerB, DefaultPort) }, "set both"},
		{"TFC", func(sa *dataplane.SA) { sa.TFC.PadTo = 1000 }, "only ESP in tunnel mode"},
		{"AH in UDP", func(sa *dataplane.SA) {
			sa.Suite, sa.Key = ah256, make([]byte, ah256.KeyLen())
			sa.Local, sa.Remote = netip.AddrPortFrom(outerA, DefaultPort), netip.AddrPortFrom(outerB, DefaultPort)
		}, "AH goes in neither UDP nor TCP"},
	} {
		sa := good
		sa.SPI = 1001
		tt.change(&sa)
		if err := p.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}})[0]; err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	move := dataplane.UpdateEndpoints{Tunnel: "t", Local: netip.AddrPortFrom(movedA, 0), Remote: good.Remote}
	if err := p.Apply([]dataplane.Op{move})[0]; err == nil || !strings.Contains(err.Error(), "stay with their addresses") {
		t.Errorf("moved: %v", err)
	}
}

// TestAHNarrowPath: what AH makes too long for the wire is fragmented before, or its
// sender told.
func TestAHNarrowPath(t *testing.T) {
	nsA, nsB := joined(t)
	seen := watch(t, nsB)
	sitesA, sitesB := []netip.Prefix{siteA, siteA6}, []netip.Prefix{siteB, siteB6}
	x := &tunnel{
		t: t, suite: ah512,
		a: newGateway(t, nsA, outerA, Config{MTU: 1500, KeepMSS: true}, sitesA, sitesB),
		b: newGateway(t, nsB, outerB, Config{MTU: 1500, KeepMSS: true}, sitesB, sitesA),
	}
	x.a.outer, x.b.outer = netip.AddrPortFrom(outerA, 0), netip.AddrPortFrom(outerB, 0)
	x.start()
	if err := x.exchange("tcp4", siteB.Addr(), 1<<20); err != nil {
		t.Errorf("TCP IPv4: %v; %+v %+v", err, x.a.Drops(), x.b.Drops())
	}
	if err := x.exchange("tcp6", siteB6.Addr(), 1<<20); err != nil {
		t.Errorf("TCP IPv6: %v; %+v %+v", err, x.a.Drops(), x.b.Drops())
	}
	if x.a.Drops().TooBig == 0 {
		t.Error("nobody was told that packets are too big")
	}
	// Without DF, and past what fits, as of a host that looks at no ICMP.
	host, far := nsA.tap(t, x.a.Interface()), nsB.tap(t, x.b.Interface())
	for len(far.packets) > 0 {
		<-far.packets
	}
	packet := datagram4(7, false, 1472) // 1,500 octets
	if err := host.send(packet); err != nil {
		t.Fatal(err)
	}
	var lengths []int
	for range 2 {
		select {
		case b := <-far.packets:
			lengths = append(lengths, len(b))
			if naiveSum(b[:ipv4HeaderLen]) != 0xffff || string(b[12:20]) != string(packet[12:20]) {
				t.Errorf("fragment with the header %x", b[:ipv4HeaderLen])
			}
		case <-t.Context().Done():
			t.Fatal("the fragments did not come")
		}
	}
	// 1,500 less outer header and an AH of 44 octets, down to 8 octets of payload.
	if want := []int{20 + 1416, 20 + 64}; lengths[0] != want[0] || lengths[1] != want[1] {
		t.Errorf("fragments of %d octets, want %d", lengths, want)
	}
	seen().wantOnly(t, protoAH)
}

// TestAHFull: a packet of AH that fills the path is not cut.
func TestAHFull(t *testing.T) {
	for _, mode := range []dataplane.Mode{dataplane.Tunnel, dataplane.Transport} {
		nsA, nsB := joined(t)
		wire := nsB.tap(t, "wire")
		x := &tunnel{
			t: t, suite: ah256, mode: mode,
			a: newGateway(t, nsA, outerA6, Config{MTU: 1500, Mark: testMark}, []netip.Prefix{siteA6}, []netip.Prefix{siteB6}),
			b: newGateway(t, nsB, outerB6, Config{MTU: 1500, Mark: testMark}, []netip.Prefix{siteB6}, []netip.Prefix{siteA6}),
		}
		server := siteB6.Addr()
		for _, g := range []*gateway{x.a, x.b} {
			if mode == dataplane.Transport {
				g.local, server = []ts.Selector{ts.FromPrefix(netip.PrefixFrom(g.outer.Addr(), 128))}, outerB6
			}
			g.outer = netip.AddrPortFrom(g.outer.Addr(), 0)
		}
		if mode == dataplane.Transport {
			x.a.intercept(outerB6)
			x.b.intercept(outerA6)
		}
		x.start()
		if err := x.exchange("tcp6", server, 1<<20); err != nil {
			t.Errorf("%s mode: %v; %+v %+v", mode, err, x.a.Drops(), x.b.Drops())
		}
		full := 0
		for len(wire.packets) > 0 {
			b := <-wire.packets
			var in inner
			if in.parse(b) && in.fragment {
				t.Fatalf("%s mode: a fragment of %d octets", mode, len(b))
			}
			if len(b) > 1480 {
				full++
			}
		}
		if full == 0 {
			t.Errorf("%s mode: no packet fills the path", mode)
		}
	}
}

// TestTransportUnfit: what transport mode has no place for is counted, not sent.
func TestTransportUnfit(t *testing.T) {
	sa, ah := &outboundSA{}, &outboundSA{ah: &esp.AHOutbound{}}
	sa.transport, ah.transport = true, true
	v4 := func(edit func([]byte)) []byte {
		b := datagram4(0, false, 100)
		edit(b)
		return b
	}
	v6 := func(next uint8, extension ...byte) []byte {
		b := make([]byte, ipv6HeaderLen, 100)
		b[0], b[6] = 0x60, next
		b = append(append(b, extension...), make([]byte, 32)...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
		return b
	}
	options := []byte{protoUDP, 0, 1, 4, 0, 0, 0, 0}
	for _, tt := range []struct {
		name     string
		packet   []byte
		at       int // of what ESP protects; 0: unfit
		protocol uint8
		fitsAH   bool
	}{
		{"IPv4", v4(func([]byte) {}), ipv4HeaderLen, protoUDP, true},
		{"IPv4, first fragment", v4(func(b []byte) { b[6] |= 0x20 }), 0, 0, false},
		{"IPv4, last fragment", v4(func(b []byte) { b[7] = 1 }), 0, 0, false},
		{"IPv4, router alert", v4(func(b []byte) { b[0] = 0x46; copy(b[20:], []byte{148, 4, 0, 0}) }), 24, protoUDP, true},
		{"IPv4, source route that is over", v4(func(b []byte) { b[0] = 0x47; copy(b[20:], []byte{1, 137, 7, 8, 192, 0, 2, 9}) }), 28, protoUDP, true},
		{"IPv4, source route", v4(func(b []byte) { b[0] = 0x47; copy(b[20:], []byte{1, 131, 7, 4, 192, 0, 2, 9}) }), 0, 0, false},
		{"IPv4, source route without a pointer", v4(func(b []byte) { b[0] = 0x46; copy(b[20:], []byte{131, 2, 0, 0}) }), 0, 0, false},
		{"IPv4, option of no length", v4(func(b []byte) { b[0] = 0x46; copy(b[20:], []byte{148, 0, 0, 0}) }), 0, 0, false},
		{"IPv4, option that is too long", v4(func(b []byte) { b[0] = 0x46; copy(b[20:], []byte{1, 148, 4, 0}) }), 0, 0, false},
		{"IPv6", v6(protoUDP), ipv6HeaderLen, protoUDP, true},
		{"IPv6, destination options", v6(protoDestOpts, options...), ipv6HeaderLen, protoDestOpts, true},
		{"IPv6, hop by hop", v6(protoHopByHop, options...), 48, protoUDP, true},
		{"IPv6, routing that is over", v6(protoRouting, protoUDP, 0, 2, 0, 0, 0, 0, 0), 48, protoUDP, true},
		{"IPv6, routing", v6(protoRouting, protoUDP, 0, 2, 1, 0, 0, 0, 0), 0, 0, false},
		{"IPv6, all that there is", v6(protoHopByHop, slices.Concat(
			[]byte{protoDestOpts, 0, 1, 4, 0, 0, 0, 0}, []byte{protoRouting, 0, 1, 4, 0, 0, 0, 0},
			[]byte{protoDestOpts, 0, 2, 0, 0, 0, 0, 0}, options)...), 64, protoDestOpts, true},
		{"IPv6, fragment", v6(protoFragment, protoUDP, 0, 0, 1, 0, 0, 0, 1), 0, 0, false},
	} {
		var in inner
		if !in.parse(tt.packet) {
			t.Errorf("%s: the packet is malformed", tt.name)
			continue
		}
		at, protocol, err := in.payload(sa, tt.packet)
		if (err == nil) != (tt.at != 0) || at != tt.at || protocol != tt.protocol {
			t.Errorf("%s: payload at %d of protocol %d, %v, want %d and %d", tt.name, at, protocol, err, tt.at, tt.protocol)
		}
		if _, _, err := in.payload(ah, tt.packet); (err == nil) != tt.fitsAH {
			t.Errorf("%s in AH: %v", tt.name, err)
		}
	}
}

// TestHostileNative sends what an attacker may, as ESP and AH.
func TestHostileNative(t *testing.T) {
	for _, tt := range []struct {
		name     string
		suite    suite.ESPSuite
		protocol string
		spiAt    int
	}{
		{"ESP", gcm128, "50", 0},
		{"AH", ah256, "51", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nsA, nsB := joined(t)
			sitesA, sitesB := []netip.Prefix{siteA}, []netip.Prefix{siteB}
			x := &tunnel{t: t, suite: tt.suite, a: newGateway(t, nsA, outerA, Config{}, sitesA, sitesB), b: newGateway(t, nsB, outerB, Config{}, sitesB, sitesA)}
			x.a.outer, x.b.outer = netip.AddrPortFrom(outerA, 0), netip.AddrPortFrom(outerB, 0)
			x.start()
			var c net.PacketConn
			var err error
			nsA.do(func() { c, err = net.ListenPacket("ip4:"+tt.protocol, outerA.String()) })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			with := func(spi uint32, n int) []byte {
				b := make([]byte, n)
				b[tt.spiAt+7] = 9 // sequence number
				b[0], b[1] = 4, 5
				binary.BigEndian.PutUint32(b[tt.spiAt:], spi)
				return b
			}
			for _, b := range [][]byte{
				{}, {1}, make([]byte, 11), make([]byte, 12), with(x.sas[2].SPI, 12), with(x.sas[2].SPI, 200),
				with(12345678, 100), make([]byte, 1400),
			} {
				if _, err := c.WriteTo(b, &net.IPAddr{IP: outerB.AsSlice()}); err != nil {
					t.Fatal(err)
				}
			}
			err = eventually(func() bool {
				d := x.b.Drops()
				return x.b.Counters()[0].AuthFailures >= 1 && d.UnknownSPI >= 2 && d.Malformed >= 3
			})
			if err != nil {
				t.Errorf("%v: %+v %+v", err, x.b.Counters(), x.b.Drops())
			}
			if err := x.ping(siteA.Addr(), siteB.Addr(), 3); err != nil {
				t.Errorf("the tunnel does not work any more: %v", err)
			}
		})
	}
}

// TestRenewChecksum: behind a NAT the checksums of what arrives are for the addresses
// that the sender saw.
func TestRenewChecksum(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, udp := range []bool{false, true} {
			b := superPacket(v6, udp, 100, 1000)[vnetHeaderLen:]
			var in inner
			if !in.parse(b) {
				t.Fatal("the packet is malformed")
			}
			in.renewChecksum(b)
			if !transportChecksumOK(b, in.transport, v6) {
				t.Errorf("IPv6 %v, UDP %v: the checksum is wrong", v6, udp)
			}
			b[in.transport-1]++ // of the destination
			if transportChecksumOK(b, in.transport, v6) {
				t.Fatal("the checksum does not cover the destination")
			}
			in.renewChecksum(b)
			if !transportChecksumOK(b, in.transport, v6) {
				t.Errorf("IPv6 %v, UDP %v: the checksum is wrong after a NAT", v6, udp)
			}
			if !udp {
				continue
			}
			b[in.transport+6], b[in.transport+7] = 0, 0
			if in.renewChecksum(b); b[in.transport+6] != 0 || b[in.transport+7] != 0 {
				t.Errorf("IPv6 %v: a datagram without a checksum got one", v6)
			}
		}
	}
}
