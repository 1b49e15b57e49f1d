package xfrm

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// streamProtocol is what the kernel calls ESP in TCP, as a protocol above that of a
// connection (TCP_ULP, since Linux 5.6).
const streamProtocol = "espintcp"

// TakesStreams implements dataplane.StreamTaker.
func (p *Plane) TakesStreams() error { return p.able.noStreams }

// TakeStream implements dataplane.StreamTaker.
func (p *Plane) TakeStream(conn net.Conn, message time.Duration) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return fmt.Errorf("have the kernel take ESP out of a connection: a %T has no socket", conn)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	ctl := raw.Control(func(fd uintptr) {
		if err = limitMessages(int(fd), message); err == nil {
			err = takeStream(int(fd))
		}
	})
	return errors.Join(ctl, err)
}

// limitMessages has the kernel report ETIMEDOUT of a connection in which a message takes
// longer. It looks at the limit where a message begins, so that it has to be there before.
func limitMessages(fd int, message time.Duration) error {
	limit := unix.NsecToTimeval(message.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return fmt.Errorf("limit the time of a message in a TCP connection: %w", err)
	}
	return nil
}

func takeStream(fd int) error {
	if err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_ULP, streamProtocol); err != nil {
		return fmt.Errorf("have the kernel take ESP out of a TCP connection: %w", err)
	}
	return nil
}

// tryStreams says why this kernel has no ESP in TCP: it takes a socket, and an SA that is
// removed at once.
func (c *conn) tryStreams() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open TCP socket: %w", err)
	}
	defer unix.Close(fd)
	if err := takeStream(fd); err != nil {
		return fmt.Errorf("this kernel is built without ESP in TCP (CONFIG_INET_ESPINTCP): %w", err)
	}
	s, err := trialState(dataplane.MinSPI)
	if err != nil {
		return err
	}
	s.encap = &encap{encapESPInTCP, DefaultPort, DefaultPort}
	if err := firstError(c.send(s.newState(), s.ask(nl.XFRM_MSG_DELSA))); err != nil {
		return fmt.Errorf("an SA with ESP in TCP: %w", err)
	}
	return nil
}

// checkStream says why an SA cannot go in a TCP connection.
func (p *Plane) checkStream(sa *dataplane.SA) error {
	switch {
	case !sa.TCP:
		return nil
	case p.able.noStreams != nil:
		return fmt.Errorf("%w: use the userspace data plane, or UDP", p.able.noStreams)
	case sa.Suite.AH:
		return errors.New("AH goes in neither UDP nor TCP (RFC 7296, Section 2.23): no NAT may be on its way")
	case sa.Mode == dataplane.Transport:
		return errors.New("in transport mode the kernel's policies would take the TCP connection itself: use tunnel mode or the userspace data plane, or UDP")
	}
	return nil
}
