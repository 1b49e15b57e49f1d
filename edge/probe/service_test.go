package probe

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestServiceTellsLife runs a Service over the sockets of a namespace: a path without a route
// is dead, unless packets come in, and lives when it has its route again.
func TestServiceTellsLife(t *testing.T) {
	lo := loopback(t)
	ours, theirs := benchPaths(1)
	var received, readings atomic.Uint64
	var comesIn atomic.Bool
	s := New(Config{
		Interface: "lo", Up: func() map[string]bool { return map[string]bool{"0": true} },
		Received: func() map[string]uint64 {
			readings.Add(1)
			if comesIn.Load() {
				received.Add(1)
			}
			return map[string]uint64{"0": received.Load()}
		},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	s.Set(append(fast(ours), fast(theirs)...))
	ctx, cancel := context.WithCancel(t.Context())
	sender, err := open(ctx, "lo", SenderPort)
	if err != nil {
		t.Fatal(err)
	}
	reflector, err := open(ctx, "lo", Port)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.serveOver(ctx, sender, reflector) }()
	defer func() { cancel(); <-done }()

	await := func(what string, is func(Life) bool) {
		t.Helper()
		late := time.After(20 * time.Second)
		for began := time.Now(); ; {
			if l := s.Lives()["0"]; is(l) {
				t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond))
				return
			}
			select {
			case <-s.Turned():
			case <-late:
				t.Fatalf("not %s: %+v", what, s.Lives()["0"])
			}
		}
	}
	await("alive", func(l Life) bool { return l.State == Alive })
	comesIn.Store(true)
	if err := netlink.RouteDel(probeRoute(lo)); err != nil {
		t.Fatal(err)
	}
	await("suspect", func(l Life) bool { return l.State == Suspect })
	for n := readings.Load(); readings.Load() < n+4; { // two rounds
		select {
		case <-s.Turned():
			t.Fatalf("turned though packets come in: %+v", s.Lives()["0"])
		case <-time.After(gatherTime):
		}
	}
	comesIn.Store(false)
	await("dead", func(l Life) bool { return l.State == Dead })
	if err := netlink.RouteAdd(probeRoute(lo)); err != nil {
		t.Fatal(err)
	}
	await("alive again", func(l Life) bool { return l.State == Alive })
}
