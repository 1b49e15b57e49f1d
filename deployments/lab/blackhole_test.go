package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
)

// hole is the longest IP datagram that passes a black hole: what is longer is dropped
// on the way, and nobody is told.
const hole = 1400

// TestEdgesThroughBlackHole runs two agents over a path that drops long datagrams in both
// directions without ICMP. A TCP connection that opened before that was found out goes on
// as soon as it was; UDP datagrams of any size pass then.
func TestEdgesThroughBlackHole(t *testing.T) {
	lab.Require(t, "ip", "nft")
	t.Parallel()
	testEdgesThroughBlackHole(t, 8<<20)
}

// TestEdgesThroughBlackHoleOnKernel does so with the kernel's data plane, in a virtual
// machine: there the routes into the tunnel have the MTU.
func TestEdgesThroughBlackHoleOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("psk", func(t *testing.T) {
		p := testEdgesThroughBlackHole(t, 1<<20, "--data-plane", "kernel", "--tcp-port", "0")
		for i := range p.edges {
			out, err := p.edges[i].Run(p.ctx, "ip", "route", "show", "proto", "83", "dev", "swan0")
			if err != nil || !strings.Contains(out, " mtu 13") {
				t.Errorf("edge %d has the routes %q (%v), want an MTU below the hole's", i, out, err)
			}
		}
	})
}

func testEdgesThroughBlackHole(t *testing.T, size int64, options ...string) *edgePair {
	p := newEdgePair(t, "psk", options...)
	p.dual = true
	hosts6 := p.dualLANs()
	p.dig(p.ours, p.theirs)
	p.start(0)
	p.start(1)
	p.established("at first")
	p.must(p.transfer(size, p.oursHost, p.theirsHost))
	p.must(p.transfer(size, hosts6[0], hosts6[1]))
	for _, agent := range p.agents {
		p.awaitPath(agent)
	}
	p.must(p.datagrams(100, 1300, 1400, 1472, 4000, 20000))
	p.check("in the end")
	return p
}

// TestStrongSwanThroughBlackHole has strongSwan's charon as the peer, as Debian builds it:
// it ignores fragments of INFORMATIONAL exchanges, by which a probe that fails would have
// to end. Our end finds that out before any probe goes, and leaves it at that.
func TestStrongSwanThroughBlackHole(t *testing.T) {
	lab.Require(t, append([]string{"ip", "nft"}, lab.CharonPrograms...)...)
	t.Parallel()
	x := newInterop(t, buildAgent(t), "psk", "ours")
	x.writeCredentials()
	x.dig(x.theirs)
	var err error
	x.charon, err = lab.StartCharon(x.ctx, x.theirs, x.sub("charon"), x.swanctlConf())
	x.must(err)
	x.t.Cleanup(func() { x.charon.Stop(5 * time.Second); x.showLogs() })
	x.program, err = x.ours.Start(nil, nil, x.agent, "run", "--intent", x.write("intent.yaml", x.intent()), "--state-dir", x.sub("state"))
	x.must(err)
	x.t.Cleanup(func() { x.program.Stop(5 * time.Second) })
	x.awaitPing("the tunnel to come up", x.program, x.charon.Program)
	const padded = "parsed INFORMATIONAL request %d [ N((59732)) ]"
	for n := range 3 {
		x.awaitLog(x.charon.Output, fmt.Sprintf(padded, 2+n))
	}
	x.awaitOurRekeys()
	x.ping("after our rekeys")
	x.awaitOneOfEach()
	if out := x.charon.Output(); strings.Count(out, "N((59732))") != 3 || strings.Contains(x.program.Output(), "IKE SA down") {
		t.Error("there were probes after three trials in vain, or an IKE SA was given up")
	}
}

// dig makes the way to each of the hosts a black hole. What is cut into datagrams only by
// the receiving end's link would not be seen.
func (x *pair) dig(hosts ...*lab.Namespace) {
	x.t.Helper()
	for _, h := range hosts {
		drop := fmt.Sprintf("table inet hole { chain in { type filter hook prerouting priority -500; iifname wan1 meta length > %d drop; }; }", hole)
		for _, argv := range [][]string{{"nft", drop}, {"ip", "link", "set", "wan1", "gso_max_segs", "1"}} {
			if out, err := h.Run(x.ctx, argv...); err != nil {
				x.t.Fatalf("%v: %v: %s", argv, err, out)
			}
		}
	}
}

// awaitPath waits until an agent says what it has found out.
func (x *pair) awaitPath(agent *lab.Program) {
	x.awaitLog(agent.Output, fmt.Sprintf("path_mtu=%d", hole))
}

func (x *pair) awaitLog(log func() string, text string) {
	x.t.Helper()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for !strings.Contains(log(), text) {
		select {
		case <-look.C:
		case <-x.ctx.Done():
			x.t.Fatalf("waited in vain for %q:\n%s", text, log())
		}
	}
}

// transfer sends size octets from the host behind ours to that behind theirs by TCP.
func (x *pair) transfer(size int64, source, destination netip.Addr) error {
	var listener net.Listener
	err := x.theirsLAN.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(destination, 0).String())
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	received := make(chan error, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			defer c.Close()
			var n int64
			if n, err = io.Copy(io.Discard, c); err == nil && n != size {
				err = fmt.Errorf("%d of %d octets arrived", n, size)
			}
		}
		received <- err
	}()
	err = x.oursLAN.Do(func() error {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: source.AsSlice()}}
		c, err := dialer.DialContext(x.ctx, "tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		deadline, _ := x.ctx.Deadline()
		c.SetDeadline(deadline)
		_, err = io.Copy(c, io.LimitReader(zeros{}, size))
		return err
	})
	if err != nil {
		return fmt.Errorf("send by TCP: %w", err)
	}
	select {
	case err = <-received:
	case <-x.ctx.Done():
		err = x.ctx.Err()
	}
	return err
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// datagrams sends UDP datagrams of these sizes, that may be fragmented, from the host
// behind ours to that behind theirs, one after the other.
func (x *pair) datagrams(sizes ...int) error {
	listen := func(ns *lab.Namespace, a netip.Addr) (c net.PacketConn, err error) {
		config := net.ListenConfig{Control: mayFragment}
		err = ns.Do(func() (err error) {
			c, err = config.ListenPacket(x.ctx, "udp4", netip.AddrPortFrom(a, 0).String())
			return err
		})
		return c, err
	}
	to, err := listen(x.theirsLAN, x.theirsHost)
	if err != nil {
		return err
	}
	defer to.Close()
	from, err := listen(x.oursLAN, x.oursHost)
	if err != nil {
		return err
	}
	defer from.Close()
	b := make([]byte, 1<<16)
	for _, size := range sizes {
		if _, err := from.WriteTo(b[:size], to.LocalAddr()); err != nil {
			return fmt.Errorf("send %d octets by UDP: %w", size, err)
		}
		to.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, _, err := to.ReadFrom(b); err != nil || n != size {
			return fmt.Errorf("UDP datagram of %d octets: %d arrived: %w", size, n, err)
		}
	}
	return context.Cause(x.ctx)
}

// mayFragment lets the datagrams of a socket be fragmented.
func mayFragment(_, _ string, c syscall.RawConn) (err error) {
	control := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	})
	return errors.Join(control, err)
}
