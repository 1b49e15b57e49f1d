package userspace

import (
	"fmt"
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/dataplane"
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
	message := make([]byte, 0, len(nonESPMarker)+len(b))
	message = append(append(message, nonESPMarker...), b...)
	if err := s.plane.sendDatagram(local, remote, message); err != nil {
		return fmt.Errorf("send IKE message to %s: %w", remote, err)
	}
	return nil
}

// SendKeepAlive implements dataplane.IKESender.
func (s ikeSender) SendKeepAlive(local, remote netip.AddrPort) error {
	if err := s.plane.sendDatagram(local, remote, keepAlive); err != nil {
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

// sendDatagram sends one datagram without waiting.
func (p *Plane) sendDatagram(local, remote netip.AddrPort, b []byte) error {
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
	_, errno := p.socket.send(e, b, &c)
	if errno != 0 {
		return errno
	}
	return nil
}
