package reconcile

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/probe"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// host is a double of the engine and the host's network. It notes in what order
// it is asked for what.
type host struct {
	steps   []string
	tunnels []engine.TunnelConfig
	routes  []hostnet.Route

	defaults    hostnet.Default
	intercepted []netip.Addr

	// noIPv6: the host has none. local is what was made local, paths what is to be probed.
	noIPv6  bool
	noLocal error
	local   netip.Prefix
	paths   []probe.Path

	rejectTunnel, rejectRoutes, noRoute, noForward error

	reachable []string // that the engine was told

	// drift is what somebody did to the host; it is mended with the routes, unless it
	// stays.
	drift  []string
	stays  bool
	drifts []*swanherdv1.DriftReport // that were told
}

func (h *host) Drift(string, int, []hostnet.Route, hostnet.Default) ([]string, error) {
	return h.drift, nil
}

func (h *host) Apply(desired []engine.TunnelConfig) []engine.TunnelResult {
	h.steps = append(h.steps, "tunnels")
	if h.rejectTunnel != nil {
		err := h.rejectTunnel
		h.rejectTunnel = nil // the one before is fine
		return []engine.TunnelResult{{Name: desired[0].Name, Change: engine.Rejected, Err: err}}
	}
	h.tunnels = desired
	return nil
}

func (h *host) Reachable(tunnel string) error {
	h.reachable = append(h.reachable, tunnel)
	return nil
}

func (h *host) Revalidate() { h.steps = append(h.steps, "revalidate") }

func (h *host) SetRoutes(_ string, want []hostnet.Route) error {
	h.steps = append(h.steps, "routes")
	if h.rejectRoutes != nil {
		err := h.rejectRoutes
		h.rejectRoutes = nil
		return err
	}
	h.routes = want
	if !h.stays {
		h.drift = nil
	}
	return nil
}

func (h *host) SetDefault(_ string, want hostnet.Default) error {
	h.defaults = want
	return nil
}

func (h *host) Intercept(_ string, to []netip.Addr) error {
	h.intercepted = to
	return nil
}

func (h *host) SetLink(string, int) error                 { return nil }
func (h *host) EnableForwarding(hostnet.Forwarding) error { return h.noForward }
func (h *host) AddressIn([]netip.Prefix, bool, string) (netip.Addr, error) {
	return netip.Addr{}, nil
}

func (h *host) SourceTo(netip.Addr) (netip.Addr, error) {
	return netip.MustParseAddr("192.0.2.1"), h.noRoute
}
func (h *host) HasIPv6(string) bool    { return !h.noIPv6 }
func (h *host) Set(paths []probe.Path) { h.paths = paths }
func (h *host) SetLocal(_ string, want netip.Prefix) error {
	h.local = want
	return h.noLocal
}
func (h *host) MTU(string) (int, error) { return 1500, nil }

func newTestReconciler(t *testing.T, h *host) *Reconciler {
	m := material(t)
	id := &state.Identity{IKEChain: m.Chain, NetworkRoots: m.Roots}
	id.IKE = m.Signer.(ed25519.PrivateKey)
	return New(Config{
		Engine: h, Host: h, Probes: h, Interface: "swan0", Uplinks: func() []*swanherdv1.Uplink { return environment().Uplinks },
		Drifted:  func(d *swanherdv1.DriftReport) { h.drifts = append(h.drifts, d) },
		Identity: func() *state.Identity { return id }, Logger: slog.New(slog.DiscardHandler),
	})
}

func TestApplyOrder(t *testing.T) {
	h := &host{}
	r := newTestReconciler(t, h)
	if err := r.Apply(goodIntent()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.steps, []string{"tunnels", "routes"}) {
		t.Errorf("steps = %v", h.steps)
	}
	if len(h.tunnels) != 1 || h.tunnels[0].Local.Addr().String() != "192.0.2.1" || len(h.routes) != 2 {
		t.Errorf("tunnels = %+v, routes = %v", h.tunnels, h.routes)
	}
}

// routedPlane is a data plane that leaves it to routes how long packets are.
type routedPlane struct {
	inner   map[string]int
	changed chan struct{}
}

func (p *routedPlane) InnerMTUs() map[string]int         { return p.inner }
func (p *routedPlane) InnerMTUsChanged() <-chan struct{} { return p.changed }

// Routes have the MTU of the narrowest tunnel that they lead to, as soon as it is known.
func TestRoutesFollowPaths(t *testing.T) { synctest.Test(t, testRoutesFollowPaths) }

func testRoutesFollowPaths(t *testing.T) {
	h, plane := &host{}, &routedPlane{changed: make(chan struct{})}
	r := newTestReconciler(t, h)
	r.cfg.Paths = plane
	if err := r.followPaths(); err != nil || h.steps != nil {
		t.Errorf("before there is an intent: %v, %v", h.steps, err)
	}
	intent := goodIntent()
	other := proto.Clone(intent.Tunnels[0]).(*swanherdv1.TunnelIntent)
	other.Name, other.RemoteEndpoints[0].Address = tunnelName+"2", "198.51.100.3"
	other.Children[0].RemoteTs = other.Children[0].RemoteTs[:1]
	intent.Tunnels = append(intent.Tunnels, other)
	if err := r.Apply(intent); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go r.Run(ctx, nil)
	for _, tt := range []struct {
		inner  map[string]int
		v4, v6 int
	}{
		{nil, 0, 0},
		{map[string]int{tunnelName: 1300}, 1300, 1300},
		{map[string]int{tunnelName: 1300, other.Name: 1200}, 1200, 1300},
		{map[string]int{other.Name: 1400}, 1400, 0},
		{nil, 0, 0},
	} {
		plane.inner = tt.inner
		plane.changed <- struct{}{}
		synctest.Wait()
		for _, route := range h.routes {
			if want := map[bool]int{true: tt.v4, false: tt.v6}[route.Prefix.Addr().Is4()]; route.MTU != want {
				t.Errorf("with %v the route to %s has MTU %d, want %d", tt.inner, route.Prefix, route.MTU, want)
			}
		}
	}
}

// Peers that are connected are looked at again when another certificate is revoked,
// and only then, after the tunnels are as they should be.
func TestRevokedPeersAreLookedAtAgain(t *testing.T) {
	h := &host{}
	r := newTestReconciler(t, h)
	for _, tt := range []struct {
		revoked []string
		want    []string
	}{
		{nil, []string{"tunnels", "routes"}},
		{[]string{"0A:1b"}, []string{"tunnels", "revalidate", "routes"}},
		{[]string{"a1B"}, []string{"tunnels", "routes"}},
		{[]string{"a1b", "c"}, []string{"tunnels", "revalidate", "routes"}},
		{nil, []string{"tunnels", "revalidate", "routes"}},
	} {
		h.steps = nil
		intent := goodIntent()
		intent.Settings.RevokedSerials = tt.revoked
		if err := r.Apply(intent); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(h.steps, tt.want) {
			t.Errorf("with %v revoked: %v, want %v", tt.revoked, h.steps, tt.want)
		}
	}
}

// Whatever is wrong, the intent before goes on.
func TestApplyKeepsTheOldOne(t *testing.T) {
	other := func() *swanherdv1.EdgeIntent {
		i := goodIntent()
		i.Tunnels[0].Name += "2"
		return i
	}
	t.Run("invalid", func(t *testing.T) {
		h := &host{}
		r := newTestReconciler(t, h)
		if err := r.Apply(goodIntent()); err != nil {
			t.Fatal(err)
		}
		before := len(h.steps)
		bad := other()
		bad.Tunnels[0].IkeProposals = []string{"rot13"}
		var invalid Errors
		if err := r.Apply(bad); !errors.As(err, &invalid) || len(h.steps) != before {
			t.Errorf("Apply = %v after %v", err, h.steps)
		}
	})
	for name, sabotage := range map[string]func(*host){
		"engine": func(h *host) { h.rejectTunnel = errors.New("no") },
		"routes": func(h *host) { h.rejectRoutes = errors.New("no") },
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{}
			r := newTestReconciler(t, h)
			if err := r.Apply(goodIntent()); err != nil {
				t.Fatal(err)
			}
			sabotage(h)
			var failed *ApplyError
			if err := r.Apply(other()); !errors.As(err, &failed) {
				t.Errorf("Apply = %v", err)
			}
			if len(h.tunnels) != 1 || h.tunnels[0].Name != tunnelName || len(h.routes) != 2 {
				t.Errorf("after the failure: %+v, %v", h.tunnels, h.routes)
			}
			if err := r.Resync(); err != nil || h.tunnels[0].Name != tunnelName {
				t.Errorf("Resync = %v, runs %s", err, h.tunnels[0].Name)
			}
		})
	}
}

// A tunnel to which there is no route waits; one that had a route keeps its
// address.
func TestDeferred(t *testing.T) {
	h := &host{noRoute: errors.New("network is unreachable")}
	r := newTestReconciler(t, h)
	if err := r.Apply(goodIntent()); err != nil {
		t.Fatal(err)
	}
	if err := r.Deferred()[tunnelName]; err == nil || !strings.Contains(err.Error(), "unreachable") || len(h.tunnels) != 0 {
		t.Errorf("deferred: %v, tunnels %v", err, h.tunnels)
	}
	h.noRoute = nil
	for _, noRoute := range []error{nil, errors.New("network is unreachable")} {
		h.noRoute = noRoute
		if err := r.Resync(); err != nil {
			t.Fatal(err)
		}
		if len(r.Deferred()) != 0 || len(h.tunnels) != 1 || h.tunnels[0].Local.Addr().String() != "192.0.2.1" {
			t.Errorf("with %v: deferred %v, tunnels %+v", noRoute, r.Deferred(), h.tunnels)
		}
	}
}

// A tunnel stays with its uplink, and with the addresses that it had, while nothing can leave
// by that, which is told; when something can again the tunnel goes on at once, with those
// that the uplink has then. The other tunnel goes on all the time.
func TestStranded(t *testing.T) {
	h := &host{}
	r := newTestReconciler(t, h)
	var wan2 []string
	var down map[string]string
	waiting := 0
	r.cfg.Uplinks = func() []*swanherdv1.Uplink {
		return append(environment().Uplinks, &swanherdv1.Uplink{Name: "wan2", Interface: "eth1", Addresses: wan2})
	}
	r.cfg.Down, r.cfg.Waiting = func() map[string]string { return down }, func() { waiting++ }
	intent := goodIntent()
	second := proto.Clone(intent.Tunnels[0]).(*swanherdv1.TunnelIntent)
	intent.Tunnels[0].Uplink, second.Uplink, second.Name = "wan1", "wan2", tunnelName+"2"
	second.RemoteEndpoints = []*swanherdv1.PeerEndpoint{{Address: "198.51.100.3", Port: 4500}, {Address: "2001:db8::3", Port: 4500}}
	intent.Tunnels = append(intent.Tunnels, second)
	if err := r.Apply(intent); err != nil {
		t.Fatal(err)
	}
	if err := r.Deferred()[second.Name]; err == nil || len(r.Stranded()) != 0 || len(h.tunnels) != 1 || waiting != 1 {
		t.Errorf("before it had an address: deferred %v, stranded %v, %d tunnels, told %d times", err, r.Stranded(), len(h.tunnels), waiting)
	}
	const first = "2001:db8::1"
	for _, tt := range []struct {
		name      string
		addresses []string
		down      string
		local     string
		further   int
		reason    string // of the second tunnel, empty if it is not stranded
		reachable bool
	}{
		{"with an address", []string{first, "2001:db8::9"}, "", first, 1, "", false},
		{"looked at again", []string{first, "2001:db8::9"}, "", first, 1, "", false},
		{"without carrier", []string{first, "2001:db8::9"}, "no carrier", first, 1, "its uplink wan2 is down: no carrier", false},
		{"without address", nil, "", first, 1, "its uplink wan2 has no IPv4 address, as the peer has", false},
		{"back", []string{first, "2001:db8::9"}, "", first, 1, "", true},
		{"without address again", nil, "no address", first, 1, "its uplink wan2 is down: no address", false},
		{"with another one", []string{"2001:db8::7"}, "", "2001:db8::7", 0, "", true},
	} {
		wan2, down, h.reachable = tt.addresses, map[string]string{}, nil
		if tt.down != "" {
			down["wan2"] = tt.down
		}
		before := waiting
		if err := r.Resync(); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if len(h.tunnels) != 2 || h.tunnels[0].Local.Addr().String() != "192.0.2.1" || len(r.Deferred()) != 0 {
			t.Fatalf("%s: tunnels %+v, deferred %v", tt.name, h.tunnels, r.Deferred())
		}
		c := h.tunnels[1]
		if c.Local.Addr().String() != tt.local || c.Remote.Addr().String() != "2001:db8::3" || len(c.Mobility.Local) != tt.further {
			t.Errorf("%s: from %s (further %v) to %s", tt.name, c.Local, c.Mobility.Local, c.Remote)
		}
		reason := ""
		if err := r.Stranded()[second.Name].Why; err != nil {
			reason = err.Error()
		}
		if reason != tt.reason || r.Stranded()[tunnelName].Why != nil || (len(h.reachable) == 1) != tt.reachable {
			t.Errorf("%s: stranded %v, reachable %v", tt.name, r.Stranded(), h.reachable)
		}
		if changes := tt.name != "looked at again"; (waiting != before) != changes {
			t.Errorf("%s: told %d times", tt.name, waiting-before)
		}
	}
}

// Where the uplink has lost the family of the peer's address, MOBIKE may go on from the other:
// the tunnel gets it, and is not stranded for whoever finds it there.
func TestStrandedOnOneFamily(t *testing.T) {
	h := &host{}
	r := newTestReconciler(t, h)
	addresses := []string{"198.51.100.9", "2001:db8::9"}
	r.cfg.Uplinks = func() []*swanherdv1.Uplink {
		return []*swanherdv1.Uplink{{Name: "wan2", Interface: "eth1", Addresses: addresses}}
	}
	intent := goodIntent()
	intent.Tunnels[0].Uplink = "wan2"
	if err := r.Apply(intent); err != nil {
		t.Fatal(err)
	}
	addresses = addresses[1:]
	if err := r.Resync(); err != nil {
		t.Fatal(err)
	}
	six := []netip.Addr{netip.MustParseAddr("2001:db8::9")}
	s, c := r.Stranded()[tunnelName], h.tunnels[0]
	if s.Why == nil || !slices.Equal(s.But, six) || !slices.Equal(c.Mobility.Local, six) || c.Local.Addr().String() != "198.51.100.9" {
		t.Errorf("stranded %+v, leaves from %s or %v", s, c.Local, c.Mobility.Local)
	}
}

// A host that may not be changed can still run tunnels.
func TestForwardingIsNoReasonToRefuse(t *testing.T) {
	h := &host{noForward: errors.New("read-only file system")}
	if err := newTestReconciler(t, h).Apply(goodIntent()); err != nil {
		t.Error(err)
	}
}

// A responder waits for its peer, but not for ever, and hardly after a restart.
func TestPatience(t *testing.T) {
	i := goodIntent()
	i.Tunnels[0].Role = swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER
	h := &host{}
	r := newTestReconciler(t, h)
	check := func(when string, err error, want time.Duration) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if c := h.tunnels[0]; c.Role != ike.RoleResponder || c.Timing.TakeOver != want {
			t.Errorf("%s: role %v, takes over after %s, want %s", when, c.Role, c.Timing.TakeOver, want)
		}
	}
	check("after a restart", r.Adopt(i), restartPatience)
	check("as long as nothing changes", r.Resync(), restartPatience)
	check("with another intent", r.Apply(i), patience)
	for n := range 2 * patienceTunnels {
		other := proto.CloneOf(i.Tunnels[0])
		other.Name = fmt.Sprintf("other-%d", n)
		other.Authentication.RemoteId = fmt.Sprintf("other-%d.example", n)
		other.Children[0].RemoteTs = []string{fmt.Sprintf("10.%d.%d.0/24", 64+n/256, n%256)}
		i.Tunnels = append(i.Tunnels, other)
	}
	check("with many tunnels", r.Apply(i), patience+2*time.Second)
}
