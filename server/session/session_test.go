package session_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const berlin = "networks/demo/edges/berlin"

// world is a session server over an in-memory connection.
type world struct {
	t      testing.TB
	server *session.Server
	board  *session.Board
	fleet  *fleet.Fleet
	conn   *grpc.ClientConn
	admit  error

	journal *journal
}

// journal keeps events.
type journal struct {
	mu     sync.Mutex
	events []*swanherdv1.Event
}

func (j *journal) Record(_ context.Context, r fleet.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, r.Events...)
	return nil
}

// actions are the last messages of the events, by action.
func (j *journal) actions() map[string]string {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := map[string]string{}
	for _, e := range j.events {
		out[e.GetAction()] = e.GetMessage()
	}
	return out
}

func newWorld(t testing.TB, configure ...func(*session.Config)) *world {
	w := &world{t: t, board: session.NewBoard(), journal: &journal{}}
	recorder := fleet.NewRecorder(w.journal, slog.New(slog.DiscardHandler))
	w.fleet = fleet.New(fleet.Config{Recorder: recorder})
	w.fleet.Apply(fleet.Change{Edges: []*swanherdv1.Edge{{Name: berlin}}})
	cfg := session.Config{
		Epoch: "epoch-1", PastEpochs: map[string]int64{"epoch-0": 100},
		Board: w.board,
		Fleet: w.fleet,
		Admit: func(access.EdgeIdentity) error { return w.admit },
	}
	for _, f := range configure {
		f(&cfg)
	}
	w.server = session.New(cfg)
	running, stop := context.WithCancel(context.Background())
	go w.server.Run(running)
	go recorder.Run(running)
	// The certificate's name travels as metadata here; the mutual TLS that
	// proves it is tested with real listeners in package server.
	srv := grpc.NewServer(grpc.StreamInterceptor(func(v any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		md, _ := metadata.FromIncomingContext(ss.Context())
		return h(v, identified{ss, access.WithEdge(ss.Context(), access.EdgeIdentity{Edge: md.Get("edge")[0]})})
	}))
	swanherdv1.RegisterEdgeControlServiceServer(srv, w.server)
	lis := bufconn.Listen(1 << 16)
	go srv.Serve(lis)
	conn, err := grpc.NewClient("passthrough:///controller", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	w.conn = conn
	t.Cleanup(func() {
		stop()
		conn.Close()
		srv.Stop()
		lis.Close()
	})
	return w
}

type identified struct {
	grpc.ServerStream
	ctx context.Context
}

func (s identified) Context() context.Context { return s.ctx }

// edge is a scripted edge.
type edge struct {
	t      testing.TB
	stream swanherdv1.EdgeControlService_SessionClient
	leave  context.CancelFunc
}

func (w *world) dial(hello *swanherdv1.Hello) *edge {
	w.t.Helper()
	return w.dialAs(berlin, hello)
}

func (w *world) dialAs(name string, hello *swanherdv1.Hello) *edge {
	w.t.Helper()
	stream, cancel := w.stream(name)
	w.t.Cleanup(cancel)
	e := &edge{t: w.t, stream: stream, leave: cancel}
	if hello != nil {
		hello.ProtocolVersion = 1
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: hello}})
		if m := e.recv(); m.GetWelcome().GetEpoch() != "epoch-1" {
			w.t.Fatalf("got %v, want a Welcome to epoch-1", m)
		}
	}
	return e
}

// stream opens a session on which nothing was said.
func (w *world) stream(name string) (swanherdv1.EdgeControlService_SessionClient, context.CancelFunc) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(w.t.Context(), "edge", name))
	stream, err := swanherdv1.NewEdgeControlServiceClient(w.conn).Session(ctx)
	if err != nil {
		panic(err)
	}
	return stream, cancel
}

func (e *edge) send(m *swanherdv1.EdgeMessage) {
	e.t.Helper()
	if err := e.stream.Send(m); err != nil {
		e.t.Fatal(err)
	}
}

func (e *edge) recv() *swanherdv1.ControllerMessage {
	e.t.Helper()
	m, err := e.stream.Recv()
	if err != nil {
		e.t.Fatal(err)
	}
	return m
}

// end waits for the session's end and returns its Goaway and status.
func (e *edge) end() (*swanherdv1.Goaway, error) {
	var away *swanherdv1.Goaway
	for {
		m, err := e.stream.Recv()
		if err != nil {
			return away, err
		}
		if m.GetGoaway() != nil {
			away = m.GetGoaway()
		}
	}
}

func (e *edge) ack(nonce uint64, intent *session.Intent) {
	e.t.Helper()
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{
		Nonce: nonce, Running: running(intent), Stage: swanherdv1.Ack_STAGE_CONFIRMED,
	}}})
}

func (e *edge) nack(nonce uint64, code swanherdv1.Nack_Code, still *session.Intent) {
	e.t.Helper()
	n := &swanherdv1.Nack{Nonce: nonce, Code: code, Errors: []*swanherdv1.ResourceError{
		{Resource: "networks/demo/tunnels/berlin--oslo", FieldPath: "children[0].local_ts", Message: "overlaps the uplink"},
	}}
	if still != nil {
		n.Running = running(still)
	}
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Nack{Nack: n}})
}

func running(i *session.Intent) *swanherdv1.AppliedIntent {
	return &swanherdv1.AppliedIntent{Epoch: "epoch-1", SourceRevision: i.Revision, SetDigest: i.Digest()}
}

// intent makes an intent of tunnels; "oslo/2" is a second version of oslo's.
func intent(revision int64, peers ...string) *session.Intent {
	resources := []*swanherdv1.IntentResource{digest.Resource(&swanherdv1.EdgeSettings{Edge: berlin})}
	for _, p := range peers {
		id, version, _ := strings.Cut(p, "/")
		resources = append(resources, digest.Resource(&swanherdv1.TunnelIntent{
			Name: "networks/demo/tunnels/berlin--" + id, PeerEdge: version,
		}))
	}
	return &session.Intent{Revision: revision, Resources: digest.NewSet(resources)}
}

func (w *world) state() *swanherdv1.EdgeStatus { return w.fleet.EdgeStatus(berlin) }

func names(resources []*swanherdv1.IntentResource) []string {
	var out []string
	for _, r := range resources {
		out = append(out, r.GetName()[strings.LastIndex(r.GetName(), "/")+1:])
	}
	return out
}

func TestResumeCostsNoIntent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := intent(7, "oslo", "rome")
		w.board.Post(berlin, want)
		e := w.dial(&swanherdv1.Hello{Applied: running(intent(5, "rome", "oslo")), AgentVersion: "1.2"})
		if m := e.recv(); m.GetBookmark().GetSourceRevision() != 7 {
			t.Fatalf("got %v, want a Bookmark at revision 7", m)
		}
		synctest.Wait()
		s := w.state()
		if !s.GetConnected() || s.GetIntentState() != swanherdv1.IntentState_INTENT_STATE_CONFIRMED || s.GetAppliedRevision() != 7 || s.GetAgentVersion() != "1.2" {
			t.Errorf("edge status is %v", s)
		}
	})
}

func TestSnapshotThenDelta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := intent(7, "oslo", "rome")
		w.board.Post(berlin, first)
		e := w.dial(&swanherdv1.Hello{})
		u := e.recv().GetIntent()
		if !u.GetFull() || len(u.GetUpserts()) != 3 || !bytes.Equal(u.GetResultDigest(), first.Digest()) || u.GetChunkCount() != 1 {
			t.Fatalf("got %v, want the whole intent", u)
		}
		synctest.Wait()
		if s := w.state().GetIntentState(); s != swanherdv1.IntentState_INTENT_STATE_SENT {
			t.Errorf("before the ack the state is %v", s)
		}
		e.ack(u.GetNonce(), first)
		synctest.Wait()
		if s := w.state(); s.GetIntentState() != swanherdv1.IntentState_INTENT_STATE_CONFIRMED || s.GetAppliedRevision() != 7 {
			t.Errorf("after the ack the status is %v", s)
		}
		second := intent(9, "rome/2", "wien")
		w.board.Post(berlin, second)
		u = e.recv().GetIntent()
		if u.GetFull() || !bytes.Equal(u.GetBaseDigest(), first.Digest()) || !bytes.Equal(u.GetResultDigest(), second.Digest()) {
			t.Fatalf("got %v, want a delta", u)
		}
		if got := names(u.GetUpserts()); !slices.Equal(got, []string{"berlin--rome", "berlin--wien"}) {
			t.Errorf("delta upserts %v", got)
		}
		if got := u.GetRemovals(); !slices.Equal(got, []string{"networks/demo/tunnels/berlin--oslo"}) {
			t.Errorf("delta removes %v", got)
		}
	})
}

func TestSlowEdgeMergesUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := intent(1, "oslo")
		w.board.Post(berlin, first)
		e := w.dial(&swanherdv1.Hello{})
		u := e.recv().GetIntent()
		var last *session.Intent
		for r := int64(2); r <= 50; r++ {
			last = intent(r, "oslo", fmt.Sprintf("rome/%d", r))
			w.board.Post(berlin, last)
			synctest.Wait()
		}
		e.ack(u.GetNonce(), first)
		u = e.recv().GetIntent()
		if u.GetSourceRevision() != 50 || !bytes.Equal(u.GetResultDigest(), last.Digest()) {
			t.Fatalf("got revision %d, want the newest, 50", u.GetSourceRevision())
		}
		e.ack(u.GetNonce(), last)
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{SendTime: timestamppb.Now()}}})
		if m := e.recv(); m.GetPong() == nil {
			t.Fatalf("got %v, want nothing but a Pong", m)
		}
	})
}

// How far away an edge is, and its clock, is known from the second Ping on.
func TestTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.board.Post(berlin, intent(1, "oslo"))
		e := w.dial(&swanherdv1.Hello{Applied: running(intent(1, "oslo"))})
		e.recv() // Bookmark
		ping := func(ahead, trip time.Duration) {
			t.Helper()
			p := &swanherdv1.Ping{SendTime: timestamppb.New(time.Now().Add(ahead - trip/2))}
			if trip != 0 {
				p.RoundTrip = durationpb.New(trip)
			}
			e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: p}})
			if m := e.recv(); m.GetPong() == nil {
				t.Fatalf("got %v, want Pong", m)
			}
		}
		for _, step := range []struct {
			what                string
			ahead, trip         time.Duration // of the Ping
			wantAhead, wantTrip time.Duration
			known               bool
		}{
			{"the first Ping", time.Minute, 0, 0, 0, false},
			{"the second", time.Minute, 40 * time.Millisecond, time.Minute, 40 * time.Millisecond, true},
			{"a little more", time.Minute + 100*time.Millisecond, 70 * time.Millisecond, time.Minute, 40 * time.Millisecond, true},
			{"a clock that was set", -200 * time.Millisecond, 70 * time.Millisecond, -200 * time.Millisecond, 70 * time.Millisecond, true},
			{"a longer way", 0, 200 * time.Millisecond, 0, 200 * time.Millisecond, true},
			{"nonsense", 0, -time.Hour, 30 * time.Minute, 0, true},
		} {
			ping(step.ahead, step.trip)
			s := w.state()
			if (s.GetClockOffset() != nil) != step.known || s.GetClockOffset().AsDuration() != step.wantAhead || s.GetControlRoundTrip().AsDuration() != step.wantTrip {
				t.Errorf("%s: clock %v, round trip %v, want %v, %v", step.what, s.GetClockOffset().AsDuration(), s.GetControlRoundTrip().AsDuration(), step.wantAhead, step.wantTrip)
			}
		}
	})
}

// An update that goes back to what the edge had, while another is in flight,
// is still sent: the edge is about to run the other.
func TestReturnToFormerIntentWhileInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := intent(1, "oslo"), intent(2, "rome")
		w.board.Post(berlin, a)
		e := w.dial(&swanherdv1.Hello{Applied: running(a)})
		e.recv() // Bookmark
		w.board.Post(berlin, b)
		u := e.recv().GetIntent()
		w.board.Post(berlin, intent(3, "oslo"))
		synctest.Wait()
		e.ack(u.GetNonce(), b)
		if u = e.recv().GetIntent(); !bytes.Equal(u.GetResultDigest(), a.Digest()) || !bytes.Equal(u.GetBaseDigest(), b.Digest()) {
			t.Fatalf("got %v, want the delta back", u)
		}
	})
}

func TestNackIsShownAndNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		good, bad := intent(1, "oslo"), intent(2, "oslo/bad")
		w.board.Post(berlin, good)
		e := w.dial(&swanherdv1.Hello{Applied: running(good)})
		e.recv() // Bookmark
		w.board.Post(berlin, bad)
		e.nack(e.recv().GetIntent().GetNonce(), swanherdv1.Nack_CODE_INVALID, good)
		synctest.Wait()
		s := w.state()
		if s.GetIntentState() != swanherdv1.IntentState_INTENT_STATE_REJECTED || s.GetAppliedRevision() != 1 ||
			!strings.Contains(s.GetIntentError(), "children[0].local_ts: overlaps the uplink") {
			t.Errorf("after the nack the status is %v", s)
		}
		w.board.Post(berlin, intent(3, "oslo/3"))
		u := e.recv().GetIntent()
		if u.GetSourceRevision() != 3 || u.GetFull() || !bytes.Equal(u.GetBaseDigest(), good.Digest()) {
			t.Fatalf("got %v, want the next intent as a delta against the one that runs", u)
		}
	})
}

func TestDigestMismatchGetsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := intent(1, "oslo")
		w.board.Post(berlin, first)
		e := w.dial(&swanherdv1.Hello{Applied: running(first)})
		e.recv() // Bookmark
		w.board.Post(berlin, intent(2, "rome"))
		e.nack(e.recv().GetIntent().GetNonce(), swanherdv1.Nack_CODE_DIGEST_MISMATCH, nil)
		u := e.recv().GetIntent()
		if !u.GetFull() {
			t.Fatalf("got %v, want a snapshot", u)
		}
		e.nack(u.GetNonce(), swanherdv1.Nack_CODE_DIGEST_MISMATCH, nil)
		synctest.Wait()
		if s := w.state().GetIntentState(); s != swanherdv1.IntentState_INTENT_STATE_REJECTED {
			t.Errorf("a snapshot that does not add up leaves the state %v", s)
		}
	})
}

func TestLargeIntentIsChunked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var peers []string
		for i := range 3000 {
			peers = append(peers, fmt.Sprintf("site-%04d/%s", i, strings.Repeat("x", 400)))
		}
		want := intent(1, peers...)
		w.board.Post(berlin, want)
		e := w.dial(&swanherdv1.Hello{})
		var got []*swanherdv1.IntentResource
		for i, n := uint32(0), uint32(1); i < n; i++ {
			m := e.recv()
			if size := proto.Size(m); size > 256<<10 {
				t.Errorf("chunk %d has %d octets", i, size)
			}
			c := m.GetIntent()
			if c.GetChunk() != i || c.GetNonce() != 1 {
				t.Fatalf("got chunk %d of update %d, want %d of 1", c.GetChunk(), c.GetNonce(), i)
			}
			n = c.GetChunkCount()
			got = append(got, c.GetUpserts()...)
		}
		if !bytes.Equal(digest.NewSet(got).Digest(), want.Digest()) {
			t.Error("chunks do not make up the intent")
		}
	})
}

func TestSilentEdgeIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.dial(&swanherdv1.Hello{})
		for range 20 { // five minutes of heartbeats
			time.Sleep(15 * time.Second)
			e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
			e.recv()
		}
		start := time.Now()
		away, err := e.end()
		if took := time.Since(start); took != 45*time.Second {
			t.Errorf("session ended after %v of silence", took)
		}
		if away == nil || status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("ended with %v, %v", away, err)
		}
		if w.state().GetConnected() {
			t.Error("the edge still counts as connected")
		}
	})
}

func TestNewerSessionReplacesOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.dial(&swanherdv1.Hello{})
		synctest.Wait()
		w.dial(&swanherdv1.Hello{AgentVersion: "new"})
		if _, err := old.end(); status.Code(err) != codes.Aborted {
			t.Errorf("older session ended with %v", err)
		}
		synctest.Wait()
		if s := w.state(); !s.GetConnected() || s.GetAgentVersion() != "new" {
			t.Errorf("edge status is %v", s)
		}
	})
}

func TestRevokedEdgeIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.dial(&swanherdv1.Hello{})
		w.admit = status.Error(codes.PermissionDenied, "the certificate is revoked")
		w.server.Recheck()
		if _, err := e.end(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("session ended with %v", err)
		}
		if _, err := w.dial(nil).stream.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("next session: %v", err)
		}
	})
}

func TestFirstMessageMustBeHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.dial(nil)
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}})
		if _, err := e.end(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("ended with %v", err)
		}
		e = w.dial(nil)
		if _, err := e.end(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("an edge that says nothing: %v", err)
		}
		e = w.dial(nil)
		e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{}}})
		if _, err := e.end(); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("protocol version 0: %v", err)
		}
	})
}

func TestReportGapAsksForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := w.dial(&swanherdv1.Hello{})
		report := func(seq uint64, full bool) {
			e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{
				Status: &swanherdv1.StatusReport{Sequence: seq, Full: full},
			}})
		}
		report(1, true)
		report(2, false)
		report(4, false)
		if m := e.recv(); m.GetFullStatusRequest() == nil {
			t.Fatalf("got %v, want FullStatusRequest", m)
		}
	})
}

// An edge that says no more has ended its session, and is answered so, whether or not it
// hangs up.
func TestEdgeClosesItsSession(t *testing.T) {
	for what, hello := range map[string]*swanherdv1.Hello{"before Hello": nil, "after it": {}} {
		w := newWorld(t)
		e := w.dial(hello)
		if err := e.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := e.end()
			ended <- err
		}()
		select {
		case err := <-ended:
			if err != io.EOF {
				t.Errorf("%s: the session ends with %v, want OK", what, err)
			}
		case <-time.After(30 * time.Second):
			e.leave()
			t.Errorf("%s: the session goes on", what)
		}
		if w.state().GetConnected() {
			t.Errorf("%s: the edge counts as connected", what)
		}
		const want = "berlin lost its session: the edge closed it"
		told := func() string { return w.journal.actions()["edge.disconnect"] }
		for end := time.Now().Add(30 * time.Second); hello != nil && told() == "" && time.Now().Before(end); {
			runtime.Gosched()
		}
		if got := told(); hello != nil && got != want {
			t.Errorf("%s: the event says %q, want %q", what, got, want)
		}
	}
}
