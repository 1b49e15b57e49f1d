package userspace

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

// synPacket is a TCP SYN with the given options, padded to a word.
func synPacket(v6 bool, flags byte, options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, tcpOptionEnd)
	}
	b := superPacket(v6, false, 12, 1000)[vnetHeaderLen:] // its options and payload are replaced
	transport := ipv4HeaderLen
	if v6 {
		transport = ipv6HeaderLen
	}
	b = append(b[:transport+tcpHeaderLen], options...)
	t := b[transport:]
	t[12], t[13] = byte(len(t)/4)<<4, flags
	if v6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(t)))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^checksum.Fold(checksum.Add(b[:transport], 0)))
	}
	t[16], t[17] = 0, 0
	binary.BigEndian.PutUint16(t[16:], ^checksum.Fold(checksum.Add(t, pseudoSum(b, v6, len(t)))))
	return b
}

func TestClampMSS(t *testing.T) {
	mss := func(n uint16) []byte { return []byte{tcpOptionMSS, mssLen, byte(n >> 8), byte(n)} }
	for _, tt := range []struct {
		name    string
		v6      bool
		flags   byte
		options []byte
		mtu     int
		want    []byte // the options after
	}{
		{"SYN", false, tcpSYNFlag, mss(1460), 1400, mss(1360)},
		{"SYN and ACK", false, tcpSYNFlag | tcpACK, mss(1460), 1400, mss(1360)},
		{"IPv6", true, tcpSYNFlag, mss(1440), 1400, mss(1340)},
		{"small already", false, tcpSYNFlag, mss(1300), 1400, mss(1300)},
		{"just fits", false, tcpSYNFlag, mss(1360), 1400, mss(1360)},
		{"no less than every host takes", false, tcpSYNFlag, mss(1460), 500, mss(536)},
		{"at an odd place", false, tcpSYNFlag, append([]byte{1}, mss(1460)...), 1400, append([]byte{1}, mss(1360)...)},
		{"after others", false, tcpSYNFlag, append([]byte{4, 2, 3, 3, 7}, mss(9000)...), 1400, append([]byte{4, 2, 3, 3, 7}, mss(1360)...)},
		{"not SYN", false, tcpACK, mss(1460), 1400, mss(1460)},
		{"behind the end", false, tcpSYNFlag, append([]byte{0}, mss(1460)...), 1400, append([]byte{0}, mss(1460)...)},
		{"signed", false, tcpSYNFlag, append(mss(1460), 29, 4, 1, 1), 1400, append(mss(1460), 29, 4, 1, 1)},
		{"length of nothing", false, tcpSYNFlag, append([]byte{3, 0}, mss(1460)...), 1400, append([]byte{3, 0}, mss(1460)...)},
		{"cut off", false, tcpSYNFlag, []byte{1, 1, 2, 4}, 1400, []byte{1, 1, 2, 4}},
		{"without", false, tcpSYNFlag, nil, 1400, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, want := synPacket(tt.v6, tt.flags, tt.options...), synPacket(tt.v6, tt.flags, tt.want...)
			var in inner
			if !in.parse(b) {
				t.Fatal("does not parse")
			}
			if in.tcpSYN(b) {
				clampMSS(b, &in, tt.mtu)
			}
			if !bytes.Equal(b, want) {
				t.Errorf("got\n%x\nwant\n%x", b, want)
			}
		})
	}
}

// TestClampLeavesFragments: of a SYN in fragments nothing is known for sure.
func TestClampLeavesFragments(t *testing.T) {
	b := synPacket(false, tcpSYNFlag, tcpOptionMSS, mssLen, 5, 0xb4)
	b[6] = 0x20
	var in inner
	if !in.parse(b) || in.tcpSYN(b) {
		t.Error("a fragment counts as a SYN")
	}
}

func FuzzClampMSS(f *testing.F) {
	f.Add(synPacket(false, tcpSYNFlag, tcpOptionMSS, mssLen, 5, 0xb4), 1400)
	f.Add(synPacket(true, tcpSYNFlag, tcpOptionNop, tcpOptionMSS, mssLen, 5, 0xb4), 1300)
	f.Fuzz(func(t *testing.T, b []byte, mtu int) {
		var in inner
		if !in.parse(b) || !in.tcpSYN(b) || mtu < 0 || mtu > maxMTU {
			return
		}
		good := transportChecksumOK(b[:in.length], in.transport, in.v6)
		before := slices.Clone(b)
		clampMSS(b, &in, mtu)
		changed := 0
		for i := range b {
			if b[i] != before[i] {
				changed++
			}
		}
		if changed > 4 {
			t.Fatalf("%d octets changed", changed)
		}
		if got := transportChecksumOK(b[:in.length], in.transport, in.v6); got != good {
			t.Fatalf("the checksum was right: %v, now: %v", good, got)
		}
	})
}

// TestClampOfConnections: on a narrow path, connections of both families and in
// both directions keep to what fits without any ICMP.
func TestClampOfConnections(t *testing.T) {
	x := newTunnel(t, outerA, outerB, gcm128)
	for _, g := range []*gateway{x.a, x.b} {
		g.ns.ip("link set wire mtu 1420")
	}
	for network, server := range map[string]netip.Addr{"tcp4": siteB.Addr(), "tcp6": siteB6.Addr()} {
		if err := x.exchange(network, server, 1<<20); err != nil {
			t.Errorf("%s: %v; drops: %+v and %+v", network, err, x.a.Drops(), x.b.Drops())
		}
	}
	for _, g := range []*gateway{x.a, x.b} {
		if d := g.Drops(); d.TooBig+d.SendErrors != 0 {
			t.Errorf("packets were too big: %+v", d)
		}
	}
}

// TestClampInbound: the end without the clamp sends its SYN as it is; the other
// one lowers it on arrival.
func TestClampInbound(t *testing.T) {
	nsA, nsB := joined(t)
	x := newTunnelIn(t, nsA, nsB, outerA, outerB, gcm128, Config{KeepMSS: true}, Config{})
	nsB.ip("link set wire mtu 1420")
	site := nsB.tap(t, x.b.Interface())
	dialed := make(chan struct{})
	go func() {
		defer close(dialed)
		nsA.do(func() {
			if c, err := net.Dial("tcp4", netip.AddrPortFrom(siteB.Addr(), 1).String()); err == nil {
				c.Close()
			}
		})
	}()
	b := site.find(t, func(b []byte) bool { return b[9] == protoTCP && b[33]&tcpSYNFlag != 0 })
	<-dialed
	at := findMSS(b[ipv4HeaderLen:])
	want := x.sas[3].InnerMTU(1420) - ipv4HeaderLen - tcpHeaderLen
	if got := int(binary.BigEndian.Uint16(b[ipv4HeaderLen+at:])); at == 0 || got != want {
		t.Errorf("the SYN arrives with an MSS of %d, want %d", got, want)
	}
}
