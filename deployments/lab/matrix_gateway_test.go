package lab_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
	"github.com/swanherd/swanherd/ipsec/engine"
)

// gateway is our engine in a namespace, in the process of the test: every
// option of it can be set, and its events are Go values.
type gateway struct {
	ns     *lab.Namespace
	engine *engine.Engine
	plane  dataplane.Plane
	events *eventLog
	log    *buffer
	stop   func()
}

// gatewayMark is on what our gateways themselves send.
const gatewayMark = 4500

// startGateway runs an engine with userspace ESP. It ends by stop, or with the
// test.
func startGateway(t testing.TB, ns *lab.Namespace, edit func(*engine.Config)) *gateway {
	t.Helper()
	return startWorkersGateway(t, ns, 0, edit)
}

// startWorkersGateway does so with a number of workers.
func startWorkersGateway(t testing.TB, ns *lab.Namespace, workers int, edit func(*engine.Config)) *gateway {
	t.Helper()
	return startGatewayOn(t, ns, func(logger *slog.Logger) (gatewayPlane, error) {
		return userspace.New(userspace.Config{Logger: logger, Mark: gatewayMark, Workers: workers})
	}, edit)
}

// startKernelGateway does so with the ESP of the kernel.
func startKernelGateway(t testing.TB, ns *lab.Namespace, edit func(*engine.Config)) *gateway {
	t.Helper()
	return startGatewayOn(t, ns, func(logger *slog.Logger) (gatewayPlane, error) {
		return xfrm.New(xfrm.Config{Logger: logger, Mark: gatewayMark})
	}, edit)
}

type gatewayPlane interface {
	dataplane.Plane
	Interface() string
}

func startGatewayOn(t testing.TB, ns *lab.Namespace, open func(*slog.Logger) (gatewayPlane, error), edit func(*engine.Config)) *gateway {
	t.Helper()
	g := &gateway{ns: ns, log: &buffer{}}
	logger := slog.New(slog.NewTextHandler(g.log, nil))
	var plane gatewayPlane
	err := ns.Do(func() (err error) {
		plane, err = open(logger)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	config := engine.Config{Plane: plane, IKEAddr: netip.AddrPortFrom(netip.IPv6Unspecified(), 500), Logger: logger, Shards: 1, Mark: gatewayMark}
	config.Dial = func(ctx context.Context, dialer *net.Dialer, address string) (c net.Conn, err error) {
		err = ns.Do(func() error {
			c, err = dialer.DialContext(ctx, "tcp", address)
			return err
		})
		return c, err
	}
	if edit != nil {
		edit(&config)
	}
	g.plane = plane
	g.engine, err = engine.New(config)
	if err != nil {
		plane.Close()
		t.Fatal(err)
	}
	g.events = watch(g.engine.Subscribe(1024))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := ns.Do(func() error { return g.engine.Run(ctx) }); err != nil {
			t.Errorf("run our engine: %v", err)
		}
	})
	g.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		plane.Close()
	})
	t.Cleanup(g.stop)
	if err := ns.Up(plane.Interface()); err != nil {
		t.Fatal(err)
	}
	return g
}

// apply gives the engine its tunnels.
func (g *gateway) apply(tunnels ...engine.TunnelConfig) error {
	return g.ns.Do(func() error {
		for _, r := range g.engine.Apply(tunnels) {
			if r.Err != nil {
				return fmt.Errorf("apply tunnel: %w", r.Err)
			}
		}
		return nil
	})
}

// tunnel is the status of the one tunnel.
func (g *gateway) tunnel() engine.TunnelStatus {
	if s := g.engine.Status(); len(s) > 0 {
		return s[0]
	}
	return engine.TunnelStatus{}
}

// eventLog keeps every event of an engine.
type eventLog struct {
	mu     sync.Mutex
	events []engine.Event
	more   chan struct{} // closed when there is another
}

func watch(s *engine.Subscription) *eventLog {
	l := &eventLog{more: make(chan struct{})}
	go func() {
		for {
			ev, err := s.Next(context.Background())
			if err != nil {
				return
			}
			l.mu.Lock()
			l.events = append(l.events, ev)
			close(l.more)
			l.more = make(chan struct{})
			l.mu.Unlock()
		}
	}()
	return l
}

// mark is a position: what comes after it is new.
func (l *eventLog) mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events)
}

// since returns the events after a mark, and a channel that tells of more.
func (l *eventLog) since(mark int) ([]engine.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events[mark:], l.more
}

// buffer is a log that is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
