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
	missing uint64 // unseen numbers below the word of top
}

func newWindow(size int) window {
	// A window that begins with the last number of a word touches this many
	// words; the ring holds them all, rounded up to a power of two.
	touched := (size+62)/64 + 1
	n := 1 << bits.Len(uint(touched-1))
	w := window{size: uint64(size), mask: uint64(n - 1), words: make([]uint64, n)}
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
	} else if seq>>6 < w.top>>6 {
		w.missing-- // late, but not lost
	}
	w.words[seq>>6&w.mask] |= 1 << (seq & 63)
}

// advance moves the top. What the word of the old one lacks, and all of the words
// between, are missing until they come.
func (w *window) advance(seq uint64) {
	from, to := w.top>>6, seq>>6
	w.top = seq
	if from == to {
		return
	}
	w.missing += uint64(64-bits.OnesCount64(w.words[from&w.mask])) + 64*(to-from-1)
	for i := max(from+1, to-min(to, w.mask)); i <= to; i++ {
		w.words[i&w.mask] = 0
	}
}
