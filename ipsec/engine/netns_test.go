package engine_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// inNamespaceEnv is set in the environment of the test binary's second self.
const inNamespaceEnv = "SWANHERD_TEST_USERNS"

// TestMain enters a user namespace if the tests are not run by root, so that
// they may make network namespaces and interfaces.
func TestMain(m *testing.M) {
	if os.Getenv(inNamespaceEnv) != "" {
		// A new namespace begins without a working loopback interface.
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip link set lo up: %v: %s\n", err, out)
		}
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
	os.Exit(m.Run()) // no user namespaces here: the test says what it needs
}

// host is a network namespace with a thread of its own in it, a LAN address, a
// data plane and an engine.
type host struct {
	t      *testing.T
	work   chan func()
	fd     *os.File
	id     string
	outer  netip.Addr
	inner  netip.Addr
	engine *engine.Engine
	plane  *userspace.Plane
}

func newHost(t *testing.T, id string, outer, inner netip.Addr) *host {
	t.Helper()
	h := &host{t: t, work: make(chan func()), id: id, outer: outer, inner: inner}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			h.fd, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		for f := range h.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(h.work)
		t.Skipf("SKIPPED: cannot make a network namespace (%v); run as root or allow user namespaces", err)
	}
	t.Cleanup(func() {
		close(h.work)
		h.fd.Close()
	})
	h.ip("link set lo up")
	h.ip(fmt.Sprintf("addr add %s/32 dev lo", inner))
	return h
}

// do runs f in the namespace.
func (h *host) do(f func()) {
	done := make(chan struct{})
	h.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// ip runs the ip command in the namespace.
func (h *host) ip(args string, files ...*os.File) {
	h.t.Helper()
	h.do(func() {
		c := exec.Command("ip", strings.Fields(args)...)
		c.ExtraFiles = files
		if out, err := c.CombinedOutput(); err != nil {
			h.t.Errorf("ip %s: %v: %s", args, err, out)
		}
	})
}

// run starts data plane and engine, and ends them with the test.
func (h *host) run(ikeAddr netip.AddrPort) {
	h.t.Helper()
	logger := slog.New(slog.NewTextHandler(h.t.Output(), nil)).With("host", h.id)
	var err error
	h.do(func() { h.plane, err = userspace.New(userspace.Config{Interface: "swan0", Logger: logger}) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.engine, err = engine.New(engine.Config{Plane: h.plane, IKEAddr: ikeAddr, Logger: logger})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		runtime.LockOSThread() // in the namespace from here on: never unlocked
		if err := unix.Setns(int(h.fd.Fd()), unix.CLONE_NEWNET); err != nil {
			h.t.Errorf("enter namespace of %s: %v", h.id, err)
			return
		}
		if err := h.engine.Run(ctx); err != nil {
			h.t.Errorf("Run of %s: %v", h.id, err)
		}
	})
	h.t.Cleanup(func() {
		cancel()
		running.Wait()
		h.plane.Close()
	})
}

// twoHosts joins two namespaces by a wire.
func twoHosts(t *testing.T) (a, b *host) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: the ip command is missing; install iproute2")
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED: no TUN device (%v); load the tun module", err)
	}
	f.Close()
	a = newHost(t, "a.example", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.1.0.1"))
	b = newHost(t, "b.example", netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("10.2.0.1"))
	a.ip("link add wire type veth peer name wire netns /proc/self/fd/3", b.fd)
	for _, h := range []*host{a, b} {
		h.ip(fmt.Sprintf("addr add %s/24 dev wire", h.outer))
		h.ip("link set wire up")
	}
	if t.Failed() {
		t.FailNow()
	}
	return a, b
}

// route sends the peer's LAN into the data plane.
func (h *host) route(peer *host) {
	h.t.Helper()
	h.ip("link set swan0 up")
	h.ip(fmt.Sprintf("route add %s/32 dev swan0 src %s", peer.inner, h.inner))
}

func (h *host) tunnel(peer *host, role ike.Role, port uint16, local ident.Local, remote ident.Remote) engine.TunnelConfig {
	h.t.Helper()
	return engine.TunnelConfig{
		Name: "to-" + peer.id, Role: role, Remote: netip.AddrPortFrom(peer.outer, port),
		ForceEncap: true, Credentials: local, Peer: remote,
		Children: []ike.ChildConfig{{
			Name:     "lan",
			LocalTS:  []ts.Selector{ts.FromPrefix(netip.PrefixFrom(h.inner, 32))},
			RemoteTS: []ts.Selector{ts.FromPrefix(netip.PrefixFrom(peer.inner, 32))},
		}},
	}
}

func (h *host) apply(c engine.TunnelConfig) {
	h.t.Helper()
	h.do(func() {
		for _, r := range h.engine.Apply([]engine.TunnelConfig{c}) {
			if r.Err != nil {
				h.t.Fatalf("Apply: %v", r.Err)
			}
		}
	})
}

// waitUp waits for the Child SA.
func (h *host) waitUp(events *engine.Subscription) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		ev, err := events.Next(ctx)
		if err != nil {
			h.t.Fatalf("%s: no Child SA: %v; status %+v", h.id, err, h.engine.Status())
		}
		if up, is := ev.What.(ike.ChildUp); is {
			h.waitCarried(up.SA.OutboundSPI)
			return
		}
	}
}

// waitCarried waits until an outbound SA is in the data plane, which is told of it at
// the same time as this test: what is sent before goes to the SA before it.
func (h *host) waitCarried(spi uint32) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		for _, c := range h.plane.Counters() {
			if c.Direction == dataplane.Outbound && c.SPI == spi {
				return
			}
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: the outbound SA %08x is not in the data plane", h.id, spi)
		}
	}
}

// echo answers UDP datagrams at the LAN address.
func (h *host) echo() netip.AddrPort {
	h.t.Helper()
	var conn *net.UDPConn
	var err error
	h.do(func() { conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.inner, 0))) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// dial opens a socket from this host's inner address.
func (h *host) dial(to netip.AddrPort) (conn net.Conn) {
	h.t.Helper()
	var err error
	h.do(func() {
		dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: h.inner.AsSlice()}}
		conn, err = dialer.Dial("udp", to.String())
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return conn
}

// ping sends datagrams to an echo and wants each back.
func (h *host) ping(to netip.AddrPort) {
	h.t.Helper()
	conn := h.dial(to)
	defer conn.Close()
	got := make([]byte, 2048)
	for i := range 20 {
		want := fmt.Appendf(bytes.Repeat([]byte{'.'}, 60*i), "packet %d", i)
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(want); err != nil {
			h.t.Fatalf("%s: send: %v", h.id, err)
		}
		n, err := conn.Read(got)
		if err != nil {
			h.t.Fatalf("%s: packet %d did not come back: %v", h.id, i, err)
		}
		if !bytes.Equal(got[:n], want) {
			h.t.Fatalf("%s: packet %d came back as %q", h.id, i, got[:n])
		}
	}
}

// connect brings a tunnel up between two hosts, and proves that it carries
// traffic in both directions, before and after rekeying.
func connect(t *testing.T, ikePort uint16, credentials func(a, b *host) (la, lb ident.Local, ra, rb ident.Remote)) {
	a, b := twoHosts(t)
	var ikeAddr netip.AddrPort
	if ikePort == 500 {
		ikeAddr = netip.AddrPortFrom(netip.IPv6Unspecified(), ikePort)
	}
	a.run(ikeAddr)
	b.run(ikeAddr)
	a.route(b)
	b.route(a)
	la, lb, ra, rb := credentials(a, b)
	eventsA, eventsB := a.engine.Subscribe(64), b.engine.Subscribe(64)
	b.apply(b.tunnel(a, ike.RoleResponder, ikePort, lb, ra))
	a.apply(a.tunnel(b, ike.RoleInitiator, ikePort, la, rb))
	a.waitUp(eventsA)
	b.waitUp(eventsB)
	toA, toB := a.echo(), b.echo()
	a.ping(toB)
	b.ping(toA)
	for _, rekey := range []func() error{
		func() error { return a.engine.RekeyChild("to-b.example", "") },
		func() error { return b.engine.RekeyIKE("to-a.example") },
	} {
		if err := rekey(); err != nil {
			t.Fatal(err)
		}
		a.ping(toB)
		b.ping(toA)
	}
	if s := a.engine.Status(); len(s) != 1 || s[0].State != ike.StateUp {
		t.Errorf("status: %+v", s)
	}
}

func id(t *testing.T, s string) ident.ID {
	t.Helper()
	v, err := ident.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTwoHostsPSK(t *testing.T) {
	connect(t, 4500, func(a, b *host) (la, lb ident.Local, ra, rb ident.Remote) {
		psk := ident.PSK("a pre-shared key for tests only")
		return ident.Local{ID: id(t, a.id), PSK: psk}, ident.Local{ID: id(t, b.id), PSK: psk},
			ident.Remote{ID: id(t, a.id), PSK: psk}, ident.Remote{ID: id(t, b.id), PSK: psk}
	})
}

func TestTwoHostsCertificatesFromPort500(t *testing.T) {
	connect(t, 500, func(a, b *host) (la, lb ident.Local, ra, rb ident.Remote) {
		ca := newAuthority(t)
		roots := ident.NewRoots(ca.cert)
		return ca.issue(t, a.id), ca.issue(t, b.id),
			ident.Remote{ID: id(t, a.id), Roots: roots}, ident.Remote{ID: id(t, b.id), Roots: roots}
	})
}

type authority struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{key, certificate(t, template, template, public, key)}
}

func (ca authority) issue(t *testing.T, name string) ident.Local {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	cert := certificate(t, template, ca.cert, public, ca.key)
	return ident.Local{ID: id(t, name), Signer: key, Chain: []*x509.Certificate{cert}}
}

func certificate(t *testing.T, template, parent *x509.Certificate, public ed25519.PublicKey, key ed25519.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
