package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// planeBatchOps bounds how many operations go to the plane in one call, so
// that the first tunnel of a large change does not wait for the last.
const planeBatchOps = 256

// planeWriter is the one goroutine that changes the data plane. It takes
// what the loops have queued, applies it in that order and in few calls, and
// reports to each of them.
type planeWriter struct {
	plane dataplane.Plane

	mu     sync.Mutex
	wake   sync.Cond
	queue  fifo[planeChange]
	closed bool

	busySince atomic.Int64 // as in mailbox
}

// planeChange is a group of operations of one tunnel.
type planeChange struct {
	ops []dataplane.Op
	// done is called by the writer with one result for each op. Nil if
	// nobody waits.
	done func(results []error)
}

func newPlaneWriter(p dataplane.Plane) *planeWriter {
	w := &planeWriter{plane: p}
	w.wake.L = &w.mu
	return w
}

// submit queues a change without blocking. The queue is bounded by the
// machines, which wait for a result before they go on.
func (w *planeWriter) submit(c planeChange) {
	w.mu.Lock()
	w.queue.push(c)
	w.mu.Unlock()
	w.wake.Signal()
}

// close makes run return when the queue is empty.
func (w *planeWriter) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.wake.Broadcast()
}

func (w *planeWriter) run() {
	var changes []planeChange
	var ops []dataplane.Op
	for {
		changes = w.take(changes[:0])
		if len(changes) == 0 {
			return
		}
		ops = ops[:0]
		for _, c := range changes {
			ops = append(ops, c.ops...)
		}
		w.busySince.Store(time.Now().UnixNano())
		results := w.plane.Apply(ops)
		w.busySince.Store(0)
		destroyKeys(ops)
		for _, c := range changes {
			if c.done != nil {
				c.done(results[:len(c.ops)])
			}
			results = results[len(c.ops):]
		}
		// Operations hold keys: let go of them.
		clear(ops)
		clear(changes)
	}
}

// destroyKeys zeroes the keys that the plane has copied. The machine they came
// from may be gone.
func destroyKeys(ops []dataplane.Op) {
	for _, op := range ops {
		if install, ok := op.(dataplane.InstallSA); ok {
			clear(install.SA.Key)
		}
	}
}

// take waits for work and returns changes of up to planeBatchOps operations,
// or none when the writer is closed and the queue empty.
func (w *planeWriter) take(into []planeChange) []planeChange {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.queue.len() == 0 {
		if w.closed {
			return nil
		}
		w.wake.Wait()
	}
	for n := 0; n < planeBatchOps; {
		c, ok := w.queue.pop()
		if !ok {
			break
		}
		into = append(into, c)
		n += len(c.ops)
	}
	return into
}

// stalled reports whether the plane has been at one change since before then.
func (w *planeWriter) stalled(then time.Time) bool {
	since := w.busySince.Load()
	return since != 0 && since < then.UnixNano()
}
