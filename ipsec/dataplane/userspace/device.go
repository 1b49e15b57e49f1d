package userspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

const tunPath = "/dev/net/tun"

// device is a TUN interface with segmentation offload.
type device struct {
	intakes []*intake // one for each transmitter
	// outlet is a queue that is written alone, if there is one intake.
	outlet int
	name   string
	// mergeTCP and mergeUDP say that the kernel takes super-packets of that
	// protocol from us.
	mergeTCP, mergeUDP bool
}

// openDevice makes the interface for that many transmitters, configures it and brings
// it up.
func openDevice(name string, mtu, queueLength, transmitters int) (*device, error) {
	d := &device{name: name, outlet: -1}
	for range transmitters {
		if err := d.addIntake(); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	if transmitters == 1 {
		if err := d.addOutlet(); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	if err := d.configure(mtu, queueLength); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// addIntake makes the queues of one more transmitter, and the interface with the first.
func (d *device) addIntake() error {
	in, err := openIntake()
	if err != nil {
		return err
	}
	d.intakes = append(d.intakes, in)
	for range queuesOfIntake {
		first := !d.made()
		queue, err := d.openQueue()
		if err != nil {
			return err
		}
		if err := in.add(queue); err != nil {
			return err
		}
		if first {
			if err := d.offload(queue); err != nil {
				return err
			}
		}
	}
	return nil
}

// addOutlet makes a queue to write to that takes part in nothing else (IFF_DETACH_QUEUE).
func (d *device) addOutlet() (err error) {
	if d.outlet, err = d.openQueue(); err != nil {
		return err
	}
	request, err := unix.NewIfreq(d.name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_DETACH_QUEUE)
	if err := unix.IoctlIfreq(d.outlet, unix.TUNSETQUEUE, request); err != nil {
		return fmt.Errorf("detach a queue of %s: %w", d.name, err)
	}
	return nil
}

// outlets are the queues that one worker writes to. The kernel has what the other side of
// a flow sends come by the queue that its packets were written to last, so that several
// workers keep a connection each. With one that is of no use, and could have packets
// overtake others of their flow: a detached queue teaches the kernel nothing.
func (d *device) outlets(worker int) []int {
	if len(d.intakes) == 1 {
		return []int{d.outlet}
	}
	return d.intakes[worker].queues
}

// made reports whether there is the interface.
func (d *device) made() bool { return len(d.intakes) > 0 && len(d.intakes[0].queues) > 0 }

// openQueue makes the interface, or a further queue of it.
func (d *device) openQueue() (int, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w (load the tun module; run as root or with CAP_NET_ADMIN)", tunPath, err)
	}
	if err := d.attach(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (d *device) attach(fd int) error {
	request, err := unix.NewIfreq(d.name)
	if err != nil {
		return fmt.Errorf("interface name %q: %w (at most %d octets)", d.name, err, unix.IFNAMSIZ-1)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
	if !d.made() {
		flags |= unix.IFF_TUN_EXCL
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("make interface %s: %w (is the name taken? CAP_NET_ADMIN?)", d.name, err)
	}
	d.name = request.Name()
	return nil
}

// wake makes who waits for a packet look about. It is not to be called once the
// device closes.
func (d *device) wake() { _ = d.setDeadline(time.Unix(1, 0)) } // fails only on what cannot wait

func (d *device) setDeadline(t time.Time) (err error) {
	for _, in := range d.intakes {
		err = errors.Join(err, in.setDeadline(t))
	}
	return err
}

func (d *device) close() (err error) {
	for _, in := range d.intakes {
		err = errors.Join(err, in.close())
	}
	if d.outlet >= 0 {
		err = errors.Join(err, unix.Close(d.outlet))
	}
	return err
}

func (d *device) configure(mtu, queueLength int) error {
	request, err := unix.NewIfreq(d.name)
	if err != nil {
		return err
	}
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	defer unix.Close(control)
	request.SetUint32(uint32(mtu))
	if err := unix.IoctlIfreq(control, unix.SIOCSIFMTU, request); err != nil {
		return fmt.Errorf("set MTU %d of %s: %w", mtu, d.name, err)
	}
	if err := unix.IoctlIfreq(control, unix.SIOCGIFINDEX, request); err != nil {
		return fmt.Errorf("find index of %s: %w", d.name, err)
	}
	if err := setQueueLength(request.Uint32(), queueLength); err != nil {
		return fmt.Errorf("set queue length %d of %s: %w", queueLength, d.name, err)
	}
	// Before the interface is up: the kernel checks a packet and then
	// discards it.
	d.mergeTCP = d.takes(unix.VIRTIO_NET_HDR_GSO_TCPV4)
	d.mergeUDP = d.takes(unix.VIRTIO_NET_HDR_GSO_UDP_L4)
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring up %s: %w", d.name, err)
	}
	return nil
}

// setQueueLength sets the transmit queue length of an interface by a route
// netlink message (RTM_NEWLINK with IFLA_TXQLEN), which, unlike the ioctl, a
// user namespace may do for its own interfaces.
func setQueueLength(index uint32, length int) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const size = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg + unix.SizeofRtAttr + 4
	order := binary.NativeEndian
	b := make([]byte, size)
	order.PutUint32(b, size)
	order.PutUint16(b[4:], unix.RTM_NEWLINK)
	order.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	order.PutUint32(b[unix.SizeofNlMsghdr+4:], index)
	attribute := b[unix.SizeofNlMsghdr+unix.SizeofIfInfomsg:]
	order.PutUint16(attribute, unix.SizeofRtAttr+4)
	order.PutUint16(attribute[2:], unix.IFLA_TXQLEN)
	order.PutUint32(attribute[unix.SizeofRtAttr:], uint32(length))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || order.Uint16(reply[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel did not acknowledge")
	}
	if code := int32(order.Uint32(reply[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

// offload asks the kernel for super-packets and packets without checksums.
func (d *device) offload(fd int) error {
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	const udp = unix.TUN_F_USO4 | unix.TUN_F_USO6 // Linux 6.2
	if unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|udp) == nil {
		return nil
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp); err != nil {
		return fmt.Errorf("enable segmentation offload of %s: %w", d.name, err)
	}
	return nil
}

// takes tries whether the kernel accepts a super-packet of two segments from
// us. Some releases refuse good ones with EINVAL; of an interface that is down
// they all give EIO for those that pass.
func (d *device) takes(gsoType uint8) bool {
	const segment = 64
	transport, protocol, field := 20, uint8(protoTCP), 16
	if gsoType == unix.VIRTIO_NET_HDR_GSO_UDP_L4 {
		transport, protocol, field = 8, protoUDP, 6
	}
	headers := ipv4HeaderLen + transport
	b := make([]byte, vnetHeaderLen+headers+2*segment)
	vnetHeader{
		needsChecksum: true, gsoType: gsoType, segmentSize: segment,
		checksumStart: ipv4HeaderLen, checksumOffset: field,
	}.put(b, headers)
	ip := b[vnetHeaderLen:]
	ip[0], ip[8], ip[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{192, 0, 2, 1, 192, 0, 2, 2}) // documentation addresses (RFC 5737)
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Fold(checksum.Add(ip[:ipv4HeaderLen], 0)))
	t := ip[ipv4HeaderLen:]
	if protocol == protoTCP {
		t[12], t[13] = 5<<4, tcpACK
	} else {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	}
	binary.BigEndian.PutUint16(t[field:], checksum.Fold(checksum.PseudoIPv4(ip, protocol, len(t))))
	_, err := unix.Write(d.intakes[0].queues[0], b)
	return err == nil || errors.Is(err, unix.EIO)
}

// put writes h before a packet whose headers have the given length.
func (h vnetHeader) put(b []byte, headers int) {
	clear(b[:vnetHeaderLen])
	if h.needsChecksum {
		b[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	}
	b[1] = h.gsoType
	binary.LittleEndian.PutUint16(b[2:], uint16(headers))
	binary.LittleEndian.PutUint16(b[4:], uint16(h.segmentSize))
	binary.LittleEndian.PutUint16(b[6:], uint16(h.checksumStart))
	binary.LittleEndian.PutUint16(b[8:], uint16(h.checksumOffset))
}
