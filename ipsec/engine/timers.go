package engine

import (
	"container/heap"
	"time"
)

// timed is something that wants to be woken at a time. Embed it.
type timed struct {
	due   time.Time
	index int // in the heap, plus one; 0 while not in it
}

func (t *timed) timer() *timed { return t }

// timers is the one heap of deadlines of a loop. Only its loop uses it.
type timers[T interface{ timer() *timed }] struct {
	h timerHeap[T]
}

// set moves the deadline of v, or removes it where ok is false.
func (ts *timers[T]) set(v T, due time.Time, ok bool) {
	t := v.timer()
	switch {
	case !ok && t.index > 0:
		heap.Remove(&ts.h, t.index-1)
	case !ok:
	case t.index == 0:
		t.due = due
		heap.Push(&ts.h, v)
	case !t.due.Equal(due):
		t.due = due
		heap.Fix(&ts.h, t.index-1)
	}
}

// next returns the earliest deadline.
func (ts *timers[T]) next() (time.Time, bool) {
	if len(ts.h) == 0 {
		return time.Time{}, false
	}
	return ts.h[0].timer().due, true
}

// pop removes and returns one whose deadline is not after now.
func (ts *timers[T]) pop(now time.Time) (T, bool) {
	var zero T
	if len(ts.h) == 0 || ts.h[0].timer().due.After(now) {
		return zero, false
	}
	return heap.Pop(&ts.h).(T), true
}

type timerHeap[T interface{ timer() *timed }] []T

func (h timerHeap[T]) Len() int           { return len(h) }
func (h timerHeap[T]) Less(i, j int) bool { return h[i].timer().due.Before(h[j].timer().due) }

func (h timerHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].timer().index, h[j].timer().index = i+1, j+1
}

func (h *timerHeap[T]) Push(x any) {
	v := x.(T)
	*h = append(*h, v)
	v.timer().index = len(*h)
}

func (h *timerHeap[T]) Pop() any {
	old := *h
	v := old[len(old)-1]
	var zero T
	old[len(old)-1] = zero
	*h = old[:len(old)-1]
	v.timer().index = 0
	return v
}
