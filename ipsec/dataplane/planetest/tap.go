package planetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tap is the Wire between planes on two hosts: it looks at an Ethernet interface of A's
// that leads to B.
type Tap struct {
	fd   int
	file *os.File // owns fd
	conn syscall.RawConn

	mu                 sync.Mutex
	buf                []byte
	sent               [][]byte // of ESP and AH, as frames behind the header of virtio
	inClear, protected int
}

const (
	// natPort is where ESP in UDP goes to and comes from (RFC 3948).
	natPort = 4500

	vnetHeader, ethernetHeader = 10, 14
	protocolESP, protocolAH    = 50, 51
)

// OpenTap opens a tap on an interface of the network namespace of the calling thread.
func OpenTap(nic string) (*Tap, error) {
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in the order of the network
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	link, err := net.InterfaceByName(nic)
	if err == nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) // not in a user namespace
		// The header tells of checksums that the interface was to fill in, and is
		// given back when the packet is sent again.
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tap %s: %w", nic, err)
	}
	t := &Tap{fd: fd, file: os.NewFile(uintptr(fd), "tap"), buf: make([]byte, vnetHeader+ethernetHeader+65536)}
	if t.conn, err = t.file.SyscallConn(); err != nil {
		t.file.Close()
		return nil, fmt.Errorf("tap %s: %w", nic, err)
	}
	go t.run()
	return t, nil
}

// Close ends the tap.
func (t *Tap) Close() error { return t.file.Close() }

// run empties the socket before it is full, until it is closed.
func (t *Tap) run() {
	_ = t.conn.Read(func(uintptr) bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.drain()
		return false
	})
}

// drain takes what has passed so far; t.mu is held. What has arrived at the other end
// is here.
func (t *Tap) drain() {
	for {
		n, from, err := unix.Recvfrom(t.fd, t.buf, 0)
		link, ok := from.(*unix.SockaddrLinklayer)
		switch {
		case errors.Is(err, unix.EINVAL):
			// A super-packet of a kind that the header cannot tell, which a packet
			// in clear is not.
		case err != nil:
			return
		case ok && n > vnetHeader+ethernetHeader:
			t.note(t.buf[:n], link.Pkttype == unix.PACKET_OUTGOING)
		}
	}
}

func (t *Tap) note(b []byte, outgoing bool) {
	protected, legible := isProtected(b[vnetHeader:]), bytes.Contains(b, []byte(marker))
	switch {
	case legible && !protected:
		t.inClear++
	case legible && b[1] == unix.VIRTIO_NET_HDR_GSO_NONE:
		// Of a super-packet the memory is shown and not a copy, in which the kernel
		// of the other end may have decrypted it meanwhile.
		t.protected++
	}
	if protected && outgoing {
		t.sent = append(t.sent, bytes.Clone(b))
	}
}

// isProtected reports whether an Ethernet frame has AH or ESP in it, also in UDP, where
// IKE has no SPI (RFC 3948, Section 2.2).
func isProtected(frame []byte) bool {
	ip := frame[ethernetHeader:]
	var protocol uint8
	var rest []byte
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_IP && len(ip) >= 20 && len(ip) >= int(ip[0]&15)*4:
		protocol, rest = ip[9], ip[int(ip[0]&15)*4:]
	case kind == unix.ETH_P_IPV6 && len(ip) >= 40:
		for protocol, rest = ip[6], ip[40:]; isExtension(protocol) && len(rest) >= 8; {
			protocol, rest = rest[0], rest[min(8+int(rest[1])*8, len(rest)):]
		}
	}
	switch protocol {
	case protocolESP, protocolAH:
		return true
	case protocolUDP:
		return len(rest) > 16 && binary.BigEndian.Uint16(rest[2:]) == natPort && binary.BigEndian.Uint32(rest[8:]) != 0
	}
	return false
}

// Sent implements Wire.
func (t *Tap) Sent() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drain()
	return len(t.sent)
}

// Deliver implements Wire.
func (t *Tap) Deliver(n int) error {
	t.mu.Lock()
	frame := t.sent[n]
	t.mu.Unlock()
	if _, err := unix.Write(t.fd, frame); err != nil {
		return fmt.Errorf("send packet %d again: %w", n, err)
	}
	return nil
}

// Legible implements Wire.
func (t *Tap) Legible() (inClear, protected int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drain()
	return t.inClear, t.protected
}
