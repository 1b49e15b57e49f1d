package rollout

import (
	"cmp"
	"slices"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Candidate is an edge that a change touches.
type Candidate struct {
	Name string
	// Labels of its site.
	Labels map[string]string
	// Hub: its site is a hub of a mesh.
	Hub bool
}

// Order puts the edges in the order in which they get the change; ends are how many
// there are up to the end of each batch. Batches that find no edge are left out, and
// what no batch wants is a last one.
//
// Edges of hubs come first of all: a tunnel changes when both of its ends have the
// change, so a hub that waited would hold back what the batches before it are to try,
// and then change all at once.
func Order(edges []Candidate, batches []*swanherdv1.RolloutBatch) (order []string, ends []uint32) {
	left := slices.SortedFunc(slices.Values(edges), func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name))
	})
	hubs, _ := slices.BinarySearchFunc(left, 1, func(c Candidate, want int) int { return cmp.Compare(rank(c), want) })
	for _, c := range left[:hubs] {
		order = append(order, c.Name)
	}
	left = left[hubs:]
	all := len(left)
	for _, b := range slices.Concat(batches, []*swanherdv1.RolloutBatch{{}}) {
		most := size(b, all)
		var rest []Candidate
		before := len(order)
		for _, c := range left {
			if len(order)-before < most && carries(c.Labels, b.GetMatchLabels()) {
				order = append(order, c.Name)
			} else {
				rest = append(rest, c)
			}
		}
		if left = rest; len(order) > before {
			ends = append(ends, uint32(len(order)))
		}
	}
	if len(ends) == 0 && len(order) > 0 { // hubs alone
		ends = append(ends, uint32(len(order)))
	}
	return order, ends
}

func rank(c Candidate) int {
	if c.Hub {
		return 0
	}
	return 1
}

// size is how many of all edges a batch takes at most.
func size(b *swanherdv1.RolloutBatch, all int) int {
	most := all
	if p := int(b.GetPercent()); p > 0 {
		most = (all*p + 99) / 100
	}
	if m := int(b.GetMaxEdges()); m > 0 {
		most = min(most, m)
	}
	return most
}

func carries(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, ok := labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}
