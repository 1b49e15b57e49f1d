package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
)

// cable joins two gateways and can hold up IKE: messages that
// cross do so because they are on it at the same time, not by luck. ESP always
// passes.
type cable struct {
	mu    sync.Mutex
	hold  [2]bool // what comes from this side
	held  [2][][]byte
	ends  [2]*os.File
	drops [2]uint32
	// leaked counts packets that were not protected, by the end that sent them.
	leaked [2]int
	passed [2][]passage
}

// newCable puts the cable into a namespace between the two, with the interfaces of
// which it forwards frames as they are.
func newCable(ns *lab.Namespace, ours, theirs string) (*cable, error) {
	c := &cable{}
	for i, name := range []string{ours, theirs} {
		err := ns.Do(func() (err error) {
			c.ends[i], err = openPacket(name)
			return err
		})
		if err != nil {
			c.close()
			return nil, err
		}
	}
	go c.forward(0)
	go c.forward(1)
	return c, nil
}

func (c *cable) close() {
	for _, f := range c.ends {
		if f != nil {
			f.Close()
		}
	}
}

// openPacket takes and gives frames of an interface, with the header that says
// what is left of checksums and segmentation.
func openPacket(name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	fail := func(err error) (*os.File, error) {
		unix.Close(fd)
		return nil, fmt.Errorf("packet socket on %s: %w", name, err)
	}
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			return fail(err)
		}
	}
	// Room for what comes while a busy machine runs others.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, labBuffer); err != nil {
		return fail(err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return fail(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return fail(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: int(request.Uint32())}); err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

func (c *cable) forward(from int) {
	b := make([]byte, 70000)
	for {
		n, err := c.ends[from].Read(b)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		c.mu.Lock()
		if isClear(b[:n]) {
			c.leaked[from]++
		}
		if p, is := readPassage(b[:n]); is {
			c.passed[from] = append(c.passed[from], p)
		}
		if c.hold[from] && isIKE(b[:n]) {
			c.held[from] = append(c.held[from], append([]byte(nil), b[:n]...))
			c.mu.Unlock()
			continue
		}
		c.mu.Unlock()
		c.ends[1-from].Write(b[:n])
	}
}

// labBuffer is how much the sockets of the lab keep, in octets: seconds of what
// flows. What is lost there would be taken for a loss of the gateways.
const labBuffer = 8 << 20

// dropped is how many frames came too fast for the cable, in all.
func (c *cable) dropped() (n uint32) {
	for i, f := range c.ends {
		if raw, err := f.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				if stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
					c.drops[i] += stats.Drops // reading resets them
				}
			})
		}
		n += c.drops[i]
	}
	return n
}

const vnetHeader = 10 // struct virtio_net_hdr

// isIKE tells IKE on port 500, and on port 4500 by the non-ESP marker.
func isIKE(frame []byte) bool {
	const udp = vnetHeader + 14 + 20
	if len(frame) < udp+12 || frame[vnetHeader+14] != 0x45 || frame[vnetHeader+14+9] != unix.IPPROTO_UDP {
		return false
	}
	source, dest := binary.BigEndian.Uint16(frame[udp:]), binary.BigEndian.Uint16(frame[udp+2:])
	switch {
	case source == 500 || dest == 500:
		return true
	case source == 4500 || dest == 4500:
		return binary.BigEndian.Uint32(frame[udp+8:]) == 0
	}
	return false
}

// isClear tells packets of the LANs, which have addresses in 10.0.0.0/8, and of the
// traffic of the test.
func isClear(frame []byte) bool {
	const ip = vnetHeader + 14
	if len(frame) < ip+24 || frame[ip]>>4 != 4 {
		return false
	}
	return frame[ip+12] == 10 || frame[ip+9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(frame[ip+22:]) == flowPort
}

// clear is how many packets of an end passed that should have been protected.
func (c *cable) clear(s side) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leaked[s]
}

// holdUp keeps the IKE messages of the named sides.
func (c *cable) holdUp(sides ...side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range sides {
		c.hold[s] = true
	}
}

// has reports how many messages of a side are held up.
func (c *cable) has(s side) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held[s])
}

// release lets the first message of each held side go; repetitions are dropped.
func (c *cable) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.hold {
		c.hold[i] = false
		if len(c.held[i]) > 0 {
			c.ends[1-i].Write(c.held[i][0])
		}
		c.held[i] = nil
	}
}
