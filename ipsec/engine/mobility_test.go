package engine_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
)

const (
	pingInterval = 20 * time.Millisecond
	pingPatience = 2 * time.Second // for answers, after the last question
)

// during sends datagrams to an echo at a steady pace, calls act after a while and
// goes on until settled says that things are in order again, and some more. It
// returns how many got no answer.
func (h *host) during(to netip.AddrPort, act func(), settled func() bool) (sent, lost int) {
	h.t.Helper()
	conn := h.dial(to)
	defer conn.Close()
	answers := make(chan struct{}, 1<<16)
	go func() {
		b := make([]byte, 64)
		for {
			if _, err := conn.Read(b); err != nil {
				return
			}
			answers <- struct{}{}
		}
	}()
	pace := time.NewTicker(pingInterval)
	defer pace.Stop()
	acted, left := false, 25
	for limit := time.Now().Add(20 * time.Second); left > 0; sent++ {
		<-pace.C
		_, _ = conn.Write(fmt.Appendf(nil, "packet %d", sent))
		switch {
		case time.Now().After(limit):
			h.t.Fatalf("%s: not settled: %+v", h.id, h.engine.Status())
		case sent == 25:
			act()
			acted = true
		case acted && settled():
			left--
		}
	}
	lost = sent
	for patience := time.After(pingPatience); lost > 0; {
		select {
		case <-answers:
			lost--
		case <-patience:
			return sent, lost
		}
	}
	return sent, lost
}

// mobileTunnel brings a tunnel up from a to b.
func mobileTunnel(t *testing.T, a, b *host, peer netip.Addr, change func(a, b *engine.TunnelConfig)) (at engine.TunnelConfig) {
	t.Helper()
	psk := ident.PSK("a pre-shared key for tests only")
	at = a.tunnel(b, ike.RoleInitiator, 4500, ident.Local{ID: id(t, a.id), PSK: psk}, ident.Remote{ID: id(t, b.id), PSK: psk})
	bt := b.tunnel(a, ike.RoleResponder, 4500, ident.Local{ID: id(t, b.id), PSK: psk}, ident.Remote{ID: id(t, a.id), PSK: psk})
	at.Remote = netip.AddrPortFrom(peer, 4500)
	bt.Remote = netip.AddrPort{}
	change(&at, &bt)
	events := a.engine.Subscribe(64)
	defer events.Close()
	b.apply(bt)
	a.apply(at)
	a.waitUp(events)
	return at
}

// spis are what must not change when addresses do.
func (h *host) spis() string {
	s := h.engine.Status()[0]
	return fmt.Sprint(s.IKE[0].LocalSPI, len(s.IKE), s.Children[0].InboundSPI, s.Children[0].OutboundSPI, len(s.Children))
}

func (h *host) remote() netip.AddrPort { return h.engine.Status()[0].IKE[0].Remote }

// The address of a host changes under traffic. The engine is told by Apply, MOBIKE
// moves the IKE SA and the Child SA with the SPIs they have: nothing is lost if the
// old address goes when the new one is in use, and little if it goes before (RFC
// 4555).
func TestAddressChangesUnderTraffic(t *testing.T) {
	for name, abrupt := range map[string]bool{"new before old goes": false, "old goes first": true} {
		t.Run(name, func(t *testing.T) {
			a, b := twoHosts(t)
			for _, h := range []*host{a, b} {
				h.run(netip.AddrPort{})
			}
			a.route(b)
			b.route(a)
			at := mobileTunnel(t, a, b, b.outer, func(a, _ *engine.TunnelConfig) { a.Local = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), 4500) })
			before := a.spis() + b.spis()
			moved := a.outer.Next().Next()
			remove := func() {
				a.ip(fmt.Sprintf("addr del %s/24 dev wire", a.outer))
				a.ip(fmt.Sprintf("addr replace %s/24 dev wire", moved)) // goes with its primary where that is configured
			}
			sent, lost := a.during(b.echo(), func() {
				a.ip(fmt.Sprintf("addr add %s/24 dev wire", moved))
				if abrupt {
					remove()
				}
				at.Local = netip.AddrPortFrom(moved, 4500)
				a.apply(at)
			}, func() bool { return b.remote().Addr() == moved })
			t.Logf("%d of %d packets lost", lost, sent)
			if limit := map[bool]int{false: 0, true: 50}[abrupt]; lost > limit {
				t.Errorf("%d of %d packets lost, at most %d are allowed", lost, sent, limit)
			}
			if !abrupt {
				remove()
				a.ping(b.echo())
			}
			b.ping(a.echo())
			if after := a.spis() + b.spis(); after != before {
				t.Errorf("SPIs and SAs after the move: %s, before %s", after, before)
			}
		})
	}
}

// flushConntrack makes the NAT of this host forget every mapping.
func (h *host) flushConntrack() {
	h.t.Helper()
	h.do(func() {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
		if err != nil {
			h.t.Errorf("open netfilter socket: %v", err)
			return
		}
		defer unix.Close(fd)
		const ctDelete = 1<<8 | 2 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
		m := make([]byte, unix.SizeofNlMsghdr+4)
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		binary.NativeEndian.PutUint16(m[4:], ctDelete)
		binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		m[unix.SizeofNlMsghdr] = unix.AF_INET // no filter: all of it
		if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			h.t.Errorf("flush conntrack: %v", err)
			return
		}
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil || n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]) != 0 {
			h.t.Errorf("flush conntrack: answer %x, %v", answer[:max(n, 0)], err)
		}
	})
}

// behindNAT joins a to b by a router that gives a's packets its own address and a
// random port.
func behindNAT(t *testing.T) (a, b, router *host) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIPPED: the nft command is missing; install nftables")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("SKIPPED: no TUN device (%v); load the tun module", err)
	}
	a = newHost(t, "a.example", netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("10.1.0.1"))
	b = newHost(t, "b.example", netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("10.2.0.1"))
	router = newHost(t, "nat.example", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.3.0.1"))
	a.ip("link add wire type veth peer name lan netns /proc/self/fd/3", router.fd)
	b.ip("link add wire type veth peer name wan netns /proc/self/fd/3", router.fd)
	a.ip("addr add 10.99.0.2/24 dev wire")
	b.ip("addr add 192.0.2.2/24 dev wire")
	router.ip("addr add 10.99.0.1/24 dev lan")
	router.ip("addr add 192.0.2.1/24 dev wan")
	for h, links := range map[*host][]string{a: {"wire"}, b: {"wire"}, router: {"lan", "wan"}} {
		for _, l := range links {
			h.ip("link set " + l + " up")
		}
	}
	a.ip("route add default via 10.99.0.1")
	router.do(func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			t.Errorf("forward packets: %v", err)
		}
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(`table ip nat {
			chain post { type nat hook postrouting priority 100; oifname "wan" masquerade random; }
		}`)
		if out, err := nft.CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: the kernel does no NAT (%v: %s); load nft_masq", err, out)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	for _, h := range []*host{a, b} {
		h.run(netip.AddrPort{})
	}
	a.route(b)
	b.route(a)
	return a, b, router
}

// A NAT forgets its mapping under traffic and makes another with the next packet,
// and forgets that one at once. The responder follows, once it has asked the
// peer there, with MOBIKE and without (RFC 7296, Section 2.23; RFC 4555, Section
// 3.8): little is lost, no SA is.
func TestNATForgetsUnderTraffic(t *testing.T) {
	for name, mobike := range map[string]bool{"with MOBIKE": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			a, b, router := behindNAT(t)
			mobileTunnel(t, a, b, b.outer, func(at, bt *engine.TunnelConfig) {
				at.Local = netip.AddrPortFrom(a.outer, 4500)
				at.ForceEncap, bt.ForceEncap = false, false
				at.Mobility.Disable = !mobike
			})
			seen := b.remote()
			if s := a.engine.Status()[0].IKE[0]; !s.LocalNAT || s.RemoteNAT || s.MOBIKE != mobike || seen.Addr() != router.outer {
				t.Fatalf("behind the NAT: %+v, and seen at %s", s, seen)
			}
			before := a.spis() + b.spis()
			for range 2 {
				sent, lost := a.during(b.echo(), router.flushConntrack, func() bool { return b.remote() != seen })
				t.Logf("%d of %d packets lost", lost, sent)
				if lost > 25 {
					t.Errorf("%d of %d packets lost", lost, sent)
				}
				seen = b.remote()
			}
			b.ping(a.echo())
			if after := a.spis() + b.spis(); after != before {
				t.Errorf("SPIs and SAs after the NAT forgot: %s, before %s", after, before)
			}
		})
	}
}
