package esp

import "math/bits"

const (
	// DefaultReplayWindow is used where a configuration names none. It is
	// wide enough for the bursts that segmentation offload and several
	// receive queues reorder.
	DefaultReplayWindow = 4096
	// MinReplayWindow and MaxReplayWindow bound what may be asked for
	// (RFC 4303, Section 3.4.3: at least 32, 64 preferred).
	MinReplayWindow = 64
	MaxReplayWindow = 8192
)

// window is the anti-replay window over extended sequence numbers (RFC 4303,
// Appendix A2), kept as a ring of words that is never shifted (RFC 6479). A
// number is acceptable if it is above the highest one seen, or less than size
// below it and not yet seen.
type window struct {
	top     uint64 // highest number that was authenticated
	size    uint64
	mask    uint64 // over words: their count is a power of two
	words   []uint64
	missing uint64 // numbers that left the ring unseen
}

func newWindow(size int) window {
	// One word more than the window covers, so that a new word can be begun
	// while all numbers of the window stay in the others.
	n := 1 << bits.Len(uint(size/64))
	w := window{size: uint64(size), mask: uint64(n - 1), words: make([]uint64, n)}
	for i := range w.words {
		w.words[i] = ^uint64(0) // not begun: nothing of it is missing
	}
	w.words[0] = 1 // zero is never sent (RFC 4303, Section 2.2)
	return w
}

// extend finds the high-order half of a received 32-bit sequence number
// (RFC 4303, Appendix A2.2). It reports false if the number can only lie
// before the first or beyond the last one of the SA.
func (w *window) extend(low uint32) (uint64, bool) {
	topLow, topHigh := uint32(w.top), uint32(w.top>>32)
	bottom := topLow - uint32(w.size) + 1
	high := topHigh
	if topLow >= uint32(w.size)-1 { // case A: the window lies in one subspace
		if low < bottom {
			high++
			if high == 0 {
				return 0, false
			}
		}
	} else if low >= bottom { // case B: it spans two
		if topHigh == 0 {
			return 0, false
		}
		high--
	}
	return uint64(high)<<32 | uint64(low), true
}

// fresh reports whether seq may be accepted. It changes nothing: the packet
// is not yet authenticated.
func (w *window) fresh(seq uint64) bool {
	if seq > w.top {
		return true
	}
	if w.top-seq >= w.size {
		return false
	}
	return w.words[seq>>6&w.mask]&(1<<(seq&63)) == 0
}

// accept marks seq, which fresh allowed and the ICV proved, as seen.
func (w *window) accept(seq uint64) {
	if seq > w.top {
		w.advance(seq)
	}
	w.words[seq>>6&w.mask] |= 1 << (seq & 63)
}

func (w *window) advance(seq uint64) {
	from, to := w.top>>6, seq>>6
	w.top = seq
	if from == to {
		return
	}
	n := uint64(len(w.words))
	if gap := to - from; gap > n {
		// Words that began and left the ring within this one step.
		w.missing += 64 * (gap - n)
		from = to - n
	}
	for i := from + 1; i <= to; i++ {
		word := &w.words[i&w.mask]
		w.missing += uint64(64 - bits.OnesCount64(*word))
		*word = 0
	}
}
