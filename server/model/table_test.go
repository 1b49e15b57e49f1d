package model

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A table behaves as a sorted map, keeps its older versions, and Diff finds
// what differs between any two of them.
func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type version struct {
			table Table[int]
			want  map[string]Row[int]
		}
		name := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("networks/n%d", rapid.IntRange(0, 400).Draw(t, "id")) })
		versions := []version{{want: map[string]Row[int]{}}}
		revision := int64(0)
		row := func(t *rapid.T) Row[int] {
			revision++
			return Row[int]{name.Draw(t, "name"), int(revision), revision}
		}
		t.Repeat(map[string]func(*rapid.T){
			"with": func(t *rapid.T) {
				last := versions[len(versions)-1]
				r := row(t)
				want := maps.Clone(last.want)
				want[r.Name] = r
				versions = append(versions, version{last.table.With(r), want})
			},
			"without": func(t *rapid.T) {
				last := versions[len(versions)-1]
				gone := name.Draw(t, "gone")
				want := maps.Clone(last.want)
				delete(want, gone)
				versions = append(versions, version{last.table.Without(gone), want})
			},
			"apply": func(t *rapid.T) {
				last := versions[len(versions)-1]
				want := maps.Clone(last.want)
				upserts := map[string]Row[int]{}
				for range rapid.IntRange(0, 300).Draw(t, "upserts") {
					r := row(t)
					upserts[r.Name], want[r.Name] = r, r
				}
				var gone []string
				for range rapid.IntRange(0, 20).Draw(t, "removals") {
					if n := name.Draw(t, "removed"); upserts[n].Name == "" {
						gone = append(gone, n)
						delete(want, n)
					}
				}
				versions = append(versions, version{last.table.Apply(slices.Collect(maps.Values(upserts)), gone), want})
			},
			"": func(t *rapid.T) {
				v := versions[rapid.IntRange(0, len(versions)-1).Draw(t, "version")]
				w := versions[rapid.IntRange(0, len(versions)-1).Draw(t, "other")]
				checkTable(t, v.table, v.want)
				checkDiff(t, v.table, w.table, v.want, w.want)
			},
		})
	})
}

func checkTable(t *rapid.T, table Table[int], want map[string]Row[int]) {
	names := slices.Sorted(maps.Keys(want))
	var got []string
	for r := range table.All() {
		got = append(got, r.Name)
		if want[r.Name] != r {
			t.Fatalf("All: %v, want %v", r, want[r.Name])
		}
	}
	if !slices.Equal(got, names) || table.Len() != len(names) {
		t.Fatalf("All: %v (Len %d), want %v", got, table.Len(), names)
	}
	for i, n := range names {
		if r, ok := table.Get(n); !ok || r != want[n] {
			t.Fatalf("Get(%s) = %v, %v", n, r, ok)
		}
		for r := range table.After(n) {
			if r.Name != names[i+1] {
				t.Fatalf("After(%s) begins with %s, want %s", n, r.Name, names[i+1])
			}
			break
		}
	}
	if _, ok := table.Get("networks/zz"); ok {
		t.Fatal("Get finds what is not there")
	}
}

func checkDiff(t *rapid.T, from, to Table[int], a, b map[string]Row[int]) {
	rebuilt := maps.Clone(a)
	last := ""
	for c := range Diff(from, to) {
		if c.Name <= last {
			t.Fatalf("Diff is out of order: %s after %s", c.Name, last)
		}
		last = c.Name
		if c.New == nil {
			delete(rebuilt, c.Name)
			continue
		}
		if c.Old != nil && *c.Old == *c.New {
			t.Fatalf("Diff yields %s, which is the same", c.Name)
		}
		rebuilt[c.Name] = *c.New
	}
	if !maps.Equal(rebuilt, b) {
		t.Fatalf("Diff makes %v, want %v", rebuilt, b)
	}
}

func TestDiffSkipsWhatIsShared(t *testing.T) {
	rows := make([]Row[int], 10_000)
	for i := range rows {
		rows[i] = Row[int]{fmt.Sprintf("r%05d", i), i, 1}
	}
	before := NewTable(rows)
	after := before.With(Row[int]{"r05000", 0, 2})
	shared := 0
	for i := range before.chunks {
		if before.chunks[i] == after.chunks[i] {
			shared++
		}
	}
	if shared != len(before.chunks)-1 {
		t.Errorf("%d of %d chunks are shared after one change", shared, len(before.chunks))
	}
}
