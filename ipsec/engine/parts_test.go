package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

type timedName struct {
	timed
	name string
}

func TestTimers(t *testing.T) {
	var ts timers[*timedName]
	start := time.Now()
	a, b, c := &timedName{name: "a"}, &timedName{name: "b"}, &timedName{name: "c"}
	ts.set(a, start.Add(3*time.Second), true)
	ts.set(b, start.Add(time.Second), true)
	ts.set(c, start.Add(2*time.Second), true)
	ts.set(a, start.Add(500*time.Millisecond), true) // moved to the front
	ts.set(c, time.Time{}, false)
	ts.set(c, time.Time{}, false) // removed twice
	if due, ok := ts.next(); !ok || !due.Equal(start.Add(500*time.Millisecond)) {
		t.Fatalf("next is %v, %v", due, ok)
	}
	if v, ok := ts.pop(start); ok {
		t.Fatalf("popped %s before its time", v.name)
	}
	for _, want := range []*timedName{a, b} {
		if v, ok := ts.pop(start.Add(time.Minute)); !ok || v != want {
			t.Fatalf("popped %v, want %s", v, want.name)
		}
	}
	if _, ok := ts.next(); ok {
		t.Fatal("not empty")
	}
	ts.set(a, start, true) // can come back
	if v, ok := ts.pop(start); !ok || v != a {
		t.Fatal("a did not come back")
	}
}

func TestFIFO(t *testing.T) {
	var f fifo[int]
	pushed, popped := 0, 0
	for range 1000 {
		for range 3 {
			f.push(pushed)
			pushed++
		}
		for range 2 {
			if v, ok := f.pop(); !ok || v != popped {
				t.Fatalf("popped %d, want %d", v, popped)
			}
			popped++
		}
	}
	for f.len() > 0 {
		if v, _ := f.pop(); v != popped {
			t.Fatalf("popped %d, want %d", v, popped)
		}
		popped++
	}
	if popped != pushed {
		t.Fatalf("popped %d of %d", popped, pushed)
	}
}

func TestCryptoPoolOrderAndBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newCryptoPool(2)
		var mu sync.Mutex
		var order []string
		job := func(name string) func() {
			return func() {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
			}
		}
		accepted := []bool{
			p.submitStranger(job("h1")), p.submitStranger(job("h2")), p.submitStranger(job("h3")),
		}
		p.submit(jobEstablished, job("e1"))
		p.submit(jobHandshake, job("h4")) // of a tunnel: never refused
		p.submit(jobEstablished, job("e2"))
		p.start(1)
		synctest.Wait()
		p.close()
		if got, want := fmt.Sprint(accepted), "[true true false]"; got != want {
			t.Errorf("accepted %s, want %s", got, want)
		}
		if got, want := fmt.Sprint(order), "[e1 e2 h1 h2 h4]"; got != want {
			t.Errorf("ran %s, want %s", got, want)
		}
	})
}

func TestSubscriptionLatestWins(t *testing.T) {
	var c counters
	h := hub{counters: &c}
	s := h.subscribe(2)
	for i := range 10 {
		for _, name := range []string{"a", "b", "c"} {
			h.publish(Event{Tunnel: name, What: i})
		}
	}
	last := make(map[string]Event)
	for range 3 {
		ev, err := s.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		last[ev.Tunnel] = ev
	}
	for name, ev := range last {
		if ev.What != 9 || ev.Replaced == 0 {
			t.Errorf("last event of %s is %v, %d replaced", name, ev.What, ev.Replaced)
		}
	}
	if len(last) != 3 || c.subscriptionLost.Load() != 27 {
		t.Errorf("%d tunnels seen, %d events lost; want 3 and 27", len(last), c.subscriptionLost.Load())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next of an empty queue: %v", err)
	}
	h.publish(Event{Tunnel: "a"})
	h.close()
	if _, err := s.Next(context.Background()); err != nil {
		t.Errorf("what was queued cannot be read after close: %v", err)
	}
	if _, err := s.Next(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("Next after close: %v", err)
	}
	s.Close()
	s.Close()
}

// recordingPlane remembers the sizes of the calls to Apply.
type recordingPlane struct {
	dataplane.Plane
	calls []int
	block chan struct{}
}

func (p *recordingPlane) Apply(ops []dataplane.Op) []error {
	<-p.block
	p.calls = append(p.calls, len(ops))
	results := make([]error, len(ops))
	for i, op := range ops {
		if op.Owner() == "bad" {
			results[i] = errors.New("refused")
		}
	}
	return results
}

func TestPlaneWriterBatchesInOrder(t *testing.T) {
	p := &recordingPlane{block: make(chan struct{})}
	w := newPlaneWriter(p)
	var order []string
	submit := func(owner string, n int) {
		ops := make([]dataplane.Op, n)
		for i := range ops {
			ops[i] = dataplane.RemovePolicy{Tunnel: owner}
		}
		w.submit(planeChange{ops: ops, done: func(results []error) {
			order = append(order, fmt.Sprintf("%s:%d:%v", owner, len(results), results[0]))
		}})
	}
	submit("a", 2)
	submit("bad", 1)
	for range 100 {
		submit("c", 4)
	}
	w.close()
	close(p.block)
	w.run() // returns when the queue is empty
	if got, want := fmt.Sprint(p.calls), "[259 144]"; got != want {
		t.Errorf("calls of %s operations, want %s", got, want)
	}
	if len(order) != 102 || order[0] != "a:2:<nil>" || order[1] != "bad:1:refused" || order[2] != "c:4:<nil>" {
		t.Errorf("results came as %v", order[:3])
	}
}
