package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// UDPLoad is a stream of numbered datagrams of one length from one host to another.
// It costs less than a tunnel does: datagrams leave many in a system call, each by
// itself all the same as those of many programs would, and are received merged
// (UDP_GRO) into a large buffer.
type UDPLoad struct {
	From, To *Namespace
	Flows    []UDPFlow // which take turns; at least one
	Size     int       // octets of payload, 16 to 65,507
	Rate     float64   // datagrams a second, 0 for as many as there can be
	// Window is how many datagrams are under way at most, 0 for any number. With one
	// that fits every queue on the path, none is lost for want of room, however busy
	// the machine is.
	Window int
}

// UDPFlow is where datagrams come from and go to: addresses of IPv4 that their
// hosts have.
type UDPFlow struct{ Source, Destination netip.Addr }

// UDPResult counts datagrams. If as many were received as were sent and none was
// late, each arrived once and in order.
type UDPResult struct {
	Sent, Received uint64
	Late           uint64        // received after one that was sent after it, or again
	Took           time.Duration // to send
	// Latency is from before the system call that sent a datagram to after the one
	// that received it.
	Latency dataplane.LatencySnapshot
}

// Loss is the part of the datagrams that did not arrive, 0 to 1.
func (r UDPResult) Loss() float64 {
	if r.Sent == 0 {
		return 0
	}
	return 1 - float64(r.Received)/float64(r.Sent)
}

// Rate is how many datagrams arrived, in each second of sending.
func (r UDPResult) Rate() float64 { return float64(r.Received) / r.Took.Seconds() }

const (
	// udpHeader is what each datagram begins with: its number, and when it was sent
	// in nanoseconds since the receiver was made.
	udpHeader = 16

	udpBatch = 64 // datagrams in a system call
	udpSlabs = 16 // messages received in a system call
	// udpLag is by how many datagrams a sender that had to wait may be late: more
	// would make a burst that no queue takes.
	udpLag = 128
	// udpNap is how long a sender that is ahead sleeps at least.
	udpNap = 50 * time.Microsecond
	// udpQuiet is how long nothing arrives before what has not is lost.
	udpQuiet  = 200 * time.Millisecond
	udpBuffer = 16 << 20 // of the receiving socket, octets
)

// Run sends until ctx is done and waits for what is under way.
func (l UDPLoad) Run(ctx context.Context) (UDPResult, error) {
	if len(l.Flows) == 0 || l.Size < udpHeader {
		return UDPResult{}, fmt.Errorf("load of %d flows with datagrams of %d octets: give one flow and %d octets at least", len(l.Flows), l.Size, udpHeader)
	}
	receiver, err := l.newReceiver()
	if err != nil {
		return UDPResult{}, fmt.Errorf("receive UDP in %s: %w", l.To.Name, err)
	}
	defer unix.Close(receiver.fd)
	sender, err := l.newSender(receiver)
	if err != nil {
		return UDPResult{}, fmt.Errorf("send UDP from %s: %w", l.From.Name, err)
	}
	defer unix.Close(sender.fd)
	received := make(chan error, 1)
	go func() { received <- receiver.run() }()
	start := time.Now()
	err = sender.run(ctx)
	took := time.Since(start)
	receiver.expected.Store(int64(sender.sent))
	err = errors.Join(err, <-received)
	return UDPResult{
		Sent: sender.sent, Received: receiver.received.Load(), Late: receiver.late, Took: took, Latency: receiver.latency.Snapshot(),
	}, err
}

// udpMessage is struct mmsghdr.
type udpMessage struct {
	header unix.Msghdr
	n      uint32
	_      [4]byte
}

// mmsg sends or receives messages and says how many.
func mmsg(call uintptr, fd int, m []udpMessage, flags int) (int, error) {
	n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(flags), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// openUDP opens a socket on a port of its own.
func openUDP(ns *Namespace) (fd, port int, err error) {
	err = ns.Do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = unix.Bind(fd, &unix.SockaddrInet4{})
		var name unix.Sockaddr
		if err == nil {
			name, err = unix.Getsockname(fd)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		port = name.(*unix.SockaddrInet4).Port
		return nil
	})
	return fd, port, err
}

// udpReceiver counts.
type udpReceiver struct {
	fd, port int
	size     int
	made     time.Time
	messages [udpSlabs]udpMessage
	slabs    [udpSlabs][]byte
	vecs     [udpSlabs]unix.Iovec
	received atomic.Uint64
	expected atomic.Int64 // how many were sent, once that is known; -1 before
	next     uint64       // the number after the highest received
	late     uint64
	latency  dataplane.Latency
}

func (l UDPLoad) newReceiver() (*udpReceiver, error) {
	r := &udpReceiver{size: l.Size, made: time.Now()}
	r.expected.Store(-1)
	for i := range r.slabs {
		r.slabs[i] = make([]byte, 65536)
		r.vecs[i].Base = &r.slabs[i][0]
		r.vecs[i].SetLen(len(r.slabs[i]))
		r.messages[i].header.Iov = &r.vecs[i]
		r.messages[i].header.SetIovlen(1)
	}
	var err error
	if r.fd, r.port, err = openUDP(l.To); err != nil {
		return nil, err
	}
	unix.SetsockoptInt(r.fd, unix.SOL_UDP, unix.UDP_GRO, 1) // Linux 5.0; without it one datagram at a time comes
	if unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer) // in a user namespace
	}
	timeout := unix.NsecToTimeval(int64(udpQuiet / 4))
	if err := unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(r.fd)
		return nil, err
	}
	return r, nil
}

// run receives until all that was sent has arrived, or nothing arrives any more.
func (r *udpReceiver) run() error {
	last := time.Now()
	for {
		n, err := mmsg(unix.SYS_RECVMMSG, r.fd, r.messages[:], unix.MSG_WAITFORONE)
		switch {
		case err == nil:
			r.take(n)
			last = time.Now()
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("receive UDP: %w", err)
		}
		expected := r.expected.Load()
		if expected >= 0 && (int64(r.received.Load()) >= expected || time.Since(last) > udpQuiet) {
			return nil
		}
	}
}

// take counts the datagrams of n messages: all are equally long, also merged ones.
func (r *udpReceiver) take(n int) {
	var count uint64
	now := time.Since(r.made)
	for i, m := range r.messages[:n] {
		for b := r.slabs[i][:m.n]; len(b) >= r.size; b = b[r.size:] {
			number := binary.BigEndian.Uint64(b)
			if number < r.next {
				r.late++
			} else {
				r.next = number + 1
			}
			r.latency.Observe(now - time.Duration(binary.BigEndian.Uint64(b[8:])))
			count++
		}
	}
	r.received.Add(count)
}

// udpSender numbers datagrams and sends them at a rate.
type udpSender struct {
	load     UDPLoad
	fd       int
	receiver *udpReceiver
	sent     uint64
	messages [udpBatch]udpMessage
	payloads [udpBatch][]byte
	vecs     [udpBatch]unix.Iovec
	names    []unix.RawSockaddrInet4 // of each flow
	controls [][]byte
}

func (l UDPLoad) newSender(to *udpReceiver) (*udpSender, error) {
	s := &udpSender{load: l, receiver: to}
	for i := range s.messages {
		s.payloads[i] = make([]byte, l.Size)
		s.vecs[i].Base = &s.payloads[i][0]
		s.vecs[i].SetLen(l.Size)
		s.messages[i].header.Iov = &s.vecs[i]
		s.messages[i].header.SetIovlen(1)
	}
	for _, f := range l.Flows {
		name := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: f.Destination.As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name.Port))[:], uint16(to.port))
		s.names = append(s.names, name)
		s.controls = append(s.controls, unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: f.Source.As4()}))
	}
	var err error
	s.fd, _, err = openUDP(l.From)
	return s, err
}

// run has a thread of its own, whose sleeps are as short as they are meant to be. The
// thread ends with the goroutine.
func (s *udpSender) run(ctx context.Context) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		start := time.Now()
		var forgiven float64 // datagrams for which it was too late
		for err == nil && ctx.Err() == nil {
			n := udpBatch
			if s.load.Rate > 0 {
				due := s.load.Rate*time.Since(start).Seconds() - float64(s.sent) - forgiven
				forgiven += max(0, due-udpLag)
				n = min(n, int(due))
			}
			if s.load.Window > 0 {
				n = min(n, s.load.Window-int(s.sent-s.receiver.received.Load()))
			}
			before := s.sent
			if n > 0 {
				err = s.send(n)
			}
			if s.sent > before {
				continue
			}
			nap := unix.NsecToTimespec(int64(udpNap))
			unix.Nanosleep(&nap, nil)
		}
		result <- err
	}()
	return <-result
}

// send sends n datagrams, each to the next flow, or as many as the socket has room
// for.
func (s *udpSender) send(n int) error {
	now := time.Since(s.receiver.made)
	for i := range n {
		number := s.sent + uint64(i)
		binary.BigEndian.PutUint64(s.payloads[i], number)
		binary.BigEndian.PutUint64(s.payloads[i][8:], uint64(now))
		flow := number % uint64(len(s.names))
		h := &s.messages[i].header
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.names[flow])), unix.SizeofSockaddrInet4
		h.Control = &s.controls[flow][0]
		h.SetControllen(len(s.controls[flow]))
	}
	sent, err := mmsg(unix.SYS_SENDMMSG, s.fd, s.messages[:n], unix.MSG_DONTWAIT)
	if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("send UDP from %s: %w", s.load.From.Name, err)
	}
	s.sent += uint64(sent)
	return nil
}
