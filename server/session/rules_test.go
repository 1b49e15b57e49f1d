package session_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/session"
)

// What an edge runs that comes from a future which this store does not know is not taken
// from it; what is of a past that both share, or what an operator gave up, is.
func TestEpochs(t *testing.T) {
	paused := swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED
	sent := swanherdv1.IntentState_INTENT_STATE_SENT
	for name, tt := range map[string]struct {
		epoch      string
		revision   int64
		same       bool // it runs what is wanted
		superseded string
		state      swanherdv1.IntentState
		words      string
	}{
		"before the backup's end":       {"epoch-0", 100, false, "", sent, ""},
		"after the backup's end":        {"epoch-0", 101, false, "", paused, "backup"},
		"another store":                 {"elsewhere", 1, false, "", paused, "another store"},
		"given up":                      {"epoch-0", 101, false, "epoch-0", sent, ""},
		"another was given up":          {"epoch-0", 101, false, "elsewhere", paused, "backup"},
		"the same content":              {"epoch-0", 101, true, "", swanherdv1.IntentState_INTENT_STATE_CONFIRMED, ""},
		"another store's, and the same": {"elsewhere", 1, true, "", swanherdv1.IntentState_INTENT_STATE_CONFIRMED, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				want := intent(50, "oslo")
				want.SupersededEpoch = tt.superseded
				w.board.Post(berlin, want)
				has := running(intent(1, "rome"))
				if tt.same {
					has = running(want)
				}
				has.Epoch, has.SourceRevision = tt.epoch, tt.revision
				w.dial(&swanherdv1.Hello{Applied: has})
				w.is("it", tt.state)
				s := w.state()
				if !strings.Contains(s.GetIntentError(), tt.words) || (s.GetConflictEpoch() != "") != (tt.state == paused) {
					t.Errorf("status is %v", s)
				}
			})
		})
	}
}

// A paused edge goes on when what it runs is given up.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.board.Post(berlin, intent(50, "oslo"))
		has := running(intent(1, "rome"))
		has.Epoch = "elsewhere"
		e := w.dial(&swanherdv1.Hello{Applied: has})
		w.is("at first", swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED)
		w.board.Post(berlin, intent(51, "wien"))
		w.is("changed", swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED)
		resumed := intent(51, "wien")
		resumed.SupersededEpoch = "elsewhere"
		w.board.Post(berlin, resumed)
		u := e.recv().GetIntent()
		if !u.GetFull() || u.GetSourceRevision() != 51 {
			t.Fatalf("got %v, want all of it", u)
		}
		e.ack(u.GetNonce(), resumed)
		w.is("then", swanherdv1.IntentState_INTENT_STATE_CONFIRMED)
		if c := w.state().GetConflictEpoch(); c != "" {
			t.Errorf("the conflict with %s is over", c)
		}
	})
}

// A store that lost what it had, and does not say so, is found out: a replica that is only
// behind would have come up.
func TestStoreThatLostItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.board.Post(berlin, intent(50, "oslo"))
		w.board.Advance(60)
		e := w.dial(&swanherdv1.Hello{Applied: running(intent(70, "rome"))})
		w.is("at first", swanherdv1.IntentState_INTENT_STATE_PENDING)
		e.pinging(70 * time.Second)
		w.is("a minute later", swanherdv1.IntentState_INTENT_STATE_CONFLICT_PAUSED)
		if words := w.state().GetIntentError(); !strings.Contains(words, "--restored") {
			t.Errorf("it says %q", words)
		}
		w.board.Post(berlin, intent(71, "oslo"))
		w.is("it had only been behind", swanherdv1.IntentState_INTENT_STATE_SENT)
	})
}

// An edge that has what it should have hears so each minute, with the revision that the
// controller is at.
func TestBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := intent(7, "oslo")
		w.board.Post(berlin, want)
		e := w.dial(&swanherdv1.Hello{Applied: running(want)})
		got, at := make(chan int64, 10), time.Now()
		go func() {
			for {
				m, err := e.stream.Recv()
				if err != nil {
					return
				}
				if b := m.GetBookmark(); b != nil {
					if d := time.Since(at); d > 61*time.Second {
						t.Errorf("%v without a bookmark", d)
					}
					at = time.Now()
					got <- b.GetSourceRevision()
				}
			}
		}()
		if r := <-got; r != 7 {
			t.Errorf("first bookmark at %d", r)
		}
		w.board.Advance(40)
		e.pinging(200 * time.Second)
		synctest.Wait()
		if len(got) != 3 {
			t.Errorf("%d bookmarks in 200 s", len(got))
		}
		for len(got) > 0 {
			if r := <-got; r != 40 {
				t.Errorf("a bookmark at %d, and the board is at 40", r)
			}
		}
	})
}

// goaways receives until the session ends; it returns each Goaway, and how it ended.
func (e *edge) goaways() (away chan *swanherdv1.Goaway, ended chan error) {
	away, ended = make(chan *swanherdv1.Goaway, 100), make(chan error, 1)
	go func() {
		for {
			m, err := e.stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if g := m.GetGoaway(); g != nil {
				away <- g
			}
		}
	}()
	return away, ended
}

// A session is asked to begin anew between half its greatest age and all of it, is left the
// time to do so, and ends if the edge does not.
func TestOldSessionsBeginAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		e := w.dial(&swanherdv1.Hello{})
		away, ended := e.goaways()
		for len(away) == 0 {
			e.pinging(10 * time.Second)
		}
		if age := time.Since(began); age < session.DefaultMaxAge/2 || age > session.DefaultMaxAge+11*time.Second {
			t.Errorf("asked to leave after %v", age)
		}
		if g := <-away; g.GetRetryAfter().AsDuration() != 0 || g.GetLeaveWithin().AsDuration() != 30*time.Second {
			t.Errorf("got %v", g)
		}
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
		select {
		case err := <-ended:
			t.Fatalf("it ended at once: %v", err)
		case <-time.After(15 * time.Second):
		}
		if err := <-ended; status.Code(err) != codes.Unavailable {
			t.Errorf("ended with %v", err)
		}
	})
}

// A controller that is cut off while others go on asks edges to look for another one, again
// each minute; the session of one that finds none goes on.
func TestCutOffControllerSendsEdgesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cut atomic.Bool
		w := newWorld(t, func(c *session.Config) { c.CutOff = cut.Load })
		e := w.dial(&swanherdv1.Hello{})
		away, ended := e.goaways()
		for _, c := range []struct {
			cut  bool
			want int
		}{{false, 0}, {true, 4}, {false, 0}, {true, 4}} {
			cut.Store(c.cut)
			e.pinging(3*time.Minute + 10*time.Second)
			synctest.Wait()
			if len(away) != c.want {
				t.Errorf("cut off %t: asked %d times, want %d", c.cut, len(away), c.want)
			}
			for len(away) > 0 {
				if g := <-away; g.GetLeaveWithin().AsDuration() <= 0 || !g.GetElsewhere() || !strings.Contains(g.GetReason(), "cut off") {
					t.Errorf("asked by %v", g)
				}
			}
		}
		select {
		case err := <-ended:
			t.Errorf("the session ended: %v", err)
		default:
		}
	})
}

// Of a fleet that comes all at once some wait, and who would wait for long is told when to
// come back.
func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const edges = 8000
		type outcome struct {
			waited time.Duration
			away   *swanherdv1.Goaway
			err    error
		}
		outcomes := make(chan outcome, edges)
		for i := range edges {
			go func() {
				began := time.Now()
				stream, leave := w.stream(fmt.Sprintf("networks/demo/edges/edge-%d", i))
				defer leave()
				_ = stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{ProtocolVersion: 1}}})
				m, err := stream.Recv()
				o := outcome{waited: time.Since(began), away: m.GetGoaway(), err: err}
				if o.away != nil {
					_, o.err = stream.Recv()
				}
				outcomes <- o
			}()
		}
		welcomed, refused := 0, 0
		for range edges {
			o := <-outcomes
			switch {
			case o.away == nil && o.err == nil && o.waited <= 5*time.Second:
				welcomed++
			case o.away != nil && status.Code(o.err) == codes.ResourceExhausted && o.away.GetRetryAfter().AsDuration() > 4*time.Second:
				refused++
			default:
				t.Fatalf("%+v", o)
			}
		}
		if welcomed < 5900 || welcomed > 6100 || refused == 0 {
			t.Errorf("%d were welcomed and %d refused of %d", welcomed, refused, edges)
		}
	})
}

// Under load counters are wanted seldom and then not at all, and again when it is over.
// Transitions pass all the time.
func TestCreditsForCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fleet.Apply(fleet.Change{Tunnels: []*swanherdv1.Tunnel{{
			Name: "networks/demo/tunnels/t", A: &swanherdv1.TunnelEnd{Edge: berlin}, B: &swanherdv1.TunnelEnd{Edge: "networks/demo/edges/oslo"},
		}}})
		e := w.dial(&swanherdv1.Hello{})
		ping := &swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}}
		granted := func() *swanherdv1.FlowGrant {
			for {
				if g := e.recv().GetFlowGrant(); g != nil {
					return g
				}
			}
		}
		for _, want := range []time.Duration{20 * time.Second, 40 * time.Second, 80 * time.Second, 0} {
			session.Tend(w.server, time.Now().Add(-time.Second)) // it is late
			session.Tend(w.server, time.Now().Add(-200*time.Millisecond))
			e.send(ping) // what is sent next brings the grant along
			if g := granted(); g.GetCounterInterval().AsDuration() != want {
				t.Fatalf("got %v, want counters each %v", g, want)
			}
		}
		other := w.dialAs("networks/demo/edges/oslo", &swanherdv1.Hello{})
		if g := other.recv().GetFlowGrant(); g == nil || g.GetCounterInterval().AsDuration() != 0 {
			t.Errorf("an edge that comes under load: got %v, want that no counters are wanted", g)
		}
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{
			Sequence: 1, Full: true, Tunnels: []*swanherdv1.TunnelReport{{Tunnel: "networks/demo/tunnels/t", State: swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED}},
		}}})
		synctest.Wait()
		if tunnel, _ := w.fleet.Tunnel("networks/demo/tunnels/t"); tunnel.GetA().GetReport().GetState() != swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED {
			t.Errorf("a transition under load is lost: %v", tunnel)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 50 {
				e.send(ping)
				time.Sleep(time.Second)
			}
		}()
		for want := 80 * time.Second; want >= 10*time.Second; {
			if g := granted(); g.GetCounterInterval().AsDuration() != want {
				t.Errorf("got %v, want counters each %v", g, want)
			}
			want /= 2
		}
		<-done
	})
}

// What an edge tells of its host is recorded; what it must not say ends its session.
func TestEdgesTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.dial(&swanherdv1.Hello{})
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Drift{Drift: &swanherdv1.DriftReport{
			Kind: swanherdv1.DriftReport_KIND_REPAIRED, Subject: "routes", Message: "10.2.0.0/16 was gone",
		}}})
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Drift{Drift: &swanherdv1.DriftReport{
			Kind: swanherdv1.DriftReport_KIND_UNREPAIRABLE, Subject: "interface", Message: strings.Repeat("x", 5000),
		}}})
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_RedirectResult{RedirectResult: &swanherdv1.RedirectResult{Message: "no route"}}})
		synctest.Wait()
		got := w.journal.actions()
		for _, want := range []string{"edge.drift_repaired", "edge.drift_unrepairable", "edge.redirect_failed"} {
			if message, ok := got[want]; !ok || len(message) > 1300 {
				t.Errorf("event %s has %d octets", want, len(message))
			}
		}
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Drift{Drift: &swanherdv1.DriftReport{}}})
		if _, err := e.end(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("drift of no kind: %v", err)
		}
	})
}

// Edges hear where the controller is from now on.
func TestRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *session.Config) { c.Redirect = []string{"new.example.net:7444"} })
		if r := w.dial(&swanherdv1.Hello{}).recv().GetRedirect(); len(r.GetEndpoints()) != 1 || r.GetEndpoints()[0] != "new.example.net:7444" {
			t.Errorf("got %v", r)
		}
	})
}
