package userspace

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLanesReceiveNothing: of all sockets on the port only the one that receives
// gets datagrams, wherever they come from; and nobody else can bind it.
func TestLanesReceiveNothing(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::]:0", "[::1]:0"} {
		t.Run(listen, func(t *testing.T) {
			s, err := openSocket(netip.MustParseAddrPort(listen), 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			needSharedPort(t, s)
			if len(s.lanes[0].all) != maxLanes {
				t.Fatalf("%d lanes, want %d", len(s.lanes[0].all), maxLanes)
			}
			to := s.local
			if to.Addr().IsUnspecified() {
				to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port())
			}
			b := make([]byte, 100)
			for i := range 50 {
				c, err := net.Dial("udp", to.String())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
				c.Close()
				err = eventually(func() bool {
					n, _, err := unix.Recvfrom(s.fd, b, 0)
					return err == nil && n == 1 && b[0] == byte(i)
				})
				if err != nil {
					t.Fatalf("datagram %d: %v", i, err)
				}
			}
			for i, l := range s.lanes[0].all {
				if _, _, err := unix.Recvfrom(l.fd, b, 0); !errors.Is(err, unix.EAGAIN) {
					t.Errorf("lane %d received: %v", i, err)
				}
			}
			if _, err := openSocket(s.local, 0, 1); !errors.Is(err, unix.EADDRINUSE) {
				t.Fatalf("another daemon gets the port: %v", err)
			}
		})
	}
}

// TestLanesBySource: each source address has a lane, and one that comes again has
// the one it had.
func TestLanesBySource(t *testing.T) {
	s, err := openSocket(netip.MustParseAddrPort("127.0.0.1:0"), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	needSharedPort(t, s)
	from := func(n int) *lane {
		a := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		return s.lanes[0].find(&endpoint{local: netip.AddrPortFrom(a, 4500)})
	}
	seen := map[*lane]bool{}
	for n := range maxLanes {
		if s.several.Load() != (n > 1) {
			t.Errorf("several is %v after %d", s.several.Load(), n)
		}
		l := from(n)
		if seen[l] || l == &s.lane {
			t.Errorf("source %d shares a lane", n)
		}
		if seen[l] = true; from(n) != l {
			t.Errorf("source %d changes its lane", n)
		}
	}
	for n := range 10 * maxSources {
		from(n)
	}
	if n := len(s.lanes[0].bySource); n > maxSources {
		t.Errorf("%d source addresses are remembered", n)
	}
}
