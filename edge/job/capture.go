package job

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	captureTime    = 10 * time.Second
	capturePackets = 1000
	captureSnap    = 128
	// Bounds of what the controller may ask for, which it checks too.
	maxCaptureTime = 5 * time.Minute
	maxPackets     = 10_000
	// captureBuffer is what the kernel keeps of packets that were not read yet, in octets.
	captureBuffer = 4 << 20
)

func (r *Runner) capture(t *swanherdv1.CaptureTask) (work, time.Duration, error) {
	length := captureTime
	if t.GetDuration() != nil {
		length = min(max(t.GetDuration().AsDuration(), 100*time.Millisecond), maxCaptureTime)
	}
	at, err := r.captureAt(t)
	if err != nil {
		return nil, 0, err
	}
	s, err := openSniffer(at, t)
	if err != nil {
		return nil, 0, fmt.Errorf("record packets at %s: %w", at.Interface, err)
	}
	do := func(ctx context.Context) *swanherdv1.JobReport {
		defer s.file.Close()
		ctx, cancel := context.WithTimeoutCause(ctx, length, errTimeIsUp)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		result, err := s.run(min(cmp.Or(int(t.GetMaxPackets()), capturePackets), maxPackets))
		if err != nil {
			return failed(fmt.Errorf("record packets at %s: %w", at.Interface, err))
		}
		return &swanherdv1.JobReport{Output: s.pcap, Result: &swanherdv1.JobReport_CaptureResult{CaptureResult: result}}
	}
	return do, length + workLimit, nil
}

var errTimeIsUp = errors.New("the time of the capture is up")

// captureAt is the interface at which packets are recorded.
func (r *Runner) captureAt(t *swanherdv1.CaptureTask) (Place, error) {
	if t.GetUplink() == "" {
		return r.place(t.GetSegment())
	}
	name, ok := r.cfg.Uplink(t.GetUplink())
	if !ok {
		return Place{}, fmt.Errorf("this edge has no uplink %q", t.GetUplink())
	}
	return Place{Interface: name}, nil
}

// A sniffer records packets of an interface into a file in the format of pcap.
type sniffer struct {
	file          *os.File
	pcap          []byte
	data, control []byte // of a packet: as much as is kept of each
}

// Link types of pcap, https://www.tcpdump.org/linktypes.html.
const (
	linkEthernet = 1
	linkRaw      = 101
)

// openSniffer opens a packet socket. It has no packets until it is bound, when the filter is there.
func openSniffer(at Place, t *swanherdv1.CaptureTask) (*sniffer, error) {
	program, err := filter(t)
	if err != nil {
		return nil, err
	}
	s := &sniffer{data: make([]byte, cmp.Or(int(t.GetSnapLength()), captureSnap)), control: make([]byte, 128)}
	err = at.enter(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open a packet socket: %w; it takes CAP_NET_RAW", err)
		}
		s.file = os.NewFile(uintptr(fd), "packets of "+at.Interface)
		if len(program) > 0 {
			raw := make([]unix.SockFilter, len(program))
			for i, in := range program {
				raw[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
			}
			if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}); err != nil {
				return fmt.Errorf("attach the filter: %w", err)
			}
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer) // without it there is room for less
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return fmt.Errorf("ask for times: %w", err)
		}
		i, err := net.InterfaceByName(at.Interface)
		if err != nil {
			return err
		}
		s.begin(linkType(i))
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: i.Index})
	})
	if err != nil && s.file != nil {
		s.file.Close()
	}
	return s, err
}

// linkType is how packets of an interface begin: with an Ethernet header, as those of
// interfaces with addresses of that layer, or with the IP header.
func linkType(i *net.Interface) uint32 {
	if len(i.HardwareAddr) == 6 || i.Flags&net.FlagLoopback != 0 {
		return linkEthernet
	}
	return linkRaw
}

func bigEndian(v uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v))
}

// begin writes the header of the file, whose times are in nanoseconds.
func (s *sniffer) begin(link uint32) {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b23c4d)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.data)))
	s.pcap = binary.LittleEndian.AppendUint32(b, link)
}

// record adds a packet, of which data is the beginning, and says whether there was room.
func (s *sniffer) record(at time.Time, data []byte, length int) bool {
	const header = 16
	if len(s.pcap)+header+len(data) > maxOutput {
		return false
	}
	b := binary.LittleEndian.AppendUint32(s.pcap, uint32(at.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(at.Nanosecond()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, uint32(length))
	s.pcap = append(b, data...)
	return true
}

// run records packets until there are enough, or a deadline of the file has passed; what is in the
// socket by then is recorded too.
func (s *sniffer) run(most int) (*swanherdv1.CaptureResult, error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	out := &swanherdv1.CaptureResult{}
	read := raw.Read
	atOnce := func(f func(fd uintptr) bool) error { return raw.Control(func(fd uintptr) { f(fd) }) }
	for !out.GetFull() {
		var again bool // there is nothing now
		var rerr error
		err := read(func(fd uintptr) bool {
			again, rerr = s.take(int(fd), out, most)
			return !again
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			read = atOnce
		case err != nil || rerr != nil:
			return nil, cmp.Or(err, rerr)
		case again:
			return out, s.count(out)
		}
	}
	return out, s.count(out)
}

// take records the next packet of the socket, if there is one.
func (s *sniffer) take(fd int, out *swanherdv1.CaptureResult, most int) (again bool, _ error) {
	n, controls, _, _, err := unix.Recvmsg(fd, s.data, s.control, unix.MSG_TRUNC) // n is the packet's length
	switch {
	case errors.Is(err, unix.EAGAIN):
		return true, nil
	case errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, err
	}
	if !s.record(arrival(s.control[:controls]), s.data[:min(n, len(s.data))], n) {
		out.Full = true
		return false, nil
	}
	out.Packets++
	out.Full = int(out.GetPackets()) == most
	return false, nil
}

// arrival is when the kernel had a packet; now, if it does not say.
func arrival(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err == nil {
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= 16 {
				return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
			}
		}
	}
	return time.Now()
}

// count takes in how many packets the kernel had no room for.
func (s *sniffer) count(out *swanherdv1.CaptureResult) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		if stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			out.Dropped = int64(stats.Drops)
		}
	})
}
