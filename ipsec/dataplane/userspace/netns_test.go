package userspace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespaceEnv is set in the environment of the test binary's second self.
const inNamespaceEnv = "SWANHERD_TEST_USERNS"

// TestMain enters a user namespace if the tests are not run by root, so that
// they may make network namespaces and interfaces.
func TestMain(m *testing.M) {
	if os.Getenv(inNamespaceEnv) != "" {
		loopbackUp()
		os.Exit(m.Run())
	}
	if os.Geteuid() == 0 {
		os.Exit(m.Run())
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.Env = append(os.Environ(), inNamespaceEnv+"=1")
	self.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := self.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	os.Exit(m.Run()) // no user namespaces here: the tests say what they need
}

// loopbackUp makes the loopback interface of a new namespace work.
func loopbackUp() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if lo, err := unix.NewIfreq("lo"); err == nil {
		lo.SetUint16(unix.IFF_UP)
		unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
}

// needNamespaces skips a test where it cannot run, and says why.
func needNamespaces(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: the ip command is missing; install iproute2")
	}
	f, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED: no TUN device (%v); load the tun module", err)
	}
	f.Close()
}

// namespace is a network namespace with an OS thread of its own in it.
type namespace struct {
	t    testing.TB
	work chan func()
	fd   *os.File
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	ns := &namespace{t: t, work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.fd, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		for f := range ns.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(ns.work)
		t.Skipf("SKIPPED: cannot make a network namespace (%v); run as root or allow user namespaces", err)
	}
	t.Cleanup(func() {
		close(ns.work)
		ns.fd.Close()
	})
	ns.ip("link set lo up")
	return ns
}

// do runs f in the namespace.
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	ns.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// ip runs the ip command in the namespace.
func (ns *namespace) ip(args string, files ...*os.File) {
	ns.t.Helper()
	ns.do(func() {
		c := exec.Command("ip", strings.Fields(args)...)
		c.ExtraFiles = files
		if out, err := c.CombinedOutput(); err != nil {
			ns.t.Errorf("ip %s: %v: %s", args, err, out)
		}
	})
}

// outer addresses of the two namespaces.
var (
	outerA, outerB   = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	outerA6, outerB6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	// where the first may move to
	movedA, movedA6 = netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
)

// joined makes two namespaces with a wire between them.
func joined(t testing.TB) (a, b *namespace) {
	t.Helper()
	needNamespaces(t)
	a, b = newNamespace(t), newNamespace(t)
	a.ip("link add wire type veth peer name wire netns /proc/self/fd/3", b.fd)
	for _, side := range []struct {
		ns     *namespace
		v4, v6 netip.Addr
	}{{a, outerA, outerA6}, {b, outerB, outerB6}} {
		side.ns.ip("link set wire addrgenmode none") // no wait for duplicate address detection
		side.ns.ip(fmt.Sprintf("addr add %s/24 dev wire", side.v4))
		side.ns.ip(fmt.Sprintf("addr add %s/64 dev wire nodad", side.v6))
		side.ns.ip("link set wire up")
	}
	a.ip(fmt.Sprintf("addr add %s/24 dev wire", movedA))
	a.ip(fmt.Sprintf("addr add %s/64 dev wire nodad preferred_lft 0", movedA6))
	if t.Failed() {
		t.FailNow()
	}
	return a, b
}

// outer addresses on both sides of a router
var (
	nearA, nearRouter = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.254")
	farB, farRouter   = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.254")

	nearA6, nearRouter6 = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:1::fe")
	farB6, farRouter6   = netip.MustParseAddr("2001:db8:2::1"), netip.MustParseAddr("2001:db8:2::fe")
)

// joinedByRouter makes two namespaces with a router between them, whose wire to
// the second one has the given MTU: only ICMP tells the first of it.
func joinedByRouter(t testing.TB, mtu int) (a, router, b *namespace) {
	t.Helper()
	needNamespaces(t)
	a, router, b = newNamespace(t), newNamespace(t), newNamespace(t)
	a.ip("link add wire type veth peer name near netns /proc/self/fd/3", router.fd)
	b.ip("link add wire type veth peer name far netns /proc/self/fd/3", router.fd)
	for _, x := range []struct {
		ns     *namespace
		nic    string
		v4, v6 netip.Addr
	}{{a, "wire", nearA, nearA6}, {router, "near", nearRouter, nearRouter6}, {router, "far", farRouter, farRouter6}, {b, "wire", farB, farB6}} {
		x.ns.ip(fmt.Sprintf("link set %s addrgenmode none", x.nic))
		x.ns.ip(fmt.Sprintf("addr add %s/24 dev %s", x.v4, x.nic))
		x.ns.ip(fmt.Sprintf("addr add %s/64 dev %s nodad", x.v6, x.nic))
		x.ns.ip(fmt.Sprintf("link set %s up", x.nic))
	}
	// A router asks for neighbours from its link-local address.
	router.ip("addr add fe80::1/64 dev near nodad")
	router.ip("addr add fe80::2/64 dev far nodad")
	router.ip(fmt.Sprintf("link set far mtu %d", mtu))
	b.ip(fmt.Sprintf("link set wire mtu %d", mtu))
	for _, to := range []netip.Addr{nearRouter, nearRouter6} {
		a.ip(fmt.Sprintf("route add default via %s", to))
	}
	for _, to := range []netip.Addr{farRouter, farRouter6} {
		b.ip(fmt.Sprintf("route add default via %s", to))
	}
	var err error
	router.do(func() {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			err = errors.Join(err, os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0o644))
		}
	})
	if err != nil {
		t.Skipf("SKIPPED: cannot make a router (%v)", err)
	}
	if t.Failed() {
		t.FailNow()
	}
	return a, router, b
}

// plane makes a data plane in the namespace.
func (ns *namespace) plane(t testing.TB, c Config) *Plane {
	t.Helper()
	var p *Plane
	var err error
	ns.do(func() { p, err = New(c) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// tap gives a test the host's end of an interface: what it sends the host sends,
// what the plane delivers it receives.
type tap struct {
	fd      int
	file    *os.File
	ifindex int
	packets chan []byte
}

func (ns *namespace) tap(t testing.TB, name string) *tap {
	t.Helper()
	p := &tap{packets: make(chan []byte, 4096)}
	var err error
	ns.do(func() {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err != nil {
			return
		}
		var nic *net.Interface
		if nic, err = net.InterfaceByName(name); err != nil {
			return
		}
		p.ifindex = nic.Index
		unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) // not in a user namespace
		err = unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: p.ifindex})
	})
	if err != nil {
		t.Fatal(err)
	}
	p.file = os.NewFile(uintptr(p.fd), "tap")
	go p.run()
	t.Cleanup(func() { p.file.Close() })
	return p
}

func (p *tap) run() {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, 65536)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := conn.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), b, 0)
			return got != unix.EAGAIN
		})
		if err != nil || got != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		select {
		case p.packets <- append([]byte(nil), b[:n]...):
		default:
		}
	}
}

func (p *tap) send(b []byte) error {
	protocol := uint16(unix.ETH_P_IP)
	if len(b) > 0 && b[0]>>4 == 6 {
		protocol = unix.ETH_P_IPV6
	}
	return unix.Sendto(p.fd, b, 0, &unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: p.ifindex})
}

const patience = 5 * time.Second
