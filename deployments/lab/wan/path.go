package wan

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// Conditions are how one direction of a line is. The zero value delivers all at once.
type Conditions struct {
	// Delay is what every frame takes, and Jitter up to how much longer it may, at random.
	// Frames do not overtake each other.
	Delay, Jitter time.Duration
	// Loss is the part of the frames that are lost at random, 0 to 1.
	Loss float64
	// Rate is in bits a second, 0 for no limit; frames that would wait longer than Queue
	// are lost, 0 for 100 ms.
	Rate  int64
	Queue time.Duration
	// Blackout loses every frame.
	Blackout bool
}

const defaultQueue = 100 * time.Millisecond

// Counters are what became of the frames of one direction.
type Counters struct{ Delivered, Lost, Overflowed uint64 }

// path is one direction in time: what was put in comes out when it is due. It reads no
// clock.
type path struct {
	is       Conditions
	random   *rand.Rand
	counters Counters
	// busy is until when the line has frames to send, and last when the newest one arrives.
	busy, last time.Time
	frames     queue
}

func newPath(seed uint64) *path { return &path{random: rand.New(rand.NewPCG(seed, 0))} }

// put takes in a frame, which it keeps, unless that is lost.
func (p *path) put(now time.Time, frame []byte) {
	if p.is.Blackout || p.random.Float64() < p.is.Loss {
		p.counters.Lost++
		return
	}
	begin := now
	if p.is.Rate > 0 {
		if p.busy.After(begin) {
			begin = p.busy
		}
		limit := p.is.Queue
		if limit == 0 {
			limit = defaultQueue
		}
		if begin.Sub(now) > limit {
			p.counters.Overflowed++
			return
		}
		begin = begin.Add(time.Duration(int64(len(frame)) * 8 * int64(time.Second) / p.is.Rate))
		p.busy = begin
	}
	at := begin.Add(p.is.Delay + time.Duration(p.random.Float64()*float64(p.is.Jitter)))
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	heap.Push(&p.frames, frameAt{at, p.counters.Delivered, frame})
	p.counters.Delivered++
}

// due takes out the frames that have arrived.
func (p *path) due(now time.Time) [][]byte {
	var out [][]byte
	for len(p.frames) > 0 && !p.frames[0].at.After(now) {
		out = append(out, heap.Pop(&p.frames).(frameAt).frame)
	}
	return out
}

// next is when the next frame arrives; false: there is none.
func (p *path) next() (time.Time, bool) {
	if len(p.frames) == 0 {
		return time.Time{}, false
	}
	return p.frames[0].at, true
}

// frameAt is a frame on its way; number keeps the order of those of one time.
type frameAt struct {
	at     time.Time
	number uint64
	frame  []byte
}

type queue []frameAt

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].number < q[j].number
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface, as Pop does.
func (q *queue) Push(x any) { *q = append(*q, x.(frameAt)) }

// Pop takes the last.
func (q *queue) Pop() any {
	last := len(*q) - 1
	f := (*q)[last]
	(*q)[last] = frameAt{}
	*q = (*q)[:last]
	return f
}
