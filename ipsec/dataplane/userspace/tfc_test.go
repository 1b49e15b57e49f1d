package userspace

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
)

// TestPadding: all that is sealed has one length, and what was in it comes out
// again, also where segments lie one behind the other (RFC 4303, Section 2.7).
func TestPadding(t *testing.T) {
	p := newPath(t, openNull(t))
	tx := p.insides[0].transmitters[0]
	peer := p.addPeerWith(t, 1, dataplane.TFC{PadTo: 1300}, dataplane.Limits{HardBytes: 100 * 1300})
	b := superPacket(false, false, 5000, 1000)
	ip := b[vnetHeaderLen:]
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 1, 1, 1})
	var want [][]byte
	var s segmenter
	again := bytes.Clone(b)
	s.start(parseVnetHeader(again), again[vnetHeaderLen:])
	var octets uint64
	for seg := s.next(); seg != nil; seg = s.next() {
		want = append(want, bytes.Clone(seg))
		octets += uint64(len(seg))
	}
	tx.take(append(b, make([]byte, esp.TrailerRoom)...)[:len(b)])
	tx.flushAll()
	got := peer.receive(t)
	if len(got) != len(want) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
	for i, packet := range got {
		packet = packet[1:]
		if len(packet) != 1300 {
			t.Errorf("packet %d has %d octets", i, len(packet))
		}
		var in inner
		if !in.parse(packet) || !bytes.Equal(packet[:in.length], want[i]) {
			t.Errorf("packet %d changed", i)
		}
		if rest := packet[in.length:]; !bytes.Equal(rest, make([]byte, len(rest))) {
			t.Errorf("the padding of packet %d is not zero", i)
		}
	}
	// Counters are of inner packets, limits of all that is encrypted.
	if c := p.Counters()[0]; c.Packets != uint64(len(want)) || c.Bytes != octets {
		t.Errorf("%d packets of %d octets counted, want %d of %d", c.Packets, c.Bytes, len(want), octets)
	}
	for range 200 {
		packet := append(make([]byte, vnetHeaderLen), datagram4(0, false, 20)...)
		copy(packet[vnetHeaderLen+12:], []byte{10, 0, 0, 1, 10, 1, 1, 1})
		tx.take(append(packet, make([]byte, esp.TrailerRoom)...)[:len(packet)])
	}
	tx.flushAll()
	if c := p.Counters()[0]; c.Packets != 100 {
		t.Errorf("%d packets passed before the limit of 100 x 1300 octets", c.Packets)
	}
}

// TestPaddingKeepsToPath: nothing is padded beyond what passes in one piece, and
// what is longer stays as it is.
func TestPaddingKeepsToPath(t *testing.T) {
	tx := newPath(t, openNull(t)).insides[0].transmitters[0]
	out, err := esp.NewOutbound(esp.Config{SPI: 0x1000, Suite: gcm128, Key: make([]byte, gcm128.KeyLen())})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ padTo, limit, want int }{
		{0, 1472, 0}, {500, 1472, 500}, {1438, 1472, 1438}, {1439, 1472, 1438}, {9000, 1472, 1438},
		{dataplane.PadToPath, 1472, 1438}, {dataplane.PadToPath, 1372, 1338},
	} {
		sa := &outboundSA{esp: out, hidden: hidden{TFC: dataplane.TFC{PadTo: tt.padTo}}}
		e := &endpoint{}
		e.path.limit.Store(int64(tt.limit))
		if got := tx.padTo(sa, e); got != tt.want {
			t.Errorf("padding to %d on a path of %d: %d, want %d", tt.padTo, tt.limit, got, tt.want)
		}
	}
}

func TestPaddingDoesNotAllocate(t *testing.T) {
	p := newPath(t, openNull(t))
	tx := p.insides[0].transmitters[0]
	p.addPeerWith(t, 1, dataplane.TFC{PadTo: 1300}, dataplane.Limits{})
	b := superPacket(false, false, 5000, 1000)
	copy(b[vnetHeaderLen+12:], []byte{10, 0, 0, 1, 10, 1, 1, 1})
	buf := make([]byte, 2*maxPacket)
	if n := testing.AllocsPerRun(100, func() { tx.take(buf[:copy(buf, b)]); tx.flushAll() }); n != 0 {
		t.Errorf("a padded super-packet allocates %v times", n)
	}
}

// TestDummies: an SA that is silent sends dummy packets, the peer discards them, and
// traffic passes as before. A transmitter that waits for a packet learns of a new
// SA, and ends when the plane does.
func TestDummies(t *testing.T) {
	for _, tfc := range []dataplane.TFC{{Fill: time.Millisecond}, {PadTo: dataplane.PadToPath, Fill: 2 * time.Millisecond}} {
		x := newTunnel(t, outerA, outerB, gcm128)
		x.tfc = tfc
		wire := x.b.ns.tap(t, "wire")
		x.rekey()
		counters := func(g *gateway, sa dataplane.SA) dataplane.Counters {
			for _, c := range g.Counters() {
				if c.Direction == sa.Direction && c.SPI == sa.SPI {
					return c
				}
			}
			return dataplane.Counters{}
		}
		err := eventually(func() bool {
			return counters(x.a, x.sas[1]).Dummies > 20 && counters(x.b, x.sas[2]).Dummies > 20
		})
		if err != nil {
			t.Fatalf("%+v: %v: %+v %+v", tfc, err, x.a.Counters(), x.b.Counters())
		}
		lengths := map[int]bool{}
		for range 10 {
			b := wire.find(t, func(b []byte) bool { return b[9] == protoUDP && b[20] == DefaultPort>>8 && b[21] == DefaultPort&0xff })
			lengths[int(binary.BigEndian.Uint16(b[2:]))] = true
		}
		if padded := tfc.PadTo != 0; padded != (len(lengths) == 1) || padded && !lengths[1500] {
			t.Errorf("%+v: lengths on the wire: %v", tfc, lengths)
		}
		if c := counters(x.a, x.sas[1]); c.Packets != 0 || c.Bytes != 0 {
			t.Errorf("%+v: dummy packets count as traffic: %+v", tfc, c)
		}
		if err := x.ping(siteA.Addr(), siteB.Addr(), 20); err != nil {
			t.Errorf("%+v: %v", tfc, err)
		}
		if err := x.exchange("tcp4", siteB.Addr(), 1<<20); err != nil {
			t.Errorf("%+v: %v", tfc, err)
		}
		x.apply(x.a, dataplane.RemoveSA{Tunnel: "t", SPI: x.sas[1].SPI, Direction: dataplane.Outbound})
		if n := len(x.a.filledSAs()); n != 0 {
			t.Errorf("%+v: %d SAs send dummy packets after the only one was removed", tfc, n)
		}
		if d := x.b.Drops(); d.Malformed+d.UnknownSPI != 0 {
			t.Errorf("%+v: the peer did not take it for dummy packets: %+v", tfc, d)
		}
		for _, g := range []*gateway{x.a, x.b} {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
