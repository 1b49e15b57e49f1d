package session_test

import (
	"fmt"
	"sync"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// BenchmarkFanOut changes one tunnel of each of 1,000 edges and waits until
// every edge has acknowledged its delta. Edges and server share the process;
// mutual TLS is left out.
func BenchmarkFanOut(b *testing.B) {
	const edges = 1000
	w := newWorld(b)
	peers := make([]string, 20)
	for i := range peers {
		peers[i] = fmt.Sprintf("peer-%d", i)
	}
	before := intent(1, peers...)
	var acked sync.WaitGroup
	for i := range edges {
		name := fmt.Sprintf("networks/demo/edges/edge-%d", i)
		w.board.Post(name, before)
		e := w.dialAs(name, &swanherdv1.Hello{Applied: running(before)})
		go func() {
			for {
				m, err := e.stream.Recv()
				if err != nil {
					return
				}
				u := m.GetIntent()
				if u == nil {
					continue
				}
				ack := &swanherdv1.Ack{Nonce: u.GetNonce(), Running: &swanherdv1.AppliedIntent{
					Epoch: u.GetEpoch(), SourceRevision: u.GetSourceRevision(), SetDigest: u.GetResultDigest(),
				}}
				if e.stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: ack}}) != nil {
					return
				}
				acked.Done()
			}
		}()
	}
	b.ReportAllocs()
	revision := int64(1)
	for b.Loop() {
		revision++
		peers[0] = fmt.Sprintf("peer-0/%d", revision)
		changed := intent(revision, peers...)
		acked.Add(edges)
		for i := range edges {
			w.board.Post(fmt.Sprintf("networks/demo/edges/edge-%d", i), changed)
		}
		acked.Wait()
	}
	b.ReportMetric(float64(b.N)*edges/b.Elapsed().Seconds(), "edges/s")
}
