package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
)

// What the kernel's data plane lacks, and that in user space: in either place, and at the
// second end alone.
const (
	lackedAnywhere = planetest.Streams
	lackedSecond   = planetest.UnknownSPIs | planetest.SelectorDrops
)

// conform runs the conformance suite on two data planes of the kernel.
func conform(t *testing.T) {
	conformOf(t, "kernel to kernel", [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane}, lackedAnywhere|lackedSecond)
}

// conformMixed runs it on a data plane of the kernel beside one in user space.
func conformMixed(t *testing.T) {
	conformOf(t, "kernel to userspace", [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, userPlane(0)}, lackedAnywhere)
	conformOf(t, "userspace to kernel", [2]func(*lab.Namespace) (dataplane.Plane, error){userPlane(0), kernelPlane}, lackedAnywhere|lackedSecond)
	t.Run("kernel to userspace over IPv6", func(t *testing.T) { // transport mode without UDP too
		planetest.RunOuter(t, lackedAnywhere, func(t *testing.T) *planetest.Pair {
			pair, _ := planePairOver(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, userPlane(0)}, planeWire6)
			return pair
		})
	})
}

func conformOf(t *testing.T, name string, open [2]func(*lab.Namespace) (dataplane.Plane, error), lacks planetest.Lack) {
	conformBy(t, name, planetest.RunWithout, lacks, func(t *testing.T) *planetest.Pair {
		pair, _ := planePair(t, open)
		return pair
	})
}

// conformOver6 runs, of the conformance suite, what can differ over IPv6.
func conformOver6(t *testing.T) {
	conformBy(t, "kernel to kernel over IPv6", planetest.RunOuter, lackedAnywhere|lackedSecond, func(t *testing.T) *planetest.Pair {
		pair, _ := planePairOver(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane}, planeWire6)
		return pair
	})
}

// conformBy runs it with UDP and without.
func conformBy(t *testing.T, name string, run func(*testing.T, planetest.Lack, func(*testing.T) *planetest.Pair), lacks planetest.Lack, newPair func(*testing.T) *planetest.Pair) {
	t.Run(name, func(t *testing.T) { run(t, lacks, newPair) })
	t.Run(name+", native", func(t *testing.T) {
		run(t, lacks|planetest.Encapsulation, func(t *testing.T) *planetest.Pair {
			pair := newPair(t)
			pair.Native = true
			return pair
		})
	})
}

// kernelPlane opens the data plane of the kernel on a host.
func kernelPlane(ns *lab.Namespace) (p dataplane.Plane, err error) {
	return p, ns.Do(func() error {
		p, err = xfrm.New(xfrm.Config{})
		return err
	})
}

// userPlane opens the data plane in user space on a host, with its own number of
// workers if that is 0.
func userPlane(workers int) func(*lab.Namespace) (dataplane.Plane, error) {
	return func(ns *lab.Namespace) (p dataplane.Plane, err error) {
		return p, ns.Do(func() error {
			p, err = userspace.New(userspace.Config{Workers: workers, Mark: gatewayMark})
			return err
		})
	}
}

// What package planetest has behind the two planes.
var (
	planeHosts  = [2][]string{{"10.91.1.1/32", "fd91:1::1/128"}, {"10.91.2.1/32", "fd91:2::1/128"}}
	planeRoutes = []string{"10.0.0.0/8", "fd91::/16"}
	planePorts  = []int{1234, 4321}
	planeICMP   = []byte{200, 201, 253, 254}
	planeMoved  = planeWire4(6)
)

// planePair makes two hosts with a wire between them and a plane on each.
func planePair(t *testing.T, open [2]func(*lab.Namespace) (dataplane.Plane, error)) (*planetest.Pair, [2]*lab.Namespace) {
	t.Helper()
	return planePairOver(t, open, planeWire4)
}

// planePairOver does so with planes whose peers have the outer addresses given. The host of
// number 6 is where the first one may move.
func planePairOver(t *testing.T, open [2]func(*lab.Namespace) (dataplane.Plane, error), outer func(int) netip.Addr) (*planetest.Pair, [2]*lab.Namespace) {
	t.Helper()
	hosts := planeWire(t)
	tellDrops(t, hosts[:]...)
	pair := &planetest.Pair{}
	for i, side := range []*planetest.Side{&pair.A, &pair.B} {
		plane, err := open[i](hosts[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { plane.Close() })
		side.Plane, side.Outer = plane, netip.AddrPortFrom(outer(i), xfrm.DefaultPort)
		side.Send, side.Received = behindPlane(t, hosts[i], i)
		if plane.Name() == "userspace" {
			side.Send = untilRead(hosts[i], side.Send)
			if err := hosts[i].Intercept(outer(1-i), userspace.DefaultInterface, gatewayMark); err != nil {
				t.Fatal(err)
			}
		}
	}
	pair.Wire = openTap(t, hosts[0])
	pair.Rebind = func() (netip.AddrPort, error) {
		move := dataplane.UpdateEndpoints{
			Tunnel: pair.A.Plane.Counters()[0].Tunnel, Local: netip.AddrPortFrom(outer(6), xfrm.DefaultPort), Remote: pair.B.Outer,
		}
		if pair.Native {
			move.Local, move.Remote = netip.AddrPortFrom(outer(6), 0), netip.AddrPortFrom(pair.B.Outer.Addr(), 0)
		}
		return move.Local, pair.A.Plane.Apply([]dataplane.Op{move})[0]
	}
	return pair, hosts
}

// planeOuter is the outer address of a host and its NAT traversal port.
func planeOuter(i int) netip.AddrPort { return netip.AddrPortFrom(planeWire4(i), xfrm.DefaultPort) }

// planeWire4 is a host's address on the wire, planeWire6 its other one.
func planeWire4(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}) }

func planeWire6(i int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:91::%d", i+1))
}

// planeWire makes two hosts with a wire between them, and nothing but the planes to keep
// what is for the hosts behind them from going there in clear.
func planeWire(t *testing.T) (hosts [2]*lab.Namespace) {
	t.Helper()
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	var ends [2]lab.End
	for i, name := range []string{"a", "b"} {
		ns, err := n.Add(name)
		if err != nil {
			t.Fatal(err)
		}
		hosts[i], ends[i] = ns, lab.End{Host: ns, Interface: "wire", Addresses: []netip.Prefix{netip.PrefixFrom(planeOuter(i).Addr(), 24), netip.PrefixFrom(planeWire6(i), 64)}}
	}
	err := errors.Join(n.Link(ends[0], ends[1]), hosts[0].Address("wire", netip.PrefixFrom(planeMoved, 24)), hosts[0].Do(addMoved6))
	for i := range hosts {
		// A way for what a plane should have taken.
		err = errors.Join(err, hosts[i].Route(netip.MustParsePrefix("0.0.0.0/0"), planeOuter(1-i).Addr()), hosts[i].Route(netip.MustParsePrefix("::/0"), planeWire6(1-i)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return hosts
}

// addMoved6 gives the host at hand the address of IPv6 that it may move to. It is one that
// nothing uses which does not ask for it, as the second one of IPv4 is.
func addMoved6() error {
	wire, err := netlink.LinkByName("wire")
	if err != nil {
		return err
	}
	ip := &net.IPNet{IP: planeWire6(6).AsSlice(), Mask: net.CIDRMask(64, 128)}
	return netlink.AddrAdd(wire, &netlink.Addr{IPNet: ip, ValidLft: math.MaxInt32, PreferedLft: 0})
}

// behindPlane has programs on a host on which a plane is open.
func behindPlane(t *testing.T, host *lab.Namespace, i int) (func([]byte) error, <-chan []byte) {
	t.Helper()
	routeBehind(t, host, i)
	return hostTraffic(t, host)
}

// routeBehind gives a host, on which a plane is open, its inner addresses and its
// routes into the plane.
func routeBehind(t *testing.T, host *lab.Namespace, i int) {
	t.Helper()
	var err error
	for _, a := range planeHosts[i] {
		err = errors.Join(err, host.Address("lo", netip.MustParsePrefix(a)))
	}
	if err = errors.Join(err, routeIntoPlane(host)); err != nil {
		t.Fatal(err)
	}
}

func routeIntoPlane(host *lab.Namespace) (err error) {
	for _, r := range planeRoutes {
		err = errors.Join(err, host.RouteDevice(netip.MustParsePrefix(r), userspace.DefaultInterface))
	}
	return err
}

// hostTraffic sends whole IP packets as programs of a host would, and receives the
// UDP and ICMP that is for it.
func hostTraffic(t *testing.T, host *lab.Namespace) (func([]byte) error, <-chan []byte) {
	t.Helper()
	var send [2]int
	received := make(chan []byte, 1024)
	err := host.Do(func() (err error) {
		for _, port := range planePorts { // that nobody complains of a port without a program
			c, e := net.ListenUDP("udp", &net.UDPAddr{Port: port})
			if e != nil {
				return e
			}
			t.Cleanup(func() { c.Close() })
		}
		for i, family := range []int{unix.AF_INET, unix.AF_INET6} {
			var e error
			send[i], e = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			err = errors.Join(err, e)
			for _, protocol := range [2][]int{{unix.IPPROTO_UDP, unix.IPPROTO_ICMP}, {unix.IPPROTO_UDP, unix.IPPROTO_ICMPV6}}[i] {
				err = errors.Join(err, hostReceives(t, family, protocol, received))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(send[0])
		unix.Close(send[1])
	})
	return func(p []byte) error {
		if p[0]>>4 == 4 {
			return unix.Sendto(send[0], p, 0, &unix.SockaddrInet4{Addr: [4]byte(p[16:20])})
		}
		return unix.Sendto(send[1], p, 0, &unix.SockaddrInet6{Addr: [16]byte(p[24:40])})
	}, received
}

// hostReceives takes what the host at hand receives of a protocol until the test ends.
func hostReceives(t *testing.T, family, protocol int, to chan<- []byte) error {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "raw")
	t.Cleanup(func() { f.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, err := f.Read(b)
			if err != nil {
				return
			}
			if !forPrograms(protocol, b[:n]) {
				continue // such as ESP in UDP, which the kernel decrypts where we see it
			}
			select {
			case to <- append([]byte(nil), b[:n]...):
			default:
			}
		}
	}()
	return nil
}

// untilRead has send return when the plane has read the packet from its interface, so
// that what is changed next does not apply to it.
func untilRead(host *lab.Namespace, send func([]byte) error) func([]byte) error {
	read := func() (n uint64, err error) {
		return n, host.Do(func() error {
			link, err := netlink.LinkByName(userspace.DefaultInterface)
			if err == nil {
				n = link.Attrs().Statistics.TxPackets
			}
			return err
		})
	}
	return func(p []byte) error {
		before, err := read()
		if err == nil {
			err = send(p)
		}
		poll := time.NewTicker(time.Millisecond)
		defer poll.Stop()
		for n := before; err == nil && n == before; {
			<-poll.C
			n, err = read()
		}
		return err
	}
}

// forPrograms reports whether what a raw socket received, of IPv4 with its header and
// of IPv6 without, is for one of planePorts, or of a type of ICMP that is no error.
func forPrograms(protocol int, b []byte) bool {
	if len(b) > 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4 {
		b = b[int(b[0]&15)*4:]
	}
	if protocol != unix.IPPROTO_UDP {
		return len(b) >= 8 && slices.Contains(planeICMP, b[0])
	}
	return len(b) >= 8 && slices.Contains(planePorts, int(binary.BigEndian.Uint16(b[2:])))
}

// openTap looks at the wire of a host.
func openTap(t *testing.T, host *lab.Namespace) (tap *planetest.Tap) {
	t.Helper()
	if err := host.Do(func() (err error) {
		tap, err = planetest.OpenTap("wire")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tap.Close() })
	return tap
}

// frameESP is where ESP in UDP begins in an Ethernet frame of IPv4.
const frameESP = 14 + 20 + 8

// isESPInUDP tells ESP on port 4500 from IKE by its SPI (RFC 3948, Section 2.2).
func isESPInUDP(frame []byte) bool {
	return len(frame) > frameESP+8 && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IP && frame[23] == unix.IPPROTO_UDP &&
		binary.BigEndian.Uint16(frame[frameESP-6:]) == xfrm.DefaultPort && binary.BigEndian.Uint32(frame[frameESP:]) != 0
}
