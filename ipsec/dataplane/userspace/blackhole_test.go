package userspace

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// joinedByHole is joinedByRouter where a switch on the way to the second namespace drops
// what is longer than mtu, as good as, and tells nobody: so do the two ends of a wire
// that do not agree.
func joinedByHole(t *testing.T, mtu string) (a, router, b *namespace) {
	a, router, b = joinedByRouter(t, 1500)
	b.ip("link set wire mtu " + mtu)
	a.ip("link set wire gso_max_segs 1") // what is not cut yet would get through
	return a, router, b
}

// TestBlackHole: datagrams that the kernel takes for short enough are lost without a
// word. Once the plane is told what arrives, it sends no longer ones: inner senders are
// told or, if they let that be done, their packets are fragmented before they are
// protected, as no router would do it behind that.
func TestBlackHole(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { testBlackHole(t, nearA, farB) })
	t.Run("IPv6", func(t *testing.T) { testBlackHole(t, nearA6, farB6) })
}

func testBlackHole(t *testing.T, from, to netip.Addr) {
	nsA, _, nsB := joinedByHole(t, "1400")
	x := newTunnelIn(t, nsA, nsB, from, to, gcm128, Config{KeepMSS: true}, Config{KeepMSS: true})
	fits := x.sas[1].InnerMTU(1400)
	site := nsA.tap(t, x.a.Interface())
	send := func(df bool, length int) {
		t.Helper()
		if err := site.send(datagram4(0, df, length-ipv4HeaderLen-udpHeaderLen)); err != nil {
			t.Fatal(err)
		}
	}
	arrive := func(n uint64) {
		t.Helper()
		if err := eventually(func() bool { return packets(x.b, x.sas[2]) == n }); err != nil {
			t.Fatalf("%d packets arrived, want %d", packets(x.b, x.sas[2]), n)
		}
	}
	// Whatever goes after what is lost has overtaken nothing.
	send(true, fits+10)
	send(false, fits+10)
	send(true, 100)
	arrive(1)

	x.apply(x.a, dataplane.SetPathMTU{Tunnel: "t", MTU: 1400})
	send(true, fits+1)
	told := site.find(t, func(b []byte) bool { return b[0]>>4 == 4 && b[9] == protoICMP && b[20] == 3 && b[21] == 4 })
	if got := int(binary.BigEndian.Uint16(told[ipv4HeaderLen+6:])); got != fits {
		t.Errorf("told to send %d octets, want %d", got, fits)
	}
	send(true, fits)
	send(false, fits+1)
	arrive(1 + 1 + 2)
	x.socketOptions = withoutDF
	x.succeed(map[string]func() error{
		"TCP":           func() error { return x.exchange("tcp4", siteB.Addr(), 4<<20) },
		"TCP over IPv6": func() error { return x.exchange("tcp6", siteB6.Addr(), 1<<20) },
		"UDP":           func() error { return x.datagrams("udp4", siteB.Addr()) },
	})

	// What a rekey installs brings it along, and 0 takes it back.
	x.sas[1].PathMTU = 1400
	x.rekey()
	x.apply(x.a, dataplane.SetPathMTU{Tunnel: "t"})
	if e := x.a.sas[keyOf(dataplane.Outbound, "t", x.sas[1].SPI)].endpoint.Load(); e.path.hole.Load() || e.path.limit.Load() != int64(1500-e.headerLen()-udpHeaderLen) {
		t.Errorf("limit %d, hole %v after the limit was taken back", e.path.limit.Load(), e.path.hole.Load())
	}
}

// withoutDF lets the datagrams of a socket be fragmented by whoever likes to.
func withoutDF(_, _ string, c syscall.RawConn) (err error) {
	ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	})
	return errors.Join(ctl, err)
}

// TestProbe: a probe leaves whole and with Don't Fragment where the host knows of a
// narrower path, and not at all where its interface has no room. What is sent after it is
// fragmented again.
func TestProbe(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { testProbe(t, nearA, nearRouter) })
	t.Run("IPv6", func(t *testing.T) { testProbe(t, nearA6, nearRouter6) })
}

func testProbe(t *testing.T, from, to netip.Addr) {
	nsA, router, _ := joinedByRouter(t, 1500)
	nsA.ip("route add " + netip.PrefixFrom(to, to.BitLen()).String() + " dev wire mtu 1300")
	p := nsA.plane(t, Config{})
	sender, err := p.Listen(func(dataplane.IKEDatagram) {})
	if err != nil {
		t.Fatal(err)
	}
	if mtu, err := sender.PathMTU(to); mtu != 1300 || err != nil {
		t.Errorf("path MTU %d, %v, want 1300", mtu, err)
	}
	wire := router.tap(t, "near")
	headers := p.socket.newEndpoint(netip.AddrPort{}, netip.AddrPortFrom(to, 4500), false).headerLen() + udpHeaderLen + len(nonESPMarker)
	here, there := netip.AddrPortFrom(from, DefaultPort), netip.AddrPortFrom(to, 4500)
	isFragment := func(b []byte) bool {
		return b[0]>>4 == 4 && binary.BigEndian.Uint16(b[6:])&0x2000 != 0 || b[0]>>4 == 6 && b[6] == 44
	}
	for range 2 {
		if err := sender.SendProbe(here, there, make([]byte, 1500-headers)); err != nil {
			t.Fatal(err)
		}
		wire.findAny(t, func(b []byte) bool {
			return len(b) == 1500 && (b[0]>>4 == 6 && b[6] == protoUDP || b[0]>>4 == 4 && b[6]&0x40 != 0)
		})
		if err := sender.SendProbe(here, there, make([]byte, 1501-headers)); !errors.Is(err, dataplane.ErrTooLong) {
			t.Errorf("a probe longer than the interface's MTU: %v", err)
		}
		if err := sender.SendIKE(here, there, make([]byte, 1500-headers)); err != nil {
			t.Fatal(err)
		}
		wire.findAny(t, isFragment)
	}
}
