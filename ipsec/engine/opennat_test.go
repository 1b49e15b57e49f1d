package engine_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// narrowNAT gives a host's port 4500 one port for all peers, and lets in only who was sent to
// (RFC 4787, Section 5). It drops what nobody asked for before its connection tracking takes
// note of that.
func narrowNAT(t *testing.T, h *host, public netip.Addr) (router *host) {
	t.Helper()
	router = newHost(t, "nat-"+h.id, public, netip.MustParseAddr("10.9.0.1"))
	h.ip("link add wire type veth peer name lan netns /proc/self/fd/3", router.fd)
	h.ip(fmt.Sprintf("addr add %s/24 dev wire", h.outer))
	h.ip("link set wire up")
	router.ip(fmt.Sprintf("addr add %s/24 dev lan", h.outer.Prev()))
	router.ip("link set lan up")
	h.ip(fmt.Sprintf("route add default via %s", h.outer.Prev()))
	router.do(func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			t.Errorf("forward packets: %v", err)
		}
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(fmt.Sprintf(`table ip nat {
			chain out { type nat hook postrouting priority srcnat; oifname "wan" udp sport 4500 snat to %s:31022; }
			chain deny { type filter hook input priority 0; iifname "wan" udp dport 31022 drop; }
		}`, public))
		if out, err := nft.CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: the kernel does no NAT (%v: %s); load nft_nat", err, out)
		}
	})
	return router
}

// Behind two NATs that let in only who was sent to, an initiator that knows where its peer is
// seen does not get through, until the peer has sent one octet to where it is seen itself.
func TestKeepAliveOpensTheNAT(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIPPED: the nft command is missing; install nftables")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("SKIPPED: no TUN device (%v); load the tun module", err)
	}
	a := newHost(t, "a.example", netip.MustParseAddr("10.99.1.2"), netip.MustParseAddr("10.1.0.1"))
	b := newHost(t, "b.example", netip.MustParseAddr("10.99.2.2"), netip.MustParseAddr("10.2.0.1"))
	seenA, seenB := netip.MustParseAddrPort("203.0.113.1:31022"), netip.MustParseAddrPort("203.0.113.2:31022")
	natA, natB := narrowNAT(t, a, seenA.Addr()), narrowNAT(t, b, seenB.Addr())
	natA.ip("link add wan type veth peer name wan netns /proc/self/fd/3", natB.fd)
	for _, r := range []*host{natA, natB} {
		r.ip(fmt.Sprintf("addr add %s/24 dev wan", r.outer))
		r.ip("link set wan up")
	}
	if t.Failed() {
		t.FailNow()
	}
	for _, h := range []*host{a, b} {
		h.run(netip.AddrPort{})
	}
	a.route(b)
	b.route(a)
	psk := ident.PSK("a pre-shared key for tests only")
	at := a.tunnel(b, ike.RoleInitiator, 4500, ident.Local{ID: id(t, a.id), PSK: psk}, ident.Remote{ID: id(t, b.id), PSK: psk})
	bt := b.tunnel(a, ike.RoleResponder, 4500, ident.Local{ID: id(t, b.id), PSK: psk}, ident.Remote{ID: id(t, a.id), PSK: psk})
	at.Timing = ike.Timing{RetransmitBase: 50 * time.Millisecond, RetransmitTries: 3, ReconnectBase: 50 * time.Millisecond, ReconnectMax: 200 * time.Millisecond}
	at.Remote, bt.Remote = seenB, netip.AddrPort{} // b does not begin
	eventsA, eventsB := a.engine.Subscribe(64), b.engine.Subscribe(64)
	b.apply(bt)
	a.apply(at)
	for range 3 {
		a.waitFor(eventsA, "failed attempt", func(e any) bool { _, is := e.(ike.Failed); return is })
	}
	if s := b.engine.Counters(); s.Received > 0 {
		t.Fatalf("the NAT of b lets everybody in: %+v", s)
	}
	if err := b.engine.SendKeepAlive(netip.AddrPortFrom(b.outer, 4500), seenA); err != nil {
		t.Fatal(err)
	}
	a.waitUp(eventsA)
	b.waitUp(eventsB)
	a.ping(b.echo())
	b.ping(a.echo())
	if s := a.engine.Status()[0].IKE[0]; !s.LocalNAT || !s.RemoteNAT || s.Remote != seenB {
		t.Errorf("connected with %+v", s)
	}
}
