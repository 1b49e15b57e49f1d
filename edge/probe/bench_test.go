package probe

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

var benchSLA = &swanherdv1.PathSla{MaxLossPercent: proto.Float64(1), MaxLatency: durationpb.New(300 * time.Millisecond)}

// benchPaths are n paths of one end, and of the other.
func benchPaths(n int) (a, b []Path) {
	for i := range n {
		end := func(edge byte) netip.Addr {
			return netip.AddrFrom16([16]byte{0xfd, 11: edge, 14: byte(i >> 8), 15: byte(i)})
		}
		name := strconv.Itoa(i)
		a = append(a, Path{Tunnel: name, Local: end(1), Remote: end(2), Interval: time.Second / 2, SLA: benchSLA})
		b = append(b, Path{Tunnel: "peer " + name, Local: end(2), Remote: end(1), Interval: time.Second / 2})
	}
	return a, b
}

// BenchmarkSecond is a second of an edge with 1,000 tunnels at default settings, without
// I/O: to probe all of them, to take the answers in, to answer the probes of the peers, to
// judge. ns/op divided by 10^7 is percent of a core.
func BenchmarkSecond(b *testing.B) {
	ours, theirs := benchPaths(1000)
	benchSecond(b, ours, theirs)
}

// BenchmarkSecondFast is the same for tunnels with alternatives, whose liveness is looked
// at too, as package path does.
func BenchmarkSecondFast(b *testing.B) {
	ours, theirs := benchPaths(1000)
	benchSecond(b, fast(ours), fast(theirs))
}

func fast(paths []Path) []Path {
	for i := range paths {
		paths[i].Fast = FastInterval
	}
	return paths
}

func benchSecond(b *testing.B, ours, theirs []Path) {
	p, r := NewProber([32]byte{1}), NewReflector()
	p.Set(start, ours)
	r.Set(theirs)
	p.Follow(start, func(string) bool { return true })
	now := start
	b.ReportAllocs()
	for b.Loop() {
		for end := now.Add(time.Second); now.Before(end); now = now.Add(gatherTime) {
			for _, m := range p.Due(now) {
				if reply := r.Answer(now, now, m.Remote, m.Local, 64, m.Payload); reply == nil || !p.Take(now, m.Local, m.Remote, reply) {
					b.Fatal("a probe was not answered")
				}
				p.Heard(now, m.Local, m.Remote) // as if the peer's, which come as often
			}
		}
		p.Follow(now, func(string) bool { return true })
		p.Judge(now)
		for range 2 {
			p.Lives(now)
		}
	}
}

// BenchmarkService is the same with sockets, over the loopback of a namespace: the kernel
// carries the packets, no data plane does. Its metric is percent of a core for both ends
// of 1,000 tunnels at the greatest rate: an edge that probes and is probed at that rate
// does what both ends do here.
func BenchmarkService(b *testing.B) {
	ours, theirs := benchPaths(1000)
	benchService(b, ours, theirs)
}

// BenchmarkServiceFast is the same for tunnels with alternatives.
func BenchmarkServiceFast(b *testing.B) {
	ours, theirs := benchPaths(1000)
	benchService(b, fast(ours), fast(theirs))
}

func benchService(b *testing.B, ours, theirs []Path) {
	loopback(b)
	// The service is both ends: it probes from ours, and answers at theirs.
	s := New(Config{Interface: "lo", Up: func() map[string]bool {
		up := map[string]bool{}
		for _, p := range ours {
			up[p.Tunnel] = true
		}
		return up
	}, Logger: slog.New(slog.NewTextHandler(b.Output(), nil))})
	s.Set(append(ours, theirs...))
	ctx, cancel := context.WithCancel(b.Context())
	sender, err := open(ctx, "lo", SenderPort)
	if err != nil {
		b.Fatal(err)
	}
	reflector, err := open(ctx, "lo", Port)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.serveOver(ctx, sender, reflector) }()
	began, before := time.Now(), processorTime(b)
	for b.Loop() {
		time.Sleep(10 * time.Second)
	}
	b.ReportMetric(100*float64(processorTime(b)-before)/float64(time.Since(began)), "%core")
	q := s.Quality("7")
	b.ReportMetric(float64(q.GetProbes()), "probes")
	if q.GetProbesLost() > 0 || q.GetProbes() == 0 {
		b.Errorf("probes over loopback: %v", q)
	}
	cancel()
	<-done
}

// loopback moves to a network namespace of its own, in which all addresses of probes are local.
func loopback(b testing.TB) netlink.Link {
	runtime.LockOSThread() // never unlocked: the thread ends with the benchmark
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skipf("SKIPPED: needs a network namespace (%v); run as root", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		b.Fatal(err)
	}
	for _, err := range []error{netlink.LinkSetUp(lo), netlink.RouteAdd(probeRoute(lo))} {
		if err != nil {
			b.Fatal(err)
		}
	}
	return lo
}

func probeRoute(lo netlink.Link) *netlink.Route {
	all := &net.IPNet{IP: net.ParseIP("fd00::"), Mask: net.CIDRMask(8, 128)}
	return &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: all, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
