package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// receiveBuffer is for the answers of some seconds at the greatest rate, in octets: the
// kernel counts about a kilobyte for each.
const receiveBuffer = 4 << 20

// bind ties a socket to an interface and lets it send from addresses that are on none.
func bind(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			if failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name); failed != nil {
				failed = fmt.Errorf("bind to %s: %w", name, failed)
				return
			}
			// What the kernel has no room for while this process waits for a processor would
			// be taken for loss. It may refuse; then there is room for some hundred.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
			for _, o := range []struct{ level, option int }{
				{unix.SOL_IPV6, unix.IPV6_FREEBIND}, {unix.SOL_IPV6, unix.IPV6_RECVPKTINFO},
				{unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT}, {unix.SOL_SOCKET, unix.SO_TIMESTAMPNS},
			} {
				if err := unix.SetsockoptInt(int(fd), o.level, o.option, 1); err != nil && failed == nil {
					failed = fmt.Errorf("set up the socket for probes, option %d of level %d: %w", o.option, o.level, err)
				}
			}
		})
		if err != nil {
			return err
		}
		return failed
	}
}

// controlSpace holds what the kernel tells of a datagram.
const controlSpace = 128

// control takes in what the kernel tells of a datagram that was read: where it was sent
// to, with which hop limit, and how long ago it came.
func (r *received) control(b []byte) {
	for len(b) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return
		}
		b = rest
		switch {
		case header.Level == unix.SOL_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= 16:
			r.to = netip.AddrFrom16([16]byte(data))
		case header.Level == unix.SOL_IPV6 && header.Type == unix.IPV6_HOPLIMIT && len(data) >= 4:
			r.hopLimit = uint8(binary.NativeEndian.Uint32(data))
		case header.Level == unix.SOL_SOCKET && header.Type == unix.SO_TIMESTAMPNS && len(data) >= 16:
			came := time.Unix(int64(binary.NativeEndian.Uint64(data)), int64(binary.NativeEndian.Uint64(data[8:])))
			// From the time of reading it has the monotonic clock; a clock that was set
			// meanwhile does not count.
			if age := r.at.Sub(came); age > 0 && age < time.Second {
				r.at = r.at.Add(-age)
			}
		}
	}
}
