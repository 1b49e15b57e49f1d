package engine

import (
	"sync"
	"time"
)

// jobClass decides which work goes first when there is more than the workers
// can do.
type jobClass uint8

const (
	// jobEstablished is work for a peer that has authenticated itself:
	// rekeys, and everything that keeps a tunnel up.
	jobEstablished jobClass = iota
	// jobHandshake is work for a peer that has not.
	jobHandshake
)

// cryptoPool runs key exchanges, signatures and verifications outside of the
// loops. Work for established tunnels always goes before new handshakes, so a
// flood of those slows down other handshakes and never a rekey.
//
// What strangers cause is bounded by maxHandshakes; what tunnels want is bounded
// by the machines, each of which waits for one job before it starts the next.
type cryptoPool struct {
	mu            sync.Mutex
	wake          sync.Cond
	established   fifo[func()]
	handshakes    fifo[func()]
	maxHandshakes int
	// size is the number of workers, cost how long a handshake's job takes them on
	// average, in nanoseconds.
	size    int
	cost    int64
	closed  bool
	workers sync.WaitGroup
}

func newCryptoPool(maxHandshakes int) *cryptoPool {
	p := &cryptoPool{maxHandshakes: maxHandshakes}
	p.wake.L = &p.mu
	return p
}

// start runs n workers until close.
func (p *cryptoPool) start(n int) {
	p.mu.Lock()
	p.size = n
	p.mu.Unlock()
	for range n {
		p.workers.Go(p.runWorker)
	}
}

// submit queues work of a tunnel. It does not block. After close, run is not
// called.
func (p *cryptoPool) submit(class jobClass, run func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if class == jobEstablished {
		p.established.push(run)
	} else {
		p.handshakes.push(run)
	}
	p.wake.Signal()
}

// submitStranger queues work for a peer of no tunnel yet. It does not block. It
// reports false if there is too much of it; run is not called then.
func (p *cryptoPool) submitStranger(run func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handshakes.len() >= p.maxHandshakes {
		return false
	}
	p.handshakes.push(run)
	p.wake.Signal()
	return true
}

// close lets the jobs that run finish, forgets the others and waits for the
// workers.
func (p *cryptoPool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wake.Broadcast()
	p.workers.Wait()
}

func (p *cryptoPool) runWorker() {
	for {
		run, class, ok := p.next()
		if !ok {
			return
		}
		begun := time.Now()
		run()
		if class == jobHandshake {
			p.measure(time.Since(begun))
		}
	}
}

// measure counts how long a handshake's job took, the latest ones for the most.
func (p *cryptoPool) measure(took time.Duration) {
	p.mu.Lock()
	p.cost += (int64(took) - p.cost) / 16
	p.mu.Unlock()
}

// backlog is how long the workers need for the handshakes that wait.
func (p *cryptoPool) backlog() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(p.cost * int64(p.handshakes.len()) / int64(max(p.size, 1)))
}

func (p *cryptoPool) next() (func(), jobClass, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return nil, jobEstablished, false
		}
		if run, ok := p.established.pop(); ok {
			return run, jobEstablished, true
		}
		if run, ok := p.handshakes.pop(); ok {
			return run, jobHandshake, true
		}
		p.wake.Wait()
	}
}

// fifo is a queue on a slice that is used again.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) {
	if f.head > 0 && f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
	f.items = append(f.items, v)
}

func (f *fifo[T]) pop() (T, bool) {
	var zero T
	if f.head == len(f.items) {
		return zero, false
	}
	v := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	if f.head > 64 && f.head*2 > len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return v, true
}
