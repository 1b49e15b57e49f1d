package ike

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// orders tells the story so far once for each order of its named nonces, and
// groups the orders by what came of it: which SA stays and which end made it,
// and who deleted what.
func (s *story) orders(d *datadriven.TestData) {
	all := permutations(s.named)
	var outcomes []string
	byOutcome := map[string][][]string{}
	for _, order := range all {
		outcome := s.retell(order)
		if byOutcome[outcome] == nil {
			outcomes = append(outcomes, outcome)
		}
		byOutcome[outcome] = append(byOutcome[outcome], order)
	}
	fmt.Fprintf(&s.out, "%d orders\n", len(all))
	for _, o := range outcomes {
		fmt.Fprintf(&s.out, "%s: %s\n", describeOrders(byOutcome[o], len(all), len(s.named)), o)
	}
}

// retell tells the story with the nonces in another order and returns what came
// of it.
func (s *story) retell(order []string) string {
	trial := &trial{TB: s.t}
	again := &story{t: trial, order: order}
	o := &outcome{seen: map[string]bool{}}
	again.trace = o.sent
	trial.run(func() {
		for _, d := range s.told {
			again.out.Reset()
			again.tellOne(d)
		}
	})
	if len(trial.failures) > 0 {
		s.t.Errorf("order %s: %s\n%s", strings.Join(order, "<"), strings.Join(trial.failures, "\n"), again.out.String())
	}
	return o.String(again.w)
}

func permutations(names []string) [][]string {
	if len(names) == 0 {
		return [][]string{nil}
	}
	var all [][]string
	for i := range names {
		rest := slices.Concat(names[:i], names[i+1:])
		for _, p := range permutations(rest) {
			all = append(all, append([]string{names[i]}, p...))
		}
	}
	return all
}

// describeOrders says which orders these are: by the lowest nonce if that is what
// they have in common, one by one if not.
func describeOrders(orders [][]string, total, names int) string {
	if len(orders) == total {
		return "whatever is lowest"
	}
	var lowest []string
	for _, o := range orders {
		if !slices.Contains(lowest, o[0]) {
			lowest = append(lowest, o[0])
		}
	}
	if len(orders) == len(lowest)*total/names {
		return "lowest is " + strings.Join(lowest, " or ")
	}
	var list []string
	for _, o := range orders {
		list = append(list, strings.Join(o, "<"))
	}
	return strings.Join(list, ", ")
}

// outcome is what came of a story.
type outcome struct {
	deletions []string
	seen      map[string]bool
}

// sent notes the Delete payloads of requests.
func (o *outcome) sent(w *world, p *packet) {
	m, err := wire.Parse(p.data)
	if err != nil || m.IsResponse() || len(m.Payloads) == 0 {
		return
	}
	e, ok := m.Payloads[len(m.Payloads)-1].(*wire.Encrypted)
	if !ok {
		return
	}
	payloads, _ := w.peek(m, e.FirstInner)
	for _, inner := range payloads {
		if d, ok := inner.(*wire.Delete); ok {
			s := p.from.name + " deletes " + strings.TrimSuffix(strings.TrimPrefix(renderPayload(d, m), "D("), ")")
			if !o.seen[s] {
				o.seen[s] = true
				o.deletions = append(o.deletions, s)
			}
		}
	}
}

// String names what stays, as a sees it, and what was deleted.
func (o *outcome) String(w *world) string {
	var parts []string
	maker := func(initiator bool) string {
		if initiator {
			return "a's"
		}
		return "b's"
	}
	if sa := w.a.t.primary(); sa != nil {
		if name := short(sa.status()); name != "a1/b1" {
			parts = append(parts, fmt.Sprintf("%s IKE SA %s stays", maker(sa.initiator), name))
		}
	} else {
		parts = append(parts, "no IKE SA stays")
	}
	for _, ch := range w.a.t.cfg.Children {
		if c := w.a.t.liveChild(ch.Name); c != nil {
			parts = append(parts, fmt.Sprintf("%s %s %x/%x stays", maker(c.initiator), ch.Name, c.inbound, c.outbound))
		} else {
			parts = append(parts, "no "+ch.Name+" stays")
		}
	}
	slices.Sort(o.deletions)
	return strings.Join(append(parts, o.deletions...), ", ")
}

// trial takes failures that are not, or not yet, those of the test.
type trial struct {
	testing.TB
	failures []string
}

type endOfTrial struct{}

func (t *trial) Helper() {}

func (t *trial) Errorf(format string, args ...any) {
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

func (t *trial) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	panic(endOfTrial{})
}

// run calls f until its end or its first Fatalf. A panic is a failure too.
func (t *trial) run(f func()) {
	defer func() {
		if r := recover(); r != nil && r != (endOfTrial{}) {
			t.failures = append(t.failures, fmt.Sprintf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	f()
}
