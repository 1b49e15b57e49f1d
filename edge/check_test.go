package edge

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const tunnelsDown = swanherdv1.Reverted_REASON_TUNNELS_DOWN

// peers are tunnels that carry traffic as a test wants it: those of up have their SAs, and
// those of every are probed, each of their probes being answered while it is in answers.
type peers struct {
	mu      sync.Mutex
	up      map[string]bool
	every   map[string]time.Duration
	answers map[string]bool
	last    map[string]time.Time
}

func newPeers(up ...string) *peers {
	p := &peers{up: map[string]bool{}, every: map[string]time.Duration{}, answers: map[string]bool{}, last: map[string]time.Time{}}
	for _, tunnel := range up {
		p.up[tunnel] = true
	}
	return p
}

func (p *peers) set(tunnel string, up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.up[tunnel] = up
}

func (p *peers) answer(tunnel string, answers bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answers[tunnel] && !answers {
		p.last[tunnel] = time.Now()
	}
	p.answers[tunnel] = answers
}

func (p *peers) Established() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.up)
}

func (p *peers) Answered(tunnel string) (time.Time, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answers[tunnel] {
		return time.Now(), p.every[tunnel]
	}
	return p.last[tunnel], p.every[tunnel]
}

// withTunnels is an intent of that MTU with critical tunnels, and with others if their
// names begin with a hyphen.
func withTunnels(mtu uint32, names ...string) *state.Intent {
	list := []*swanherdv1.IntentResource{digest.Resource(&swanherdv1.EdgeSettings{TunnelMtu: mtu})}
	for _, name := range names {
		list = append(list, digest.Resource(&swanherdv1.TunnelIntent{
			Name: name, PeerEdge: peerOf(name), Role: swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR, Critical: name[0] != '-',
			LocalAddress: "192.0.2.1", RemoteEndpoints: []*swanherdv1.PeerEndpoint{{Address: "192.0.2.2"}},
			Authentication: &swanherdv1.Authentication{
				LocalId: "a.example", RemoteId: "b.example",
				Method: &swanherdv1.Authentication_Psk{Psk: &swanherdv1.PskAuthentication{Secret: []byte("a secret of some length")}},
			},
			Children: []*swanherdv1.ChildIntent{{Name: "net", LocalTs: []string{"10.1.0.0/24"}, RemoteTs: []string{"10.2.0.0/24"}}},
		}))
	}
	return &state.Intent{Epoch: "e", SourceRevision: int64(mtu), Resources: digest.NewSet(list)}
}

// peerOf is the edge that a tunnel is to, which is before a dot in its name; else that is not
// told.
func peerOf(name string) string {
	peer, _, several := strings.Cut(name, ".")
	if !several {
		return ""
	}
	return "networks/n/edges/" + peer
}

// revoking is i with a revoked certificate.
func revoking(i *state.Intent) *state.Intent {
	i.Resources = i.Resources.With([]*swanherdv1.IntentResource{digest.Resource(&swanherdv1.TrustBundle{RevokedSerials: []string{"2a"}})}, nil)
	return i
}

// TestSelfCheck: an update is kept only once the critical tunnels that carried traffic
// before it, and that it still wants, do so again.
func TestSelfCheck(t *testing.T) {
	const within = 30 * time.Second
	type tryFunc func(i *state.Intent)
	for name, tt := range map[string]struct {
		up   []string
		test func(t *testing.T, p *peers, r *runner, try tryFunc)
		// awaited at last, and whether it is kept if it is to be then.
		awaited []string
		kept    bool
	}{
		"nothing is looked at too early": {[]string{"hub1"}, func(_ *testing.T, _ *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub1"))
			time.Sleep(checkSettle - 1)
		}, []string{"hub1"}, false},
		"they are up": {[]string{"hub1", "hub2"}, func(_ *testing.T, _ *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub1", "hub2"))
			time.Sleep(checkSettle + 1)
		}, nil, true},
		"one is down": {[]string{"hub1", "hub2"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub1", "hub2"))
			p.set("hub1", false)
			time.Sleep(within - time.Second)
		}, []string{"hub1"}, false},
		"it comes up again": {[]string{"hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub1"))
			p.set("hub1", false)
			time.Sleep(20 * time.Second)
			p.set("hub1", true)
			time.Sleep(checkInterval)
		}, nil, true},
		"it goes down once it was up again": {[]string{"hub1", "hub2"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub1", "hub2"))
			p.set("hub2", false)
			time.Sleep(5 * time.Second)
			p.set("hub1", false)
			p.set("hub2", true)
			time.Sleep(5 * time.Second)
		}, nil, true},
		"it was down before": {nil, func(_ *testing.T, _ *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub1"))
		}, nil, true},
		"it is not wanted any more": {[]string{"hub1", "hub2"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub2"))
			p.set("hub1", false)
			time.Sleep(5 * time.Second)
		}, nil, true},
		"it is not critical": {[]string{"-spoke", "hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "-spoke", "hub1"))
			p.set("-spoke", false)
			time.Sleep(5 * time.Second)
		}, nil, true},
		"another path is enough": {[]string{"hub3.wan", "hub3.lte"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub3.lte", "hub3.wan"))
			p.set("hub3.wan", false)
			time.Sleep(5 * time.Second)
		}, nil, true},
		"none of the paths is left": {[]string{"hub3.wan", "hub3.lte"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub3.lte", "hub3.wan"))
			p.set("hub3.wan", false)
			p.set("hub3.lte", false)
			time.Sleep(5 * time.Second)
		}, []string{"hub3.lte"}, false},
		"others take the place of a path": {[]string{"hub3.wan"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub3.dsl", "hub3.mpls"))
			p.set("hub3.wan", false)
			time.Sleep(10 * time.Second)
			p.set("hub3.mpls", true)
			time.Sleep(checkInterval)
		}, nil, true},
		"none takes the place of a path": {[]string{"hub3.wan"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub3.dsl", "hub3.mpls"))
			p.set("hub3.wan", false)
			time.Sleep(20 * time.Second)
		}, []string{"hub3.dsl"}, false},
		"a peer is revoked": {[]string{"hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(revoking(withTunnels(1400, "hub1")))
			p.set("hub1", false)
		}, nil, true},
		"its path does not answer any more": {[]string{"hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			p.every["hub1"] = 2 * time.Second
			p.answer("hub1", true)
			try(withTunnels(1400, "hub1"))
			p.answer("hub1", false)
			time.Sleep(20 * time.Second)
		}, []string{"hub1"}, false},
		"its path answers again": {[]string{"hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			p.every["hub1"] = 2 * time.Second
			p.answer("hub1", true)
			try(withTunnels(1400, "hub1"))
			p.answer("hub1", false)
			time.Sleep(20 * time.Second)
			p.answer("hub1", true)
			time.Sleep(checkInterval)
		}, nil, true},
		"its path did not answer before": {[]string{"hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			p.every["hub1"] = 2 * time.Second
			try(withTunnels(1400, "hub1"))
			time.Sleep(5 * time.Second)
		}, nil, true},
		"its path is probed too seldom to tell": {[]string{"hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			p.every["hub1"] = within / 2
			p.answer("hub1", true)
			try(withTunnels(1400, "hub1"))
			p.answer("hub1", false)
			time.Sleep(5 * time.Second)
		}, nil, true},
		"another update comes before it is up again": {[]string{"hub1"}, func(_ *testing.T, p *peers, _ *runner, try tryFunc) {
			try(withTunnels(1400, "hub1"))
			p.set("hub1", false)
			time.Sleep(10 * time.Second)
			try(withTunnels(1390, "hub1"))
			time.Sleep(25 * time.Second)
		}, []string{"hub1"}, false},
		"an update that is refused comes before it is up again": {[]string{"hub1"}, func(t *testing.T, p *peers, r *runner, try tryFunc) {
			try(withTunnels(1400, "hub1"))
			p.set("hub1", false)
			time.Sleep(10 * time.Second)
			if err := r.Apply(t.Context(), withTunnels(70000), within); err == nil {
				t.Error("an MTU of 70000 is applied")
			}
			time.Sleep(10 * time.Second)
		}, []string{"hub1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, p := &machine{}, newPeers(tt.up...)
				r, _ := m.start(t, filepath.Join(t.TempDir(), "state"))
				r.carriers = p
				if err := r.Apply(t.Context(), withTunnels(1280, "hub1", "hub2", "hub3.lte", "hub3.wan", "-spoke"), 0); err != nil {
					t.Fatal(err)
				}
				tt.test(t, p, r, func(i *state.Intent) {
					if err := r.Apply(t.Context(), i, within); err != nil {
						t.Fatal(err)
					}
				})
				synctest.Wait()
				tried := r.Running()
				if got := r.Awaited(); !slices.Equal(got, tt.awaited) || !r.Unconfirmed() {
					t.Errorf("awaited are %v, want %v; unconfirmed %t", got, tt.awaited, r.Unconfirmed())
				}
				if kept := r.Confirm(tried.Digest()); kept != tt.kept {
					t.Errorf("confirmed %t, want %t", kept, tt.kept)
				}
				if tt.kept {
					time.Sleep(2 * within)
					if r.Running() != tried || r.Unconfirmed() || len(r.Awaited()) > 0 {
						t.Errorf("later: %+v", m.state(r))
					}
				}
				r.endTrial()
			})
		})
	}
}

// TestSelfCheckReverts: at the end of its time an update is taken back for the tunnels that
// are down, and these are named, also after a restart; the next time it is tried they are
// not waited for. Who waits for news is told when a tunnel is up again.
func TestSelfCheckReverts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p, at := &machine{}, newPeers("hub1", "hub2"), filepath.Join(t.TempDir(), "state")
		r, dir := m.start(t, at)
		r.carriers = p
		if err := r.Apply(t.Context(), withTunnels(1280, "hub1", "hub2"), 0); err != nil {
			t.Fatal(err)
		}
		bad := withTunnels(1400, "hub1", "hub2")
		try := func() {
			if err := r.Apply(t.Context(), bad, 30*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		try()
		p.set("hub1", false)
		time.Sleep(5 * time.Second)
		select {
		case <-r.Changed():
		default:
			t.Error("nobody was told that hub2 is up again")
		}
		if r.Confirm(bad.Digest()) {
			t.Error("confirmed without hub1")
		}
		time.Sleep(time.Minute)
		back := r.Reverted()
		if got, want := m.state(r), (commitState{mtu: 1280, running: 1280, reason: tunnelsDown, attempts: 1}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if want := []string{"hub1"}; !slices.Equal(back.GetAwaitedTunnels(), want) || r.Awaited() != nil {
			t.Errorf("taken back for %v, want %v; awaited are %v", back.GetAwaitedTunnels(), want, r.Awaited())
		}
		dir.Close()
		r, _ = m.start(t, at)
		r.carriers = p
		if got := r.Reverted(); got.GetReason() != tunnelsDown || !slices.Equal(got.GetAwaitedTunnels(), []string{"hub1"}) {
			t.Errorf("after a restart: %v", got)
		}

		try() // the peer is away for a reason of its own
		time.Sleep(5 * time.Second)
		if !r.Confirm(bad.Digest()) || r.Reverted() != nil {
			t.Errorf("the second time %v is awaited", r.Awaited())
		}
	})
}
