package userspace

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// keptBench has policies without SAs: tunnel n takes what goes to 11.n/16.
type keptBench struct {
	*pathBench
	t *testing.T
}

func newKeptBench(t *testing.T, tunnels int) *keptBench {
	b := &keptBench{newPathBench(t), t}
	b.must(dataplane.RemovePolicy{Tunnel: "t", Child: "c"})
	for n := range tunnels {
		b.must(b.policy(n))
	}
	return b
}

func (b *keptBench) must(ops ...dataplane.Op) {
	b.t.Helper()
	for _, err := range b.plane.Apply(ops) {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *keptBench) selectors(n int) (local, remote []ts.Selector) {
	to := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(n >> 8), byte(n), 0}), 24)
	return []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))}, []ts.Selector{ts.FromPrefix(to)}
}

func (b *keptBench) policy(n int) dataplane.SetPolicy {
	local, remote := b.selectors(n)
	return dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: fmt.Sprint(n), Child: "c", LocalTS: local, RemoteTS: remote}}
}

func (b *keptBench) send(n, size int) {
	p := superPacket(false, false, size, 1300)
	copy(p[vnetHeaderLen+16:], []byte{11, byte(n >> 8), byte(n), 1})
	b.transmit(p)
}

// sent installs the outbound SA of a tunnel and says how many packets it then carries,
// beside one that comes after.
func (b *keptBench) sent(n int) uint64 {
	local, remote := b.selectors(n)
	b.must(dataplane.InstallSA{SA: dataplane.SA{
		SPI: 0x2000, Direction: dataplane.Outbound, Tunnel: fmt.Sprint(n), Child: "c", Suite: gcm128, Key: make([]byte, gcm128.KeyLen()),
		Local: b.plane.socket.local, Remote: b.sink.local, LocalTS: local, RemoteTS: remote,
	}})
	b.send(n, 100)
	for _, c := range b.plane.Counters() {
		if c.Tunnel == fmt.Sprint(n) {
			return c.Packets - 1
		}
	}
	b.t.Fatalf("no counters of tunnel %d", n)
	return 0
}

func TestKeptPacketsAreBounded(t *testing.T) {
	b := newKeptBench(t, 400)
	for range keptOfChild + 3 {
		b.send(0, 100)
	}
	if d := b.plane.Drops(); d.NoSA != 3 {
		t.Errorf("%d packets of one child dropped, want 3", d.NoSA)
	}
	for range 5 {
		b.send(1, 39000) // 30 segments
	}
	for n := 2; n < 400; n++ {
		for range keptOfChild {
			b.send(n, 100)
		}
	}
	if k := b.tx.kept; k.packets != keptInAll || k.octets > keptOctetsInAll {
		t.Errorf("%d packets of %d octets wait", k.packets, k.octets)
	}
	if n := b.sent(0); n != keptOfChild {
		t.Errorf("the first child sent %d packets that waited, want %d", n, keptOfChild)
	}
	if n := b.sent(1); n != 3*30 {
		t.Errorf("the second child sent %d segments that waited, want 90", n)
	}
	if n := b.sent(399); n != 0 {
		t.Errorf("the last child sent %d packets, though there was no room for them", n)
	}
	for n := 2; n < 399; n++ {
		b.sent(n)
	}
	if k := b.tx.kept; k.packets != 0 || k.octets != 0 || len(k.waiting)+len(k.of) != 0 {
		t.Errorf("%d packets of %d octets still wait", k.packets, k.octets)
	}
}

// What waited too long, or whose policy is gone or discards it by now, is not sent.
func TestKeptPacketsThatAreNotSent(t *testing.T) {
	b := newKeptBench(t, 3)
	b.send(0, 100)
	b.tx.kept.waiting[0].since = time.Now().Add(-keptFor)
	if n := b.sent(0); n != 0 || b.plane.Drops().NoSA != 1 {
		t.Errorf("%d packets that waited too long were sent; %+v", n, b.plane.Drops())
	}
	b.send(1, 100)
	gone := b.policy(1).Policy
	b.must(dataplane.RemovePolicy{Tunnel: gone.Tunnel, Child: gone.Child})
	if n := b.sent(1); int64(n) != -1 { // nor the one after it
		t.Errorf("%d packets without a policy were sent", n+1)
	}
	b.send(2, 100)
	discard := b.policy(2)
	discard.Policy.Action = dataplane.Discard
	b.must(discard)
	if n := b.sent(2); int64(n) != -1 {
		t.Errorf("%d packets of a policy that discards were sent", n+1)
	}
}
