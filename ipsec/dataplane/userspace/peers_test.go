package userspace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// remotePeer is the far end of one tunnel: a socket and the inbound SA.
type remotePeer struct {
	socket *socket
	in     *esp.Inbound
}

// openPeer opens the socket of a peer, which receives whatever comes.
func openPeer(t testing.TB) *socket {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	s := &socket{lane: lane{fd: fd}, family: unix.AF_INET}
	if err := s.bind(netip.MustParseAddr("127.0.0.1"), 0, 1); err != nil {
		t.Fatal(err)
	}
	return s
}

// addPeer gives p a tunnel to a new peer that has 10.1.n.0/24.
func (p *Plane) addPeer(t *testing.T, n int) *remotePeer {
	t.Helper()
	return p.addPeerWith(t, n, dataplane.TFC{}, dataplane.Limits{})
}

func (p *Plane) addPeerWith(t *testing.T, n int, tfc dataplane.TFC, limits dataplane.Limits) *remotePeer {
	t.Helper()
	s := openPeer(t)
	local := []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.0.0.0/24"))}
	remote := []ts.Selector{ts.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(n), 0}), 24))}
	name := fmt.Sprintf("peer%d", n)
	sa := dataplane.SA{
		SPI: uint32(1000 + n), Direction: dataplane.Outbound, Tunnel: name, Child: "c", Suite: gcm128,
		Key: make([]byte, gcm128.KeyLen()), Local: p.socket.local, Remote: s.local, LocalTS: local, RemoteTS: remote,
		TFC: tfc, Limits: limits,
	}
	sa.Key[0] = byte(n)
	for _, err := range p.Apply([]dataplane.Op{
		dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: name, Child: "c", LocalTS: local, RemoteTS: remote}},
		dataplane.InstallSA{SA: sa},
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	in, err := esp.NewInbound(esp.Config{SPI: sa.SPI, Suite: sa.Suite, Key: sa.Key})
	if err != nil {
		t.Fatal(err)
	}
	return &remotePeer{socket: s, in: in}
}

// receive returns the inner packets that have come, in order, each with the
// outer traffic class in front.
func (r *remotePeer) receive(t *testing.T) (packets [][]byte) {
	t.Helper()
	b, oob := make([]byte, slabLen), make([]byte, oobLen)
	for {
		n, oobn, _, _, err := unix.Recvmsg(r.socket.fd, b, oob, 0)
		if err != nil {
			return packets
		}
		info := parseControl(oob[:oobn], false)
		size := info.segment
		if size == 0 {
			size = n
		}
		for rest := b[:n]; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			packet, err := r.in.Open(rest[:min(size, len(rest))])
			if err != nil {
				t.Fatalf("packet of %d octets for SPI %d: %v", min(size, len(rest)), r.in.SPI(), err)
			}
			packets = append(packets, append([]byte{info.class}, packet.Payload...))
		}
	}
}

// TestManyPeers interleaves packets for more peers and traffic classes than the
// transmitter gathers at a time. Every peer gets its own, in order, marked as the
// inner packet is (RFC 6040, Section 4.1), and nobody gets another's.
func TestManyPeers(t *testing.T) {
	const peers, rounds = 3 * maxGroups, 20
	p := newPath(t, openNull(t))
	tx := p.insides[0].transmitters[0]
	var remote []*remotePeer
	for n := range peers {
		remote = append(remote, p.addPeer(t, n))
	}
	buf := make([]byte, 0, 4096)
	for round := range rounds {
		for n := range peers {
			class := uint8(n % 3 * 0x2a) // DSCP and ECN
			b := append(buf, make([]byte, vnetHeaderLen)...)
			b = append(b, ipv4Packet(class)...)
			ip := b[vnetHeaderLen:]
			copy(ip[12:], []byte{10, 0, 0, 1, 10, 1, byte(n), 1})
			b = append(b, 0, 1, 0, 2, 0, 12, 0, 0, 0, 0, 0, 0) // UDP, its payload the round
			ip = b[vnetHeaderLen:]
			binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
			binary.BigEndian.PutUint32(ip[28:], uint32(round))
			tx.take(b)
		}
	}
	tx.flushAll()
	if d := p.Drops(); d != (Drops{}) {
		t.Errorf("packets were dropped: %+v", d)
	}
	for n, r := range remote {
		packets := r.receive(t)
		if len(packets) != rounds {
			t.Fatalf("peer %d received %d packets, want %d", n, len(packets), rounds)
		}
		for round, b := range packets {
			if got := int(binary.BigEndian.Uint32(b[1+28:])); got != round || b[1+18] != byte(n) {
				t.Fatalf("peer %d received packet %d of peer %d at place %d", n, got, b[1+18], round)
			}
			if want := uint8(n % 3 * 0x2a); b[0] != want {
				t.Fatalf("peer %d: outer class %#x, want %#x", n, b[0], want)
			}
		}
	}
}

// BenchmarkInstall is what a gateway with 10,000 tunnels does for one more: a
// policy and a pair of SAs, and their removal.
func BenchmarkInstall(b *testing.B) {
	p := newPath(b, openNull(b))
	local := []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.0.0.0/24"))}
	ops := func(n int) (install, remove []dataplane.Op) {
		name := fmt.Sprintf("t%d", n)
		remote := []ts.Selector{ts.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(n >> 8), byte(n), 0}), 24))}
		sa := dataplane.SA{
			SPI: uint32(1000 + n), Direction: dataplane.Inbound, Tunnel: name, Child: "c", Suite: gcm128,
			Key: make([]byte, gcm128.KeyLen()), Local: p.socket.local, Remote: p.socket.local, LocalTS: local, RemoteTS: remote,
		}
		out := sa
		out.Direction = dataplane.Outbound
		return []dataplane.Op{
				dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: name, Child: "c", LocalTS: local, RemoteTS: remote}},
				dataplane.InstallSA{SA: sa},
				dataplane.InstallSA{SA: out},
			}, []dataplane.Op{
				dataplane.RemoveSA{Tunnel: name, SPI: sa.SPI, Direction: dataplane.Inbound},
				dataplane.RemoveSA{Tunnel: name, SPI: sa.SPI, Direction: dataplane.Outbound},
				dataplane.RemovePolicy{Tunnel: name, Child: "c"},
			}
	}
	for n := range 10000 {
		install, _ := ops(n)
		p.Apply(install)
	}
	install, remove := ops(10001)
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range append(p.Apply(install), p.Apply(remove)...) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

// TestOrderOverRekey: what waits to be sent under the SA before a rekey is sent before
// what comes under the one after it, however much that is.
func TestOrderOverRekey(t *testing.T) {
	p := newPath(t, openNull(t))
	tx := p.insides[0].transmitters[0]
	peer := p.addPeer(t, 0)
	packet := append(make([]byte, vnetHeaderLen), datagram4(0, false, 100)...)
	copy(packet[vnetHeaderLen+12:], []byte{10, 0, 0, 1, 10, 1, 0, 1})
	packet = append(packet, make([]byte, esp.TrailerRoom)...)[:len(packet)]
	tx.take(packet)
	sa := dataplane.SA{
		SPI: 2000, Direction: dataplane.Outbound, Tunnel: "peer0", Child: "c", Suite: gcm128, Key: bytes.Repeat([]byte{1}, gcm128.KeyLen()),
		Local: p.socket.local, Remote: peer.socket.local,
		LocalTS: []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.0.0.0/24"))}, RemoteTS: []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.1.0.0/24"))},
	}
	if err := p.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}})[0]; err != nil {
		t.Fatal(err)
	}
	for range maxSegments + 1 { // one more than are sent at a time
		tx.take(packet)
	}
	tx.flushAll()
	b := make([]byte, slabLen)
	var first []uint32
	for len(first) < 3 {
		if _, _, err := unix.Recvfrom(peer.socket.fd, b, 0); err != nil {
			break
		}
		first = append(first, binary.BigEndian.Uint32(b))
	}
	if want := []uint32{peer.in.SPI(), sa.SPI, sa.SPI}; !slices.Equal(first, want) {
		t.Errorf("the sends are of the SAs %v, want %v", first, want)
	}
}
