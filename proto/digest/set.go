package digest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"iter"
	"slices"
	"strings"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Set is an immutable set of intent resources, by name. A change makes a new set
// that shares with the old one what did not change, and costs what changed, also
// where a hub has ten thousand tunnels. Nil is the empty set.
//
// Its digest is a tree of two levels, the same for both ends of a session and
// whatever changes led to the set:
//
//   - A resource is in the bucket whose index is the first octet of SHA-256 over
//     its name.
//   - The digest of a bucket is SHA-256 over its list of (name, version), sorted by
//     name, each of the two with its length before it as a varint.
//   - The digest of the set is SHA-256 over the list of (index, digest) of the
//     buckets that are not empty, sorted by index, an octet and VersionSize octets.
//
// Digests are cut to VersionSize octets.
type Set struct {
	buckets []*bucket // that are not empty, by index
	size    int
	sum     [VersionSize]byte
}

type bucket struct {
	index     byte
	resources []*swanherdv1.IntentResource // by name
	sum       [VersionSize]byte
}

// emptySum is the digest of a set without resources.
var emptySum = (&Set{}).digest()

// NewSet returns the set of the resources. Of those with the same name the last
// counts.
func NewSet(resources []*swanherdv1.IntentResource) *Set {
	return (*Set)(nil).With(resources, nil)
}

// Digest returns the digest of the set, which the caller does not change.
func (s *Set) Digest() []byte {
	if s == nil {
		return emptySum[:]
	}
	return s.sum[:]
}

// Len returns the number of resources.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.size
}

// Get returns the resource of that name, nil if there is none.
func (s *Set) Get(name string) *swanherdv1.IntentResource {
	if s == nil {
		return nil
	}
	at, ok := s.find(bucketOf(name))
	if !ok {
		return nil
	}
	b := s.buckets[at]
	if i, ok := b.find(name); ok {
		return b.resources[i]
	}
	return nil
}

// All yields the resources, in an order that follows from their names.
func (s *Set) All() iter.Seq[*swanherdv1.IntentResource] {
	return func(yield func(*swanherdv1.IntentResource) bool) {
		if s == nil {
			return
		}
		for _, b := range s.buckets {
			for _, r := range b.resources {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// Sorted returns the resources in the order of their names.
func (s *Set) Sorted() []*swanherdv1.IntentResource {
	return slices.SortedFunc(s.All(), func(a, b *swanherdv1.IntentResource) int {
		return strings.Compare(a.GetName(), b.GetName())
	})
}

// With returns the set without the resources that removals names, and with
// upserts in place of those of the same names. That a name to be removed is not in
// the set is no error.
func (s *Set) With(upserts []*swanherdv1.IntentResource, removals []string) *Set {
	next := &Set{size: s.Len()}
	if s != nil {
		next.buckets = slices.Clone(s.buckets)
	}
	own := map[byte]*bucket{} // the buckets that are not s's
	for _, name := range removals {
		index := bucketOf(name)
		if b := own[index]; b != nil || next.has(index) {
			next.size += next.own(own, index).remove(name)
		}
	}
	for _, r := range upserts {
		next.size += next.own(own, bucketOf(r.GetName())).put(r)
	}
	for index, b := range own {
		at, _ := next.find(index)
		if len(b.resources) == 0 {
			next.buckets = slices.Delete(next.buckets, at, at+1)
			continue
		}
		b.sum = b.digest()
	}
	next.sum = next.digest()
	return next
}

// Difference returns what leads from one set to another.
func Difference(from, to *Set) (upserts []*swanherdv1.IntentResource, removals []string) {
	compare := func(a, b []*swanherdv1.IntentResource) {
		for len(a) > 0 || len(b) > 0 {
			switch {
			case len(b) == 0 || len(a) > 0 && a[0].GetName() < b[0].GetName():
				removals = append(removals, a[0].GetName())
				a = a[1:]
			case len(a) == 0 || b[0].GetName() < a[0].GetName():
				upserts = append(upserts, b[0])
				b = b[1:]
			default:
				if !bytes.Equal(a[0].GetVersion(), b[0].GetVersion()) {
					upserts = append(upserts, b[0])
				}
				a, b = a[1:], b[1:]
			}
		}
	}
	var old, now []*bucket
	if from != nil {
		old = from.buckets
	}
	if to != nil {
		now = to.buckets
	}
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].index < now[0].index:
			compare(old[0].resources, nil)
			old = old[1:]
		case len(old) == 0 || now[0].index < old[0].index:
			compare(nil, now[0].resources)
			now = now[1:]
		default:
			if old[0].sum != now[0].sum {
				compare(old[0].resources, now[0].resources)
			}
			old, now = old[1:], now[1:]
		}
	}
	return upserts, removals
}

// bucketOf returns the index of the bucket of a name.
func bucketOf(name string) byte {
	sum := sha256.Sum256([]byte(name))
	return sum[0]
}

// find returns where in s.buckets the bucket of that index is, or would be.
func (s *Set) find(index byte) (int, bool) {
	return slices.BinarySearchFunc(s.buckets, index, func(b *bucket, index byte) int { return cmp.Compare(b.index, index) })
}

func (s *Set) has(index byte) bool {
	_, ok := s.find(index)
	return ok
}

// own returns the bucket of that index as one that may be changed: it is copied
// once, into the set and into own.
func (s *Set) own(own map[byte]*bucket, index byte) *bucket {
	if b := own[index]; b != nil {
		return b
	}
	b := &bucket{index: index}
	own[index] = b
	if at, ok := s.find(index); ok {
		b.resources = slices.Clone(s.buckets[at].resources)
		s.buckets[at] = b
	} else {
		s.buckets = slices.Insert(s.buckets, at, b)
	}
	return b
}

// digest computes the digest of the set from those of its buckets.
func (s *Set) digest() [VersionSize]byte {
	list := make([]byte, 0, len(s.buckets)*(1+VersionSize))
	for _, b := range s.buckets {
		list = append(append(list, b.index), b.sum[:]...)
	}
	return cut(sha256.Sum256(list))
}

func (b *bucket) find(name string) (int, bool) {
	return slices.BinarySearchFunc(b.resources, name, func(r *swanherdv1.IntentResource, name string) int {
		return strings.Compare(r.GetName(), name)
	})
}

// put and remove return by how many resources the bucket grew.
func (b *bucket) put(r *swanherdv1.IntentResource) int {
	i, found := b.find(r.GetName())
	if found {
		b.resources[i] = r
		return 0
	}
	b.resources = slices.Insert(b.resources, i, r)
	return 1
}

func (b *bucket) remove(name string) int {
	i, found := b.find(name)
	if !found {
		return 0
	}
	b.resources = slices.Delete(b.resources, i, i+1)
	return -1
}

// digest computes the digest of the bucket's list.
func (b *bucket) digest() [VersionSize]byte {
	hash := sha256.New()
	var pair []byte
	for _, r := range b.resources {
		pair = appendString(pair[:0], r.GetName())
		pair = appendString(pair, string(r.GetVersion()))
		hash.Write(pair)
	}
	return cut([sha256.Size]byte(hash.Sum(nil)))
}

func cut(sum [sha256.Size]byte) [VersionSize]byte { return [VersionSize]byte(sum[:VersionSize]) }
