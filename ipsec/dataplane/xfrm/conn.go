package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// batchRequests bounds how many requests go to the kernel in one call; their
	// answers must fit the socket's buffer.
	batchRequests = 64
	// answerWait bounds the wait for the kernel, which answers within the call
	// that sends.
	answerWait = 10 * time.Second
	connBuffer = 4 << 20
)

// conn is a netlink socket of the XFRM family in the network namespace in which
// it was opened. The library opens one for each request, and does not send several
// requests in one call; 10,000 SAs want both otherwise.
type conn struct {
	mu   sync.Mutex
	fd   int
	port uint32 // that the kernel knows the socket by, and tells of what came from it
	seq  uint32
	buf  []byte
}

// request is one message to the kernel.
type request struct {
	kind  nl.XfrmMsgType
	flags uint16
	body  []byte
}

// answer is what the kernel said: its error, and the body of the message that it
// sent before, if it was asked for one.
type answer struct {
	err  error
	body []byte
}

func openConn() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_XFRM)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket for XFRM: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, connBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, connBuffer)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	// Acknowledgements say what is wrong, and do not carry keys back.
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	wait := unix.NsecToTimeval(answerWait.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	var self unix.Sockaddr
	if err == nil {
		self, err = unix.Getsockname(fd)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare netlink socket for XFRM: %w", err)
	}
	return &conn{fd: fd, port: self.(*unix.SockaddrNetlink).Pid, buf: make([]byte, 1<<16)}, nil
}

func (c *conn) close() { unix.Close(c.fd) }

// send sends requests, in order and in few calls, and returns an answer for each.
// It zeroes their bodies, as some have keys.
func (c *conn) send(requests ...request) []answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	answers := make([]answer, len(requests))
	for done := 0; done < len(requests); {
		n := min(batchRequests, len(requests)-done)
		c.batch(requests[done:done+n], answers[done:done+n])
		done += n
	}
	return answers
}

// do sends one request.
func (c *conn) do(r request) ([]byte, error) {
	a := c.send(r)[0]
	return a.body, a.err
}

// firstError returns the first error of several answers.
func firstError(answers []answer) error {
	for _, a := range answers {
		if a.err != nil {
			return a.err
		}
	}
	return nil
}

// batch sends requests in one call and waits until all are acknowledged.
func (c *conn) batch(requests []request, answers []answer) {
	first := c.seq + 1
	var out []byte
	for _, r := range requests {
		c.seq++
		out = c.appendMessage(out, r, unix.NLM_F_ACK)
		clear(r.body)
	}
	err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	clear(out) // it has keys
	if err != nil {
		for i := range answers {
			answers[i].err = fmt.Errorf("ask the kernel: %w", err)
		}
		return
	}
	for waiting := len(requests); waiting > 0; {
		err := c.receive(func(h header, body []byte) {
			i := int(h.seq - first)
			if h.seq < first || i >= len(answers) {
				return // of a call that gave up
			}
			if h.kind != unix.NLMSG_ERROR {
				answers[i].body = append([]byte(nil), body...)
				return
			}
			answers[i].err = errorOf(h, body)
			waiting--
		})
		if err != nil {
			for i := range answers {
				answers[i].err = errors.Join(answers[i].err, fmt.Errorf("hear from the kernel: %w", err))
			}
			return
		}
	}
}

// dump asks for a list and calls each with the body of every
// entry, which is valid during the call.
func (c *conn) dump(kind nl.XfrmMsgType, body []byte, each func(body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	seq := c.seq
	out := c.appendMessage(nil, request{kind: kind, body: body}, unix.NLM_F_DUMP)
	if err := unix.Sendto(c.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	for done := false; !done; {
		var failed error
		err := c.receive(func(h header, body []byte) {
			switch {
			case h.seq != seq:
			case h.kind == unix.NLMSG_DONE:
				done = true
			case h.kind == unix.NLMSG_ERROR:
				done, failed = true, errorOf(h, body)
			default:
				each(body)
			}
		})
		if err = errors.Join(err, failed); err != nil {
			return fmt.Errorf("list from the kernel: %w", err)
		}
	}
	return nil
}

// header is what matters of a nlmsghdr.
type header struct {
	kind, flags uint16
	seq         uint32
}

// receive reads once and calls each with every message. It may hold keys: they are
// zeroed.
func (c *conn) receive(each func(header, []byte)) error {
	n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(c.fd, c.buf, 0)
	}
	if err != nil {
		return err
	}
	eachMessage(c.buf[:n], each)
	clear(c.buf[:n])
	return nil
}

// eachMessage walks through what one read gave.
func eachMessage(b []byte, each func(header, []byte)) {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return
		}
		h := header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:])}
		each(h, b[unix.SizeofNlMsghdr:length])
		b = b[min(align(length), len(b)):]
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// appendMessage appends a request with the number that was last given out. Its port is in
// what the kernel tells others of it (km_event), who would not know otherwise whose it was.
func (c *conn) appendMessage(out []byte, r request, flags uint16) []byte {
	out = binary.NativeEndian.AppendUint32(out, uint32(unix.SizeofNlMsghdr+len(r.body)))
	out = binary.NativeEndian.AppendUint16(out, uint16(r.kind))
	out = binary.NativeEndian.AppendUint16(out, unix.NLM_F_REQUEST|flags|r.flags)
	out = binary.NativeEndian.AppendUint32(out, c.seq)
	out = binary.NativeEndian.AppendUint32(out, c.port)
	out = append(out, r.body...)
	return append(out, make([]byte, align(len(out))-len(out))...)
}

// kernelError is an error of the kernel with what it says beside the number.
type kernelError struct {
	unix.Errno
	text string
}

func (e kernelError) Error() string {
	if e.text == "" {
		return e.Errno.Error()
	}
	return e.Errno.Error() + ": " + e.text
}

func (e kernelError) Unwrap() error { return e.Errno }

// errorOf reads an acknowledgement, nil if it is a good one.
func errorOf(h header, body []byte) error {
	if len(body) < 4+unix.SizeofNlMsghdr {
		return errors.New("the kernel's answer is too short")
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code == 0 {
		return nil
	}
	e := kernelError{Errno: unix.Errno(-code)}
	const capped, hasText, message = 0x100, 0x200, 1 // NLM_F_CAPPED, NLM_F_ACK_TLVS, NLMSGERR_ATTR_MSG
	rest := body[4+unix.SizeofNlMsghdr:]
	if h.flags&capped == 0 {
		asked := int(binary.NativeEndian.Uint32(body[4:])) - unix.SizeofNlMsghdr
		rest = rest[min(max(align(asked), 0), len(rest)):]
	}
	if h.flags&hasText != 0 {
		if text := parseAttributes(rest)[message]; len(text) > 1 {
			e.text = string(text[:len(text)-1])
		}
	}
	return e
}

// attributes are by type.
type attributes map[uint16][]byte

func parseAttributes(b []byte) attributes {
	out := attributes{}
	for len(b) >= unix.SizeofRtAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofRtAttr || length > len(b) {
			break
		}
		out[binary.NativeEndian.Uint16(b[2:])] = b[unix.SizeofRtAttr:length]
		b = b[min(align(length), len(b)):]
	}
	return out
}

func appendAttribute(out []byte, kind uint16, value []byte) []byte {
	out = binary.NativeEndian.AppendUint16(out, uint16(unix.SizeofRtAttr+len(value)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, value...)
	return append(out, make([]byte, align(len(out))-len(out))...)
}

// word is an attribute of 32 bits, 0 if it is missing.
func (a attributes) word(kind uint16) uint32 {
	if len(a[kind]) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(a[kind])
}
