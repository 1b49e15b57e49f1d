package replica

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

// However much edges say, a frame is one that a follower takes, and every row goes in one.
func TestFramesAreBoundedInOctets(t *testing.T) {
	var share fleet.Share
	for i := range 1200 {
		share.Edges = append(share.Edges, &replicav1.EdgeSession{Edge: fmt.Sprint("e", i), Status: &swanherdv1.EdgeStatus{IntentError: strings.Repeat("x", 1000)}})
	}
	for i := range 100 {
		share.Ends = append(share.Ends, &replicav1.EndReport{Tunnel: fmt.Sprint("t", i), Report: &swanherdv1.TunnelReport{
			LocalEndpoint: strings.Repeat("y", 600<<10),
		}})
	}
	for i := range 1200 {
		share.Ends = append(share.Ends, &replicav1.EndReport{Tunnel: fmt.Sprint("small", i)})
	}
	edges, ends, frames := 0, 0, 0
	for len(share.Edges) > 0 || len(share.Ends) > 0 {
		frame := takeFrame(&share)
		for _, e := range frame.GetEdges() {
			if e.GetEdge() != fmt.Sprint("e", edges) {
				t.Fatalf("edge %d is %s", edges, e.GetEdge())
			}
			edges++
		}
		ends += len(frame.GetEnds())
		if frames++; proto.Size(frame) > 4<<20 || len(frame.GetEdges()) > maxFrame || len(frame.GetEnds()) > maxFrame {
			t.Errorf("frame %d has %d octets, %d edges and %d ends", frames, proto.Size(frame), len(frame.GetEdges()), len(frame.GetEnds()))
		}
	}
	if edges != 1200 || ends != 1300 || frames > 40 {
		t.Errorf("%d edges and %d ends came in %d frames", edges, ends, frames)
	}
}
