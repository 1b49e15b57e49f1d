package session

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// An update that wants to be confirmed is on trial until Confirm with its digest comes,
// in this session or the next.
func TestConfirm(t *testing.T) { synctest.Test(t, testConfirm) }

func testConfirm(t *testing.T) {
	f := intents{newFleet()}
	set := []*swanherdv1.IntentResource{settings(1400)}
	sum := digest.NewSet(set).Digest()
	confirm := func(s serverStream, digest []byte) {
		send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Confirm{Confirm: &swanherdv1.Confirm{SetDigest: digest}}})
	}
	done := make(chan struct{})
	play(t, f.fleet, func(*Client, *controller) { <-done },
		func(t *testing.T, s serverStream) error {
			if h := hello(t, s); h.GetUnconfirmed() || h.GetReverted() != nil {
				t.Errorf("Hello = %v", h)
			}
			sendIntent(t, s, &swanherdv1.IntentChunk{
				Nonce: 1, Full: true, ResultDigest: sum, ChunkCount: 1, Upserts: set, ConfirmWithin: durationpb.New(30 * time.Second),
			})
			received(t, s, 1)
			if a := recvSkip(t, s).GetAck(); a.GetStage() != swanherdv1.Ack_STAGE_APPLIED {
				t.Errorf("Ack = %v", a)
			}
			if f.trial != 30*time.Second {
				t.Errorf("on trial for %v", f.trial)
			}
			confirm(s, []byte("another"))
			return nil
		},
		func(t *testing.T, s serverStream) error {
			if h := hello(t, s); !h.GetUnconfirmed() || !bytes.Equal(h.GetApplied().GetSetDigest(), sum) {
				t.Errorf("Hello = %v", h)
			}
			confirm(s, sum)
			if a := recvSkip(t, s).GetAck(); a.GetStage() != swanherdv1.Ack_STAGE_CONFIRMED || !bytes.Equal(a.GetRunning().GetSetDigest(), sum) {
				t.Errorf("Ack = %v", a)
			}
			close(done)
			return untilOver(s)
		})
}

// What was taken back is told at once, and again in Hello.
func TestReverted(t *testing.T) { synctest.Test(t, testReverted) }

func testReverted(t *testing.T) {
	f := intents{newFleet()}
	done := make(chan struct{})
	want := &swanherdv1.Reverted{SetDigest: []byte("bad"), Reason: swanherdv1.Reverted_REASON_NOT_CONFIRMED, Attempts: 2}
	play(t, f.fleet, func(*Client, *controller) { <-done },
		func(t *testing.T, s serverStream) error {
			hello(t, s)
			f.mu.Lock()
			f.reverted = want
			f.mu.Unlock()
			f.tookBack <- struct{}{}
			if r := recvSkip(t, s).GetReverted(); r.GetAttempts() != 2 || !bytes.Equal(r.GetSetDigest(), want.GetSetDigest()) {
				t.Errorf("Reverted = %v", r)
			}
			return nil
		},
		func(t *testing.T, s serverStream) error {
			if r := hello(t, s).GetReverted(); r.GetReason() != want.GetReason() {
				t.Errorf("Hello with %v", r)
			}
			close(done)
			return untilOver(s)
		})
}

// An update that is planned from an older revision of the same epoch than what runs is
// refused: a replica that lags behind must not bring back the past.
func TestOutdatedUpdate(t *testing.T) { synctest.Test(t, testOutdatedUpdate) }

func testOutdatedUpdate(t *testing.T) {
	f := newFleet()
	first, second := []*swanherdv1.IntentResource{settings(1400)}, []*swanherdv1.IntentResource{settings(1300)}
	done := make(chan struct{})
	play(t, f, func(*Client, *controller) { <-done }, func(t *testing.T, s serverStream) error {
		hello(t, s)
		update := func(nonce uint64, revision int64, set []*swanherdv1.IntentResource) *swanherdv1.EdgeMessage {
			sendIntent(t, s, &swanherdv1.IntentChunk{Nonce: nonce, SourceRevision: revision, Full: true, ResultDigest: digest.NewSet(set).Digest(), ChunkCount: 1, Upserts: set})
			return recvSkip(t, s)
		}
		update(1, 9, first)
		recvSkip(t, s)
		if n := update(2, 8, second).GetNack(); n.GetCode() != swanherdv1.Nack_CODE_OUTDATED || n.GetRunning().GetSourceRevision() != 9 {
			t.Errorf("Nack = %v", n)
		}
		if a := update(3, 10, second).GetAck(); a.GetStage() != swanherdv1.Ack_STAGE_RECEIVED {
			t.Errorf("Ack = %v", a)
		}
		close(done)
		return untilOver(s)
	})
}

// Which tunnels an update on trial awaits is told with what it is acknowledged by, when
// they change, and in Hello; a Confirm that comes too early confirms nothing.
func TestAwaited(t *testing.T) { synctest.Test(t, testAwaited) }

func testAwaited(t *testing.T) {
	f := intents{newFleet()}
	set := []*swanherdv1.IntentResource{settings(1400)}
	sum := digest.NewSet(set).Digest()
	awaits := func(tunnels ...string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.awaited = tunnels
	}
	expect := func(what string, a *swanherdv1.Ack, nonce uint64, want ...string) {
		if a.GetStage() != swanherdv1.Ack_STAGE_APPLIED || a.GetNonce() != nonce || !slices.Equal(a.GetAwaitedTunnels(), want) {
			t.Errorf("%s: %v, want APPLIED of %d, awaiting %v", what, a, nonce, want)
		}
	}
	confirm := func(s serverStream) {
		send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Confirm{Confirm: &swanherdv1.Confirm{SetDigest: sum}}})
	}
	done := make(chan struct{})
	awaits("hub1", "hub2")
	play(t, f.fleet, func(*Client, *controller) { <-done },
		func(t *testing.T, s serverStream) error {
			hello(t, s)
			sendIntent(t, s, &swanherdv1.IntentChunk{
				Nonce: 1, Full: true, ResultDigest: sum, ChunkCount: 1, Upserts: set, ConfirmWithin: durationpb.New(30 * time.Second),
			})
			received(t, s, 1)
			expect("applied", recvSkip(t, s).GetAck(), 1, "hub1", "hub2")
			confirm(s)
			awaits("hub2")
			f.tookBack <- struct{}{}
			expect("hub1 is up", recvSkip(t, s).GetAck(), 0, "hub2")
			return nil
		},
		func(t *testing.T, s serverStream) error {
			if h := hello(t, s); !h.GetUnconfirmed() || !slices.Equal(h.GetAwaitedTunnels(), []string{"hub2"}) {
				t.Errorf("Hello = %v", h)
			}
			awaits()
			f.tookBack <- struct{}{}
			expect("all are up", recvSkip(t, s).GetAck(), 0)
			confirm(s)
			if a := recvSkip(t, s).GetAck(); a.GetStage() != swanherdv1.Ack_STAGE_CONFIRMED {
				t.Errorf("Ack = %v", a)
			}
			close(done)
			return untilOver(s)
		})
}
