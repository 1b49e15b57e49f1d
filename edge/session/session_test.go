package session

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// script is the controller's part of one session.
type script func(t *testing.T, s serverStream) error

type serverStream = grpc.BidiStreamingServer[swanherdv1.EdgeMessage, swanherdv1.ControllerMessage]

// controller plays one script per session, then hangs up on every other one.
type controller struct {
	swanherdv1.UnimplementedEdgeControlServiceServer
	t       *testing.T
	mu      sync.Mutex
	scripts []script
	starts  []time.Time
	dials   []string
}

func (c *controller) dialled(endpoint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dials = append(c.dials, endpoint)
}

func (c *controller) Session(s serverStream) error {
	c.mu.Lock()
	c.starts = append(c.starts, time.Now())
	var play script
	if len(c.scripts) > 0 {
		play, c.scripts = c.scripts[0], c.scripts[1:]
	}
	c.mu.Unlock()
	if play == nil {
		return errors.New("no session today")
	}
	return play(c.t, s)
}

// fleet is the edge's side: what applies intents and reports health.
type fleet struct {
	mu       sync.Mutex
	running  *state.Intent
	reject   error
	applies  int
	trial    time.Duration
	reverted *swanherdv1.Reverted
	awaited  []string

	changed, uplinks, tookBack chan struct{}
	transitions                []*swanherdv1.TunnelReport
	kept                       []string // endpoints and the last good one, as told last
	commands                   []string // tunnels that were to be rekeyed
}

func newFleet() *fleet {
	return &fleet{changed: make(chan struct{}, 1), uplinks: make(chan struct{}, 1), tookBack: make(chan struct{}, 1)}
}

func (f *fleet) Running() *state.Intent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running
}

func (f *fleet) Apply(_ context.Context, i *state.Intent, confirmWithin time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applies++
	if f.reject != nil {
		return f.reject
	}
	f.running, f.trial = i, confirmWithin
	return nil
}

func (f *fleet) Unconfirmed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trial > 0
}

func (f *fleet) Awaited() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.awaited
}

func (f *fleet) Confirm(digest []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !bytes.Equal(f.running.Digest(), digest) || len(f.awaited) > 0 {
		return false
	}
	f.trial = 0
	return true
}

func (f *fleet) Reverted() *swanherdv1.Reverted {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reverted
}

func (f *fleet) keep(endpoints []string, last string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept = append(endpoints, last)
}

func (f *fleet) command(c *swanherdv1.Command) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.GetRekeyTunnel() == nil {
		return errors.New("what is that?")
	}
	f.commands = append(f.commands, c.GetRekeyTunnel().GetTunnel())
	return nil
}

func (f *fleet) Full() []*swanherdv1.TunnelReport {
	return []*swanherdv1.TunnelReport{{Tunnel: "networks/n/tunnels/a--b", State: swanherdv1.TunnelState_TUNNEL_STATE_IDLE}}
}

func (f *fleet) Transitions() ([]*swanherdv1.TunnelReport, []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.transitions
	f.transitions = nil
	return out, nil
}

func (f *fleet) transition(r *swanherdv1.TunnelReport) {
	f.mu.Lock()
	f.transitions = append(f.transitions, r)
	f.mu.Unlock()
	f.changed <- struct{}{}
}

func (f *fleet) Counters() []*swanherdv1.TunnelCounters {
	return []*swanherdv1.TunnelCounters{{Tunnel: "networks/n/tunnels/a--b"}}
}
func (f *fleet) Changed() <-chan struct{} { return f.changed }

type uplinks struct{ f *fleet }

// intents is f as session.Intent: its Changed is another one.
type intents struct{ *fleet }

func (i intents) Changed() <-chan struct{} { return i.tookBack }

func (u uplinks) Changed() <-chan struct{}      { return u.f.uplinks }
func (u uplinks) Current() []*swanherdv1.Uplink { return []*swanherdv1.Uplink{{Name: "wan1"}} }

// play runs a client against scripts for as long as during takes. It and all
// channels of the test are in one bubble.
func play(t *testing.T, f *fleet, during func(c *Client, ctl *controller), scripts ...script) {
	ctl := &controller{t: t, scripts: scripts}
	l := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(grpc.WaitForHandlers(true))
	swanherdv1.RegisterEdgeControlServiceServer(srv, ctl)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	c := New(Config{
		Dial: func(endpoint string) (*grpc.ClientConn, error) {
			ctl.dialled(endpoint)
			return grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		},
		Endpoints: []string{"one:1", "two:2"}, Last: "one:1", AgentVersion: "test", DataPlane: "userspace",
		Intent: intents{f}, Keep: f.keep, Health: f, Uplinks: uplinks{f}, Command: f.command, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { c.Run(ctx) })
	during(c, ctl)
	cancel()
	srv.Stop()
	wg.Wait()
}

// recv receives a message of the edge.
func recv(t *testing.T, s serverStream) *swanherdv1.EdgeMessage {
	t.Helper()
	m, err := s.Recv()
	if err != nil {
		t.Errorf("edge hung up: %v", err)
		return &swanherdv1.EdgeMessage{}
	}
	return m
}

// recvSkip receives until a message is neither Ping nor counters.
func recvSkip(t *testing.T, s serverStream) *swanherdv1.EdgeMessage {
	t.Helper()
	for {
		m := recv(t, s)
		if m.GetPing() == nil && m.GetCounters() == nil {
			return m
		}
	}
}

func hello(t *testing.T, s serverStream) *swanherdv1.Hello {
	t.Helper()
	h := recv(t, s).GetHello()
	if h.GetProtocolVersion() != 1 || h.GetBootId() == "" || len(h.GetUplinks()) != 1 {
		t.Errorf("Hello = %v", h)
	}
	send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Welcome{
		Welcome: &swanherdv1.Welcome{ProtocolVersion: 1, Epoch: "e1"},
	}})
	if r := recvSkip(t, s).GetStatus(); !r.GetFull() || r.GetSequence() != 1 || len(r.GetTunnels()) != 1 {
		t.Errorf("first report = %v, want a full one", r)
	}
	return h
}

func send(t *testing.T, s serverStream, m *swanherdv1.ControllerMessage) {
	t.Helper()
	if err := s.Send(m); err != nil {
		t.Errorf("send: %v", err)
	}
}

// received wants the edge's word that it has an update whole.
func received(t *testing.T, s serverStream, nonce uint64) {
	t.Helper()
	if a := recvSkip(t, s).GetAck(); a.GetNonce() != nonce || a.GetStage() != swanherdv1.Ack_STAGE_RECEIVED {
		t.Errorf("Ack = %v, want RECEIVED of update %d", a, nonce)
	}
}

func sendIntent(t *testing.T, s serverStream, c *swanherdv1.IntentChunk) {
	t.Helper()
	c.Epoch = "e1"
	send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Intent{Intent: c}})
}

func settings(mtu uint32) *swanherdv1.IntentResource {
	return digest.Resource(&swanherdv1.EdgeSettings{Edge: "networks/n/edges/a", TunnelMtu: mtu})
}

func tunnel(name string) *swanherdv1.IntentResource {
	return digest.Resource(&swanherdv1.TunnelIntent{Name: name})
}

// untilOver waits until the edge has left the session.
func untilOver(s serverStream) error {
	<-s.Context().Done()
	return nil
}

// A snapshot in two chunks, a delta on top, then a new session that costs no
// intent octets.
func TestSnapshotDeltaResume(t *testing.T) { synctest.Test(t, testSnapshotDeltaResume) }

func testSnapshotDeltaResume(t *testing.T) {
	f := newFleet()
	first := []*swanherdv1.IntentResource{settings(1400), tunnel("t1"), tunnel("t2")}
	second := []*swanherdv1.IntentResource{settings(1400), tunnel("t2"), tunnel("t3")}
	done := make(chan struct{})
	play(t, f, func(_ *Client, _ *controller) { <-done },
		func(t *testing.T, s serverStream) error {
			if h := hello(t, s); h.GetApplied() != nil {
				t.Errorf("a new edge says that it runs %v", h.GetApplied())
			}
			full := digest.NewSet(first).Digest()
			sendIntent(t, s, &swanherdv1.IntentChunk{Nonce: 1, SourceRevision: 5, Full: true, ResultDigest: full, Chunk: 0, ChunkCount: 2, Upserts: first[:1]})
			sendIntent(t, s, &swanherdv1.IntentChunk{Nonce: 1, SourceRevision: 5, Full: true, ResultDigest: full, Chunk: 1, ChunkCount: 2, Upserts: first[1:]})
			received(t, s, 1)
			if a := recvSkip(t, s).GetAck(); a.GetNonce() != 1 || a.GetStage() != swanherdv1.Ack_STAGE_CONFIRMED || !bytes.Equal(a.GetRunning().GetSetDigest(), full) {
				t.Errorf("Ack = %v", a)
			}
			sendIntent(t, s, &swanherdv1.IntentChunk{
				Nonce: 2, SourceRevision: 6, BaseDigest: full, ResultDigest: digest.NewSet(second).Digest(), ChunkCount: 1,
				Upserts: second[2:], Removals: []string{"t1"},
			})
			received(t, s, 2)
			if a := recvSkip(t, s).GetAck(); a.GetNonce() != 2 || a.GetRunning().GetSourceRevision() != 6 {
				t.Errorf("Ack = %v", a)
			}
			return nil
		},
		func(t *testing.T, s serverStream) error {
			if a := hello(t, s).GetApplied(); !bytes.Equal(a.GetSetDigest(), digest.NewSet(second).Digest()) || a.GetEpoch() != "e1" {
				t.Errorf("the edge says that it runs %v", a)
			}
			send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Bookmark{Bookmark: &swanherdv1.Bookmark{SourceRevision: 6}}})
			close(done)
			return untilOver(s)
		})
	if f.applies != 2 {
		t.Errorf("applied %d intents, want 2", f.applies)
	}
}

func TestNack(t *testing.T) {
	good := []*swanherdv1.IntentResource{settings(0)}
	invalid := &RejectedError{Code: swanherdv1.Nack_CODE_INVALID, Errors: []*swanherdv1.ResourceError{
		{Resource: "settings", FieldPath: "tunnel_mtu", Message: "too small"},
	}}
	for name, tc := range map[string]struct {
		chunk  *swanherdv1.IntentChunk
		reject error
		code   swanherdv1.Nack_Code
	}{
		"wrong result digest": {chunk: &swanherdv1.IntentChunk{Full: true, ResultDigest: []byte("other"), Upserts: good}, code: swanherdv1.Nack_CODE_DIGEST_MISMATCH},
		"delta without a base": {
			chunk: &swanherdv1.IntentChunk{BaseDigest: []byte("x"), ResultDigest: digest.NewSet(good).Digest(), Upserts: good},
			code:  swanherdv1.Nack_CODE_DIGEST_MISMATCH,
		},
		"unknown kind": {chunk: &swanherdv1.IntentChunk{Full: true, Upserts: []*swanherdv1.IntentResource{{Name: "x"}}}, code: swanherdv1.Nack_CODE_INVALID},
		"invalid":      {chunk: &swanherdv1.IntentChunk{Full: true, ResultDigest: digest.NewSet(good).Digest(), Upserts: good}, reject: invalid, code: swanherdv1.Nack_CODE_INVALID},
		"failed":       {chunk: &swanherdv1.IntentChunk{Full: true, ResultDigest: digest.NewSet(good).Digest(), Upserts: good}, reject: errors.New("no device"), code: swanherdv1.Nack_CODE_APPLY_FAILED},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				f.reject = tc.reject
				done := make(chan struct{})
				play(t, f, func(_ *Client, _ *controller) { <-done }, func(t *testing.T, s serverStream) error {
					hello(t, s)
					tc.chunk.Nonce, tc.chunk.ChunkCount = 7, 1
					sendIntent(t, s, tc.chunk)
					if tc.reject != nil {
						received(t, s, 7)
					}
					n := recvSkip(t, s).GetNack()
					if n.GetNonce() != 7 || n.GetCode() != tc.code || len(n.GetErrors()) == 0 || n.GetRunning() != nil {
						t.Errorf("Nack = %v, want %v", n, tc.code)
					}
					// The session goes on: the controller sends a snapshot.
					f.mu.Lock()
					f.reject = nil
					f.mu.Unlock()
					sendIntent(t, s, &swanherdv1.IntentChunk{Nonce: 8, Full: true, ResultDigest: digest.NewSet(good).Digest(), Upserts: good, ChunkCount: 1})
					received(t, s, 8)
					if a := recvSkip(t, s).GetAck(); a.GetNonce() != 8 {
						t.Errorf("Ack = %v", a)
					}
					close(done)
					return untilOver(s)
				})
			})
		})
	}
}

// Transitions are sent at once, pings and counters at their intervals, and a
// full report when asked.
func TestReports(t *testing.T) { synctest.Test(t, testReports) }

func testReports(t *testing.T) {
	f := newFleet()
	done := make(chan struct{})
	play(t, f, func(c *Client, _ *controller) {
		<-done
		if st := c.Status(); !st.Connected || st.Endpoint != "one:1" {
			t.Errorf("Status = %+v", st)
		}
	}, func(t *testing.T, s serverStream) error {
		hello(t, s)
		start := time.Now()
		f.transition(&swanherdv1.TunnelReport{Tunnel: "t1", State: swanherdv1.TunnelState_TUNNEL_STATE_FAILED})
		if r := recv(t, s).GetStatus(); r.GetFull() || r.GetSequence() != 2 || r.GetTunnels()[0].GetTunnel() != "t1" || time.Since(start) != 0 {
			t.Errorf("after %v: %v", time.Since(start), r)
		}
		if m := recv(t, s); m.GetCounters() == nil || time.Since(start) != 10*time.Second {
			t.Errorf("after %v: %v, want counters", time.Since(start), m)
		}
		m := recv(t, s)
		ping := m.GetPing()
		if ping.GetSendTime() == nil || ping.GetRoundTrip() != nil || time.Since(start) != 15*time.Second {
			t.Errorf("after %v: %v, want a ping", time.Since(start), m)
		}
		send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_FullStatusRequest{FullStatusRequest: &swanherdv1.FullStatusRequest{}}})
		if r := recv(t, s).GetStatus(); !r.GetFull() || r.GetSequence() != 3 {
			t.Errorf("report = %v, want a full one", r)
		}
		f.uplinks <- struct{}{}
		if r := recv(t, s).GetUplinks(); len(r.GetUplinks()) != 1 {
			t.Errorf("uplinks = %v", r)
		}
		time.Sleep(20 * time.Millisecond)
		send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Pong{Pong: &swanherdv1.Pong{PingSendTime: ping.GetSendTime()}}})
		for ping = nil; ping == nil; {
			ping = recv(t, s).GetPing()
		}
		if trip := ping.GetRoundTrip().AsDuration(); trip != 20*time.Millisecond {
			t.Errorf("the next Ping says that the round trip was %v", trip)
		}
		close(done)
		return untilOver(s)
	})
}

// A controller that is gone is tried again and again, at a growing distance
// that stays below the maximum, on all endpoints.
func TestBackoff(t *testing.T) { synctest.Test(t, testBackoff) }

func testBackoff(t *testing.T) {
	f := newFleet()
	play(t, f, func(c *Client, ctl *controller) {
		<-time.After(2 * time.Hour) // virtual
		synctest.Wait()
		ctl.mu.Lock()
		defer ctl.mu.Unlock()
		n := len(ctl.starts)
		if n < 120 || n > 600 {
			t.Errorf("%d tries in two hours, want about 240", n)
		}
		for i := 1; i < n; i++ {
			if d := ctl.starts[i].Sub(ctl.starts[i-1]); d > backoffMax {
				t.Errorf("try %d came after %v", i, d)
			}
		}
		if st := c.Status(); st.Connected || !strings.Contains(st.LastError, "no session today") || st.NextAttempt.IsZero() {
			t.Errorf("Status = %+v", st)
		}
	})
}

// A controller that says nothing for three heartbeats is given up, though the
// connection still stands.
func TestSilence(t *testing.T) { synctest.Test(t, testSilence) }

func testSilence(t *testing.T) {
	f := newFleet()
	var began, ended time.Time
	again := make(chan struct{})
	play(t, f, func(_ *Client, _ *controller) { <-again },
		func(t *testing.T, s serverStream) error {
			hello(t, s)
			began = time.Now()
			<-s.Context().Done()
			ended = time.Now()
			return nil
		},
		func(t *testing.T, s serverStream) error {
			close(again)
			return untilOver(s)
		})
	if d := ended.Sub(began); d != 45*time.Second {
		t.Errorf("gave up after %v, want 45 s", d)
	}
}

func TestGoaway(t *testing.T) { synctest.Test(t, testGoaway) }

func testGoaway(t *testing.T) {
	f := newFleet()
	var left time.Time
	var away time.Duration
	again := make(chan struct{})
	play(t, f, func(_ *Client, _ *controller) { <-again },
		func(t *testing.T, s serverStream) error {
			hello(t, s)
			left = time.Now()
			send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Goaway{
				Goaway: &swanherdv1.Goaway{Reason: "draining", RetryAfter: durationpb.New(2 * time.Minute)},
			}})
			return untilOver(s)
		},
		func(t *testing.T, s serverStream) error {
			away = time.Since(left)
			close(again)
			return untilOver(s)
		})
	if away < 2*time.Minute || away > 3*time.Minute+time.Second {
		t.Errorf("came back after %v, want 2 to 3 min", away)
	}
}

// New credentials are put to use at once.
func TestReconnect(t *testing.T) { synctest.Test(t, testReconnect) }

func testReconnect(t *testing.T) {
	f := newFleet()
	ready, again := make(chan time.Time, 1), make(chan time.Time, 1)
	play(t, f, func(c *Client, _ *controller) {
		at := <-ready
		c.Reconnect()
		if d := (<-again).Sub(at); d != 0 {
			t.Errorf("reconnected after %v", d)
		}
	},
		func(t *testing.T, s serverStream) error {
			hello(t, s)
			ready <- time.Now()
			return untilOver(s)
		},
		func(t *testing.T, s serverStream) error {
			hello(t, s)
			again <- time.Now()
			return untilOver(s)
		})
}

// Breaches of the protocol end the session and nothing is applied.
func TestBreaches(t *testing.T) {
	chunk := func(c *swanherdv1.IntentChunk) *swanherdv1.ControllerMessage {
		return &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Intent{Intent: c}}
	}
	for name, breach := range map[string][]*swanherdv1.ControllerMessage{
		"no chunks":       {chunk(&swanherdv1.IntentChunk{Nonce: 1})},
		"too many chunks": {chunk(&swanherdv1.IntentChunk{Nonce: 1, ChunkCount: maxChunks + 1})},
		"gap":             {chunk(&swanherdv1.IntentChunk{Nonce: 1, ChunkCount: 3}), chunk(&swanherdv1.IntentChunk{Nonce: 1, Chunk: 2, ChunkCount: 3})},
		"mixed":           {chunk(&swanherdv1.IntentChunk{Nonce: 1, ChunkCount: 3}), chunk(&swanherdv1.IntentChunk{Nonce: 2, Chunk: 1, ChunkCount: 3})},
		"second welcome":  {{Message: &swanherdv1.ControllerMessage_Welcome{Welcome: &swanherdv1.Welcome{ProtocolVersion: 1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet()
				done := make(chan struct{})
				play(t, f, func(_ *Client, _ *controller) { <-done }, func(t *testing.T, s serverStream) error {
					hello(t, s)
					start := time.Now()
					for _, m := range breach {
						send(t, s, m)
					}
					<-s.Context().Done()
					if d := time.Since(start); d != 0 {
						t.Errorf("the edge left after %v", d)
					}
					close(done)
					return nil
				})
				if f.applies != 0 {
					t.Error("something was applied")
				}
			})
		})
	}
}
