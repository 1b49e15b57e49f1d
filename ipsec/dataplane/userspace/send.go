package userspace

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// messageTo is the header of a message to e with the octets of vec.
func messageTo(e *endpoint, vec *unix.Iovec, c *control) unix.Msghdr {
	h := unix.Msghdr{Name: &e.name.raw[0], Namelen: e.name.length, Iov: vec}
	h.SetIovlen(1)
	if c.n > 0 {
		h.Control = &c.buf[0]
		h.SetControllen(c.n)
	}
	return h
}

// send sends b once, without waiting.
func (l *lane) send(e *endpoint, b []byte, c *control) (int, unix.Errno) {
	vec := unix.Iovec{Base: &b[0]}
	vec.SetLen(len(b))
	header := messageTo(e, &vec, c)
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&header)), unix.MSG_NOSIGNAL)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// sendMany sends messages, without waiting, and returns how many have left; an error if
// not even the first.
func (l *lane) sendMany(messages []message) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), unix.MSG_NOSIGNAL, 0, 0)
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

// sendPatience is how long who waits for room does not look whether the plane closes, in
// milliseconds.
const sendPatience = 50

// sendParked waits until b can be sent. It is apart from sendWait because what it asks
// the kernel with costs an allocation.
func (l *lane) sendParked(e *endpoint, b []byte, c *control) unix.Errno {
	for !l.closing.Load() {
		// An error is the socket's, which sending finds as well.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLOUT}}, sendPatience)
		if _, errno := l.send(e, b, c); errno != unix.EAGAIN {
			return errno
		}
	}
	return unix.ECANCELED
}
