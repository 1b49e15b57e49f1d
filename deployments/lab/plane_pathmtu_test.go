package lab_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// transportPath has a host keep what it says in transport mode to a path that takes less
// than its interface, and of which no router tells it. The first packet asks for the SA.
func transportPath(t *testing.T) {
	for name, tt := range map[string]struct {
		outer    func(int) netip.Addr
		port     uint16
		proposal string
	}{
		"ESP":           {func(i int) netip.Addr { return planeOuter(i).Addr() }, 0, "aes128gcm16-esn"},
		"ESP in UDP":    {func(i int) netip.Addr { return planeOuter(i).Addr() }, planeOuter(0).Port(), "aes128gcm16-esn"},
		"ESP over IPv6": {planeWire6, 0, "aes128gcm16-esn"},
		"AH":            {func(i int) netip.Addr { return planeOuter(i).Addr() }, 0, "ah-sha256-esn"},
	} {
		t.Run(name, func(t *testing.T) { keepsToPath(t, [2]netip.Addr{tt.outer(0), tt.outer(1)}, tt.port, tt.proposal) })
	}
}

func keepsToPath(t *testing.T, outer [2]netip.Addr, port uint16, proposal string) {
	const path, link = 1300, 1500
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	ike, err := pair.A.Plane.Listen(func(dataplane.IKEDatagram) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := hosts[1].Do(func() error { // it receives nothing that is longer
		dev, err := netlink.LinkByName("wire")
		if err == nil {
			err = netlink.LinkSetMTU(dev, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	sas := betweenHosts(childSAs(t, pair, proposal), outer, port)
	mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA})
	mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB}, dataplane.InstallSA{SA: sas.outB})
	send, received := wholeDatagrams(t, hosts, outer)
	arrives := func(n int) {
		t.Helper()
		select {
		case got := <-received:
			if got != n {
				t.Errorf("a packet of %d octets arrives, want that of %d", got, n)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("the packet of %d octets did not arrive", n)
		}
	}

	if err := send(200); err != nil {
		t.Errorf("a packet for which there is no SA: %v", err)
	}
	mustApply(t, pair.A.Plane, dataplane.InstallSA{SA: sas.outA})
	arrives(200)
	if err := send(1400); err != nil {
		t.Errorf("a packet of 1400 octets is refused (%v) although the host knows of no path", err)
	}
	mustApply(t, pair.A.Plane, dataplane.SetPathMTU{Tunnel: "lab", MTU: path})
	fits := sas.outA.InnerMTU(path)
	if err := send(fits + 1); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("%v for a packet of %d octets, want that it is too long", err, fits+1)
	}
	// What fits is as long as the block of a cipher allows.
	if err := send(fits); err != nil {
		t.Errorf("a packet of %d octets, which fits: %v", fits, err)
	}
	arrives(fits)
	if mtu, err := ike.PathMTU(outer[1]); err != nil || mtu != link {
		t.Errorf("the path is said to take %d octets (%v), want the %d that the host knew before", mtu, err, link)
	}
}

// betweenHosts makes SAs of a Child SA those of what two hosts themselves say.
func betweenHosts(s testChild, outer [2]netip.Addr, port uint16) testChild {
	var ends [2]netip.AddrPort
	var only [2][]ts.Selector
	for i, a := range outer {
		ends[i], only[i] = netip.AddrPortFrom(a, port), []ts.Selector{ts.FromPrefix(netip.PrefixFrom(a, a.BitLen()))}
	}
	for i, pair := range [2][]*dataplane.SA{{&s.inA, &s.outA}, {&s.inB, &s.outB}} {
		for _, sa := range pair {
			sa.Mode, sa.Local, sa.Remote, sa.LocalTS, sa.RemoteTS = dataplane.Transport, ends[i], ends[1-i], only[i], only[1-i]
		}
	}
	for i, p := range [2]*dataplane.SetPolicy{&s.policyA, &s.policyB} {
		p.Policy.Mode, p.Policy.LocalTS, p.Policy.RemoteTS = dataplane.Transport, only[i], only[1-i]
	}
	return s
}

// wholeDatagrams sends UDP that must not be fragmented from one host to the other, so that
// the packet has so many octets, and tells how long the packets are that arrive.
func wholeDatagrams(t *testing.T, hosts [2]*lab.Namespace, outer [2]netip.Addr) (send func(n int) error, received <-chan int) {
	t.Helper()
	const port = 4444
	headers, level, option := 20+8, unix.SOL_IP, unix.IP_MTU_DISCOVER
	if outer[0].Is6() {
		headers, level, option = 40+8, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER
	}
	var conns [2]*net.UDPConn
	for i, host := range hosts {
		if err := host.Do(func() (err error) {
			if i == 0 {
				conns[0], err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(outer[1], port)))
			} else {
				conns[1], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(outer[1], port)))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[i].Close() })
	}
	raw, err := conns[0].SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if err := unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_DO); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(chan int, 16)
	go func() {
		b := make([]byte, 2048)
		for {
			n, err := conns[1].Read(b)
			if err != nil {
				return
			}
			arrived <- n + headers
		}
	}()
	return func(n int) error {
		_, err := conns[0].Write(make([]byte, n-headers))
		return err
	}, arrived
}
