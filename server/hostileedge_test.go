package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

// hostile is an enrolled edge that says whatever it likes.
type hostile struct {
	t      *testing.T
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	leave  context.CancelFunc
}

// hostile makes a berlin that is, with an honest oslo, and a log of which the longest line
// is known.
func hostileWorld(t *testing.T) (c *controller, h *hostile, honest *testEdge, log *longestLine) {
	log = &longestLine{}
	c = startController(t, func(cfg *server.Config) {
		cfg.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	c.apply()
	berlin := c.enrolled("berlin")
	honest = c.enrolled("oslo")
	honest.open()
	honest.until("berlin--oslo")
	conn := berlin.dial(tls.Certificate{Certificate: berlin.chain, PrivateKey: berlin.control})
	return c, &hostile{t: t, conn: conn}, honest, log
}

type longestLine struct {
	mu   sync.Mutex
	line string
}

func (l *longestLine) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(b) > len(l.line) {
		l.line = string(b)
	}
	return len(b), nil
}

// open begins a session, by a message or raw octets.
func (h *hostile) open(first any) error {
	if h.leave != nil {
		h.leave()
	}
	ctx, leave := context.WithCancel(h.t.Context())
	h.leave = leave
	stream, err := h.conn.NewStream(ctx, &swanherdv1.EdgeControlService_ServiceDesc.Streams[0],
		swanherdv1.EdgeControlService_Session_FullMethodName, grpc.ForceCodec(rawCodec{}), grpc.WaitForReady(true))
	if err != nil {
		h.t.Fatal(err)
	}
	h.stream = stream
	return h.say(first)
}

func (h *hostile) greet() {
	h.t.Helper()
	err := h.open(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{ProtocolVersion: 1}}})
	if err != nil {
		h.t.Fatal(err)
	}
}

// say says something, and waits until it was taken in; its error is how the session ended.
func (h *hostile) say(m any) error {
	ping := &swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}}
	for _, m := range []any{m, ping} {
		if err := h.stream.SendMsg(m); err != nil && !errors.Is(err, io.EOF) {
			h.t.Fatal(err)
		}
	}
	for {
		got := &swanherdv1.ControllerMessage{}
		if err := h.stream.RecvMsg(got); err != nil || got.GetPong() != nil {
			return err
		}
	}
}

// seen is everything that a viewer with an ordinary client gets, in octets.
func (c *controller) seen(fleet swanherdv1.FleetServiceClient) (octets int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	for token := ""; ; {
		page, err := fleet.ListTunnels(ctx, &swanherdv1.ListTunnelsRequest{Parent: "networks/demo", PageSize: 1000, PageToken: token})
		if err != nil {
			c.t.Fatalf("ListTunnels: %v", err)
		}
		octets += proto.Size(page)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	stream, err := fleet.WatchFleet(ctx, &swanherdv1.WatchFleetRequest{Parent: "networks/demo"})
	for synced := false; !synced; {
		var frame *swanherdv1.WatchFleetResponse
		if err == nil {
			frame, err = stream.Recv()
		}
		if err != nil {
			c.t.Fatalf("WatchFleet: %v", err)
		}
		synced = frame.GetSynced()
	}
	return octets
}

// served says whether the controller goes on for everybody else.
func (c *controller) served(honest *testEdge, fleet swanherdv1.FleetServiceClient) {
	c.t.Helper()
	c.seen(fleet)
	if resp, body := c.rest(http.MethodGet, "/v1/networks/demo/tunnels", c.token, ""); resp.StatusCode != http.StatusOK {
		c.t.Errorf("the tunnels by REST: %s: %.300s", resp.Status, body)
	}
	select {
	case err := <-honest.ended:
		c.t.Fatalf("the session of the honest edge ended: %v", err)
	default:
	}
	events, err := fleet.ListEvents(c.t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/demo", PageSize: 1000})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range events.GetEvents() {
		if len(e.GetMessage()) > 2100 {
			c.t.Errorf("an event has %d octets: %.100s", len(e.GetMessage()), e.GetMessage())
		}
	}
}

const hostileTunnel = "networks/demo/tunnels/berlin--oslo"

// plausible is one of each message, as far as the controller looks at it and keeps it.
func plausible() []*swanherdv1.EdgeMessage {
	now := timestamppb.Now()
	report := &swanherdv1.TunnelReport{
		Tunnel: hostileTunnel, State: swanherdv1.TunnelState_TUNNEL_STATE_FAILED, StateTime: now, LastError: &swanherdv1.TunnelError{Code: "X", Message: "no"},
		ChildSas: []*swanherdv1.ChildSa{{Name: "net", SpiIn: "00000001", SpiOut: "00000002"}},
	}
	return []*swanherdv1.EdgeMessage{
		{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{
			ProtocolVersion: 1, BootId: "boot", Applied: &swanherdv1.AppliedIntent{Epoch: "another"}, Uplinks: []*swanherdv1.Uplink{{Name: "wan1"}},
		}}},
		{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{Nonce: 1, Running: &swanherdv1.AppliedIntent{Epoch: "another"}}}},
		{Message: &swanherdv1.EdgeMessage_Nack{Nack: &swanherdv1.Nack{Nonce: 1, Code: swanherdv1.Nack_CODE_INVALID, Errors: []*swanherdv1.ResourceError{{Message: "no"}}}}},
		{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{Sequence: 1, Full: true, Tunnels: []*swanherdv1.TunnelReport{report}}}},
		{Message: &swanherdv1.EdgeMessage_Counters{Counters: &swanherdv1.CounterReport{Tunnels: []*swanherdv1.TunnelCounters{{
			Tunnel: hostileTunnel, Children: []*swanherdv1.ChildCounters{{SpiIn: "00000001"}},
		}}}}},
		{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{SendTime: now}}},
		{Message: &swanherdv1.EdgeMessage_Uplinks{Uplinks: &swanherdv1.UplinkReport{Uplinks: []*swanherdv1.Uplink{{Name: "wan2"}}}}},
		{Message: &swanherdv1.EdgeMessage_Reverted{Reverted: &swanherdv1.Reverted{Reason: swanherdv1.Reverted_REASON_RESTARTED}}},
		{Message: &swanherdv1.EdgeMessage_Drift{Drift: &swanherdv1.DriftReport{Kind: swanherdv1.DriftReport_KIND_REPAIRED, Subject: "routes"}}},
		{Message: &swanherdv1.EdgeMessage_RedirectResult{RedirectResult: &swanherdv1.RedirectResult{Message: "no"}}},
		{Message: &swanherdv1.EdgeMessage_CommandResult{CommandResult: &swanherdv1.CommandResult{Id: 1}}},
		{Message: &swanherdv1.EdgeMessage_JobReport{JobReport: &swanherdv1.JobReport{Job: "networks/demo/jobs/none"}}},
	}
}

// tooMuch are values of a field that nothing honest has.
func tooMuch(d protoreflect.FieldDescriptor) []badValue {
	set := func(what string, v any) badValue {
		if m, ok := v.(proto.Message); ok {
			v = m.ProtoReflect()
		}
		return badValue{what, func(m protoreflect.Message, d protoreflect.FieldDescriptor) { m.Set(d, protoreflect.ValueOf(v)) }}
	}
	many := func(what string, n int, element func(protoreflect.List) protoreflect.Value) badValue {
		return badValue{what, func(m protoreflect.Message, d protoreflect.FieldDescriptor) {
			list := m.Mutable(d).List()
			for range n {
				list.Append(element(list))
			}
		}}
	}
	fresh := func(l protoreflect.List) protoreflect.Value { return l.NewElement() }
	switch {
	case d.IsList() && d.Kind() == protoreflect.StringKind:
		long := protoreflect.ValueOfString(strings.Repeat("x", 100000))
		return []badValue{many("50,000 empty texts", 50000, fresh), many("four long texts", 4, func(protoreflect.List) protoreflect.Value { return long })}
	case d.IsList():
		return []badValue{many("50,000 elements", 50000, fresh)}
	case d.Kind() == protoreflect.StringKind:
		return []badValue{set("100,000 octets", strings.Repeat("x", 100000))}
	case d.Kind() == protoreflect.BytesKind:
		return []badValue{set("a megabyte", make([]byte, 1<<20))}
	case d.Message() == nil:
		return extremes(d, set)
	case d.Message().FullName() == "google.protobuf.Timestamp":
		return []badValue{set("the end of time", &timestamppb.Timestamp{Seconds: math.MaxInt64, Nanos: -1})}
	case d.Message().FullName() == "google.protobuf.Duration":
		return []badValue{set("for ever", &durationpb.Duration{Seconds: math.MinInt64, Nanos: 1})}
	}
	return []badValue{set("an empty one", dynamicEmpty(d))}
}

func dynamicEmpty(d protoreflect.FieldDescriptor) proto.Message {
	return elements(d)[0].Message().Interface()
}

// extremes are the ends of a scalar's range, and what an enumeration does not have.
func extremes(d protoreflect.FieldDescriptor, set func(string, any) badValue) []badValue {
	switch d.Kind() {
	case protoreflect.EnumKind:
		return []badValue{set("9999", protoreflect.EnumNumber(9999)), set("-1", protoreflect.EnumNumber(-1))}
	case protoreflect.Int32Kind:
		return []badValue{set("least", int32(math.MinInt32))}
	case protoreflect.Int64Kind, protoreflect.Sint64Kind:
		return []badValue{set("least", int64(math.MinInt64)), set("most", int64(math.MaxInt64))}
	case protoreflect.Uint32Kind:
		return []badValue{set("most", uint32(math.MaxUint32))}
	case protoreflect.Uint64Kind:
		return []badValue{set("most", uint64(math.MaxUint64))}
	case protoreflect.DoubleKind:
		return []badValue{set("no number", math.NaN()), set("infinity", math.Inf(1))}
	}
	return nil
}

// Whatever an enrolled edge puts into whatever field of whatever message, its session goes
// on or ends with what it did wrong, what is kept of it is little, and everybody else is
// served.
func TestEveryFieldOfEveryEdgeMessageMayBeHostile(t *testing.T) {
	c, h, honest, log := hostileWorld(t)
	fleet := c.fleet()
	members := (&swanherdv1.EdgeMessage{}).ProtoReflect().Descriptor().Fields()
	roots := plausible()
	if len(roots) != members.Len() {
		t.Fatalf("%d messages are tried, and an edge has %d", len(roots), members.Len())
	}
	said, ended := 0, map[codes.Code]int{}
	for _, root := range roots {
		member := root.ProtoReflect().WhichOneof(members.Get(0).ContainingOneof())
		first := member.Name() == "hello"
		if !first {
			h.greet()
		}
		inside := func(m protoreflect.Message) protoreflect.Message { return m.Mutable(member).Message() }
		mutateIn(root, string(member.Name())+".", "", 0, inside, tooMuch, func(bad mutation) {
			said++
			var err error
			if first {
				err = h.open(bad.req)
			} else {
				err = h.say(bad.req)
			}
			if err != nil {
				code := status.Code(err)
				ended[code]++
				if !slices.Contains([]codes.Code{codes.InvalidArgument, codes.FailedPrecondition, codes.ResourceExhausted}, code) || len(err.Error()) > 2000 {
					t.Errorf("%s, %s: the session ends with %.2000v", bad.path, bad.what, err)
				}
				h.greet()
			}
			tunnel, err := fleet.GetTunnel(t.Context(), &swanherdv1.GetTunnelRequest{Name: hostileTunnel})
			if n := proto.Size(tunnel); err != nil || n > 80<<10 {
				t.Errorf("%s, %s: of the tunnel there are %d octets, %v", bad.path, bad.what, n, err)
			}
		})
		c.served(honest, fleet)
	}
	t.Logf("%d messages, sessions ended: %v; longest line: %d octets", said, ended, len(log.line))
	if said < 150 || ended[codes.InvalidArgument] < 5 {
		t.Errorf("%d messages were tried, sessions ended: %v", said, ended)
	}
	if len(log.line) > 4096 {
		t.Errorf("a line of the log has %d octets: %.300s", len(log.line), log.line)
	}
}

// An edge whose reports are as long as the codec lets them be takes nobody the view of the
// network.
func TestHugeReportsBlindNobody(t *testing.T) {
	c, h, honest, _ := hostileWorld(t)
	fleet := c.fleet()
	h.greet()
	r := &swanherdv1.TunnelReport{Tunnel: hostileTunnel, State: swanherdv1.TunnelState_TUNNEL_STATE_FAILED, LocalEndpoint: strings.Repeat("x", 200000)}
	for i := range 30000 {
		r.ChildSas = append(r.ChildSas, &swanherdv1.ChildSa{Name: fmt.Sprint("c", i), SpiIn: fmt.Sprintf("%08x", i), SpiOut: strings.Repeat("y", 70)})
	}
	full := &swanherdv1.StatusReport{Sequence: 1, Full: true, Tunnels: []*swanherdv1.TunnelReport{r}}
	if err := h.say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: full}}); err != nil {
		t.Fatal(err)
	}
	c.served(honest, fleet)
	if n := c.seen(fleet); n > 1<<20 || n < 10000 {
		t.Errorf("the network has %d octets of tunnels", n)
	}
	if err := h.say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{Tunnels: []*swanherdv1.TunnelReport{{
		Tunnel: hostileTunnel, ChildSas: make([]*swanherdv1.ChildSa, 200000),
	}}}}}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("200,000 empty SAs: %v, want RESOURCE_EXHAUSTED", err)
	}
	for name, octets := range map[string][]byte{
		"no protobuf": {0xff}, "a text that is not UTF-8": []byte("\x22\x05\x1a\x03\x0a\x01\xff"), "nested groups": []byte(strings.Repeat("\x0b", 20000)),
	} {
		h.greet()
		if err := h.say(octets); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
	c.served(honest, fleet)
}
