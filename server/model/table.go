package model

import (
	"iter"
	"slices"
	"strings"
)

// Row is one stored resource.
type Row[T any] struct {
	// Name is the resource name, the key of the table.
	Name string
	// Value is shared by every version of the table that has the row: it must
	// not be changed.
	Value T
	// Revision is the store revision at which the row was last written.
	Revision int64
}

// A Table is an immutable map from resource names to rows, in the order of
// names. A change makes a new table that shares all but one chunk of rows with
// the old one, so that a snapshot per store revision is cheap and two
// snapshots can be compared without looking at what they share. The zero Table
// is empty.
type Table[T any] struct {
	chunks []*chunk[T]
	size   int
}

// maxChunk bounds the rows that a change copies; a chunk that outgrows it is
// split in halves.
const maxChunk = 128

type chunk[T any] struct{ rows []Row[T] }

// NewTable returns a table of rows, which need not be in order. Of rows with
// the same name the last one counts.
func NewTable[T any](rows []Row[T]) Table[T] {
	sorted := slices.Clone(rows)
	slices.SortStableFunc(sorted, func(a, b Row[T]) int { return strings.Compare(a.Name, b.Name) })
	kept := sorted[:0]
	for i, r := range sorted {
		if i+1 < len(sorted) && sorted[i+1].Name == r.Name {
			continue
		}
		kept = append(kept, r)
	}
	t := Table[T]{size: len(kept)}
	for part := range slices.Chunk(kept, maxChunk/2) {
		t.chunks = append(t.chunks, &chunk[T]{slices.Clip(part)})
	}
	return t
}

// Len returns the number of rows.
func (t Table[T]) Len() int { return t.size }

// Get returns the row of that name.
func (t Table[T]) Get(name string) (Row[T], bool) {
	c := t.find(name)
	if c == len(t.chunks) {
		return Row[T]{}, false
	}
	i, ok := t.chunks[c].search(name)
	if !ok {
		return Row[T]{}, false
	}
	return t.chunks[c].rows[i], true
}

// Value returns the value of that name, or T's zero value.
func (t Table[T]) Value(name string) T {
	r, _ := t.Get(name)
	return r.Value
}

// All yields the rows in the order of their names.
func (t Table[T]) All() iter.Seq[Row[T]] { return t.from("") }

// WithPrefix yields the rows whose names begin with prefix, in order.
func (t Table[T]) WithPrefix(prefix string) iter.Seq[Row[T]] {
	return func(yield func(Row[T]) bool) {
		for r := range t.from(prefix) {
			if !strings.HasPrefix(r.Name, prefix) || !yield(r) {
				return
			}
		}
	}
}

// InNetwork yields the rows below a network, such as its sites, in order.
func (t Table[T]) InNetwork(network NetworkName) iter.Seq[Row[T]] {
	return t.WithPrefix(network.String() + "/")
}

// After yields the rows whose names come after name, in order: the next page.
func (t Table[T]) After(name string) iter.Seq[Row[T]] { return t.from(name + "\x00") }

func (t Table[T]) from(name string) iter.Seq[Row[T]] {
	return func(yield func(Row[T]) bool) {
		first := t.find(name)
		for n, c := range t.chunks[first:] {
			rows := c.rows
			if n == 0 {
				i, _ := c.search(name)
				rows = rows[i:]
			}
			for _, r := range rows {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// With returns a table that has row, in place of the one of the same name.
func (t Table[T]) With(row Row[T]) Table[T] {
	if len(t.chunks) == 0 {
		return Table[T]{[]*chunk[T]{{[]Row[T]{row}}}, 1}
	}
	c := min(t.find(row.Name), len(t.chunks)-1)
	i, found := t.chunks[c].search(row.Name)
	rows := slices.Clone(t.chunks[c].rows)
	if found {
		rows[i] = row
		return t.replaced(c, 0, &chunk[T]{rows})
	}
	rows = slices.Insert(rows, i, row)
	if len(rows) <= maxChunk {
		return t.replaced(c, 1, &chunk[T]{rows})
	}
	half := len(rows) / 2
	return t.replaced(c, 1, &chunk[T]{slices.Clone(rows[:half])}, &chunk[T]{slices.Clone(rows[half:])})
}

// Without returns a table that lacks the row of that name.
func (t Table[T]) Without(name string) Table[T] {
	c := t.find(name)
	if c == len(t.chunks) {
		return t
	}
	i, found := t.chunks[c].search(name)
	if !found {
		return t
	}
	if len(t.chunks[c].rows) == 1 {
		return t.replaced(c, -1)
	}
	return t.replaced(c, -1, &chunk[T]{slices.Delete(slices.Clone(t.chunks[c].rows), i, i+1)})
}

// Apply returns a table with the upserted rows and without the removed ones; a
// name must not be in both.
func (t Table[T]) Apply(upserts []Row[T], removed []string) Table[T] {
	if changes := len(upserts) + len(removed); changes < 8 || changes < len(t.chunks) {
		for _, name := range removed {
			t = t.Without(name)
		}
		for _, row := range upserts {
			t = t.With(row)
		}
		return t
	}
	gone := make(map[string]bool, len(removed))
	for _, name := range removed {
		gone[name] = true
	}
	rows := make([]Row[T], 0, t.size+len(upserts))
	for row := range t.All() {
		if !gone[row.Name] {
			rows = append(rows, row)
		}
	}
	return NewTable(append(rows, upserts...))
}

// replaced returns t with chunk c replaced by with.
func (t Table[T]) replaced(c, grown int, with ...*chunk[T]) Table[T] {
	chunks := make([]*chunk[T], 0, len(t.chunks)-1+len(with))
	chunks = append(chunks, t.chunks[:c]...)
	chunks = append(chunks, with...)
	chunks = append(chunks, t.chunks[c+1:]...)
	return Table[T]{chunks, t.size + grown}
}

// find returns the index of the chunk in which name is, or would be; that is
// the first whose last row is not before name.
func (t Table[T]) find(name string) int {
	i, _ := slices.BinarySearchFunc(t.chunks, name, func(c *chunk[T], name string) int {
		return strings.Compare(c.rows[len(c.rows)-1].Name, name)
	})
	return i
}

func (c *chunk[T]) search(name string) (int, bool) {
	return slices.BinarySearchFunc(c.rows, name, func(r Row[T], name string) int {
		return strings.Compare(r.Name, name)
	})
}

// Change is how one row differs between two tables; Old or New is nil when the
// table lacks it.
type Change[T any] struct {
	Name     string
	Old, New *Row[T]
}

// Diff yields the rows that differ between two tables, in the order of names.
// Rows differ when their revisions do. What the tables share is skipped by the
// chunk, so the cost is that of the change when to was made from from, and next to none
// when they are one.
func Diff[T any](from, to Table[T]) iter.Seq[Change[T]] {
	return func(yield func(Change[T]) bool) {
		if len(from.chunks) == len(to.chunks) && (len(to.chunks) == 0 || &from.chunks[0] == &to.chunks[0]) {
			return
		}
		a, b := cursor[T]{chunks: from.chunks}, cursor[T]{chunks: to.chunks}
		for {
			for a.row == 0 && b.row == 0 && len(a.chunks) > 0 && len(b.chunks) > 0 && a.chunks[0] == b.chunks[0] {
				a.chunks, b.chunks = a.chunks[1:], b.chunks[1:]
			}
			x, y := a.peek(), b.peek()
			var c Change[T]
			switch {
			case x == nil && y == nil:
				return
			case y == nil || x != nil && x.Name < y.Name:
				c = Change[T]{Name: x.Name, Old: x}
				a.next()
			case x == nil || y.Name < x.Name:
				c = Change[T]{Name: y.Name, New: y}
				b.next()
			default:
				c = Change[T]{Name: x.Name, Old: x, New: y}
				a.next()
				b.next()
				if x.Revision == y.Revision {
					continue
				}
			}
			if !yield(c) {
				return
			}
		}
	}
}

type cursor[T any] struct {
	chunks []*chunk[T]
	row    int
}

func (c *cursor[T]) peek() *Row[T] {
	if len(c.chunks) == 0 {
		return nil
	}
	return &c.chunks[0].rows[c.row]
}

func (c *cursor[T]) next() {
	c.row++
	if c.row == len(c.chunks[0].rows) {
		c.chunks, c.row = c.chunks[1:], 0
	}
}
