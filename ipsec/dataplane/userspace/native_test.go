package userspace

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
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
				a: newGateway(t, nsA, tt.outerA, Config{MTU: 1400}, sitesA, sitesB),
				b: newGateway(t, nsB, tt.outerB, Config{MTU: 1400}, sitesB, sitesA),
			}
			x.a.outer, x.b.outer = netip.AddrPortFrom(tt.outerA, 0), netip.AddrPortFrom(tt.outerB, 0)
			x.start()
			for name, run := range map[string]func() error{
				"ping IPv4": func() error { return x.ping(siteA.Addr(), siteB.Addr(), 20) },
				"ping IPv6": func() error { return x.ping(siteA6.Addr(), siteB6.Addr(), 20) },
				"TCP IPv4":  func() error { return x.exchange("tcp4", siteB.Addr(), 4<<20) },
				"TCP IPv6":  func() error { return x.exchange("tcp6", siteB6.Addr(), 4<<20) },
				"UDP IPv4":  func() error { return x.datagrams("udp4", siteB.Addr()) },
				"UDP IPv6":  func() error { return x.datagrams("udp6", siteB6.Addr()) },
			} {
				if err := run(); err != nil {
					t.Errorf("%s: %v; drops: %+v and %+v; counters %+v and %+v", name, err, x.a.Drops(), x.b.Drops(), x.a.Counters(), x.b.Counters())
				}
			}
			x.wantNoDrops()
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
				a: newGateway(t, nsA, tt.outerA, Config{Mark: testMark}, nil, nil),
				b: newGateway(t, nsB, tt.outerB, Config{Mark: testMark}, nil, nil),
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
			for name, run := range map[string]func() error{
				"ping": func() error { return x.ping(tt.outerA, tt.outerB, 20) },
				"TCP":  func() error { return x.exchange("tcp"+family, tt.outerB, 4<<20) },
				"UDP":  func() error { return x.datagramsOf("udp"+family, tt.outerA, tt.outerB, 1, 2, 7, 64, 500, 1300) },
			} {
				if err := run(); err != nil {
					t.Errorf("%s: %v; drops: %+v and %+v; counters %+v and %+v", name, err, x.a.Drops(), x.b.Drops(), x.a.Counters(), x.b.Counters())
				}
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
