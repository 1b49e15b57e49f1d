package userspace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// BenchmarkModestUnderFlood is what a receiver's other SAs have of it while somebody sends as
// fast as a processor can: for each operation a small packet of one of 24 SAs, each of a peer
// with a port of its own, 5,000 a second of all together. The flood's packets end in the receiver's host. They leave in segmented
// sends, or their sender's kernel would be what limits them.
//
// Who sends and who receives would wait for each other in Go's scheduler: use -cpu 8.
func BenchmarkModestUnderFlood(b *testing.B) {
	for _, tt := range []struct {
		name  string
		flood func(f *flooded) func([]byte) []byte // nil: none
	}{
		{"nothing", nil},
		{"an SA with small packets", func(f *flooded) func([]byte) []byte { return f.sealer(100) }},
		{"an SA with full packets", func(f *flooded) func([]byte) []byte { return f.sealer(1300) }},
		{"forged packets of an SA", func(f *flooded) func([]byte) []byte { return forger(f.flood.SPI()) }},
		{"no SA", func(*flooded) func([]byte) []byte { return forger(0x99999999) }},
	} {
		b.Run(tt.name, func(b *testing.B) {
			f := newFlooded(b)
			if tt.flood != nil {
				defer f.start(tt.flood(f))()
			}
			time.Sleep(300 * time.Millisecond)
			before, began := f.taken(), time.Now()
			next := began
			for i := range b.N {
				f.send(i)
				next = next.Add(200 * time.Microsecond)
				time.Sleep(time.Until(next))
			}
			b.ReportMetric(float64(f.taken()-before)/time.Since(began).Seconds()/1000, "flood-kpps")
			time.Sleep(300 * time.Millisecond)
			f.report(b, b.N)
		})
	}
}

// modestSAs is how many there are beside the one that is flooded.
const modestSAs = 24

// floodHost takes no packets.
var floodHost = siteB.Addr().Next()

// flooded is a gateway of one worker, with SAs for which sockets elsewhere send.
type flooded struct {
	t      testing.TB
	nsA    *namespace
	gate   *gateway
	flood  *esp.Outbound
	modest []*esp.Outbound
	from   []net.PacketConn // of the peers whose SAs these are
	got    *net.UDPConn     // what came of the modest ones
	began  time.Time
	done   chan struct{}

	mu    sync.Mutex
	times []time.Duration // how long each of these took
}

func newFlooded(t testing.TB) *flooded {
	nsA, nsB := joined(t)
	f := &flooded{
		t: t, nsA: nsA, gate: newGateway(t, nsB, outerB, Config{Workers: 1}, []netip.Prefix{siteB}, []netip.Prefix{siteA}),
		began: time.Now(), done: make(chan struct{}),
	}
	nsB.ip(fmt.Sprintf("route add blackhole %s/32", floodHost))
	f.flood = f.install()
	var err error
	for range modestSAs {
		f.modest = append(f.modest, f.install())
		var c net.PacketConn
		nsA.do(func() { c, err = net.ListenPacket("udp4", netip.AddrPortFrom(outerA, 0).String()) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		f.from = append(f.from, c)
	}
	nsB.do(func() {
		f.got, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(siteB.Addr(), 4321)))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.got.Close()
		<-f.done
	})
	go f.receive()
	return f
}

// install gives the gateway one more inbound SA, and returns its other end.
func (f *flooded) install() *esp.Outbound {
	f.t.Helper()
	spi, err := f.gate.AllocateSPI(0)
	if err != nil {
		f.t.Fatal(err)
	}
	sa := dataplane.SA{
		SPI: spi, Direction: dataplane.Inbound, Tunnel: fmt.Sprint(spi), Child: "c", Suite: gcm128, Key: make([]byte, gcm128.KeyLen()),
		Local: f.gate.outer, Remote: netip.AddrPortFrom(outerA, DefaultPort),
		LocalTS: []ts.Selector{ts.FromPrefix(siteB.Masked())}, RemoteTS: []ts.Selector{ts.FromPrefix(siteA.Masked())},
	}
	out, err := esp.NewOutbound(esp.Config{SPI: spi, Suite: sa.Suite, Key: sa.Key})
	if err = errors.Join(append(f.gate.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}), err)...); err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *flooded) receive() {
	defer close(f.done)
	b := make([]byte, 100)
	for {
		n, err := f.got.Read(b)
		if err != nil {
			return
		}
		if n >= 8 {
			f.mu.Lock()
			f.times = append(f.times, time.Since(f.began)-time.Duration(binary.BigEndian.Uint64(b)))
			f.mu.Unlock()
		}
	}
}

func (f *flooded) arrived() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.times)
}

// send sends a packet of one of the modest SAs.
func (f *flooded) send(i int) {
	f.t.Helper()
	inside := plainUDP(siteA.Addr(), siteB.Addr(), binary.BigEndian.AppendUint64(nil, uint64(time.Since(f.began))))
	b, err := f.modest[i%modestSAs].Seal(nil, slices.Grow(inside, esp.TrailerRoom), esp.NextHeaderIPv4)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.from[i%modestSAs].WriteTo(b, net.UDPAddrFromAddrPort(f.gate.outer)); err != nil {
		f.t.Fatal(err)
	}
}

// taken is how many packets of the flood the gateway has looked at.
func (f *flooded) taken() uint64 {
	n := f.gate.Drops().UnknownSPI
	for _, c := range f.gate.Counters() {
		if c.SPI == f.flood.SPI() {
			n += c.Packets + c.AuthFailures
		}
	}
	return n
}

func (f *flooded) report(b *testing.B, sent int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b.ReportMetric(100*float64(sent-len(f.times))/float64(sent), "%lost")
	if len(f.times) == 0 {
		return
	}
	slices.Sort(f.times)
	for _, q := range []int{50, 99} {
		b.ReportMetric(f.times[(len(f.times)-1)*q/100].Seconds()*1000, fmt.Sprintf("ms-p%d", q))
	}
}

// dial opens a socket whose writes leave as packets of that size.
func (f *flooded) dial(size int) net.Conn {
	f.t.Helper()
	var c net.Conn
	var err error
	f.nsA.do(func() { c, err = net.Dial("udp4", f.gate.outer.String()) })
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		f.t.Fatal(err)
	}
	err1 := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	if err := errors.Join(err, err1); err != nil {
		f.t.Fatal(err)
	}
	return c
}

// start sends packets that next appends to a buffer, all of one size, until it is ended.
func (f *flooded) start(next func([]byte) []byte) (end func()) {
	f.t.Helper()
	size := len(next(nil))
	c, segments := f.dial(size), min(60, 60000/size)
	var stop atomic.Bool
	var running sync.WaitGroup
	running.Go(func() {
		b := make([]byte, 0, maxPacket)
		for !stop.Load() {
			b = b[:0]
			for range segments {
				b = next(b)
			}
			c.Write(b) // what is refused is no matter
		}
	})
	return func() {
		stop.Store(true)
		running.Wait()
	}
}

// sealer makes packets of the SA that is flooded, with n octets of payload.
func (f *flooded) sealer(n int) func([]byte) []byte {
	inside := slices.Grow(plainUDP(siteA.Addr(), floodHost, make([]byte, n)), esp.TrailerRoom)
	return func(dst []byte) []byte {
		dst, err := f.flood.Seal(dst, inside, esp.NextHeaderIPv4)
		if err != nil {
			f.t.Error(err)
		}
		return dst
	}
}

// forger makes packets for which no key was used.
func forger(spi uint32) func([]byte) []byte {
	sequence, rest := uint32(1<<20), make([]byte, 150)
	return func(dst []byte) []byte {
		sequence++
		dst = binary.BigEndian.AppendUint32(dst, spi)
		dst = binary.BigEndian.AppendUint32(dst, sequence)
		return append(dst, rest...)
	}
}
