package history

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// maxPoints bounds an answer.
const maxPoints = 1500

// Query returns a series from start to end in steps of at least that length; 0: as fine
// as what is kept of that time and the number of points allow.
func (s *Series) Query(name string, start, end, now time.Time, step time.Duration) (Curve, error) {
	i := s.kept(levelFor(now.Sub(start), step), start)
	l := levels[i]
	least := max(step, end.Sub(start)/maxPoints, l.step)
	out := Curve{Step: (least + l.step - 1) / l.step * l.step}
	points, err := s.points(i, name, start, end)
	if err != nil {
		return out, err
	}
	per := int64(out.Step / l.step)
	for _, p := range points {
		p.Step /= per
		out.append(p)
	}
	return out, nil
}

// levelFor is the level for what is so old: the coarsest of those that are as fine as
// asked for, among those that keep it.
func levelFor(age, step time.Duration) int {
	first := slices.IndexFunc(levels, func(l level) bool { return age <= l.keep+l.step })
	if first < 0 {
		return len(levels) - 1
	}
	for first+1 < len(levels) && step >= levels[first+1].step && step%levels[first+1].step == 0 {
		first++
	}
	return first
}

// kept is the level that has what was after start, if level i lacks it for want of room:
// the next one of which a whole window is older than all that i has.
func (s *Series) kept(i int, start time.Time) int {
	from, _, ok := s.oldest(i)
	if !ok || !from.After(start) {
		return i
	}
	for j := i + 1; j < len(levels); j++ {
		if _, end, ok := s.oldest(j); ok && !end.After(from) {
			return j
		}
	}
	return i
}

// oldest is the first window of a level that was written.
func (s *Series) oldest(i int) (start, end time.Time, ok bool) {
	_ = s.db.View(func(tx *bbolt.Tx) error { // fails when it is closed only
		name, _ := tx.Cursor().Seek([]byte{byte(i)})
		if len(name) > 0 && name[0] == byte(i) {
			w := int64(binary.BigEndian.Uint64(name[1:]))
			start, end, ok = levels[i].endOf(w-1), levels[i].endOf(w), true
		}
		return nil
	})
	return start, end, ok
}

// points are those of a level that begin in the time.
func (s *Series) points(i int, name string, start, end time.Time) ([]Point, error) {
	l := levels[i]
	s.mu.Lock()
	var fresh []Point
	filling := int64(-1)
	if h := s.heads[name]; h != nil {
		filling = h[i].window
		fresh, _ = decodeBlock(h[i].block()) // its own
	}
	s.mu.Unlock()
	var all []Point
	oldest := max(l.windowOf(l.stepOf(start)), l.windowOf(l.stepOf(end.Add(-l.keep-2*l.window))))
	for w := oldest; w <= l.windowOf(l.stepOf(end)); w++ {
		points := fresh
		if w != filling {
			var err error
			if points, err = s.read(i, w, name); err != nil {
				return nil, err
			}
		}
		all = append(all, points...)
	}
	return slices.DeleteFunc(all, func(p Point) bool {
		return l.timeOf(p.Step+1).Compare(start) <= 0 || !l.timeOf(p.Step).Before(end)
	}), nil
}
