package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
)

// knobs are what trouble there is to be.
type knobs struct {
	shares [len(kinds)]float64
	// churnRound is in what time each that churns leaves once.
	churnRound, stormEvery, slow time.Duration
	// lasts is for how long there is trouble of a kind at least.
	lasts time.Duration
}

// kinds are the kinds of trouble, in the order in which they are made.
var kinds = [...]struct{ name, usage string }{
	{"churn", "which share of all edges leaves each second, and comes back"},
	{"storm", "which share of the edges drops at once and returns at the same moment, again and again"},
	{"slow", "which share of the edges reads and applies slowly"},
	{"refuse", "which share of the edges refuses what it gets"},
	{"revert", "which share of the edges takes back what it gets"},
	{"flap", "of which share of the edges all tunnels go down and come up"},
	{"hostile", "which share of the edges breaks the rules"},
}

func (k *knobs) flags(set *flag.FlagSet) {
	for i, kind := range kinds {
		set.Float64Var(&k.shares[i], kind.name, 0, kind.usage)
	}
	set.DurationVar(&k.churnRound, "churn-round", 10*time.Second, "in what time each edge of those that churn leaves once")
	set.DurationVar(&k.stormEvery, "storm-every", 10*time.Second, "how long it is from one storm to the next")
	set.DurationVar(&k.slow, "slow-by", 500*time.Millisecond, "how long slow edges need for an intent, and for each read from their connection")
	set.DurationVar(&k.lasts, "lasts", 20*time.Second, "for how long trouble of a kind lasts at least")
}

// count is how many edges a knob is for.
func (k *knobs) count(i, edges int) int {
	share := k.shares[i]
	if kinds[i].name == "churn" {
		share *= k.churnRound.Seconds()
	}
	return int(math.Ceil(share * float64(edges)))
}

func (k *knobs) check(edges, hubs int) error {
	for i, kind := range kinds {
		if n := k.count(i, edges); k.shares[i] < 0 || n >= edges-hubs {
			return fmt.Errorf("-%s %g is for %d of %d edges: it has to leave the hubs and a spoke, to be measured", kind.name, k.shares[i], n, edges)
		}
	}
	if k.stormEvery <= absence {
		return fmt.Errorf("-storm-every %s: edges are away for %s", k.stormEvery, absence)
	}
	return nil
}

// on are the knobs that are turned on.
func (k *knobs) on(edges int) (on []knob) {
	for i, kind := range kinds {
		if n := k.count(i, edges); n > 0 {
			every := map[string]time.Duration{"churn": k.churnRound, "storm": k.stormEvery}[kind.name]
			on = append(on, knob{Name: kind.name, From: edges - n, Every: every, By: k.slow})
		}
	}
	return on
}

// rest is how long to pause after each of so many changes.
func (k *knobs) rest(edges, changes int) time.Duration {
	if len(k.on(edges)) == 0 {
		return 0
	}
	return k.lasts / time.Duration(max(changes, 1))
}

// endure has edges make trouble, and measures the others.
func (l *load) endure(ctx context.Context, k knob) error {
	r := ordeal{Knob: k.Name, Edges: l.options.edges - k.From}
	var err error
	if r.Without, err = l.feel(l.calmly, k.From); err != nil {
		return err
	}
	before, err := l.ended()
	if err != nil {
		return err
	}
	if err := l.each(func(c crew) error { return c.disturb(k) }); err != nil {
		return err
	}
	var s sample
	if s.sites, err = l.timeSites(ctx, k.From); err != nil {
		return err
	}
	if s.all, err = l.timeAll(ctx, k.From); err != nil {
		return err
	}
	if r.With, err = l.feel(s, k.From); err != nil {
		return err
	}
	if err := l.calmDown(ctx, &r); err != nil {
		return err
	}
	if r.Ended, err = l.ended(); err != nil { // when each has been told, and we hung up on who had not
		return err
	}
	for code, n := range before {
		if r.Ended[code] -= n; r.Ended[code] == 0 {
			delete(r.Ended, code)
		}
	}
	l.results.Ordeals = append(l.results.Ordeals, r)
	return nil
}

// feel is what the edges before one feel, and the controllers' memory at the moment.
func (l *load) feel(s sample, from int) (f feeling, err error) {
	each, last := s.below(from)
	f.Site, f.All, f.Last = distribution(s.sites), distribution(each), distribution(last)
	for _, c := range l.controllers {
		octets, err := c.resident()
		if err != nil {
			return f, err
		}
		f.Memory += octets / (1 << 20)
	}
	return f, nil
}

// calmDown ends the trouble, and waits until all edges are as they should be. What was
// refused or taken back is not sent again: something else is.
func (l *load) calmDown(ctx context.Context, r *ordeal) error {
	var mu sync.Mutex
	var sum tally
	err := l.each(func(c crew) error {
		t, err := c.calm()
		mu.Lock()
		defer mu.Unlock()
		sum.add(t)
		return err
	})
	if err != nil {
		return err
	}
	r.Did = sum.Counts
	if len(sum.Returns) > 0 {
		d := distribution(sum.Returns)
		r.Return = &d
	}
	began := time.Now()
	if _, err := l.timeRound(ctx, l.options.edges); err != nil {
		return fmt.Errorf("when it was over: %w", err)
	}
	if err := l.settle(ctx, l.options.edges); err != nil {
		return err
	}
	r.Settled = time.Since(began).Seconds()
	return nil
}

// ended is how many sessions ended until now, by the code of their end.
func (l *load) ended() (map[string]float64, error) {
	sum := map[string]float64{}
	for _, c := range l.controllers {
		samples, err := c.samples("swanherd_sessions_ended_total")
		if err != nil {
			return nil, err
		}
		for labels, n := range samples {
			sum[strings.TrimSuffix(strings.TrimPrefix(labels, `{code="`), `"}`)] += n
		}
	}
	return sum, nil
}
