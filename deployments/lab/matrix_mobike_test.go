package lab_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
)

const (
	ourNext, theirNext = "192.0.2.11", "192.0.2.12"
	ourNext6, theirs6  = "2001:db8:2::11", "2001:db8:2::2"
	mobikeDPD          = "    dpd_delay = 2s"
)

// mobikeCases are about addresses that change (RFC 4555), and NATs that forget. What
// is under way when that happens is lost.
func mobikeCases() []interopCase {
	var cases []interopCase
	for _, by := range []side{ours, theirs} {
		cases = append(cases,
			interopCase{name: fmt.Sprintf("mobike/our address changes, %v began", by), initiates: by, steps: []step{moves(ours, ourNext, ourPublic), rekeyIKE(by), rekeyChild(ours)}},
			interopCase{name: fmt.Sprintf("mobike/their address changes, %v began", by), initiates: by, steps: []step{moves(theirs, theirNext, theirPublic), rekeyIKE(by), rekeyChild(theirs)}},
		)
	}
	for _, by := range []side{ours, theirs} {
		cases = append(cases, interopCase{
			name: fmt.Sprintf("mobike/from IPv4 to IPv6, %v began", by), initiates: by,
			before: []step{theirsGains(theirs6)}, steps: []step{moves(ours, ourNext6, ourPublic), rekeyIKE(by), rekeyChild(ours)},
		})
	}
	cases = append(cases,
		interopCase{name: "mobike/our NAT forgets", nat: [2]bool{true, false}, steps: []step{forgets(ours), rekeyChild(ours)}},
		interopCase{name: "mobike/their NAT forgets", nat: [2]bool{false, true}, initiates: theirs, steps: []step{forgets(theirs), rekeyChild(ours)}},
	)
	for i := range cases {
		c := &cases[i]
		c.lossy, c.conn = true, mobikeDPD
		c.tunnel = func(t *engine.TunnelConfig) {
			t.Timing.DPD = 2 * time.Second
		}
	}
	return cases
}

// moves gives one end an address in place of another. Both ends are to go on with
// the IKE SA that they have.
func moves(s side, to, from string) step {
	return step{fmt.Sprintf("move of %v", s), func(x *run) {
		before := x.gateway.tunnel()
		host := x.hosts[s.String()]
		x.must(keepSecondaries(host))
		x.must(host.Address("wan1", netip.PrefixFrom(netip.MustParseAddr(to), 24)))
		_, err := host.Run(x.ctx, "ip", "addr", "del", from+"/24", "dev", "wan1")
		x.must(err)
		if s == ours {
			x.config.Local = netip.AddrPortFrom(netip.MustParseAddr(to), x.config.Local.Port())
			x.must(x.gateway.apply(x.config))
		}
		x.moved(before, func(sa ike.IKEStatus) bool {
			return map[side]netip.AddrPort{ours: sa.Local, theirs: sa.Remote}[s].Addr() == netip.MustParseAddr(to)
		})
	}}
}

// theirsGains gives the peer one more address, which we hear of when we meet: what
// its kernel has told its daemon by then.
func theirsGains(address string) step {
	return step{fmt.Sprintf("theirs gains %s", address), func(x *run) {
		x.must(x.hosts["theirs"].Address("wan1", netip.PrefixFrom(netip.MustParseAddr(address), 24)))
		x.await("the peer to see its new address", func() (bool, string) {
			return strings.Contains(x.peer.log(), address+" appeared on"), "its log does not name it"
		})
	}}
}

// keepSecondaries has the other addresses of an interface stay when its first one
// is removed.
func keepSecondaries(host *lab.Namespace) error {
	return host.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/conf/all/promote_secondaries", []byte("1"), 0o644)
	})
}

// moved waits until our IKE SA is where it should be and traffic passes, and holds
// that the SAs are those of before. The ESP of charon's own cannot move: it rekeys
// Child SAs.
func (x *run) moved(before engine.TunnelStatus, there func(ike.IKEStatus) bool) {
	x.await("the IKE SA to move", func() (bool, string) {
		sas := x.gateway.tunnel().IKE
		return len(sas) == 1 && there(sas[0]), fmt.Sprintf("%+v", sas)
	})
	x.settle("one IKE SA and one Child SA after the move")
	now := x.gateway.tunnel()
	if a, b := now.IKE[0].LocalSPI, before.IKE[0].LocalSPI; a != b {
		x.t.Errorf("the IKE SA is %v after the move, %v before it", a, b)
	}
	if a, b := now.Children[0].InboundSPI, before.Children[0].InboundSPI; inGuest() && a != b {
		x.t.Errorf("the Child SA is %08x after the move, %08x before it", a, b)
	}
	for _, e := range x.flow.ends {
		before := e.count()
		x.await("traffic after the move", func() (bool, string) {
			return e.count() > before+flowLeast, fmt.Sprintf("%d datagrams came, %d before it", e.count(), before)
		})
	}
}

func (e *flowEnd) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.received)
}

// forgets has the NAT of one end forget every mapping; the next packet makes
// another one, with another port.
func forgets(s side) step {
	return step{fmt.Sprintf("loss of the mappings of the NAT of %v", s), func(x *run) {
		before := x.gateway.tunnel()
		nat := map[side]string{ours: "our-nat", theirs: "their-nat"}[s]
		x.must(x.hosts[nat].Do(flushConntrack))
		x.moved(before, func(now ike.IKEStatus) bool { return s == ours || now.Remote != before.IKE[0].Remote })
	}}
}

// flushConntrack makes the NAT of this namespace forget all.
func flushConntrack() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	defer unix.Close(fd)
	const ctDelete = 1<<8 | 2 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
	m := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], ctDelete)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m[unix.SizeofNlMsghdr] = unix.AF_INET // no filter: all of it
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("flush conntrack: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]) != 0 {
		return fmt.Errorf("flush conntrack: answer %x, %v", answer[:max(n, 0)], err)
	}
	return nil
}
