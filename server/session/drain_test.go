package session_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Who shuts down sends its edges away so that they come back one after the other, 500 in a
// second, whichever order they are told in: each has a moment of its own.
func TestDrainSpreadsReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const edges, window = 1000, 2 * time.Second
		w := newWorld(t)
		all := make([]*edge, edges)
		for i := range all {
			all[i] = w.dialAs(fmt.Sprintf("networks/demo/edges/e%d", i), &swanherdv1.Hello{})
		}
		synctest.Wait()
		drained := make(chan struct{})
		go func() { w.server.Drain(t.Context()); close(drained) }()
		returns := make([]time.Duration, edges)
		for i, e := range all {
			away, err := e.end()
			if status.Code(err) != codes.Unavailable || away.GetReason() == "" || away.GetLeaveWithin() != nil {
				t.Fatalf("edge %d ended with %v, %v", i, away, err)
			}
			returns[i] = away.GetRetryAfter().AsDuration()
		}
		<-drained
		slices.Sort(returns)
		for i, after := range returns {
			if want := window * time.Duration(i+1) / edges; after != want {
				t.Fatalf("edge %d of those that come back is there after %v, want %v", i, after, want)
			}
		}
		stream, leave := w.stream(berlin) // who comes meanwhile is not taken in
		defer leave()
		late := &edge{t: t, stream: stream, leave: leave}
		hello := &swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{ProtocolVersion: 1}}}
		if err := late.stream.Send(hello); err != nil && !errors.Is(err, io.EOF) { // which says that the stream ended already
			t.Fatal(err)
		}
		if _, err := late.end(); status.Code(err) != codes.Unavailable {
			t.Errorf("a session while the controller shuts down: %v", err)
		}
	})
}
