package userspace

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestPathBehindRouter: a router on the way is what has no room. Its ICMP message
// reaches the kernel of the sender, from there the plane, and from that the inner
// sender, who then sends what fits (RFC 4301, Section 8.2).
func TestPathBehindRouter(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { testPathBehindRouter(t, nearA, farB) })
	t.Run("IPv6", func(t *testing.T) { testPathBehindRouter(t, nearA6, farB6) })
}

func testPathBehindRouter(t *testing.T, from, to netip.Addr) {
	nsA, _, nsB := joinedByRouter(t, 1400)
	x := newTunnelIn(t, nsA, nsB, from, to, gcm128, Config{KeepMSS: true}, Config{KeepMSS: true})
	fits := x.sas[1].InnerMTU(1400)
	site := nsA.tap(t, x.a.Interface())
	long := datagram4(0, true, fits+1-ipv4HeaderLen-udpHeaderLen)
	var told []byte
	// The first packet is lost on the way, and what the kernel learnt by it is
	// asked for now and then: some senders would try again.
	err := eventually(func() bool {
		if err := site.send(long); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-site.packets:
			told = b
			return b[0]>>4 == 4 && b[9] == protoICMP && b[20] == 3 && b[21] == 4
		default:
			return false
		}
	})
	if err != nil {
		t.Fatalf("the inner sender is not told: %v: %+v", err, x.a.Drops())
	}
	if got := int(binary.BigEndian.Uint16(told[ipv4HeaderLen+6:])); got != fits {
		t.Errorf("told to send %d octets, want %d", got, fits)
	}
	if err := x.exchange("tcp4", siteB.Addr(), 4<<20); err != nil {
		t.Errorf("TCP: %v; drops: %+v", err, x.a.Drops())
	}
	if d := x.a.Drops(); d.SendErrors != 0 {
		t.Errorf("%d packets could not be sent", d.SendErrors)
	}
}

// TestOuterFragments: with DF clear, packets too long for the wire leave in
// fragments, which the peer's kernel puts together.
func TestOuterFragments(t *testing.T) {
	x := newTunnel(t, outerA, outerB, gcm128)
	x.outer = dataplane.Outer{DF: dataplane.DFClear}
	x.rekey()
	for _, g := range []*gateway{x.a, x.b} {
		g.ns.ip("link set wire mtu 1300")
	}
	wire := x.b.ns.tap(t, "wire")
	for _, run := range []func() error{
		func() error { return x.datagrams("udp4", siteB.Addr()) },
		func() error { return x.exchange("tcp4", siteB.Addr(), 1<<20) },
	} {
		if err := run(); err != nil {
			t.Error(err)
		}
	}
	wire.find(t, func(b []byte) bool { return b[6]&0x20 != 0 && b[9] == protoUDP })
	if d := x.a.Drops(); d.TooBig+d.SendErrors != 0 {
		t.Errorf("packets were dropped: %+v", d)
	}
}
