package engine

import (
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// controlQueue is how many results and commands wait for a loop before those
// who bring them wait themselves. None of them is a loop.
const controlQueue = 256

// datagram is a copy of what came from the network.
type datagram struct {
	way
	ours wire.SPI
	data []byte
}

// mailbox is the way into a loop.
type mailbox struct {
	datagrams chan datagram
	control   chan func()
	stopped   chan struct{} // closed when the loop has ended

	// busySince is when the loop took what it is at, in nanoseconds since
	// 1970; 0 while it waits.
	busySince atomic.Int64
}

func newMailbox(size int) *mailbox {
	return &mailbox{
		datagrams: make(chan datagram, size),
		control:   make(chan func(), controlQueue),
		stopped:   make(chan struct{}),
	}
}

// post runs f in the loop. It waits for room, so a loop must not call it; it
// reports false if the loop has ended.
func (m *mailbox) post(f func()) bool {
	select {
	case m.control <- f:
		return true
	case <-m.stopped:
		return false
	}
}

// tryPost is post for other loops: it never waits, and reports false if there
// is no room.
func (m *mailbox) tryPost(f func()) bool {
	select {
	case m.control <- f:
		return true
	default:
		return false
	}
}

// offer puts a datagram into the mailbox and reports whether there was room.
func (m *mailbox) offer(d datagram) bool {
	select {
	case m.datagrams <- d:
		return true
	default:
		return false
	}
}

// run is a loop: wake is called with the time before everything else and
// returns when it wants to be called again at the latest. Results and commands
// go before datagrams, as they are bounded by what the engine itself began.
func (m *mailbox) run(stop <-chan struct{}, wake func(now time.Time) (time.Time, bool), receive func(datagram)) {
	defer close(m.stopped)
	const idle = time.Hour
	alarm := time.NewTimer(idle)
	defer alarm.Stop()
	for {
		now, wait := time.Now(), idle
		m.busySince.Store(now.UnixNano())
		if due, ok := wake(now); ok {
			wait = time.Until(due)
		}
		alarm.Reset(wait)
		select {
		case f := <-m.control:
			f()
			continue
		default:
		}
		m.busySince.Store(0)
		select {
		case f := <-m.control:
			m.busySince.Store(time.Now().UnixNano())
			f()
		case d := <-m.datagrams:
			m.busySince.Store(time.Now().UnixNano())
			receive(d)
		case <-alarm.C:
		case <-stop:
			return
		}
	}
}

// stalled reports whether the loop has been at one thing since before then.
func (m *mailbox) stalled(then time.Time) bool {
	since := m.busySince.Load()
	return since != 0 && since < then.UnixNano()
}
