package history

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// level is one resolution in which series are kept. A window of points of a series is one
// record.
type level struct {
	step, window, keep time.Duration
}

// levels are from fine to coarse. A coarse point is made with the fine ones, not from
// them later.
var levels = []level{
	{step: time.Minute, window: time.Hour, keep: 24 * time.Hour},
	{step: 10 * time.Minute, window: 6 * time.Hour, keep: 7 * 24 * time.Hour},
	{step: time.Hour, window: 24 * time.Hour, keep: 30 * 24 * time.Hour},
}

func (l level) stepOf(t time.Time) int64     { return t.Unix() / int64(l.step.Seconds()) }
func (l level) timeOf(step int64) time.Time  { return time.Unix(step*int64(l.step.Seconds()), 0).UTC() }
func (l level) windowOf(step int64) int64    { return step / int64(l.window/l.step) }
func (l level) endOf(window int64) time.Time { return l.timeOf((window + 1) * int64(l.window/l.step)) }

const (
	// saveInterval is how often what is in memory is written, and so what a crash costs.
	saveInterval = 10 * time.Minute
	// DefaultMaxOctets bounds what is kept.
	DefaultMaxOctets = 2 << 30
	// saveBatch is how many records one transaction writes, so that none is long.
	saveBatch = 5000
)

// Series keeps how things were, on this replica's disk: the last windows in memory, the
// rest in a file of bbolt, which etcd keeps its own in too. Its methods may be called
// from any goroutine.
type Series struct {
	db  *bbolt.DB
	max int64
	log *slog.Logger

	mu    sync.Mutex
	heads map[string]*[3]head // by name, one of each level
}

// head is the window of a series that is being filled.
type head struct {
	window int64
	done   []byte // encoded points before the one that is being filled
	last   int64  // step of the last one of them; -1: none
	point  Point
	dirty  bool
}

// OpenSeries opens the file, or makes it. maxOctets bounds what is kept; 0:
// DefaultMaxOctets.
func OpenSeries(file string, maxOctets int64, log *slog.Logger) (*Series, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open history %s: %w; it holds nothing that is needed, remove it if it is broken", file, err)
	}
	if maxOctets == 0 {
		maxOctets = DefaultMaxOctets
	}
	return &Series{db: db, max: maxOctets, log: log, heads: map[string]*[3]head{}}, nil
}

// Close writes what is in memory.
func (s *Series) Close(now time.Time) error {
	return errors.Join(s.Save(now), s.db.Close())
}

// Add takes in what was at the time, of several series by name.
func (s *Series) Add(at time.Time, samples map[string]Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := map[string][]record{}
	for name, p := range samples {
		h := s.heads[name]
		if h == nil {
			h = s.resume(name, at)
			s.heads[name] = h
		}
		for i, l := range levels {
			p.Step = l.stepOf(at)
			if w := l.windowOf(p.Step); w > h[i].window {
				full[name] = append(full[name], record{i, h[i].window, h[i].block()})
				h[i] = head{window: w, last: -1}
			}
			h[i].add(p)
		}
	}
	if err := s.write(full); err != nil {
		s.log.Warn("cannot keep a piece of history", "series", len(full), "error", err)
	}
}

// add takes in a sample of the window. If the clock went back it counts as of the newest
// step.
func (h *head) add(p Point) {
	if p.Step > h.point.Step {
		if h.point.Samples > 0 {
			h.done = appendPoint(h.done, h.last, h.point)
			h.last = h.point.Step
		}
		h.point = Point{Step: p.Step}
	}
	h.point.add(p)
	h.dirty = true
}

// block is the window as it is written: with the point that is not complete.
func (h *head) block() []byte {
	if h.point.Samples == 0 {
		return h.done
	}
	return appendPoint(slices.Clip(h.done), h.last, h.point)
}

// resume returns heads that go on with what was written of their windows.
func (s *Series) resume(name string, at time.Time) *[3]head {
	var out [3]head
	for i, l := range levels {
		h := head{window: l.windowOf(l.stepOf(at)), last: -1}
		points, err := s.read(i, h.window, name)
		if err != nil {
			s.log.Warn("a piece of history is unreadable and begins anew", "series", name, "error", err)
		}
		for n, p := range points {
			if n == len(points)-1 {
				h.point = p
			} else {
				h.done = appendPoint(h.done, h.last, p)
				h.last = p.Step
			}
		}
		out[i] = h
	}
	return &out
}

// record is a window of a series.
type record struct {
	level  int
	window int64
	block  []byte
}

// bucketOf names the bucket of a window: in the order of levels and of time.
func bucketOf(level int, window int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(level)}, uint64(window))
}

func (s *Series) write(records map[string][]record) error {
	for names := range slices.Chunk(slices.Sorted(maps.Keys(records)), saveBatch) {
		err := s.db.Update(func(tx *bbolt.Tx) error {
			for _, name := range names {
				for _, r := range records[name] {
					b, err := tx.CreateBucketIfNotExists(bucketOf(r.level, r.window))
					if err != nil {
						return err
					}
					b.FillPercent = 0.9 // names come in order
					if err := b.Put([]byte(name), r.block); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("write history: %w", err)
		}
	}
	return nil
}

func (s *Series) read(level int, window int64, name string) ([]Point, error) {
	var out []Point
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketOf(level, window))
		if b == nil {
			return nil
		}
		var err error
		out, err = decodeBlock(b.Get([]byte(name)))
		return err
	})
	return out, err
}

// Save writes what changed in memory, forgets series that nothing was added to for long,
// and what is older than is kept.
func (s *Series) Save(now time.Time) error {
	s.mu.Lock()
	records := map[string][]record{}
	for name, heads := range s.heads {
		if levels[len(levels)-1].endOf(heads[len(levels)-1].window).Before(now) {
			delete(s.heads, name) // written below or before
		}
		for i := range heads {
			if h := &heads[i]; h.dirty {
				records[name] = append(records[name], record{i, h.window, h.block()})
				h.dirty = false
			}
		}
	}
	s.mu.Unlock()
	return errors.Join(s.write(records), s.trim(now))
}

// trim removes windows that are too old, and while there is too much the oldest of the
// finest ones.
func (s *Series) trim(now time.Time) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		used := s.used(tx)
		var old [][]byte
		err := tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			l := levels[name[0]]
			end := l.endOf(int64(binary.BigEndian.Uint64(name[1:])))
			switch {
			case now.Sub(end) > l.keep:
				old = append(old, slices.Clone(name))
			case used > s.max && end.Before(now):
				st := b.Stats()
				used -= int64(st.LeafAlloc + st.BranchAlloc)
				old = append(old, slices.Clone(name))
			}
			return nil
		})
		for _, name := range old {
			err = errors.Join(err, tx.DeleteBucket(name))
		}
		return err
	})
}

// used is how much of the file is in use: it does not shrink.
func (s *Series) used(tx *bbolt.Tx) int64 {
	st := s.db.Stats()
	return tx.Size() - int64(st.FreePageN+st.PendingPageN)*int64(s.db.Info().PageSize)
}

// Run samples, every interval, and saves until ctx ends.
func (s *Series) Run(ctx context.Context, interval time.Duration, sample func(time.Time) map[string]Point) {
	ticks, saves := time.NewTicker(interval), time.NewTicker(saveInterval)
	defer ticks.Stop()
	defer saves.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticks.C:
			s.Add(now, sample(now))
		case now := <-saves.C:
			if err := s.Save(now); err != nil {
				s.log.Warn("cannot keep history; trying again later", "error", err)
			}
		}
	}
}
