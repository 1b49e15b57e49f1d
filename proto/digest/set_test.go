package digest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// reference is the definition of the digest of a set, written down as it is worded.
func reference(set map[string]*swanherdv1.IntentResource) []byte {
	var tree []byte
	for index := range 256 {
		var list []byte
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if sum := sha256.Sum256([]byte(name)); int(sum[0]) == index {
				list = appendString(list, name)
				list = appendString(list, string(set[name].GetVersion()))
			}
		}
		if list != nil {
			sum := sha256.Sum256(list)
			tree = append(append(tree, byte(index)), sum[:16]...)
		}
	}
	sum := sha256.Sum256(tree)
	return sum[:16]
}

func resource(name string, version byte) *swanherdv1.IntentResource {
	return &swanherdv1.IntentResource{Name: name, Version: bytes.Repeat([]byte{version}, VersionSize)}
}

// Whatever changes lead to a set: its digest is that of the definition, it holds what it
// should, the sets before it are as they were, and the difference to any of them leads
// from one to the other.
func TestSetIsItsContent(t *testing.T) {
	name := rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("t%d", rapid.IntRange(0, 600).Draw(t, "name")) })
	rapid.Check(t, func(t *rapid.T) {
		set, model := (*Set)(nil), map[string]*swanherdv1.IntentResource{}
		past, pastDigest := set, set.Digest()
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			var upserts []*swanherdv1.IntentResource
			removals := rapid.SliceOfN(name, 0, 30).Draw(t, "removals")
			for _, n := range removals {
				delete(model, n)
			}
			for _, n := range rapid.SliceOfN(name, 0, 200).Draw(t, "upserts") {
				r := resource(n, byte(rapid.IntRange(0, 2).Draw(t, "version")))
				upserts, model[n] = append(upserts, r), r
			}
			before := set
			set = set.With(upserts, removals)
			checkSet(t, set, model)
			up, gone := Difference(before, set)
			if again := before.With(up, gone); !bytes.Equal(again.Digest(), set.Digest()) {
				t.Fatalf("the difference %v, %v leads elsewhere", up, gone)
			}
			for _, r := range up {
				if proto.Equal(before.Get(r.GetName()), r) {
					t.Fatalf("%s did not change and is in the difference", r.GetName())
				}
			}
		}
		if !bytes.Equal(past.Digest(), pastDigest) {
			t.Fatal("a set changed when another was made of it")
		}
		up, gone := Difference(set, past)
		if back := set.With(up, gone); !bytes.Equal(back.Digest(), pastDigest) || back.Len() != past.Len() {
			t.Fatal("the way back leads elsewhere")
		}
	})
}

func checkSet(t *rapid.T, set *Set, model map[string]*swanherdv1.IntentResource) {
	if want := reference(model); !bytes.Equal(set.Digest(), want) {
		t.Fatalf("digest %x, by the definition %x", set.Digest(), want)
	}
	if !bytes.Equal(NewSet(slices.Collect(maps.Values(model))).Digest(), set.Digest()) {
		t.Fatal("the digest depends on how the set came about")
	}
	sorted := set.Sorted()
	if set.Len() != len(model) || len(sorted) != len(model) {
		t.Fatalf("%d resources, %d sorted, want %d", set.Len(), len(sorted), len(model))
	}
	for i, r := range sorted {
		if model[r.GetName()] != r || set.Get(r.GetName()) != r || i > 0 && sorted[i-1].GetName() >= r.GetName() {
			t.Fatalf("%s is not what was put there, or not in its place", r.GetName())
		}
	}
}

// The digest is part of the session protocol: see TestVersionIsStable.
func TestSetDigestIsStable(t *testing.T) {
	var resources []*swanherdv1.IntentResource
	for i := range 1000 {
		resources = append(resources, resource(fmt.Sprintf("networks/demo/tunnels/t%d", i), byte(i)))
	}
	for set, want := range map[*Set]string{
		nil:                   "e3b0c44298fc1c149afbf4c8996fb924",
		NewSet(resources[:1]): "910009282c572bd8c4b107c1851247b3",
		NewSet(resources):     "598b37167f423f6117aec9758cb758d9",
	} {
		if got := fmt.Sprintf("%x", set.Digest()); got != want {
			t.Errorf("digest of %d resources is %s, want %s", set.Len(), got, want)
		}
	}
}

func TestSetOfDuplicates(t *testing.T) {
	set := NewSet([]*swanherdv1.IntentResource{resource("a", 1), resource("b", 1), resource("a", 2)})
	if set.Len() != 2 || set.Get("a").GetVersion()[0] != 2 {
		t.Errorf("%d resources, a is %v; the last of a name counts", set.Len(), set.Get("a"))
	}
	if set = set.With([]*swanherdv1.IntentResource{resource("a", 3)}, []string{"a", "c"}); set.Len() != 2 || set.Get("a").GetVersion()[0] != 3 {
		t.Errorf("%d resources, a is %v; a removal comes before an upsert", set.Len(), set.Get("a"))
	}
}

// BenchmarkSetChange is the cost at either end of one changed tunnel.
func BenchmarkSetChange(b *testing.B) {
	for _, size := range []int{5, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var resources []*swanherdv1.IntentResource
			for i := range size {
				resources = append(resources, resource(fmt.Sprintf("networks/demo/tunnels/hub-1--%s-%d", strings.Repeat("x", 20), i), byte(i)))
			}
			set := NewSet(resources)
			changed := [2][]*swanherdv1.IntentResource{{resource(resources[1].GetName(), 100)}, {resource(resources[1].GetName(), 101)}}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				before := set
				set = set.With(changed[i%2], nil)
				if up, _ := Difference(before, set); len(up) != 1 {
					b.Fatal("no difference")
				}
			}
		})
	}
}
