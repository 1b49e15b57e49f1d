package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/query"
)

// clientLimit is what a client of gRPC takes unless it was told otherwise.
const clientLimit = 4 << 20

// longRows are tunnels of 100 KiB each, and one that is longer than an answer.
func longRows() []*swanherdv1.Tunnel {
	var out []*swanherdv1.Tunnel
	for i := range 100 {
		out = append(out, &swanherdv1.Tunnel{Name: fmt.Sprintf("networks/n/tunnels/%03d", i), Reason: strings.Repeat("x", 100<<10)})
	}
	out[50].Reason = strings.Repeat("x", 7<<19)
	return out
}

// Pages of rows that are long have fewer of them, and all of them come in their order.
func TestPagesAreBoundedInOctets(t *testing.T) {
	rows := longRows()
	d := (&swanherdv1.Tunnel{}).ProtoReflect().Descriptor()
	for _, by := range []string{"", "status"} {
		order, err := query.ParseOrder(by, d)
		if err != nil {
			t.Fatal(err)
		}
		got, pages := []*swanherdv1.Tunnel{}, 0
		for q := (&listQuery{size: 1000, order: order}); ; {
			start := 0
			if after := q.first(); after != "" {
				start = slices.IndexFunc(rows, func(m *swanherdv1.Tunnel) bool { return m.GetName() > after })
			}
			out, next := page(q, slices.Values(rows[start:]))
			if n := proto.Size(&swanherdv1.ListTunnelsResponse{Tunnels: out, NextPageToken: next}); n > clientLimit || len(out) == 0 {
				t.Fatalf("order %q: a page of %d rows has %d octets", by, len(out), n)
			}
			got, pages = append(got, out...), pages+1
			if next == "" {
				break
			}
			q.token.After, q.token.Index = out[len(out)-1].GetName(), len(got)
		}
		if !slices.Equal(got, rows) || pages > 8 {
			t.Errorf("order %q: %d rows came in %d pages", by, len(got), pages)
		}
	}
}

// Frames of a picture are bounded likewise, and hold everything once.
func TestFramesAreBoundedInOctets(t *testing.T) {
	d := fleet.Delta{Tunnels: longRows()}
	for i := range 15000 {
		name := fmt.Sprintf("networks/n/edges/%d", i)
		d.Edges = append(d.Edges, &swanherdv1.Edge{Name: name, DisplayName: strings.Repeat("x", 200)})
		d.RemovedEdges = append(d.RemovedEdges, name+strings.Repeat("r", 100))
		d.RemovedTunnels = append(d.RemovedTunnels, name+strings.Repeat("t", 100))
	}
	want := d
	var got fleet.Delta
	frames := 0
	for frame := takeFrame(&d, firstRows); frame != nil; frame = moreFrame(&d, firstRows) {
		if n := proto.Size(frame); n > clientLimit {
			t.Errorf("a frame has %d octets", n)
		}
		frames++
		got.Edges, got.Tunnels = append(got.Edges, frame.GetEdges()...), append(got.Tunnels, frame.GetTunnels()...)
		got.RemovedEdges = append(got.RemovedEdges, frame.GetRemovedEdges()...)
		got.RemovedTunnels = append(got.RemovedTunnels, frame.GetRemovedTunnels()...)
	}
	if !slices.Equal(got.Edges, want.Edges) || !slices.Equal(got.Tunnels, want.Tunnels) ||
		!slices.Equal(got.RemovedEdges, want.RemovedEdges) || !slices.Equal(got.RemovedTunnels, want.RemovedTunnels) || frames > 15 {
		t.Errorf("in %d frames came %d edges, %d tunnels, %d and %d that are gone", frames, len(got.Edges), len(got.Tunnels), len(got.RemovedEdges), len(got.RemovedTunnels))
	}
	if empty := (fleet.Delta{}); takeFrame(&empty, 0) == nil || moreFrame(&empty, 0) != nil {
		t.Error("a frame without rows is one, and no more follow it")
	}
}
