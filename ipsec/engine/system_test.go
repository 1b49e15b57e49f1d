package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
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
	"github.com/swanherd/swanherd/ipsec/ts"
)

// The tests here run whole engines on planes in memory, in virtual time.

var (
	addrA = netip.MustParseAddrPort("192.0.2.1:4500")
	addrB = netip.MustParseAddrPort("192.0.2.2:4500")
)

// node is an engine with its plane.
type node struct {
	*Engine
	t     *testing.T
	id    string
	addr  netip.AddrPort
	plane *memory.Plane
	stop  func() // ends Run and waits for it; may be called twice
}

// startNode runs an engine until the end of the test.
func startNode(t *testing.T, sw *memory.Switch, id string, addr netip.AddrPort, edit ...func(*Config)) *node {
	t.Helper()
	n := &node{t: t, id: id, addr: addr, plane: memory.New(sw, addr)}
	config := Config{Plane: n.plane, Shards: 2}
	if testing.Verbose() {
		config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", id)
	}
	for _, e := range edit {
		e(&config)
	}
	e, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	n.Engine = e
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Errorf("Run of %s: %v", id, err)
		}
	})
	n.stop = func() {
		cancel()
		run.Wait()
		n.plane.Close()
	}
	t.Cleanup(n.stop)
	return n
}

// tunnelConfig describes the tunnel from n to a peer.
func (n *node) tunnelConfig(name string, role ike.Role, peer *node, local, remote netip.Prefix) TunnelConfig {
	n.t.Helper()
	return TunnelConfig{
		Name: name, Role: role, Local: n.addr, Remote: peer.addr,
		Credentials: ident.Local{ID: mustID(n.t, n.id), PSK: ident.PSK("a pre-shared key for tests only")},
		Peer:        ident.Remote{ID: mustID(n.t, peer.id), PSK: ident.PSK("a pre-shared key for tests only")},
		Children: []ike.ChildConfig{{
			Name: "lan", LocalTS: []ts.Selector{ts.FromPrefix(local)}, RemoteTS: []ts.Selector{ts.FromPrefix(remote)},
		}},
	}
}

func mustID(t *testing.T, s string) ident.ID {
	t.Helper()
	id, err := ident.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// apply wants these changes, in this order.
func (n *node) apply(configs []TunnelConfig, want ...Change) {
	n.t.Helper()
	var got []Change
	for _, r := range n.Apply(configs) {
		got = append(got, r.Change)
		if r.Err != nil && !slices.Contains(want, Rejected) {
			n.t.Fatalf("Apply %s: %v", r.Name, r.Err)
		}
	}
	if !slices.Equal(got, want) {
		n.t.Fatalf("Apply changed %v, want %v", got, want)
	}
}

// status returns the status of a tunnel.
func (n *node) status(name string) TunnelStatus {
	n.t.Helper()
	for _, s := range n.Status() {
		if s.Name == name {
			return s
		}
	}
	n.t.Fatalf("%s has no tunnel %q", n.id, name)
	return TunnelStatus{}
}

// within waits, in virtual time, until ok.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func (n *node) waitState(name string, want ike.State, limit time.Duration) {
	n.t.Helper()
	within(n.t, limit, fmt.Sprintf("%s of %s is %s", name, n.id, want), func() bool { return n.status(name).State == want })
}

// packetFor makes a UDP packet between two networks.
func packetFor(src, dst netip.Prefix) []byte {
	p := make([]byte, 28)
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], src.Addr().AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	return p
}

// ping sends a packet through the tunnel and wants it to arrive.
func ping(t *testing.T, from, to *node, src, dst netip.Prefix) {
	t.Helper()
	if err := from.plane.Send(packetFor(src, dst)); err != nil {
		t.Fatalf("send from %s to %s: %v", src, dst, err)
	}
	synctest.Wait()
	select {
	case <-to.plane.Packets():
	default:
		t.Fatalf("packet from %s to %s did not arrive", src, dst)
	}
}

func lan(site, n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(site), byte(n), 0}), 24)
}

// pair runs two engines with one tunnel between them, and waits until it is up.
func pair(t *testing.T, sw *memory.Switch, edit ...func(*Config)) (a, b *node) {
	t.Helper()
	a = startNode(t, sw, "a.example", addrA, edit...)
	b = startNode(t, sw, "b.example", addrB, edit...)
	b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
	a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Added)
	a.waitState("to-b", ike.StateUp, 10*time.Second)
	b.waitState("to-a", ike.StateUp, 10*time.Second)
	return a, b
}

func TestTunnelComesUpAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		sw.SetFilter(memory.Latency(20 * time.Millisecond))
		a, b := pair(t, sw)
		sw.SetFilter(memory.Perfect)
		ping(t, a, b, lan(1, 0), lan(2, 0))
		ping(t, b, a, lan(2, 0), lan(1, 0))
		if c := b.Counters(); c.Handshakes != 1 || c.HalfOpen != 0 {
			t.Errorf("responder counts %d handshakes, %d half open", c.Handshakes, c.HalfOpen)
		}
		a.stop()
		within(t, time.Second, "the responder's tunnel is down after the initiator closed", func() bool {
			return b.status("to-a").State != ike.StateUp
		})
		within(t, time.Minute, "the responder has no SAs left", func() bool { return len(b.plane.SAs()) == 0 })
		if n := len(b.plane.Policies()); n != 1 {
			t.Errorf("%d policies at the responder, want 1: it protects while the tunnel is down", n)
		}
	})
}

func TestRekeying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := pair(t, sw)
		before := a.status("to-b")
		for _, rekey := range []func() error{
			func() error { return a.RekeyChild("to-b", "lan") },
			func() error { return b.RekeyChild("to-a", "") },
			func() error { return a.RekeyIKE("to-b") },
			func() error { return b.RekeyIKE("to-a") },
		} {
			if err := rekey(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			ping(t, a, b, lan(1, 0), lan(2, 0))
			ping(t, b, a, lan(2, 0), lan(1, 0))
			time.Sleep(30 * time.Second)
		}
		// The one that was replaced lingers, to repeat its last answer.
		within(t, 2*time.Minute, "one IKE SA is left", func() bool { return len(a.status("to-b").IKE) == 1 })
		after := a.status("to-b")
		if len(after.IKE) != 1 || after.IKE[0].LocalSPI == before.IKE[0].LocalSPI {
			t.Errorf("IKE SAs after two rekeys: %+v", after.IKE)
		}
		if len(after.Children) != 1 || after.Children[0].InboundSPI == before.Children[0].InboundSPI {
			t.Errorf("Child SAs after two rekeys: %+v", after.Children)
		}
		time.Sleep(10 * time.Hour) // both rekey by time, many times
		synctest.Wait()
		ping(t, a, b, lan(1, 0), lan(2, 0))
		ping(t, b, a, lan(2, 0), lan(1, 0))
		for _, n := range []*node{a, b} {
			if sas := n.plane.SAs(); len(sas) != 2 {
				t.Errorf("%s holds %d SAs after ten hours, want 2", n.id, len(sas))
			}
		}
		if err := a.RekeyIKE("nobody"); err == nil {
			t.Error("rekeyed a tunnel that is not there")
		}
	})
}

func TestDeadPeerAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := pair(t, sw)
		events := a.Subscribe(16)
		defer events.Close()

		// A short outage is told and survived.
		sw.SetFilter(memory.Lose)
		suspect := nextEvent[ike.IKESuspect](t, events)
		sw.SetFilter(memory.Perfect)
		if again := nextEvent[ike.IKESuspect](t, events); !suspect.SA.Suspect || again.SA.Suspect || again.SA.LocalSPI != suspect.SA.LocalSPI {
			t.Errorf("after an outage: %+v, then %+v", suspect, again)
		}
		ping(t, a, b, lan(1, 0), lan(2, 0))

		sw.SetFilter(memory.Lose)
		within(t, 5*time.Minute, "the dead peer is noticed", func() bool { return a.status("to-b").State != ike.StateUp })
		if down := nextEvent[ike.IKEDown](t, events); down.Reason != ike.ReasonPeerDead {
			t.Errorf("IKE SA down because of %q", down.Reason)
		}
		sw.SetFilter(memory.Perfect)
		a.waitState("to-b", ike.StateUp, 5*time.Minute)
		b.waitState("to-a", ike.StateUp, 5*time.Minute)
		ping(t, a, b, lan(1, 0), lan(2, 0))
		ping(t, b, a, lan(2, 0), lan(1, 0))
	})
}

func TestPeerRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := pair(t, sw)
		sw.SetFilter(memory.Lose) // it dies without a word
		b.stop()
		sw.SetFilter(memory.Perfect)
		b = startNode(t, sw, "b.example", addrB)
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		b.waitState("to-a", ike.StateUp, 5*time.Minute)
		a.waitState("to-b", ike.StateUp, 5*time.Minute)
		ping(t, a, b, lan(1, 0), lan(2, 0))
		ping(t, b, a, lan(2, 0), lan(1, 0))

		// The same with the initiator: the responder lets go of the old one.
		sw.SetFilter(memory.Lose)
		a.stop()
		sw.SetFilter(memory.Perfect)
		a = startNode(t, sw, "a.example", addrA)
		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)
		within(t, time.Minute, "the responder holds one pair of SAs", func() bool { return len(b.plane.SAs()) == 2 })
		ping(t, a, b, lan(1, 0), lan(2, 0))
		ping(t, b, a, lan(2, 0), lan(1, 0))
	})
}

func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := pair(t, sw)
		ca := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		cb := b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
		spi := a.status("to-b").IKE[0].LocalSPI
		log := len(a.plane.Log())

		a.apply([]TunnelConfig{ca}, Unchanged)
		if len(a.plane.Log()) != log || a.status("to-b").IKE[0].LocalSPI != spi {
			t.Error("applying the same configuration touched the tunnel")
		}

		// Another child: the first one stays.
		more := func(c TunnelConfig, local, remote netip.Prefix) TunnelConfig {
			c.Children = append(slices.Clone(c.Children), ike.ChildConfig{
				Name: "lan2", LocalTS: []ts.Selector{ts.FromPrefix(local)}, RemoteTS: []ts.Selector{ts.FromPrefix(remote)},
			})
			return c
		}
		b.apply([]TunnelConfig{more(cb, lan(2, 9), lan(1, 9))}, Changed)
		a.apply([]TunnelConfig{more(ca, lan(1, 9), lan(2, 9))}, Changed)
		within(t, time.Minute, "two children are up", func() bool { return len(a.status("to-b").Children) == 2 })
		a.waitState("to-b", ike.StateUp, time.Minute)
		ping(t, a, b, lan(1, 9), lan(2, 9))
		ping(t, a, b, lan(1, 0), lan(2, 0))
		if a.status("to-b").IKE[0].LocalSPI != spi {
			t.Error("a new child made a new IKE SA")
		}

		// A configuration that cannot be leaves the old one running.
		bad := ca
		bad.Children = nil
		twice := ca
		a.apply([]TunnelConfig{bad, twice}, Rejected, Rejected)
		ping(t, a, b, lan(1, 9), lan(2, 9))

		// Removed at one end, gone at both.
		a.apply(nil, Removed)
		within(t, time.Second, "the peer was told", func() bool { return b.status("to-a").State != ike.StateUp })
		within(t, time.Minute, "nothing is left", func() bool { return len(a.plane.SAs())+len(a.plane.Policies()) == 0 })
		if s := a.Status(); len(s) != 0 {
			t.Errorf("status of a removed tunnel: %+v", s)
		}
		a.apply([]TunnelConfig{ca}, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)

		// Removed and wanted again before it has closed.
		sw.SetFilter(memory.Latency(300 * time.Millisecond))
		a.apply(nil, Removed)
		a.apply([]TunnelConfig{ca}, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)

		a.stop()
		a.apply([]TunnelConfig{ca}, Rejected)
	})
}

// roamingPlane has a host whose address changes.
type roamingPlane struct {
	*memory.Plane
	local *netip.AddrPort // invalid: no route
}

type roamingSender struct {
	dataplane.IKESender
	local *netip.AddrPort
}

func (p roamingPlane) Listen(deliver func(dataplane.IKEDatagram)) (dataplane.IKESender, error) {
	s, err := p.Plane.Listen(deliver)
	return roamingSender{s, p.local}, err
}

func (s roamingSender) LocalFor(remote netip.Addr) (netip.AddrPort, error) {
	if !s.local.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("no route to %s", remote)
	}
	return *s.local, nil
}

func TestLocalAddressFromRouting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		var local netip.AddrPort
		a := startNode(t, sw, "a.example", addrA, func(c *Config) {
			c.Plane = roamingPlane{c.Plane.(*memory.Plane), &local}
		})
		b := startNode(t, sw, "b.example", addrB)
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		c := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		c.Local = netip.AddrPort{}
		a.apply([]TunnelConfig{c}, Rejected)
		local = addrA
		a.apply([]TunnelConfig{c}, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)
		if got := a.status("to-b").IKE[0].Local; got != addrA {
			t.Errorf("local address %s, want %s", got, addrA)
		}
		a.apply([]TunnelConfig{c}, Unchanged)
		local = netip.AddrPort{} // the route is lost for a moment
		a.apply([]TunnelConfig{c}, Unchanged)
		local = netip.MustParseAddrPort("192.0.2.77:4500")
		a.apply([]TunnelConfig{c}, Changed)
	})
}

func TestCookies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := pair(t, memory.NewSwitch(), func(c *Config) { c.Limits.CookieThreshold = -1 })
		if c := b.Counters(); c.Drops[DropCookieSent] != 1 || c.Handshakes != 1 {
			t.Errorf("%d cookies demanded and %d handshakes begun, want 1 and 1", c.Drops[DropCookieSent], c.Handshakes)
		}
	})
}

func TestFloodChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := pair(t, sw, func(c *Config) { c.Limits.HalfOpen, c.Limits.CookieThreshold = 8, 4 })
		before := b.status("to-a")
		flood(t, sw)
		synctest.Wait()
		c := b.Counters()
		if c.HalfOpen > 8 || c.Handshakes > 20 {
			t.Errorf("a flood of well-formed requests left %d half open, %d begun", c.HalfOpen, c.Handshakes)
		}
		for _, r := range []DropReason{DropTooShort, DropLength, DropVersion, DropSPI, DropUnknownSPI, DropCookieSent, DropInitMalformed} {
			if c.Drops[r] == 0 {
				t.Errorf("nothing was counted as %s", r)
			}
		}
		after := b.status("to-a")
		if len(after.IKE) != 1 || after.IKE[0].LocalSPI != before.IKE[0].LocalSPI || after.State != ike.StateUp {
			t.Errorf("the flood changed the tunnel: %+v", after)
		}
		ping(t, a, b, lan(1, 0), lan(2, 0))
		within(t, time.Minute, "half-open responders time out", func() bool { return b.Counters().HalfOpen == 0 })
		if err := a.RekeyIKE("to-b"); err != nil {
			t.Fatal(err)
		}
		within(t, time.Second, "the tunnel can still rekey", func() bool {
			return a.status("to-b").IKE[0].LocalSPI != before.IKE[0].RemoteSPI && len(a.status("to-b").IKE) == 1
		})
	})
}
