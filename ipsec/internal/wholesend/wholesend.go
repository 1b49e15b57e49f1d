// Package wholesend sends datagrams that nobody on the way may fragment, from sockets
// whose other datagrams may be.
package wholesend

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Do calls send while what the UDP socket fd sends leaves whole, with Don't Fragment, by
// the MTU of the interface and not by what the host has learnt of the path. The caller
// sees to it that nothing else is sent from the socket meanwhile: IPv4 has no way to ask
// for this once (ip(7), IP_MTU_DISCOVER). v6 is for a socket of IPv6, which may carry IPv4
// as well.
func Do(fd int, v6 bool, send func() error) (err error) {
	options := []option{{unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE}}
	if v6 {
		options = append(options, option{unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE})
	}
	for _, o := range options {
		before, getErr := unix.GetsockoptInt(fd, o.level, o.name)
		if err := errors.Join(getErr, unix.SetsockoptInt(fd, o.level, o.name, o.probe)); err != nil {
			return os.NewSyscallError("IP_MTU_DISCOVER", err)
		}
		defer func() { err = errors.Join(err, unix.SetsockoptInt(fd, o.level, o.name, before)) }()
	}
	return send()
}

type option struct{ level, name, probe int }
