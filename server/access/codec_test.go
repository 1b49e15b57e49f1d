package access

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func decodeMessage(t *testing.T, b []byte) (*swanherdv1.EdgeMessage, error) {
	t.Helper()
	m := &swanherdv1.EdgeMessage{}
	if err := NewCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m); err != nil {
		t.Fatalf("gRPC would answer INTERNAL: %v", err)
	}
	return m, decoded(m)
}

// What the controller does not know of an edge's message it does not keep, however deep in
// the message it is.
func TestUnknownFieldsOfEdgesAreDropped(t *testing.T) {
	report := &swanherdv1.TunnelReport{Tunnel: "networks/demo/tunnels/a--b", ChildSas: []*swanherdv1.ChildSa{{Name: "net"}}}
	want := proto.CloneOf(report)
	unknown := protowire.AppendBytes(protowire.AppendTag(nil, 4000, protowire.BytesType), make([]byte, 1<<20))
	report.GetChildSas()[0].ProtoReflect().SetUnknown(unknown)
	b, err := proto.Marshal(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{Tunnels: []*swanherdv1.TunnelReport{report}}}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := decodeMessage(t, b)
	if got := m.GetStatus().GetTunnels()[0]; err != nil || !proto.Equal(got, want) {
		t.Errorf("decoded as a report of %d octets, %v", proto.Size(got), err)
	}
}

// A message may hold as many parts as 1 MiB of an agent's counters, and not as many as take
// a hundred times its size in memory.
func TestPartsOfEdgesAreCounted(t *testing.T) {
	counters := &swanherdv1.CounterReport{}
	for i := range 24000 {
		counters.Tunnels = append(counters.Tunnels, &swanherdv1.TunnelCounters{
			Tunnel: fmt.Sprintf("networks/n/tunnels/%d", i), Quality: &swanherdv1.PathQuality{WindowProbes: 1},
			Children: []*swanherdv1.ChildCounters{{SpiIn: "c0000001", Counters: &swanherdv1.SaCounters{PacketsIn: 1}}},
		})
	}
	b, err := proto.Marshal(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Counters{Counters: counters}})
	if err != nil || len(b) < 1<<20 {
		t.Fatalf("%d octets of counters, %v", len(b), err)
	}
	if m, err := decodeMessage(t, b); err != nil || len(m.GetCounters().GetTunnels()) != len(counters.GetTunnels()) {
		t.Errorf("%d octets of counters: %v", len(b), err)
	}
	nested := func(number protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), b)
	}
	empty := bytes.Repeat([]byte{5<<3 | 2, 0}, maxParts) // child_sas without anything
	for name, b := range map[string][]byte{
		"Child SAs": nested(4, nested(3, empty)),
		"tunnels":   nested(5, bytes.Repeat([]byte{1<<3 | 2, 0}, maxParts)),
		"uplinks":   nested(1, empty),
	} {
		m, err := decodeMessage(t, b)
		if status.Code(err) != codes.ResourceExhausted || m.GetMessage() != nil {
			t.Errorf("%d empty %s: %v, want RESOURCE_EXHAUSTED", maxParts, name, err)
		}
	}
	for _, b := range [][]byte{{0xff}, nested(4, []byte{0x0b}), append(nested(4, empty)[:maxParts], 0xff)} {
		if _, err := decodeMessage(t, b); status.Code(err) != codes.InvalidArgument {
			t.Errorf("% x...: %v, want INVALID_ARGUMENT", b[:min(8, len(b))], err)
		}
	}
}
