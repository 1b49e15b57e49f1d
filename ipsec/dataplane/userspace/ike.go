package userspace

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/internal/wholesend"
)

// maxIKEMessage is what SendIKE takes, in octets.
const maxIKEMessage = 65000

// nonESPMarker stands before IKE messages where an SPI would be (RFC 3948,
// Section 2.2).
var nonESPMarker = []byte{0, 0, 0, 0}

// keepAlive is the whole of a NAT keepalive (RFC 3948, Section 2.3).
var keepAlive = []byte{0xff}

// ikeSender implements dataplane.IKESender on the plane's socket.
type ikeSender struct{ plane *Plane }

// SendIKE implements dataplane.IKESender.
func (s ikeSender) SendIKE(local, remote netip.AddrPort, b []byte) error {
	if len(b) > maxIKEMessage {
		return fmt.Errorf("send IKE message of %d octets to %s: at most %d fit", len(b), remote, maxIKEMessage)
	}
	if err := s.plane.sendDatagram(local, remote, marked(b), false); err != nil {
		return fmt.Errorf("send IKE message to %s: %w", remote, err)
	}
	return nil
}

// marked is an IKE message behind the non-ESP marker.
func marked(b []byte) []byte {
	message := make([]byte, 0, len(nonESPMarker)+len(b))
	return append(append(message, nonESPMarker...), b...)
}

// SendProbe implements dataplane.IKESender.
func (s ikeSender) SendProbe(local, remote netip.AddrPort, b []byte) error {
	err := s.plane.sendDatagram(local, remote, marked(b), true)
	if errors.Is(err, unix.EMSGSIZE) {
		err = dataplane.ErrTooLong
	}
	if err != nil {
		return fmt.Errorf("send probe of %d octets to %s: %w", len(b), remote, err)
	}
	return nil
}

// SendKeepAlive implements dataplane.IKESender.
func (s ikeSender) SendKeepAlive(local, remote netip.AddrPort) error {
	if err := s.plane.sendDatagram(local, remote, keepAlive, false); err != nil {
		return fmt.Errorf("send NAT keepalive to %s: %w", remote, err)
	}
	return nil
}

// LocalFor implements dataplane.IKESender.
func (s ikeSender) LocalFor(remote netip.Addr) (netip.AddrPort, error) {
	p := s.plane
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return netip.AddrPort{}, dataplane.ErrClosed
	}
	remote = remote.Unmap()
	if !p.socket.reaches(remote) {
		return netip.AddrPort{}, fmt.Errorf("find source for %s: the NAT traversal port listens on %s only", remote, p.socket.local)
	}
	if a := p.socket.local.Addr(); !a.IsUnspecified() {
		return netip.AddrPortFrom(a, p.socket.local.Port()), nil
	}
	source, err := p.socket.probes.source(remote)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find source for %s: %w", remote, err)
	}
	return netip.AddrPortFrom(source, p.socket.local.Port()), nil
}

// PathMTU implements dataplane.IKESender.
func (s ikeSender) PathMTU(remote netip.Addr) (int, error) {
	p := s.plane
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, dataplane.ErrClosed
	}
	mtu, err := p.socket.probes.mtu(remote.Unmap())
	if err != nil {
		return 0, fmt.Errorf("find path MTU to %s: %w", remote, err)
	}
	return mtu, nil
}

// sendDatagram sends one datagram without waiting; whole as dataplane.IKESender's
// SendProbe has it. What is sent by lanes does not notice.
func (p *Plane) sendDatagram(local, remote netip.AddrPort, b []byte, whole bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.ErrClosed
	}
	if !p.socket.reaches(remote.Addr()) {
		return fmt.Errorf("the NAT traversal port listens on %s only", p.socket.local)
	}
	e := p.socket.newEndpoint(local, remote, false)
	var c control
	c.addSource(p.socket.family, e.local.Addr())
	send := func() error {
		if _, errno := p.socket.send(e, b, &c); errno != 0 {
			return errno
		}
		return nil
	}
	if whole {
		return wholesend.Do(p.socket.fd, p.socket.family == unix.AF_INET6, send)
	}
	return send()
}
