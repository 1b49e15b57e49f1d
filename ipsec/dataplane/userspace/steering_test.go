package userspace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// needSharedPort skips where the kernel gives a port to one socket alone.
func needSharedPort(t *testing.T, s *socket) {
	t.Helper()
	if !s.shared {
		t.Skip("SKIPPED: this kernel has no sockets that share a port and a filter")
	}
}

// TestSteering: the first of the sockets of a port gets what is no ESP. Of the others, each
// receiver's get the SPIs of one remainder, all of a source the same one, sources different
// ones. The lanes get nothing.
func TestSteering(t *testing.T) {
	const workers = 3
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		t.Run(listen, func(t *testing.T) {
			s, err := openSocket(netip.MustParseAddrPort(listen), 0, workers)
			if err != nil {
				t.Skipf("SKIPPED: %v", err) // no IPv6
			}
			defer s.close()
			needSharedPort(t, s)
			if len(s.intakes) != workers || len(s.lanes) != workers {
				t.Fatalf("%d receive, with %d sets of lanes, want %d", len(s.intakes), len(s.lanes), workers)
			}
			to := s.local
			if to.Addr().IsUnspecified() {
				to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port())
			}
			seen := map[place]bool{}
			for range 8 * queuesOfIntake { // from other ports
				c, err := net.Dial("udp", to.String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				var last [workers]*place
				for _, spi := range []uint32{256, 257, 258, 259, 0xffffffff, 0xfffffffd} {
					at := s.steered(t, c, binary.BigEndian.AppendUint32(nil, spi))
					if want := int(spi % workers); at.receiver != want || at.first {
						t.Fatalf("SPI %08x comes to %+v, want receiver %d", spi, at, want)
					}
					if before := last[at.receiver]; before != nil && *before != at {
						t.Errorf("packets of one peer come to %+v and to %+v", *before, at)
					}
					last[at.receiver], seen[at] = &at, true
				}
				for _, other := range [][]byte{{0xff}, {0, 0, 0, 0, 1, 2, 3, 4}} { // keepalive, IKE
					if at := s.steered(t, c, other); !at.first {
						t.Errorf("%x comes to %+v", other, at)
					}
				}
			}
			if len(seen) < workers*queuesOfIntake*3/4 {
				t.Errorf("packets of many peers come to %d sockets of %d", len(seen), workers*queuesOfIntake)
			}
		})
	}
}

// place is one of the sockets that receive.
type place struct {
	receiver, queue int
	first           bool // the one of IKE
}

// steered sends a datagram and returns where it comes.
func (s *socket) steered(t *testing.T, c net.Conn, packet []byte) (at place) {
	t.Helper()
	if _, err := c.Write(packet); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	err := eventually(func() bool {
		for receiver, in := range s.intakes {
			for queue, fd := range in.queues {
				if n, _, err := unix.Recvfrom(fd, b, 0); err == nil && string(b[:n]) == string(packet) {
					at = place{receiver, queue, fd == s.fd}
					return true
				}
			}
		}
		return false
	})
	if err != nil {
		t.Fatalf("%x comes to none of the sockets", packet)
	}
	return at
}

// TestSteeringByAddress: peers that all send from one port have different sockets too.
func TestSteeringByAddress(t *testing.T) {
	nsA, nsB := joined(t)
	var s *socket
	var err error
	nsB.do(func() { s, err = openSocket(netip.AddrPort{}, 0, 1) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	needSharedPort(t, s)
	for name, peers := range map[string]struct {
		to   netip.Addr
		from func(i byte) string
	}{
		"IPv4": {outerB, func(i byte) string { return fmt.Sprintf("192.0.2.%d", 100+i) }},
		"IPv6": {outerB6, func(i byte) string { return fmt.Sprintf("2001:db8::1:%x", i) }},
	} {
		seen := map[place]bool{}
		for i := range byte(4 * queuesOfIntake) {
			from := netip.MustParseAddr(peers.from(i))
			if from.Is6() {
				nsA.ip(fmt.Sprintf("addr add %s/64 dev wire nodad", from))
			} else {
				nsA.ip(fmt.Sprintf("addr add %s/24 dev wire", from))
			}
			var c net.Conn
			nsA.do(func() {
				dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, DefaultPort))}
				c, err = dialer.Dial("udp", netip.AddrPortFrom(peers.to, s.local.Port()).String())
			})
			if err != nil {
				t.Fatal(err)
			}
			seen[s.steered(t, c, []byte{0, 0, 1, i})] = true
			c.Close()
		}
		if len(seen) < queuesOfIntake*3/4 {
			t.Errorf("%s: packets of many peers come to %d sockets of %d", name, len(seen), queuesOfIntake)
		}
	}
}

// TestSPIsTakeTurns: SPIs that are allocated one after the other belong to different
// receivers, and a successor's to that of its predecessor.
func TestSPIsTakeTurns(t *testing.T) {
	needNamespaces(t)
	const workers = 3
	p := newNamespace(t).plane(t, Config{Workers: workers})
	needSharedPort(t, p.socket)
	last := uint32(workers)
	for range 20 {
		spi, err := p.AllocateSPI(0)
		if err != nil {
			t.Fatal(err)
		}
		if last < workers && spi%workers != (last+1)%workers {
			t.Errorf("SPI %08x of receiver %d after one of receiver %d", spi, spi%workers, last)
		}
		last = spi % workers
		next, err := p.AllocateSPI(spi)
		if err != nil {
			t.Fatal(err)
		}
		if next == spi || next%workers != last {
			t.Errorf("SPI %08x of receiver %d takes over from one of receiver %d", next, next%workers, last)
		}
	}
}
