package userspace

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestInboxBatch: datagrams that the kernel does not merge come many in a batch, as
// long as none is awaited, and merged ones by their octets.
func TestInboxBatch(t *testing.T) {
	for _, tt := range []struct {
		name          string
		withChecksum  bool
		length, sends int
		want          []int // messages of each batch
	}{
		{"one datagram", false, 100, 1, []int{1}},
		{"without checksums", false, 100, slabs + 10, []int{slabs, 10}},
		{"merged", true, 50 * 1300, callSlabs + 3, []int{callSlabs, 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := openSocket(netip.MustParseAddrPort("127.0.0.1:0"), 0, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if room, _ := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); room < 4*tt.length*tt.sends {
				t.Skipf("SKIPPED: a receive buffer of %d octets has no room for the test (CAP_NET_ADMIN?)", room)
			}
			l, e := s.lanes[0].find(&endpoint{}), s.newEndpoint(netip.AddrPort{}, s.local, false)
			var c control
			if tt.withChecksum {
				c.addSegment(1300)
			} else if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
				t.Fatal(err)
			}
			for range tt.sends {
				if errno := l.sendWait(e, make([]byte, tt.length), &c, true); errno != 0 {
					t.Fatal(errno)
				}
			}
			in := &inbox{fd: s.fd}
			for _, want := range tt.want {
				if in.receive(); in.n != want || in.errno != 0 {
					t.Fatalf("a batch of %d messages (%v), want %d", in.n, in.errno, want)
				}
				for i := range in.n {
					if n := int(in.messages[i].n); n != tt.length {
						t.Errorf("message %d has %d octets, want %d", i, n, tt.length)
					}
				}
			}
			if in.receive(); in.n != 0 || in.errno != unix.EAGAIN {
				t.Errorf("%d messages (%v) behind the last", in.n, in.errno)
			}
		})
	}
}
