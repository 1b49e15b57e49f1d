package esp

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// naiveWindow is the definition of the window, remembering everything.
type naiveWindow struct {
	top, size uint64
	seen      map[uint64]bool
}

func (n *naiveWindow) fresh(seq uint64) bool {
	return seq != 0 && !n.seen[seq] && (seq > n.top || n.top-seq < n.size)
}

func (n *naiveWindow) accept(seq uint64) {
	n.seen[seq] = true
	n.top = max(n.top, seq)
}

// missing counts the numbers that were not seen, but for those of the word of 64
// that the highest one is in.
func (n *naiveWindow) missing() uint64 {
	floor := n.top &^ 63
	if floor == 0 {
		return 0
	}
	missing := floor - 1 // there is no packet 0
	for seq := range n.seen {
		if seq < floor {
			missing--
		}
	}
	return missing
}

// nearby draws a sequence number around top: mostly within a few windows.
func nearby(t *rapid.T, top, size uint64) uint64 {
	d := rapid.OneOf(rapid.Int64Range(-int64(2*size), int64(2*size)), rapid.Int64Range(-8, 8),
		rapid.Int64Range(-1<<33, 1<<33)).Draw(t, "distance")
	if d < 0 {
		return top - min(top, uint64(-d))
	}
	return top + min(math.MaxUint64-top, uint64(d))
}

func TestWindowMatchesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.OneOf(rapid.IntRange(MinReplayWindow, 260), rapid.IntRange(MinReplayWindow, MaxReplayWindow)).Draw(t, "size")
		w := newWindow(size)
		model := naiveWindow{size: uint64(size), seen: map[uint64]bool{}}
		for range rapid.IntRange(1, 200).Draw(t, "packets") {
			seq := nearby(t, w.top, uint64(size))
			if got, want := w.fresh(seq), model.fresh(seq); got != want {
				t.Fatalf("fresh(%d) with top %d, size %d: got %v, want %v", seq, w.top, size, got, want)
			}
			if model.fresh(seq) {
				w.accept(seq)
				model.accept(seq)
			}
			if got, want := w.missing, model.missing(); got != want {
				t.Fatalf("after %d with top %d: %d missing, want %d", seq, w.top, got, want)
			}
			if w.fresh(seq) {
				t.Fatalf("%d is fresh after it was accepted", seq)
			}
		}
	})
}

// TestExtendMatchesModel: of all 64-bit numbers with the received low half,
// Appendix A2.2 finds the one in the window, or else the first above it.
func TestExtendMatchesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := uint64(rapid.IntRange(MinReplayWindow, MaxReplayWindow).Draw(t, "size"))
		w := newWindow(int(size))
		w.top = rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 1<<34),
			rapid.Uint64Range(1<<32-10000, 1<<32+10000)).Draw(t, "top")
		bottom := uint64(0)
		if w.top >= size-1 {
			bottom = w.top - size + 1
		}
		ahead := rapid.OneOf(rapid.Uint64Range(0, 2*size), rapid.Uint64Range(0, 1<<32-1)).Draw(t, "ahead")
		if ahead > math.MaxUint64-bottom {
			t.Skip("beyond the last sequence number")
		}
		seq := bottom + ahead
		if w.top < size-1 && seq >= 1<<32+w.top-size+1 {
			t.Skip("taken for a number before the first by any receiver")
		}
		got, ok := w.extend(uint32(seq))
		if !ok || got != seq {
			t.Fatalf("top %d size %d: extend(%#x) = %d, %v, want %d", w.top, size, uint32(seq), got, ok, seq)
		}
	})
}

func TestExtendBounds(t *testing.T) {
	w := newWindow(64)
	if _, ok := w.extend(math.MaxUint32); ok {
		t.Error("a number before the first one was extended")
	}
	w.top = math.MaxUint64
	if _, ok := w.extend(5); ok {
		t.Error("a number beyond the last one was extended")
	}
}

func BenchmarkWindow(b *testing.B) {
	w := newWindow(DefaultReplayWindow)
	seq := uint64(0)
	for b.Loop() {
		seq++
		if !w.fresh(seq) {
			b.Fatal(seq)
		}
		w.accept(seq)
	}
}
