package session_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/session"
)

// What an edge must not say ends its session, with the status that says why.
func TestBreaches(t *testing.T) {
	hello := &swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{ProtocolVersion: 1}}}
	for name, tt := range map[string]struct {
		says []*swanherdv1.EdgeMessage
		code codes.Code
	}{
		"a giant Hello": {[]*swanherdv1.EdgeMessage{{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{
			ProtocolVersion: 1, AgentVersion: strings.Repeat("x", 5<<20),
		}}}}, codes.ResourceExhausted},
		"a long digest": {[]*swanherdv1.EdgeMessage{{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{
			ProtocolVersion: 1, Applied: &swanherdv1.AppliedIntent{SetDigest: make([]byte, 17)},
		}}}}, codes.InvalidArgument},
		"an ack of no stage":   {[]*swanherdv1.EdgeMessage{hello, {Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{Stage: 9}}}}, codes.InvalidArgument},
		"drift of no kind":     {[]*swanherdv1.EdgeMessage{hello, {Message: &swanherdv1.EdgeMessage_Drift{Drift: &swanherdv1.DriftReport{}}}}, codes.InvalidArgument},
		"Hello twice":          {[]*swanherdv1.EdgeMessage{hello, hello}, codes.InvalidArgument},
		"nothing at first":     {[]*swanherdv1.EdgeMessage{{}}, codes.InvalidArgument},
		"an ack of the future": {[]*swanherdv1.EdgeMessage{hello, {Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{Nonce: 1 << 60}}}}, codes.InvalidArgument},
		"a nack of the future": {[]*swanherdv1.EdgeMessage{hello, {Message: &swanherdv1.EdgeMessage_Nack{Nack: &swanherdv1.Nack{Nonce: 2}}}}, codes.InvalidArgument},
		"a giant report": {[]*swanherdv1.EdgeMessage{hello, {Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{
			Removed: []string{strings.Repeat("x", 5<<20)},
		}}}}, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.board.Post(berlin, intent(1, "oslo"))
				e := w.dial(nil)
				for _, m := range tt.says {
					_ = e.stream.Send(m)
					synctest.Wait()
				}
				if _, err := e.end(); status.Code(err) != tt.code {
					t.Errorf("ended with %v, want %v", err, tt.code)
				}
				synctest.Wait()
				if w.state().GetConnected() {
					t.Error("it still counts as connected")
				}
			})
		})
	}
}

// breaking panics where a session tells what it sent.
type breaking struct{}

func (breaking) SessionOpened()                       {}
func (breaking) SessionClosed(codes.Code)             {}
func (breaking) IntentSent(bool, int, time.Duration)  { panic("a defect") }
func (breaking) IntentAnswered(string, time.Duration) {}

// A mistake of the controller that an edge's message leads to costs that edge its session,
// and nobody else anything, whichever goroutine makes it.
func TestPanicEndsOneSession(t *testing.T) {
	say := func(m *swanherdv1.EdgeMessage) func(*world, *edge) { return func(_ *world, e *edge) { e.send(m) } }
	for name, tt := range map[string]struct {
		configure func(*session.Config)
		provoke   func(*world, *edge)
	}{
		"taking in": {
			func(c *session.Config) { c.JobEnded = func(string, *swanherdv1.JobReport) { panic("a defect") } },
			say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_JobReport{JobReport: &swanherdv1.JobReport{}}}),
		},
		"sending": {
			func(c *session.Config) { c.Metrics = breaking{} },
			func(w *world, _ *edge) { w.board.Post(berlin, intent(1, "oslo")) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				w := newWorld(t, tt.configure, func(c *session.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
				e, calm := w.dial(&swanherdv1.Hello{}), w.dialAs("networks/demo/edges/oslo", &swanherdv1.Hello{})
				tt.provoke(w, e)
				if _, err := e.end(); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "defect") {
					t.Errorf("ended with %v", err)
				}
				synctest.Wait()
				if w.state().GetConnected() {
					t.Error("it still counts as connected")
				}
				calm.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
				if m := calm.recv(); m.GetPong() == nil {
					t.Errorf("another edge got %v", m)
				}
				if !strings.Contains(log.String(), `panic="a defect"`) || !strings.Contains(log.String(), "session.go:") {
					t.Errorf("the log has no panic with its stack: %s", log.String())
				}
			})
		})
	}
}

// An edge that acknowledges another set than it was sent gets everything, once: then it is
// shown as it is, and gets it again after a while.
func TestAckOfAnotherDigest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first, second, wrong := intent(1, "oslo"), intent(2, "oslo", "rome"), intent(2, "paris")
		w.board.Post(berlin, first)
		e := w.dial(&swanherdv1.Hello{Applied: running(first)})
		e.recv() // Bookmark
		w.board.Post(berlin, second)
		e.ack(e.recv().GetIntent().GetNonce(), wrong)
		u := e.recv().GetIntent()
		if !u.GetFull() {
			t.Fatalf("got %v, want everything", u)
		}
		e.ack(u.GetNonce(), wrong)
		w.is("refused", swanherdv1.IntentState_INTENT_STATE_REJECTED)
		if words := w.state().GetIntentError(); !strings.Contains(words, "other than the one sent") {
			t.Errorf("it says %q", words)
		}
		e.silent(w, 20*time.Second)
	})
}

// An edge that says more than there is to say waits itself, and nobody else does.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e, calm := w.dial(&swanherdv1.Hello{}), w.dialAs("networks/demo/edges/oslo", &swanherdv1.Hello{})
		began := time.Now()
		flooded := make(chan time.Duration, 1)
		go func() {
			for range 5000 {
				e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{
					Sequence: 1, Full: true, Removed: []string{strings.Repeat("x", 1000)},
				}}})
			}
			e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
			e.recv()
			flooded <- time.Since(began)
		}()
		synctest.Wait()
		calm.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
		if m := calm.recv(); m.GetPong() == nil || time.Since(began) > 0 {
			t.Errorf("another edge got %v after %v", m, time.Since(began))
		}
		if took := <-flooded; took < 19*time.Second || took > 25*time.Second {
			t.Errorf("5,000 reports were taken in within %v, want 1,000 and then 200 a second", took)
		}
	})
}

// An edge that takes nothing is given up, however alive it says that it is, and its updates
// do not pile up.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var peers []string
		for i := range 3000 {
			peers = append(peers, strings.Repeat("x", 400)+time.Duration(i).String())
		}
		w.board.Post(berlin, intent(1, peers...))
		e := w.dial(&swanherdv1.Hello{})
		began := time.Now()
		for w.state().GetConnected() && time.Since(began) < 5*time.Minute {
			_ = e.stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
			time.Sleep(10 * time.Second)
			synctest.Wait()
		}
		if took := time.Since(began); took < 45*time.Second || took > 60*time.Second {
			t.Errorf("given up after %v", took)
		}
		if _, err := e.end(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("ended with %v", err)
		}
	})
}
