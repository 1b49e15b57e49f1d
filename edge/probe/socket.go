package probe

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// bind ties a socket to an interface and lets it send from addresses that are on none.
func bind(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			if failed = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name); failed != nil {
				failed = fmt.Errorf("bind to %s: %w", name, failed)
				return
			}
			if failed = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1); failed != nil {
				failed = fmt.Errorf("send from addresses of probes: %w", failed)
			}
		})
		if err != nil {
			return err
		}
		return failed
	}
}
