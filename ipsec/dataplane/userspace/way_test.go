package userspace

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// Headers for the way as programs give them to their sockets: router alert, record route
// and timestamps; hop-by-hop options of which one may change on the way, and options for
// the destination.
var (
	wayOptions  = []byte{148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 1, 68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	wayHopByHop = []byte{0, 1, 0x1e, 4, 'a', 'b', 'c', 'd', 0x3e, 4, 1, 2, 3, 4, 1, 0}
	wayDestOpts = []byte{0, 0, 0x1e, 4, 'e', 'f', 'g', 'h'}
)

// withWay has a socket send with them, and tell those that it receives.
func withWay(_, _ string, c syscall.RawConn) error {
	var err error
	controlled := c.Control(func(fd uintptr) {
		if domain, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); domain == unix.AF_INET {
			err = errors.Join(unix.SetsockoptString(int(fd), unix.SOL_IP, unix.IP_OPTIONS, string(wayOptions)), reportWay(int(fd), false))
			return
		}
		err = errors.Join(
			unix.SetsockoptString(int(fd), unix.SOL_IPV6, unix.IPV6_HOPOPTS, string(wayHopByHop)),
			unix.SetsockoptString(int(fd), unix.SOL_IPV6, unix.IPV6_DSTOPTS, string(wayDestOpts)),
			reportWay(int(fd), true))
	})
	return errors.Join(controlled, err)
}

// checkWay says what is wrong with the headers that a host was told of.
func checkWay(oob []byte, v6 bool) error {
	var w way
	w.received(oob, false)
	got := w.buf[:w.n]
	if !v6 {
		// The sender has recorded itself.
		if len(got) != len(wayOptions) || !bytes.Equal(got[:4], wayOptions[:4]) || got[4] != 7 || got[6] < 8 || got[12] != 68 || got[14] < 9 {
			return fmt.Errorf("options %x, want those of %x", got, wayOptions)
		}
		return nil
	}
	n := len(wayHopByHop)
	if w.lost || w.first != protoHopByHop || len(got) != n+len(wayDestOpts) || !bytes.Equal(got[1:n], wayHopByHop[1:]) || !bytes.Equal(got[n+1:], wayDestOpts[1:]) {
		return fmt.Errorf("extension headers %x, want those of %x and %x", got, wayHopByHop, wayDestOpts)
	}
	return nil
}

// passWay sends datagrams with headers for the way from one host to another.
func passWay(t *testing.T, from, to *gateway, sizes ...int) error {
	var in, out *net.UDPConn
	var err error
	from.ns.do(func() { out, err = listenWay(t, from.outer.Addr()) })
	if err != nil {
		return err
	}
	defer out.Close()
	to.ns.do(func() { in, err = listenWay(t, to.outer.Addr()) })
	if err != nil {
		return err
	}
	defer in.Close()
	b, oob := make([]byte, 65536), make([]byte, 512)
	for _, size := range sizes {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		if _, err := out.WriteToUDP(sent, in.LocalAddr().(*net.UDPAddr)); err != nil {
			return err
		}
		in.SetReadDeadline(time.Now().Add(patience))
		n, told, _, _, err := in.ReadMsgUDP(b, oob)
		if err != nil {
			return fmt.Errorf("%d octets: %w", size, err)
		}
		if !bytes.Equal(b[:n], sent) {
			return fmt.Errorf("%d octets became %d others", size, n)
		}
		if err := checkWay(oob[:told], to.outer.Addr().Is6()); err != nil {
			return fmt.Errorf("%d octets: %w", size, err)
		}
	}
	return nil
}

func listenWay(t *testing.T, a netip.Addr) (*net.UDPConn, error) {
	network := "udp4"
	if a.Is6() {
		network = "udp6"
	}
	lc := net.ListenConfig{Control: withWay}
	c, err := lc.ListenPacket(t.Context(), network, netip.AddrPortFrom(a, 0).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// TestTransportWay: headers for the way stay before ESP and AH, and reach the other host.
func TestTransportWay(t *testing.T) {
	for _, tt := range []struct {
		name           string
		outerA, outerB netip.Addr
		suite          suite.ESPSuite
		port           uint16
		protocol       uint8
	}{
		{"ESP over IPv4", outerA, outerB, gcm128, 0, protoESP},
		{"ESP over IPv6", outerA6, outerB6, cbc256, 0, protoESP},
		{"ESP in UDP over IPv4", outerA, outerB, cbc256, DefaultPort, protoUDP},
		{"ESP in UDP over IPv6", outerA6, outerB6, gcm128, DefaultPort, protoUDP},
		{"AH over IPv4", outerA, outerB, ah256, 0, protoAH},
		{"AH over IPv6", outerA6, outerB6, ah512, 0, protoAH},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nsA, nsB := joined(t)
			wire := nsB.tap(t, "wire")
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
			sizes := []int{1, 2, 3, 4, 700, 1200, 1400, 3000, 9000, 60000} // the stack cuts the long ones
			x.succeed(map[string]func() error{
				"there": func() error { return passWay(t, x.a, x.b, sizes...) },
				"back":  func() error { return passWay(t, x.b, x.a, sizes...) },
			})
			wantWay(t, wire, tt.protocol)
			network := "tcp4"
			if tt.outerA.Is6() {
				network = "tcp6"
			}
			x.socketOptions = withWay
			if err := x.exchange(network, tt.outerB, 1<<20); err != nil {
				t.Errorf("TCP: %v; %+v %+v", err, x.a.Drops(), x.b.Drops())
			}
			x.wantNoDrops()
		})
	}
}

// wantWay wants a protocol to have come behind headers for the way, as it was sent: before
// who receives has put fragments together.
func wantWay(t *testing.T, wire *tap, protocol uint8) {
	t.Helper()
	whole, cut := 0, 0
	for len(wire.packets) > 0 {
		b := <-wire.packets
		var in inner
		if !in.parse(b) || in.protocol == protoICMPv6 {
			continue
		}
		end, next, ok := wayHeaders(b)
		switch found := b[next]; {
		case !ok || end == in.plainLen():
			t.Errorf("a packet without headers for the way: %x", b[:60])
		case in.v6 && found == protoFragment, !in.v6 && in.fragment:
			cut++
		case found == protocol:
			whole++
		default:
			t.Errorf("protocol %d is on the wire, want %d", found, protocol)
		}
	}
	if whole < 5 || cut < 10 {
		t.Errorf("%d whole packets are on the wire and %d fragments, want more", whole, cut)
	}
}

// TestCutOwn: what brings its IP header is cut as a stack does it.
func TestCutOwn(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, whole := range [][]byte{wholePacket(v6, 1, 3000), withHeaders(wholePacket(v6, 1, 3000))} {
			header, next, _ := wayHeaders(whole)
			if v6 && whole[next] == protoDestOpts {
				whole[next] = protoUDP // what is behind is payload
			}
			tx := transmitter{identity6: 7}
			var x joins
			var got []byte
			for at := header; at < len(whole); {
				var b []byte
				if v6 {
					b, at = tx.nextFragment6(whole, header, next, at, 1000)
				} else {
					b, at = tx.nextFragment(whole, header, at, 1000)
				}
				if len(b) > 1000 || !v6 && naiveSum(b[:header]) != 0xffff {
					t.Fatalf("IPv6 %v: a fragment of %d octets, or its checksum is wrong: %x", v6, len(b), b[:header])
				}
				if at == len(whole) && !v6 && bytes.Contains(b[:header], wayOptions[4:8]) {
					t.Errorf("an option that is not to be copied is in the last fragment: %x", b[:header])
				}
				got, _ = x.give(t, b)
			}
			if !bytes.Equal(got, whole) {
				t.Errorf("IPv6 %v: %x became %x", v6, whole[:header+8], got[:min(len(got), header+8)])
			}
		}
	}
}
