package wan

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Line joins two interfaces of a network namespace as a cable does that has Conditions.
type Line struct {
	ports [2]*port
	wg    sync.WaitGroup

	mu     sync.Mutex
	paths  [2]*path // into ports[1] and into ports[0]
	wake   chan struct{}
	closed chan struct{}
}

// port is an interface of which all frames are read.
type port struct {
	file *os.File
	raw  interface {
		Read(func(uintptr) bool) error
	}
	index int
}

// maxFrame is the longest that the kernel hands over as one, with offload, and its header.
const maxFrame = 1<<16 + 256

// Join joins interfaces a and b of the namespace of the calling thread. They are to have
// no addresses. The same seed loses the same frames of the same sequence.
func Join(a, b string, seed uint64) (*Line, error) {
	l := &Line{paths: [2]*path{newPath(seed), newPath(seed + 1)}, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	for i, name := range []string{a, b} {
		p, err := openPort(name)
		if err != nil {
			return nil, errors.Join(err, l.ports[0].close())
		}
		l.ports[i] = p
	}
	l.wg.Go(func() { l.read(0) })
	l.wg.Go(func() { l.read(1) })
	l.wg.Go(l.deliver)
	return l, nil
}

// Set makes the conditions those from a to b. Frames that are on their way are not affected.
func (l *Line) Set(ab, ba Conditions) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paths[0].is, l.paths[1].is = ab, ba
}

// Counters returns what became of the frames from a to b and back.
func (l *Line) Counters() (ab, ba Counters) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paths[0].counters, l.paths[1].counters
}

// Close takes the cable away.
func (l *Line) Close() error {
	close(l.closed)
	err := errors.Join(l.ports[0].close(), l.ports[1].close())
	l.wg.Wait()
	return err
}

// read puts what comes in by a port on its way.
func (l *Line) read(from int) {
	buf := make([]byte, maxFrame)
	for {
		n, err := l.ports[from].receive(buf)
		if err != nil {
			return
		}
		l.mu.Lock()
		l.paths[from].put(time.Now(), append([]byte(nil), buf[:n]...))
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// deliver sends what has arrived.
func (l *Line) deliver() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.closed:
			return
		case <-l.wake:
		case <-timer.C:
		}
		now, wait := time.Now(), time.Hour
		var out [2][][]byte
		l.mu.Lock()
		for i, p := range l.paths {
			out[1-i] = p.due(now)
			if at, ok := p.next(); ok {
				wait = min(wait, at.Sub(now))
			}
		}
		l.mu.Unlock()
		for i, frames := range out {
			for _, f := range frames {
				_, _ = l.ports[i].file.Write(f) // a port that is down loses it, as a cable would
			}
		}
		timer.Reset(wait)
	}
}

// openPort opens an interface. Each frame has a virtio header before it, which says what
// offload left undone: without it checksums would be wrong and long frames refused.
func openPort(name string) (*port, error) {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", name, err)
	}
	protocol := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifc.Index}),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(ifc.Index), Type: unix.PACKET_MR_PROMISC}),
	)
	file := os.NewFile(uintptr(fd), name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read all frames of %s: %w", name, err), file.Close())
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &port{file: file, raw: raw, index: ifc.Index}, nil
}

func (p *port) close() error {
	if p == nil {
		return nil
	}
	return p.file.Close()
}

// receive reads a frame. A link that is down for a moment is waited for.
func (p *port) receive(buf []byte) (n int, err error) {
	for {
		failed := p.raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buf)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case failed != nil:
			return 0, failed
		case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EINTR):
			continue
		default:
			return n, err
		}
	}
}
