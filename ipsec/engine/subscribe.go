package engine

import (
	"context"
	"slices"
	"sync"
)

// Subscription is one reader of the engine's events. It may be slow: it never
// holds up a tunnel or another reader. Up to its buffer it sees every event;
// beyond that, a later event of a tunnel replaces the earliest one of the same
// tunnel that it has not read, so it always learns the last of each.
type Subscription struct {
	hub    *hub
	buffer int
	ready  chan struct{} // capacity 1: something is queued, or closed

	mu     sync.Mutex
	queue  []Event
	closed bool
}

// Next waits for the next event. It returns ErrClosed after Close, once the
// queue is empty after the engine stopped, or the context's error.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if ev, ok, closed := s.take(); ok {
			return ev, nil
		} else if closed {
			return Event{}, ErrClosed
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// Close ends the subscription. Closing twice is no error.
func (s *Subscription) Close() {
	s.hub.remove(s)
	s.shut()
}

func (s *Subscription) take() (ev Event, ok, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		if s.closed {
			s.signal() // other readers learn it too
		}
		return Event{}, false, s.closed
	}
	ev = s.queue[0]
	s.queue = slices.Delete(s.queue, 0, 1)
	if len(s.queue) > 0 {
		s.signal()
	}
	return ev, true, false
}

// put queues ev and returns whether an older event had to go.
func (s *Subscription) put(ev Event) (replaced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if len(s.queue) >= s.buffer {
		// With no event of this tunnel queued the queue grows: it is bounded
		// by the number of tunnels.
		i := slices.IndexFunc(s.queue, func(old Event) bool { return old.Tunnel == ev.Tunnel })
		if i >= 0 {
			ev.Replaced = s.queue[i].Replaced + 1
			s.queue = slices.Delete(s.queue, i, i+1)
			replaced = true
		}
	}
	s.queue = append(s.queue, ev)
	s.signal()
	return replaced
}

func (s *Subscription) shut() {
	s.mu.Lock()
	s.closed = true
	s.signal()
	s.mu.Unlock()
}

func (s *Subscription) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// hub hands every event to every subscription.
type hub struct {
	counters *counters

	mu     sync.Mutex
	subs   []*Subscription
	closed bool
}

func (h *hub) subscribe(buffer int) *Subscription {
	s := &Subscription{hub: h, buffer: max(buffer, 1), ready: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.closed = h.closed
	if !h.closed {
		h.subs = append(h.subs, s)
	}
	return s
}

func (h *hub) remove(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.subs, s); i >= 0 {
		h.subs = slices.Delete(h.subs, i, i+1)
	}
}

func (h *hub) publish(ev Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subs {
		if s.put(ev) {
			h.counters.subscriptionLost.Add(1)
		}
	}
}

// close ends every subscription; what is queued can still be read.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, s := range h.subs {
		s.shut()
	}
	h.subs = nil
}
