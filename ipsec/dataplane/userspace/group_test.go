package userspace

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// turns is a path with many SAs, each for another destination, to as many peers as are
// wanted. They are addresses of the loopback interface, on which one socket listens.
type turns struct {
	*pathBench
	sink *net.UDPConn
}

func newTurns(t testing.TB, sas, peers int) *turns {
	t.Helper()
	p := newPath(t, openNull(t))
	sink, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	x := &turns{&pathBench{plane: p, tx: p.insides[0].transmitters[0], buf: make([]byte, 2*maxPacket)}, sink}
	for n := range sas {
		x.install(t, n, uint32(n), netip.AddrFrom4([4]byte{127, 1, byte(n % peers >> 8), byte(n % peers)}))
	}
	return x
}

// install gives child number n an SA to a peer.
func (x *turns) install(t testing.TB, n int, spi uint32, peer netip.Addr) {
	t.Helper()
	to := x.packet(n, 100)[vnetHeaderLen+16:]
	all := []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))}
	sa := dataplane.SA{
		SPI: 0x1000 + spi, Direction: dataplane.Outbound, Tunnel: fmt.Sprint(n), Child: "c", Suite: gcm128, Key: make([]byte, gcm128.KeyLen()),
		Local: x.plane.socket.local, Remote: netip.AddrPortFrom(peer, uint16(x.sink.LocalAddr().(*net.UDPAddr).Port)),
		LocalTS: all, RemoteTS: []ts.Selector{ts.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte(to)), 32))},
	}
	for _, err := range x.plane.Apply([]dataplane.Op{
		dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: sa.Tunnel, Child: "c", LocalTS: sa.LocalTS, RemoteTS: sa.RemoteTS}},
		dataplane.InstallSA{SA: sa},
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// packet is a datagram of size octets for child number n, as it is read.
func (x *turns) packet(n, size int) []byte {
	b := superPacket(false, true, size-ipv4HeaderLen-udpHeaderLen, maxPacket)
	binary.BigEndian.PutUint32(b[vnetHeaderLen+16:], 10<<24|uint32(n))
	return b
}

func (x *turns) take(b []byte) { x.tx.take(x.buf[:copy(x.buf, b)]) }

// TestGroupsKeepOrder: whatever SAs take turns, packets of any length, however they are
// gathered, those of each SA leave in their order, none is lost, and no SA is held
// behind them.
func TestGroupsKeepOrder(t *testing.T) {
	const most = 150 // SAs
	for _, peers := range []int{1, 3, most} {
		t.Run(fmt.Sprintf("%d peers", peers), func(t *testing.T) {
			x := newTurns(t, most, peers)
			b, last := make([]byte, 2048), map[uint32]uint32{}
			rapid.Check(t, func(t *rapid.T) {
				sas := rapid.IntRange(1, most).Draw(t, "SAs")
				packets := rapid.SliceOfN(rapid.IntRange(0, 1<<20), 1, 100).Draw(t, "packets") // within the default buffer
				for _, r := range packets {
					x.take(x.packet(r%sas, 100+r/sas%3*50))
				}
				x.tx.flushAll()
				if n := len(x.tx.gathered.held); n != 0 {
					t.Fatalf("%d SAs are held", n)
				}
				for i := range packets {
					x.sink.SetReadDeadline(time.Now().Add(patience))
					if _, err := x.sink.Read(b); err != nil {
						t.Fatalf("packet %d of %d: %v", i, len(packets), err)
					}
					spi, sequence := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
					if sequence != last[spi]+1 {
						t.Fatalf("SA %08x: %d after %d", spi, sequence, last[spi])
					}
					last[spi] = sequence
				}
			})
		})
	}
}

// TestGroupsAfterRekey: what waits under an SA leaves before what its successor has
// sealed, also to another address.
func TestGroupsAfterRekey(t *testing.T) {
	x := newTurns(t, 2, 1)
	x.take(x.packet(1, 100)) // so that the group of the old address is not the first
	x.install(t, 0, 5, netip.MustParseAddr("127.2.0.1"))
	x.take(x.packet(0, 100))
	x.install(t, 0, 6, netip.MustParseAddr("127.1.0.0"))
	x.take(x.packet(0, 100))
	x.tx.flushAll()
	b := make([]byte, 2048)
	for _, want := range []uint32{0x1001, 0x1005, 0x1006} {
		x.sink.SetReadDeadline(time.Now().Add(patience))
		if _, err := x.sink.Read(b); err != nil {
			t.Fatal(err)
		}
		if spi := binary.BigEndian.Uint32(b); spi != want {
			t.Errorf("SA %08x, want %08x", spi, want)
		}
	}
}

// TestGroupsOfUnreachable: a peer that cannot be sent to costs its own packets, not
// those that would have left in the same call.
func TestGroupsOfUnreachable(t *testing.T) {
	x := newTurns(t, 4, 4)
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255}) // EACCES
	x.install(t, 4, 4, broadcast)
	x.install(t, 5, 5, netip.MustParseAddr("127.3.0.1"))
	for _, n := range []int{0, 1, 4, 2, 5, 3} {
		x.take(x.packet(n, 100))
	}
	x.tx.flushAll()
	b := make([]byte, 2048)
	for _, want := range []uint32{0x1000, 0x1001, 0x1002, 0x1005, 0x1003} {
		x.sink.SetReadDeadline(time.Now().Add(patience))
		if _, err := x.sink.Read(b); err != nil {
			t.Fatal(err)
		}
		if spi := binary.BigEndian.Uint32(b); spi != want {
			t.Errorf("SA %08x, want %08x", spi, want)
		}
	}
	if n := x.plane.Drops().SendErrors; n != 1 {
		t.Errorf("%d packets could not be sent, want 1", n)
	}
}

// TestEndpointsShared: SAs between the same addresses have one endpoint, which is
// forgotten when none is left.
func TestEndpointsShared(t *testing.T) {
	x, here := newEndpoints(), netip.MustParseAddrPort("192.0.2.1:4500")
	made := 0
	get := func(key endpointKey) *endpoint {
		return x.get(key, func() *endpoint { made++; return &endpoint{local: key.local, remote: key.remote} })
	}
	a, b := get(endpointKey{local: here, remote: here}), get(endpointKey{local: here, remote: here})
	other := get(endpointKey{local: here, remote: here, tcp: true})
	if a != b || a == other || made != 2 {
		t.Errorf("%d endpoints were made, want one for UDP and one for TCP", made)
	}
	runtime.KeepAlive(a)
	runtime.KeepAlive(other)
	err := eventually(func() bool {
		runtime.GC()
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.known) == 0
	})
	if err != nil {
		t.Errorf("%d endpoints are not forgotten: %v", len(x.known), err)
	}
}

func TestTurnsDoNotAllocate(t *testing.T) {
	for _, peers := range []int{1, 100} {
		x := newTurns(t, 100, peers)
		var packets [][]byte
		for n := range 100 {
			packets = append(packets, x.packet(n, 200))
		}
		turn := func() {
			for _, b := range packets {
				x.take(b)
			}
			x.tx.flushAll()
		}
		turn() // makes the groups
		if n := testing.AllocsPerRun(100, turn); n != 0 {
			t.Errorf("100 packets to %d peers allocate %v times", peers, n)
		}
	}
}

// BenchmarkTurns is the way of a packet of 200 octets from the interface to the loopback
// network, each under another SA; the reads from the interface are not in it.
func BenchmarkTurns(b *testing.B) {
	for _, bb := range []struct{ sas, peers int }{{1, 1}, {1000, 1}, {1000, 1000}} {
		b.Run(fmt.Sprintf("SAs=%d,peers=%d", bb.sas, bb.peers), func(b *testing.B) {
			x := newTurns(b, bb.sas, bb.peers)
			raw, err := x.sink.SyscallConn()
			if err != nil {
				b.Fatal(err)
			}
			raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1) }) // full at once: packets end there
			var packets [][]byte
			for n := range bb.sas {
				packets = append(packets, x.packet(n, 200))
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				x.take(packets[i%len(packets)])
				if i++; i%readsBeforeFlush == 0 {
					x.tx.flushAll()
				}
			}
		})
	}
}
