package wan

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// vnetHeaderLen is the length of what is before a frame; see openPort.
	vnetHeaderLen     = 10
	ethernetHeaderLen = 14
)

// Conditions are how one direction of a line is. The zero value delivers all at once.
type Conditions struct {
	// Delay is what every frame takes, and Jitter up to how much longer it may, at random.
	// Frames do not overtake each other by that.
	Delay, Jitter time.Duration
	// Loss is the part of the frames that are lost at random, 0 to 1, and Burst how many
	// are lost in a row on average (the model of Gilbert); up to 1: each by itself.
	Loss, Burst float64
	// Late is the part of the frames that take LateBy longer, so that others overtake
	// them, and Twice the part that arrives twice.
	Late, Twice float64
	LateBy      time.Duration
	// MTU is the longest IP packet in octets that passes, 0 for any; nobody is told of
	// those that do not.
	MTU int
	// Rate is in bits a second, 0 for no limit; frames that would wait longer than Queue
	// are lost, 0 for 100 ms.
	Rate  int64
	Queue time.Duration
	// Blackout loses every frame.
	Blackout bool
}

const defaultQueue = 100 * time.Millisecond

// Counters are what became of the frames of one direction: those that arrived twice are
// counted so in Delivered, and in Doubled too.
type Counters struct{ Delivered, Lost, Overflowed, TooLong, Doubled uint64 }

// path is one direction in time: what was put in comes out when it is due. It reads no
// clock.
type path struct {
	is       Conditions
	random   *rand.Rand
	counters Counters
	// losing: the frame before was lost in a burst.
	losing bool
	// busy is until when the line has frames to send, and last when the newest one arrives.
	busy, last time.Time
	frames     frames
}

func newPath(seed uint64) *path { return &path{random: rand.New(rand.NewPCG(seed, 0))} }

// put takes in a frame, which it keeps, unless that is lost.
func (p *path) put(now time.Time, frame []byte) {
	if p.is.MTU > 0 && packetLen(frame) > p.is.MTU {
		p.counters.TooLong++
		return
	}
	if p.loses() {
		p.counters.Lost++
		return
	}
	begin, ok := p.queue(now, len(frame))
	if !ok {
		p.counters.Overflowed++
		return
	}
	at := begin.Add(p.is.Delay + time.Duration(p.random.Float64()*float64(p.is.Jitter)))
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	if p.chance(p.is.Late) {
		at = at.Add(p.is.LateBy)
	}
	p.arrives(at, frame)
	if p.chance(p.is.Twice) {
		p.counters.Doubled++
		p.arrives(at, frame)
	}
}

func (p *path) arrives(at time.Time, frame []byte) {
	heap.Push(&p.frames, frameAt{at, p.counters.Delivered, frame})
	p.counters.Delivered++
}

// chance is true for that part of the calls. What is never true takes no random number, so
// that conditions that are added do not change what a seed means for others.
func (p *path) chance(part float64) bool { return part > 0 && p.random.Float64() < part }

// loses reports whether the next frame is lost. In bursts of B frames on average one that
// was lost is followed by another with 1-1/B, and one that was not by a lost one with what
// makes the part that is lost Loss.
func (p *path) loses() bool {
	if p.is.Blackout {
		return true
	}
	part := p.is.Loss
	if burst := p.is.Burst; burst > 1 && part < 1 {
		part /= (1 - part) * burst
		if p.losing {
			part = 1 - 1/burst
		}
	}
	p.losing = p.random.Float64() < part
	return p.losing
}

// queue waits behind other frames, and returns when a frame of that length has been sent;
// false: there are too many.
func (p *path) queue(now time.Time, length int) (time.Time, bool) {
	if p.is.Rate == 0 {
		return now, true
	}
	begin := now
	if p.busy.After(begin) {
		begin = p.busy
	}
	if begin.Sub(now) > cmp.Or(p.is.Queue, defaultQueue) {
		return time.Time{}, false
	}
	p.busy = begin.Add(time.Duration(int64(length) * 8 * int64(time.Second) / p.is.Rate))
	return p.busy, true
}

// packetLen is the length of the IP packet in a frame, and of the longest that a frame will
// be cut into which was left whole for that.
func packetLen(frame []byte) int {
	if len(frame) < vnetHeaderLen+ethernetHeaderLen {
		return 0
	}
	if frame[1] != unix.VIRTIO_NET_HDR_GSO_NONE {
		headers, segment := binary.NativeEndian.Uint16(frame[2:]), binary.NativeEndian.Uint16(frame[4:])
		return int(headers) + int(segment) - ethernetHeaderLen
	}
	return len(frame) - vnetHeaderLen - ethernetHeaderLen
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

type frames []frameAt

func (q frames) Len() int { return len(q) }
func (q frames) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].number < q[j].number
}
func (q frames) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface, as Pop does.
func (q *frames) Push(x any) { *q = append(*q, x.(frameAt)) }

// Pop takes the last.
func (q *frames) Pop() any {
	last := len(*q) - 1
	f := (*q)[last]
	(*q)[last] = frameAt{}
	*q = (*q)[:last]
	return f
}
