package userspace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// send sends b once, without waiting.
func (l *lane) send(e *endpoint, b []byte, c *control) (int, unix.Errno) {
	vec := unix.Iovec{Base: &b[0]}
	vec.SetLen(len(b))
	header := unix.Msghdr{Name: &e.name.raw[0], Namelen: e.name.length, Iov: &vec}
	header.SetIovlen(1)
	if c.n > 0 {
		header.Control = &c.buf[0]
		header.SetControllen(c.n)
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&header)), unix.MSG_NOSIGNAL)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// sendWait sends b and, if it may, waits for room in the socket's buffer. An error
// that an earlier datagram caused (ICMP) is not this one's: it is tried again.
func (l *lane) sendWait(e *endpoint, b []byte, c *control, wait bool) unix.Errno {
	_, errno := l.send(e, b, c)
	if errno == unix.ECONNREFUSED || errno == unix.EHOSTUNREACH || errno == unix.ENETUNREACH {
		_, errno = l.send(e, b, c)
	}
	if errno == unix.EAGAIN && wait {
		return l.sendParked(e, b, c)
	}
	return errno
}

// sendParked waits in the poller until b can be sent. It is apart from sendWait
// because its closure costs an allocation.
func (l *lane) sendParked(e *endpoint, b []byte, c *control) unix.Errno {
	var errno unix.Errno
	err := l.conn.Write(func(uintptr) bool {
		_, errno = l.send(e, b, c)
		return errno != unix.EAGAIN
	})
	if err != nil {
		return unix.ECANCELED // closing
	}
	return errno
}
