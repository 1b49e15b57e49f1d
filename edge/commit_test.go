package edge

import (
	"bytes"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// machine is an engine and a host that remember the MTU that they were given, by which
// the intents of these tests differ.
type machine struct{ mtu int }

func (m *machine) Apply([]engine.TunnelConfig) []engine.TunnelResult { return nil }
func (m *machine) Revalidate()                                       {}
func (m *machine) Reachable(string) error                            { return nil }
func (m *machine) SetRoutes(string, []hostnet.Route) error           { return nil }
func (m *machine) Drift(string, int, []hostnet.Route, hostnet.Default) ([]string, error) {
	return nil, nil
}
func (m *machine) SetDefault(string, hostnet.Default) error  { return nil }
func (m *machine) Intercept(string, []netip.Addr) error      { return nil }
func (m *machine) EnableForwarding(hostnet.Forwarding) error { return nil }
func (m *machine) MTU(string) (int, error)                   { return 1500, nil }
func (m *machine) SourceTo(netip.Addr) (netip.Addr, error)   { return netip.Addr{}, nil }
func (m *machine) SetLink(_ string, mtu int) error           { m.mtu = mtu; return nil }
func (m *machine) HasIPv6(string) bool                       { return true }
func (m *machine) SetLocal(string, netip.Prefix) error       { return nil }
func (m *machine) AddressIn([]netip.Prefix, bool, string) (netip.Addr, error) {
	return netip.Addr{}, nil
}

// start is an agent's runner on m with the state directory dir, as after a start.
func (m *machine) start(t *testing.T, path string) (*runner, *state.Dir) {
	t.Helper()
	dir, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	log := slog.New(slog.DiscardHandler)
	r := newRunner(reconcile.New(reconcile.Config{
		Engine: m, Host: m, Interface: "swan0", Logger: log,
		Uplinks: func() []*swanherdv1.Uplink { return nil }, Identity: func() *state.Identity { return nil },
	}), log)
	r.dir = dir
	if err := r.resume(); err != nil {
		t.Fatal(err)
	}
	return r, dir
}

func intentOf(mtu uint32) *state.Intent {
	return &state.Intent{
		Epoch: "e", SourceRevision: int64(mtu),
		Resources: digest.NewSet([]*swanherdv1.IntentResource{digest.Resource(&swanherdv1.EdgeSettings{TunnelMtu: mtu})}),
	}
}

// what a runner says: the MTU of what runs, whether it awaits Confirm, the MTU of what
// was taken back, why and after how many attempts.
type commitState struct {
	mtu, running int
	unconfirmed  bool
	reason       swanherdv1.Reverted_Reason
	attempts     uint32
}

func (m *machine) state(r *runner) commitState {
	s := commitState{mtu: m.mtu, unconfirmed: r.Unconfirmed()}
	if i := r.Running(); i != nil {
		s.running = int(i.SourceRevision)
	}
	back := r.Reverted()
	s.reason, s.attempts = back.GetReason(), back.GetAttempts()
	return s
}

const (
	notConfirmed = swanherdv1.Reverted_REASON_NOT_CONFIRMED
	restarted    = swanherdv1.Reverted_REASON_RESTARTED
)

// TestCommitConfirmed: an update is kept only once it is confirmed; it is taken back at
// the end of its time, and by a crash.
func TestCommitConfirmed(t *testing.T) {
	apply := func(t *testing.T, r *runner, mtu uint32, within time.Duration) {
		t.Helper()
		if err := r.Apply(t.Context(), intentOf(mtu), within); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(t *testing.T, when string, got, want commitState) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	for name, test := range map[string]func(t *testing.T, m *machine, r *runner, restart func() *runner){
		"confirmed": func(t *testing.T, m *machine, r *runner, restart func() *runner) {
			apply(t, r, 1400, 30*time.Second)
			expect(t, "on trial", m.state(r), commitState{mtu: 1400, running: 1400, unconfirmed: true})
			if r.Confirm([]byte("another")) {
				t.Error("the digest of another intent confirms")
			}
			if !r.Confirm(intentOf(1400).Digest()) {
				t.Error("not confirmed")
			}
			time.Sleep(time.Minute)
			expect(t, "confirmed", m.state(r), commitState{mtu: 1400, running: 1400})
			expect(t, "after a restart", m.state(restart()), commitState{mtu: 1400, running: 1400})
		},
		"not confirmed": func(t *testing.T, m *machine, r *runner, restart func() *runner) {
			apply(t, r, 1400, 30*time.Second)
			time.Sleep(30*time.Second - 1)
			expect(t, "before the end", m.state(r), commitState{mtu: 1400, running: 1400, unconfirmed: true})
			time.Sleep(2)
			expect(t, "at the end", m.state(r), commitState{mtu: 1280, running: 1280, reason: notConfirmed, attempts: 1})
			select {
			case <-r.Changed():
			default:
				t.Error("nobody was told")
			}
			if r.Confirm(intentOf(1400).Digest()) {
				t.Error("what was taken back is confirmed")
			}
			expect(t, "after a restart", m.state(restart()), commitState{mtu: 1280, running: 1280, reason: notConfirmed, attempts: 1})
		},
		"tried again": func(t *testing.T, m *machine, r *runner, restart func() *runner) {
			for attempt := uint32(1); attempt <= 3; attempt++ {
				apply(t, r, 1400, 30*time.Second)
				time.Sleep(time.Minute)
				expect(t, "at the end", m.state(r), commitState{mtu: 1280, running: 1280, reason: notConfirmed, attempts: attempt})
			}
			apply(t, r, 1390, 30*time.Second)
			time.Sleep(time.Minute)
			expect(t, "of another one", m.state(r), commitState{mtu: 1280, running: 1280, reason: notConfirmed, attempts: 1})
		},
		"crash": func(t *testing.T, m *machine, r *runner, restart func() *runner) {
			apply(t, r, 1400, 30*time.Second)
			r = restart()
			expect(t, "after it", m.state(r), commitState{mtu: 1280, running: 1280, reason: restarted, attempts: 1})
			apply(t, r, 1400, 30*time.Second)
			r = restart()
			expect(t, "after another", m.state(r), commitState{mtu: 1280, running: 1280, reason: restarted, attempts: 2})
			apply(t, r, 1400, 30*time.Second)
			r.Confirm(intentOf(1400).Digest())
			expect(t, "confirmed after all", m.state(restart()), commitState{mtu: 1400, running: 1400})
		},
		"one on another": func(t *testing.T, m *machine, r *runner, restart func() *runner) {
			apply(t, r, 1400, 30*time.Second)
			time.Sleep(20 * time.Second)
			apply(t, r, 1390, 30*time.Second)
			time.Sleep(20 * time.Second)
			expect(t, "the second", m.state(r), commitState{mtu: 1390, running: 1390, unconfirmed: true})
			time.Sleep(20 * time.Second)
			expect(t, "at its end", m.state(r), commitState{mtu: 1280, running: 1280, reason: notConfirmed, attempts: 1})
		},
		"refused while one is on trial": func(t *testing.T, m *machine, r *runner, restart func() *runner) {
			apply(t, r, 1400, 30*time.Second)
			bad := intentOf(70000)
			if err := r.Apply(t.Context(), bad, 30*time.Second); err == nil {
				t.Error("an MTU of 70000 is applied")
			}
			expect(t, "after it", m.state(r), commitState{mtu: 1400, running: 1400, unconfirmed: true})
			note, err := r.dir.LoadTrial()
			if err != nil || !bytes.Equal(note.GetSetDigest(), intentOf(1400).Digest()) {
				t.Errorf("on trial is %v, %v", note, err)
			}
			time.Sleep(time.Minute)
			expect(t, "at the end", m.state(r), commitState{mtu: 1280, running: 1280, reason: notConfirmed, attempts: 1})
		},
		"without a trial": func(t *testing.T, m *machine, r *runner, restart func() *runner) {
			apply(t, r, 1400, 30*time.Second)
			apply(t, r, 1390, 0)
			time.Sleep(time.Minute)
			expect(t, "later", m.state(r), commitState{mtu: 1390, running: 1390})
			expect(t, "after a restart", m.state(restart()), commitState{mtu: 1390, running: 1390})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := &machine{}, filepath.Join(t.TempDir(), "state")
				r, dir := m.start(t, path)
				apply(t, r, 1280, 0)
				test(t, m, r, func() *runner {
					r.endTrial() // its timer goes with the process
					dir.Close()
					m.mtu = 0
					r, dir = m.start(t, path)
					return r
				})
			})
		})
	}
}

// TestFirstIntentTakenBack: an edge that had no intent goes back to none.
func TestFirstIntentTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{}
		r, _ := m.start(t, filepath.Join(t.TempDir(), "state"))
		if err := r.Apply(t.Context(), intentOf(1400), 30*time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if r.Running() != nil || r.Unconfirmed() || r.Reverted().GetReason() != notConfirmed {
			t.Errorf("%+v", m.state(r))
		}
	})
}
