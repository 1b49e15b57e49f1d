package lab_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// numberedWindow is how many packets of a flow are under way at most: what any buffer on
// the path holds, so that none is lost for want of room.
const numberedWindow = 64

// numbered is a flow of packets with numbers, each of which is to arrive, and once.
type numbered struct {
	sent    atomic.Uint64
	passed  atomic.Uint64
	late    atomic.Uint64 // how many arrived after one that was sent after them
	whole   atomic.Uint64 // all before this one have arrived
	stop    chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex
	wrong   string
}

// startNumbered sends such a flow from CPUs that take turns, the first one if none is
// named.
func startNumbered(send func([]byte) error, received <-chan []byte, cpus ...int) *numbered {
	if cpus == nil {
		cpus = []int{0}
	}
	f := &numbered{stop: make(chan struct{})}
	credit := make(chan struct{}, numberedWindow)
	for range numberedWindow {
		credit <- struct{}{}
	}
	sender := make(chan struct{}) // closed when all that will be sent has been counted
	f.running.Go(func() {
		defer close(sender)
		// Packets that one thread sends from several processors overtake each other
		// without any help. The thread ends with the goroutine.
		runtime.LockOSThread()
		for n := uint64(0); ; n++ {
			if turn := n / numberedWindow; n%numberedWindow == 0 && (n == 0 || len(cpus) > 1) {
				if err := stayOn(cpus[turn%uint64(len(cpus))]); err != nil {
					f.fail(err.Error())
					return
				}
			}
			select {
			case <-f.stop:
				return
			case <-credit:
			}
			p := binary.BigEndian.AppendUint64(clearPacket(), n)
			binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
			binary.BigEndian.PutUint16(p[24:], uint16(len(p)-20))
			if err := send(p); err != nil {
				f.fail(fmt.Sprintf("send packet %d: %v", n, err))
				return
			}
			f.sent.Add(1)
		}
	})
	f.running.Go(func() {
		var next uint64 // all before it have arrived, but for those of missing
		missing := map[uint64]bool{}
		for {
			ended := sender
			select {
			case <-sender:
				if f.passed.Load() == f.sent.Load() {
					return
				}
				ended = nil
			default:
			}
			select {
			case p := <-received:
				at := bytes.Index(p, []byte(clearMarker))
				if at < 0 {
					continue
				}
				n := binary.BigEndian.Uint64(p[at+len(clearMarker):])
				if n < next && !missing[n] {
					f.fail(fmt.Sprintf("packet %d arrived twice", n))
					return
				}
				if n < next {
					f.late.Add(1)
				}
				delete(missing, n)
				for ; next <= n; next++ {
					if next < n {
						missing[next] = true
					}
				}
				f.whole.Store(slices.Min(append(slices.Collect(maps.Keys(missing)), next)))
				f.passed.Add(1)
				credit <- struct{}{} // there is room: it was taken for this packet
			case <-ended:
			case <-time.After(10 * time.Second):
				f.fail(fmt.Sprintf("of %d packets %d do not arrive: %v", f.sent.Load(), f.sent.Load()-f.passed.Load(), slices.Sorted(maps.Keys(missing))))
				return
			}
		}
	})
	return f
}

// onCPU does something on one CPU.
func onCPU(cpu int, do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		err := stayOn(cpu)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// stayOn has the thread run on one CPU.
func stayOn(cpu int) error {
	var one unix.CPUSet
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", cpu, err)
	}
	return nil
}

func (f *numbered) fail(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wrong == "" {
		f.wrong = what
	}
}

// waitForSent waits until all has arrived that was sent before, the packet included
// that may be on its way into the plane right now. That as many others have arrived
// says nothing: a kernel that decrypts one of them later lets the others pass it.
func (f *numbered) waitForSent(t *testing.T) {
	t.Helper()
	sent := f.sent.Load() + 1
	waitUntil(t, "what has been sent", func() bool { return f.whole.Load() >= sent || f.stuck() })
}

// stuck reports whether something has gone wrong, so that no more packets pass.
func (f *numbered) stuck() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrong != ""
}

// end stops the flow, waits for what is under way, and says how many packets passed
// and what went wrong, if anything did.
func (f *numbered) end() (passed uint64, wrong string) {
	close(f.stop)
	f.running.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.passed.Load(), f.wrong
}
