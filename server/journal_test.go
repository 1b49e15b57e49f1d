package server

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/store"
)

// An edge goes from one replica to another, and what the first one has to write of the
// session's end comes after what the second one has written of the next.
func TestStatusOfAnEarlierSessionIsNotWritten(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const berlin, gone = "networks/demo/edges/berlin", "networks/demo/edges/gone"
	if _, err := s.Edges.Create(t.Context(), berlin, &swanherdv1.Edge{Name: berlin}); err != nil {
		t.Fatal(err)
	}
	write := func(edge string, session int64, connected bool) {
		t.Helper()
		status := &storev1.EdgeStatus{Edge: edge, Status: &swanherdv1.EdgeStatus{Connected: connected}}
		if session > 0 {
			status.SessionStartTime = timestamppb.New(time.Unix(session, 0))
		}
		record := fleet.Record{Statuses: []*storev1.EdgeStatus{{Edge: gone}, status}}
		if err := (journal{s}).Record(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
	has := func(what string, session int64, connected bool) {
		t.Helper()
		row, _ := s.Snapshot().EdgeStatuses.Get(berlin)
		if got := row.Value; got.GetSessionStartTime().GetSeconds() != session || got.GetStatus().GetConnected() != connected {
			t.Errorf("%s: stored is %v", what, got)
		}
	}
	write(berlin, 1, true)
	write(berlin, 1, true) // without waiting for anybody
	write(berlin, 2, true)
	has("the session at the other replica", 2, true)
	write(berlin, 1, false)
	has("the end of the one before", 2, true)
	write(berlin, 2, false)
	has("its own end", 2, false)
	write(berlin, 3, true)
	has("the next", 3, true)
	write(berlin, 0, false)
	has("of what nobody knows the session", 0, false)
	if _, ok := s.Snapshot().EdgeStatuses.Get(gone); ok {
		t.Error("an edge that was deleted has a status")
	}
}
