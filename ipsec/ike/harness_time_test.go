package ike

import (
	"fmt"
	"slices"
	"time"
)

func (n *node) deadline() (time.Time, bool) {
	var e earliest
	if at, ok := n.t.Deadline(); ok {
		e.add(at)
	}
	for _, h := range n.halves {
		if at, ok := h.Deadline(); ok {
			e.add(at)
		}
	}
	return e.at.Add(-n.skew), !e.at.IsZero()
}

func (w *world) nextDeadline() (time.Time, bool) {
	var e earliest
	for _, n := range []*node{w.a, w.b} {
		if at, ok := n.deadline(); ok {
			e.add(at)
		}
	}
	return e.at, !e.at.IsZero()
}

// settle delivers all packets in order and does all work, until nothing is in
// flight.
func (w *world) settle() {
	for range 10000 {
		if n := w.waiting(); n != nil {
			n.work(0)
			continue
		}
		if len(w.flight) == 0 {
			return
		}
		p := w.flight[0]
		w.flight = w.flight[1:]
		w.deliver(p)
	}
	panic("packets never end")
}

// waiting returns a node that waits for a result.
func (w *world) waiting() *node {
	for _, n := range w.nodes() {
		if len(n.pending) > 0 {
			return n
		}
	}
	return nil
}

// advance moves the time on by d, stopping at deadlines; between is called after
// each.
func (w *world) advance(d time.Duration, between func()) {
	end := w.now.Add(d)
	for range 100000 {
		at, ok := w.nextDeadline()
		if !ok || at.After(end) {
			w.now = end
			return
		}
		if at.After(w.now) {
			w.now = at
		}
		w.a.tick()
		w.b.tick()
		if between != nil {
			between()
		}
	}
	panic("deadlines never end: " + w.spinning())
}

// calm moves the time on over a good network, with traffic every second.
func (w *world) calm(d time.Duration) {
	w.settle()
	for end := w.now.Add(d); w.now.Before(end); {
		w.advance(min(time.Second, end.Sub(w.now)), w.settle)
		w.a.traffic()
		w.b.traffic()
		w.settle()
	}
	for range 60 {
		if !w.handsOver() {
			return
		}
		w.advance(time.Second, w.settle)
	}
}

// handsOver reports whether an IKE SA is in the course of taking over from
// another one.
func (w *world) handsOver() bool {
	for _, n := range w.nodes() {
		if slices.ContainsFunc(n.t.sas, func(sa *ikeSA) bool {
			return sa.redundant && sa.state.in(stateUsable) || sa.init != nil && sa.init.replaces != nil
		}) {
			return true
		}
	}
	return false
}

func (w *world) spinning() string {
	at, _ := w.nextDeadline()
	return fmt.Sprintf("now %s, deadline %s\n%s\n%s", w.now, at, w.a.state(), w.b.state())
}
