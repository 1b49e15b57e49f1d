package session

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// mostElements is how many a list has at most, by the path of what is not small.
var mostElements = map[string]int{
	"status.tunnels": maxTunnels, "status.removed": maxTunnels, "counters.tunnels": maxTunnels,
	"status.tunnels.child_sas": maxChildren, "counters.tunnels.children": maxChildren,
}

// Whatever field of whatever message is far too large, what is left of it has a bound, or
// the session ends. A new field that nobody bounds fails here.
func TestEveryFieldOfEveryEdgeMessageIsBounded(t *testing.T) {
	fields := 0
	itself := func(m protoreflect.Message) protoreflect.Message { return m }
	everyField(&swanherdv1.EdgeMessage{}, "", itself, func(path string, d protoreflect.FieldDescriptor, in messageIn) {
		for what, v := range hugeValues(d) {
			fields++
			m := &swanherdv1.EdgeMessage{}
			in(m.ProtoReflect()).Set(d, v(in(m.ProtoReflect())))
			err := bound(m)
			if err != nil {
				if status.Code(err) != codes.InvalidArgument || len(err.Error()) > 300 {
					t.Errorf("%s, %s: ends with %.300v", path, what, err)
				}
				continue
			}
			if wrong := unbounded(path, d, in(m.ProtoReflect()).Get(d)); wrong != "" {
				t.Errorf("%s, %s: %s", path, what, wrong)
			}
			if _, err := protojson.Marshal(m); err != nil {
				t.Errorf("%s, %s: what is left has no form in JSON: %v", path, what, err)
			}
		}
	})
	if fields < 100 {
		t.Errorf("%d values were tried: what walks over the fields does not", fields)
	}
}

// messageIn finds a message in another one, and makes it if there is none.
type messageIn = func(protoreflect.Message) protoreflect.Message

// everyField calls f for each field of a message and of those in it, with where the field's
// message is.
func everyField(root proto.Message, prefix string, in messageIn, f func(string, protoreflect.FieldDescriptor, messageIn)) {
	fields := in(proto.Clone(root).ProtoReflect()).Descriptor().Fields()
	for i := range fields.Len() {
		d := fields.Get(i)
		path := prefix + string(d.Name())
		f(path, d, in)
		if d.Message() == nil || strings.HasPrefix(string(d.Message().FullName()), "google.") {
			continue
		}
		everyField(root, path+".", func(m protoreflect.Message) protoreflect.Message {
			inner := in(m).Mutable(d)
			if !d.IsList() {
				return inner.Message()
			}
			if inner.List().Len() == 0 {
				inner.List().AppendMutable()
			}
			return inner.List().Get(0).Message()
		}, f)
	}
}

// valueIn makes a value of a field of the message.
type valueIn = func(protoreflect.Message) protoreflect.Value

// hugeValues are values that nothing honest has.
func hugeValues(d protoreflect.FieldDescriptor) map[string]valueIn {
	of := func(v any) valueIn {
		return func(protoreflect.Message) protoreflect.Value { return protoreflect.ValueOf(v) }
	}
	message := func(m proto.Message) valueIn { return of(m.ProtoReflect()) }
	switch {
	case d.IsList():
		return map[string]valueIn{"a long list": func(m protoreflect.Message) protoreflect.Value {
			list := m.NewField(d)
			for range 40000 {
				list.List().Append(list.List().NewElement())
			}
			return list
		}, "long texts": func(m protoreflect.Message) protoreflect.Value {
			list := m.NewField(d)
			if d.Kind() == protoreflect.StringKind {
				for range 4 {
					list.List().Append(protoreflect.ValueOfString(strings.Repeat("é", 50000)))
				}
			}
			return list
		}}
	case d.Kind() == protoreflect.StringKind:
		return map[string]valueIn{"a long text": of(strings.Repeat("é", 100000))}
	case d.Kind() == protoreflect.BytesKind:
		return map[string]valueIn{"octets": of(make([]byte, 1<<20))}
	case d.Kind() == protoreflect.EnumKind:
		return map[string]valueIn{"no value of it": of(protoreflect.EnumNumber(math.MaxInt32)), "a negative one": of(protoreflect.EnumNumber(-1))}
	case d.Kind() == protoreflect.DoubleKind:
		return map[string]valueIn{"no number": of(math.NaN()), "infinity": of(math.Inf(-1))}
	case d.Message() == nil:
		return nil
	case d.Message().FullName() == "google.protobuf.Timestamp":
		return map[string]valueIn{"the end of time": message(&timestamppb.Timestamp{Seconds: math.MaxInt64}), "no part of a second": message(&timestamppb.Timestamp{Nanos: -1})}
	case d.Message().FullName() == "google.protobuf.Duration":
		return map[string]valueIn{"for ever": message(&durationpb.Duration{Seconds: math.MaxInt64}), "both ways": message(&durationpb.Duration{Seconds: 1, Nanos: -1})}
	}
	return nil
}

// unbounded says what is wrong with what is left of a field; empty: nothing.
func unbounded(path string, d protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case d.IsMap():
		return "a map has no bound"
	case d.IsList():
		most := mostElements[path]
		if most == 0 {
			most = maxSelectors
		}
		if v.List().Len() > most {
			return fmt.Sprintf("%d elements are left", v.List().Len())
		}
		for i := range v.List().Len() {
			if d.Kind() == protoreflect.StringKind && len(v.List().Get(i).String()) > maxText {
				return fmt.Sprintf("a text of %d octets is left", len(v.List().Get(i).String()))
			}
		}
	case d.Kind() == protoreflect.StringKind && len(v.String()) > maxText:
		return fmt.Sprintf("%d octets are left", len(v.String()))
	case d.Kind() == protoreflect.BytesKind && len(v.Bytes()) > maxOutput:
		return fmt.Sprintf("%d octets are left", len(v.Bytes()))
	case d.Kind() == protoreflect.EnumKind && d.Enum().Values().ByNumber(v.Enum()) == nil:
		return fmt.Sprintf("%d is left, which it does not have", v.Enum())
	case d.Kind() == protoreflect.DoubleKind && (math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0)):
		return fmt.Sprintf("%v is left", v.Float())
	}
	return ""
}

// A report in which everything is as much as may be is not as much as all of it together.
func TestReportAsAWholeIsBounded(t *testing.T) {
	long := func(n int) []string { return slices.Repeat([]string{strings.Repeat("x", 5000)}, n) }
	r := &swanherdv1.TunnelReport{LastError: &swanherdv1.TunnelError{Message: long(1)[0], Remedy: long(1)[0], Ours: long(100), Theirs: long(100)}}
	for range 3000 {
		r.ChildSas = append(r.ChildSas, &swanherdv1.ChildSa{Name: long(1)[0], LocalTs: long(300), RemoteTs: long(300)})
	}
	bound(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{Tunnels: []*swanherdv1.TunnelReport{r}}}})
	if n := proto.Size(r); n > maxReport+100<<10 || n < maxReport/2 || cap(r.GetChildSas()) > maxChildren {
		t.Errorf("a report of %d octets with room for %d SAs is left", n, cap(r.GetChildSas()))
	}
}

// What an honest edge says stays as it is, and costs no memory.
func TestHonestReportStaysAsItIs(t *testing.T) {
	m := &swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{
		Sequence: 3, Removed: []string{"networks/demo/tunnels/berlin--rome"},
		Tunnels: []*swanherdv1.TunnelReport{honestReport()},
	}}}
	before := proto.Clone(m)
	if err := bound(m); err != nil || !proto.Equal(m, before) {
		t.Errorf("%v became %v, %v", before, m, err)
	}
	if n := testing.AllocsPerRun(100, func() { bound(m) }); n > 0 {
		t.Errorf("it allocates %v times", n)
	}
}

func honestReport() *swanherdv1.TunnelReport {
	now := timestamppb.Now()
	return &swanherdv1.TunnelReport{
		Tunnel: "networks/demo/tunnels/berlin--oslo", State: swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED, StateTime: now,
		LocalEndpoint: "192.0.2.1:4500", RemoteEndpoint: "192.0.2.2:4500",
		IkeSa: &swanherdv1.IkeSa{InitiatorSpi: "0123456789abcdef", ResponderSpi: "0123456789abcdef", Suite: "aes256gcm16-prfsha384-x25519", EstablishedTime: now, RekeyTime: now, LocalId: "berlin.demo", RemoteId: "oslo.demo", RemoteAuth: "ed25519"},
		ChildSas: []*swanherdv1.ChildSa{{
			Name: "net", SpiIn: "c0000001", SpiOut: "c0000002", Suite: "aes256gcm16-x25519-esn", Mode: "tunnel",
			LocalTs: []string{"10.1.0.0/16"}, RemoteTs: []string{"10.2.0.0/16"}, EstablishedTime: now, RekeyTime: now, Counters: &swanherdv1.SaCounters{PacketsIn: 1},
		}},
		LastError:     &swanherdv1.TunnelError{Code: "PEER_SILENT", Message: "it says nothing", Ours: []string{"a"}, Time: now},
		PathMtu:       &swanherdv1.PathMtu{Octets: 1500, Search: "complete"},
		Quality:       &swanherdv1.PathQuality{WindowProbes: 100, WindowLost: 3},
		SlaViolations: []*swanherdv1.SlaViolation{{Metric: swanherdv1.SlaMetric_SLA_METRIC_LOSS, Measured: 3, Limit: 1, StartTime: now}},
	}
}

// A job that brought more than is kept did not succeed.
func TestJobThatBringsTooMuchFails(t *testing.T) {
	r := &swanherdv1.JobReport{Job: "networks/demo/jobs/a", Output: make([]byte, maxOutput+1)}
	bound(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_JobReport{JobReport: r}})
	if r.GetOutput() != nil || !strings.Contains(r.GetError(), "524289 octets") {
		t.Errorf("left are %d octets and %q", len(r.GetOutput()), r.GetError())
	}
}
