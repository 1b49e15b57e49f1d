package session_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/session"
)

func (e *edge) stage(nonce uint64, stage swanherdv1.Ack_Stage, intent *session.Intent) {
	e.t.Helper()
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{
		Nonce: nonce, Running: running(intent), Stage: stage,
	}}})
}

func (e *edge) tookBack(r *swanherdv1.Reverted) {
	e.t.Helper()
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Reverted{Reverted: r}})
}

// is wants an edge to be in that state of its intent.
func (w *world) is(when string, state swanherdv1.IntentState) {
	w.t.Helper()
	synctest.Wait()
	if got := w.state().GetIntentState(); got != state {
		w.t.Errorf("%s the state is %v, want %v", when, got, state)
	}
}

// silent wants nothing to be sent to the edge for a while.
func (e *edge) silent(w *world, d time.Duration) {
	e.t.Helper()
	got := make(chan *swanherdv1.ControllerMessage, 1)
	go func() {
		if m, err := e.stream.Recv(); err == nil {
			got <- m
		}
	}()
	time.Sleep(d)
	select {
	case m := <-got:
		e.t.Errorf("got %v, want nothing", m)
	default:
	}
}

// pinging keeps the session for a while.
func (e *edge) pinging(d time.Duration) {
	e.t.Helper()
	for ; d > 0; d -= 10 * time.Second {
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
		time.Sleep(10 * time.Second)
	}
}

// An update goes through every state, and the edge is told to keep it once it has said
// in the session that it runs it.
func TestDeliveryStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.dial(&swanherdv1.Hello{})
		first := intent(7, "oslo")
		w.board.Post(berlin, first)
		u := e.recv().GetIntent()
		if u.GetConfirmWithin().AsDuration() != session.DefaultConfirmWithin {
			t.Errorf("on trial for %v", u.GetConfirmWithin().AsDuration())
		}
		w.is("sent", swanherdv1.IntentState_INTENT_STATE_SENT)
		e.stage(u.GetNonce(), swanherdv1.Ack_STAGE_RECEIVED, intent(1))
		w.is("received", swanherdv1.IntentState_INTENT_STATE_RECEIVED)
		e.stage(u.GetNonce(), swanherdv1.Ack_STAGE_APPLIED, first)
		w.is("applied", swanherdv1.IntentState_INTENT_STATE_APPLIED)
		if c := e.recv().GetConfirm(); !bytes.Equal(c.GetSetDigest(), first.Digest()) {
			t.Fatalf("got %v, want Confirm", c)
		}
		e.stage(0, swanherdv1.Ack_STAGE_CONFIRMED, intent(1)) // of something else
		w.is("still", swanherdv1.IntentState_INTENT_STATE_APPLIED)
		e.stage(0, swanherdv1.Ack_STAGE_CONFIRMED, first)
		w.is("confirmed", swanherdv1.IntentState_INTENT_STATE_CONFIRMED)
	})
}

// An edge that comes back with an update on trial has found the controller, and may keep
// it, if it is still wanted.
func TestConfirmAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := intent(7, "oslo")
		w.board.Post(berlin, want)
		e := w.dial(&swanherdv1.Hello{Applied: running(want), Unconfirmed: true})
		e.recv() // Bookmark
		if c := e.recv().GetConfirm(); !bytes.Equal(c.GetSetDigest(), want.Digest()) {
			t.Fatalf("got %v, want Confirm", c)
		}
		w.is("until it answers", swanherdv1.IntentState_INTENT_STATE_APPLIED)
		e.stage(0, swanherdv1.Ack_STAGE_CONFIRMED, want)
		w.is("then", swanherdv1.IntentState_INTENT_STATE_CONFIRMED)

		e = w.dial(&swanherdv1.Hello{Applied: running(intent(6, "rome")), Unconfirmed: true})
		if m := e.recv(); m.GetIntent() == nil {
			t.Errorf("got %v, want what is wanted by now", m)
		}
	})
}

// What an edge took back it does not get again until it was changed, however it tells, or
// after a while: soon if its agent ended, later if it lost the controller, and three times
// at most.
func TestTakenBack(t *testing.T) {
	for name, tt := range map[string]struct {
		reason   swanherdv1.Reverted_Reason
		attempts uint32
		again    bool // soon
		later    bool
	}{
		"not confirmed":                {swanherdv1.Reverted_REASON_NOT_CONFIRMED, 1, false, false},
		"not confirmed, tried again":   {swanherdv1.Reverted_REASON_NOT_CONFIRMED, 1, false, true},
		"not confirmed, third attempt": {swanherdv1.Reverted_REASON_NOT_CONFIRMED, 3, false, false},
		"restarted":                    {swanherdv1.Reverted_REASON_RESTARTED, 1, true, false},
		"restarted, third attempt":     {swanherdv1.Reverted_REASON_RESTARTED, 3, false, false},
	} {
		for _, inHello := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					good, bad := intent(1, "oslo"), intent(2, "oslo/bad")
					r := &swanherdv1.Reverted{SetDigest: bad.Digest(), Reason: tt.reason, Attempts: tt.attempts, Running: running(good)}
					var e *edge
					if inHello {
						w.board.Post(berlin, bad)
						e = w.dial(&swanherdv1.Hello{Applied: running(good), Reverted: r})
					} else {
						w.board.Post(berlin, good)
						e = w.dial(&swanherdv1.Hello{Applied: running(good)})
						e.recv() // Bookmark
						w.board.Post(berlin, bad)
						e.stage(e.recv().GetIntent().GetNonce(), swanherdv1.Ack_STAGE_APPLIED, bad)
						e.recv() // Confirm, which it does not get in time
						e.tookBack(r)
					}
					w.is("taken back", swanherdv1.IntentState_INTENT_STATE_REVERTED)
					if s := w.state(); s.GetAppliedRevision() != 1 || !strings.Contains(s.GetIntentError(), "look at") && !strings.Contains(s.GetIntentError(), "change it") {
						t.Errorf("status is %v", s)
					}
					if tt.again {
						if u := e.recv().GetIntent(); !bytes.Equal(u.GetResultDigest(), bad.Digest()) {
							t.Errorf("got %v, want it once more", u)
						}
						return
					}
					e.silent(w, 40*time.Second)
					if tt.later {
						e.pinging(10 * time.Minute)
						w.is("tried again", swanherdv1.IntentState_INTENT_STATE_SENT)
						return
					}
					w.board.Post(berlin, intent(3, "oslo/mended"))
					w.is("mended", swanherdv1.IntentState_INTENT_STATE_SENT)
				})
			})
		}
	}
}

// A replica that has not seen what the edge runs does not send it back into the past.
func TestReplicaBehindWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.board.Post(berlin, intent(5, "oslo"))
		now := intent(8, "oslo", "rome")
		e := w.dial(&swanherdv1.Hello{Applied: running(now)})
		w.is("behind", swanherdv1.IntentState_INTENT_STATE_PENDING)
		w.board.Post(berlin, now)
		if m := e.recv(); m.GetBookmark() == nil {
			t.Errorf("got %v, want a Bookmark", m)
		}
		w.is("up to date", swanherdv1.IntentState_INTENT_STATE_CONFIRMED)
	})
}

// While an edge awaits tunnels it is not told to keep what it runs, and an operator sees
// which; it is once it awaits none, whether it says so in that session or in Hello.
func TestAwaitedTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := intent(7, "oslo")
		awaits := func(when string, names ...string) {
			t.Helper()
			w.is(when, swanherdv1.IntentState_INTENT_STATE_APPLIED)
			if s := w.state(); !slices.Equal(s.GetAwaitedTunnels(), names) || s.GetAppliedRevision() != 7 {
				t.Errorf("%s it awaits %v, want %v", when, s.GetAwaitedTunnels(), names)
			}
		}
		ack := func(e *edge, nonce uint64, names ...string) {
			e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{
				Nonce: nonce, Running: running(want), Stage: swanherdv1.Ack_STAGE_APPLIED, AwaitedTunnels: names,
			}}})
		}
		w.board.Post(berlin, want)
		e := w.dial(&swanherdv1.Hello{})
		ack(e, e.recv().GetIntent().GetNonce(), "networks/demo/tunnels/hub1--oslo", "networks/demo/tunnels/hub2--oslo")
		awaits("applied", "networks/demo/tunnels/hub1--oslo", "networks/demo/tunnels/hub2--oslo")
		ack(e, 0, "networks/demo/tunnels/hub2--oslo")
		awaits("with one up again", "networks/demo/tunnels/hub2--oslo")

		e = w.dial(&swanherdv1.Hello{Applied: running(want), Unconfirmed: true, AwaitedTunnels: []string{"networks/demo/tunnels/hub2--oslo"}})
		if m := e.recv(); m.GetBookmark() == nil {
			t.Errorf("got %v, want a Bookmark", m)
		}
		awaits("in another session", "networks/demo/tunnels/hub2--oslo")
		ack(e, 0)
		if c := e.recv().GetConfirm(); !bytes.Equal(c.GetSetDigest(), want.Digest()) {
			t.Fatalf("got %v, want Confirm", c)
		}
		awaits("until it answers")
		e.stage(0, swanherdv1.Ack_STAGE_CONFIRMED, want)
		w.is("confirmed", swanherdv1.IntentState_INTENT_STATE_CONFIRMED)
	})
}

// What an edge took back for tunnels names them.
func TestTakenBackForTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		good, bad := intent(1, "oslo"), intent(2, "oslo/bad")
		w.board.Post(berlin, bad)
		w.dial(&swanherdv1.Hello{Applied: running(good), Reverted: &swanherdv1.Reverted{
			SetDigest: bad.Digest(), Reason: swanherdv1.Reverted_REASON_TUNNELS_DOWN, Attempts: 1, Running: running(good),
			AwaitedTunnels: []string{"networks/demo/tunnels/a--hub1", "networks/demo/tunnels/a--hub2", "networks/demo/tunnels/a--hub3", "networks/demo/tunnels/a--hub4"},
		}})
		w.is("taken back", swanherdv1.IntentState_INTENT_STATE_REVERTED)
		if words := w.state().GetIntentError(); !strings.Contains(words, "(a--hub1, a--hub2, a--hub3, 1 more)") {
			t.Errorf("the reason is %q", words)
		}
	})
}
