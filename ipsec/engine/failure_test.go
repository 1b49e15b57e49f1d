package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// nextEvent waits for the next event of a type.
func nextEvent[T any](t *testing.T, s *Subscription) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for {
		ev, err := s.Next(ctx)
		if err != nil {
			var want T
			t.Fatalf("no %T: %v", want, err)
		}
		if what, ok := ev.What.(T); ok {
			return what
		}
	}
}

func TestStrangersAreRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		unknown := &node{t: t, id: "c.example", addr: netip.MustParseAddrPort("192.0.2.3:4500")}
		b.apply([]TunnelConfig{b.tunnelConfig("to-c", ike.RoleResponder, unknown, lan(2, 0), lan(3, 0))}, Added)
		events := a.Subscribe(16)
		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Added)
		failed := nextEvent[ike.Failed](t, events)
		if failed.Err.Notify != wire.NotifyAuthenticationFailed || !failed.Err.Remote {
			t.Errorf("failed with %v, want the peer's AUTHENTICATION_FAILED", failed.Err)
		}
		if c := b.Counters(); c.Drops[DropNoTunnel] == 0 {
			t.Error("not counted as without a tunnel")
		}
		if s := b.status("to-c"); len(s.IKE) != 0 || s.State == ike.StateUp {
			t.Errorf("a stranger changed the tunnel of another peer: %+v", s)
		}
	})
}

func TestWrongSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		good := b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
		bad := good
		bad.Peer.PSK = ident.PSK("another pre-shared key, by mistake")
		b.apply([]TunnelConfig{bad}, Added)
		events := a.Subscribe(16)
		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Added)
		failed := nextEvent[ike.Failed](t, events)
		if failed.Err.Notify != wire.NotifyAuthenticationFailed {
			t.Errorf("failed with %v", failed.Err)
		}
		if s := a.status("to-b"); s.LastError == nil || s.NextAttempt.IsZero() {
			t.Errorf("status does not say what is wrong and when it is tried again: %+v", s)
		}
		b.apply([]TunnelConfig{good}, Changed)
		a.waitState("to-b", ike.StateUp, 5*time.Minute)
		ping(t, a, b, lan(1, 0), lan(2, 0))
	})
}

func TestFailingDataPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		b.plane.SetFault(func(op dataplane.Op) error {
			if _, ok := op.(dataplane.InstallSA); ok {
				return errors.New("no memory")
			}
			return nil
		})
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Added)
		within(t, time.Minute, "the failure is counted", func() bool { return b.Counters().PlaneErrors > 0 })
		time.Sleep(time.Minute)
		if s := b.status("to-a"); s.State == ike.StateUp {
			t.Error("up without SAs")
		}
		b.plane.SetFault(nil)
		a.waitState("to-b", ike.StateUp, 10*time.Minute)
		b.waitState("to-a", ike.StateUp, 10*time.Minute)
		ping(t, a, b, lan(1, 0), lan(2, 0))
		ping(t, b, a, lan(2, 0), lan(1, 0))
	})
}

func TestTrafficBringsChildUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		second := func(c TunnelConfig, local, remote netip.Prefix) TunnelConfig {
			c.Children = append(slices.Clone(c.Children), ike.ChildConfig{
				Name: "rare", Start: ike.StartOnTraffic,
				LocalTS: []ts.Selector{ts.FromPrefix(local)}, RemoteTS: []ts.Selector{ts.FromPrefix(remote)},
			})
			return c
		}
		cb := b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
		ca := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		b.apply([]TunnelConfig{second(cb, lan(2, 9), lan(1, 9))}, Added)
		a.apply([]TunnelConfig{second(ca, lan(1, 9), lan(2, 9))}, Added)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(a.plane.SAs()); n != 2 {
			t.Errorf("%d SAs before there is traffic, want those of the first child", n)
		}
		if err := a.plane.Send(packetFor(lan(1, 9), lan(2, 9))); !errors.Is(err, memory.ErrNoSA) {
			t.Errorf("send without an SA: %v", err)
		}
		within(t, 10*time.Second, "the second child is up", func() bool { return len(a.plane.SAs()) == 4 && len(b.plane.SAs()) == 4 })
		ping(t, a, b, lan(1, 9), lan(2, 9))
		a.plane.Raise(dataplane.Event{Kind: dataplane.Acquire, Tunnel: "nobody", Child: "lan"})
		within(t, time.Second, "an event without a tunnel is counted", func() bool { return a.Counters().PlaneEventsLost == 1 })
	})
}

// TestBadNetwork runs for days on a network that loses, repeats, delays and
// reorders, with rekeys every few minutes. The traffic must come back within
// seconds, and nothing may be left over.
func TestBadNetwork(t *testing.T) {
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			sw := memory.NewSwitch()
			a := startNode(t, sw, "a.example", addrA)
			b := startNode(t, sw, "b.example", addrB)
			timing := ike.Timing{RekeyIKE: 30 * time.Minute, RekeyChild: 7 * time.Minute}
			ca := a.tunnelConfig("to-b", ike.RoleEither, b, lan(1, 0), lan(2, 0))
			cb := b.tunnelConfig("to-a", ike.RoleEither, a, lan(2, 0), lan(1, 0))
			ca.Timing, cb.Timing = timing, timing
			sw.SetFilter(badNetwork(random))
			a.apply([]TunnelConfig{ca}, Added)
			b.apply([]TunnelConfig{cb}, Added)
			a.waitState("to-b", ike.StateUp, 5*time.Minute)
			b.waitState("to-a", ike.StateUp, 5*time.Minute)
			for range 24 {
				time.Sleep(time.Hour)
				sw.SetFilter(memory.Perfect)
				within(t, 3*time.Minute, "traffic passes both ways", func() bool {
					return a.plane.Send(packetFor(lan(1, 0), lan(2, 0))) == nil && arrived(b) &&
						b.plane.Send(packetFor(lan(2, 0), lan(1, 0))) == nil && arrived(a)
				})
				sw.SetFilter(badNetwork(random))
			}
			sw.SetFilter(memory.Perfect)
			within(t, 15*time.Minute, "one pair of SAs is left at each end", func() bool {
				return len(a.plane.SAs()) == 2 && len(b.plane.SAs()) == 2
			})
			within(t, 15*time.Minute, "one IKE SA is left at each end", func() bool {
				return len(a.status("to-b").IKE) == 1 && len(b.status("to-a").IKE) == 1
			})
		})
	}
}

func badNetwork(random *rand.Rand) memory.Filter {
	mu := make(chan struct{}, 1)
	return func(*memory.Datagram) []time.Duration {
		mu <- struct{}{}
		defer func() { <-mu }()
		var out []time.Duration
		for range 2 {
			if random.Float64() < 0.55 { // a fifth is lost, three in ten come twice
				out = append(out, 1+time.Duration(random.Int64N(int64(400*time.Millisecond))))
			}
		}
		return out
	}
}

func arrived(n *node) bool {
	synctest.Wait()
	select {
	case <-n.plane.Packets():
		return true
	default:
		return false
	}
}

// blockingPlane holds Apply up.
type blockingPlane struct {
	*memory.Plane
	hold chan struct{}
}

func (p *blockingPlane) Apply(ops []dataplane.Op) []error {
	<-p.hold
	return p.Plane.Apply(ops)
}

func TestSlowDataPlaneBlocksNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		plane := &blockingPlane{hold: make(chan struct{})}
		a := startNode(t, sw, "a.example", addrA, func(c *Config) {
			plane.Plane = c.Plane.(*memory.Plane)
			c.Plane = plane
		})
		b := startNode(t, sw, "b.example", addrB)
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Added)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if len(a.Status()) != 1 {
			t.Error("status is gone")
		}
		if !a.Stalled(10*time.Second) || b.Stalled(time.Second) {
			t.Error("Stalled does not tell a data plane that hangs from one that does not")
		}
		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Unchanged)
		close(plane.hold)
		a.waitState("to-b", ike.StateUp, 5*time.Minute)
		ping(t, a, b, lan(1, 0), lan(2, 0))
	})
}

func TestConfigIsChecked(t *testing.T) {
	plane := memory.New(memory.NewSwitch(), addrA)
	defer plane.Close()
	for name, c := range map[string]Config{
		"no plane":        {},
		"too many shards": {Plane: plane, Shards: 65},
		"negative shards": {Plane: plane, Shards: -1},
		"negative limit":  {Plane: plane, Limits: Limits{Mailbox: -1}},
		"negative time":   {Plane: plane, Limits: Limits{CloseTimeout: -1}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startNode(t, memory.NewSwitch(), "a.example", addrA)
		n.apply(nil)
		if err := n.Run(context.Background()); err == nil {
			t.Error("ran twice at once")
		}
		s := n.Subscribe(1)
		n.stop()
		if _, err := s.Next(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("Next after the engine stopped: %v", err)
		}
		if _, err := n.Subscribe(1).Next(context.Background()); !errors.Is(err, ErrClosed) {
			t.Errorf("Next of a subscription after the engine stopped: %v", err)
		}
	})
}

// A data plane that already has a listener: Run says so and ends.
func TestRunCannotBegin(t *testing.T) {
	plane := memory.New(memory.NewSwitch(), addrA)
	defer plane.Close()
	if _, err := plane.Listen(func(dataplane.IKEDatagram) {}); err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{Plane: plane})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Run(context.Background()); err == nil {
		t.Error("Run began without a listener")
	}
	if r := e.Apply([]TunnelConfig{{Name: "x"}}); !errors.Is(r[0].Err, ErrClosed) {
		t.Errorf("Apply after Run failed: %+v", r)
	}
}

// All methods at once, from many goroutines: for the race detector.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		sw.SetFilter(memory.Latency(time.Millisecond))
		a, b := pair(t, sw)
		one := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		two := one
		two.Timing.DPD = 10 * time.Second
		var users sync.WaitGroup
		use := func(f func(i int)) {
			users.Go(func() {
				for i := range 50 {
					f(i)
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		use(func(i int) {
			switch i % 3 {
			case 0:
				a.Apply([]TunnelConfig{one})
			case 1:
				a.Apply([]TunnelConfig{two})
			case 2:
				a.Apply(nil)
			}
		})
		use(func(int) { _, _, _ = a.Status(), a.Counters(), a.Stalled(time.Second) })
		use(func(int) { _ = a.RekeyIKE("to-b") })
		use(func(int) { _ = b.RekeyChild("to-a", "") })
		use(func(int) {
			s := a.Subscribe(1)
			defer s.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			defer cancel()
			_, _ = s.Next(ctx)
		})
		users.Wait()
		a.Apply([]TunnelConfig{one})
		a.waitState("to-b", ike.StateUp, 5*time.Minute)
		b.waitState("to-a", ike.StateUp, 5*time.Minute)
		within(t, 5*time.Minute, "one pair of SAs is left at each end", func() bool {
			return len(a.plane.SAs()) == 2 && len(b.plane.SAs()) == 2
		})
		sw.SetFilter(memory.Perfect)
		ping(t, a, b, lan(1, 0), lan(2, 0))
	})
}

// TestRefusalIsExplained holds that a responder tells what its peer offered: the
// initiator never learns what would have been accepted.
func TestRefusalIsExplained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		good := b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
		bad := good
		bad.Proposals = ikeProposals(t, "aes128gcm16-prfsha256-ecp256")
		b.apply([]TunnelConfig{bad}, Added)
		c := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		c.Proposals = ikeProposals(t, "aes256gcm16-prfsha384-x25519")
		a.apply([]TunnelConfig{c}, Added)
		within(t, time.Minute, "the refusal is in the status", func() bool { return b.status("to-a").Refused != nil })
		e := b.status("to-a").Refused
		if e.Kind != ike.KindProposals || e.Exchange != wire.ExchangeIKESAInit || e.Remedy == "" ||
			!slices.Equal(e.Ours, []string{"aes128gcm16-prfsha256-ecp256"}) || !slices.Equal(e.Theirs, []string{"aes256gcm16-prfsha384-x25519"}) {
			t.Errorf("refused for\n%s", e.Detail())
		}
		good.Proposals = c.Proposals
		b.apply([]TunnelConfig{good}, Changed)
		b.waitState("to-a", ike.StateUp, 5*time.Minute)
		if e := b.status("to-a").Refused; e != nil {
			t.Errorf("up, and still refused: %v", e)
		}
	})
}

// TestInitiatorBeginsAgainWithAnotherGroup holds that the second IKE_SA_INIT
// request, with the same SPI and the group that INVALID_KE_PAYLOAD named, is
// none that is repeated (RFC 7296, Section 1.2).
func TestInitiatorBeginsAgainWithAnotherGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a := startNode(t, sw, "a.example", addrA)
		b := startNode(t, sw, "b.example", addrB)
		answering := b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
		answering.Proposals = ikeProposals(t, "aes256gcm16-prfsha384-ecp256")
		b.apply([]TunnelConfig{answering}, Added)
		begin := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		begin.Proposals = ikeProposals(t, "aes256gcm16-prfsha384-x25519-ecp256")
		a.apply([]TunnelConfig{begin}, Added)
		a.waitState("to-b", ike.StateUp, time.Second)
		b.waitState("to-a", ike.StateUp, time.Second)
	})
}

func ikeProposals(t *testing.T, s string) []suite.IKEProposal {
	t.Helper()
	p, err := suite.ParseIKE(s)
	if err != nil {
		t.Fatal(err)
	}
	return []suite.IKEProposal{p}
}
