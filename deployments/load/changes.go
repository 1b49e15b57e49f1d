package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// rounds is how often all are changed.
const rounds = 5

// sample is how long changes took.
type sample struct {
	// sites are the changes of one site each, until all edges of its tunnels ran it.
	sites []time.Duration
	// all are the changes of all, each until an edge ran it, by the edge's number.
	all []map[int]time.Duration
}

// below are the times of the edges before one, and those of the last of them of each
// change.
func (s sample) below(from int) (each, last []time.Duration) {
	for _, round := range s.all {
		most := time.Duration(0)
		for index, d := range round {
			if index < from {
				each, most = append(each, d), max(most, d)
			}
		}
		last = append(last, most)
	}
	return each, last
}

// settle waits until so many edges run and keep what is planned for them.
func (l *load) settle(ctx context.Context, edges int) error {
	for {
		in, err := l.controller.metric("swanherd_edges_in_sync")
		if err != nil {
			return err
		}
		if int(in) >= edges {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%.0f edges are in sync, and %d are to be: %w", in, edges, err)
		}
	}
}

func (l *load) changeSites(ctx context.Context) (err error) {
	if l.calmly.sites, err = l.timeSites(ctx, l.options.edges); err != nil {
		return err
	}
	l.results.times("change of one site until its edges run it", l.calmly.sites, "p99 50 ms")
	return nil
}

func (l *load) changeAll(ctx context.Context) error {
	profiled, err := l.profileProcessor()
	if err != nil {
		return err
	}
	if l.calmly.all, err = l.timeAll(ctx, l.options.edges); err != nil {
		return err
	}
	each, last := l.calmly.below(l.options.edges)
	l.results.times("change of all until an edge runs it", each, "p99 2 s")
	l.results.times("change of all until the last edge runs it", last, "")
	return profiled()
}

// timeSites gives one site after the other a further prefix, and waits for the edges at
// both ends of its tunnels. The sites are of the edges before one. With a knob the
// changes are spread over the time that trouble lasts, without trouble too.
func (l *load) timeSites(ctx context.Context, from int) ([]time.Duration, error) {
	var times []time.Duration
	rest := l.knobs.rest(l.options.edges, l.changes)
	for n := range l.changes {
		took, err := l.timeSite(ctx, l.hubs+n%(from-l.hubs))
		if err != nil {
			return nil, fmt.Errorf("change %d: %w", n, err)
		}
		times = append(times, took)
		if err := pause(ctx, rest); err != nil {
			return nil, err
		}
	}
	return times, nil
}

func (l *load) timeSite(ctx context.Context, i int) (time.Duration, error) {
	missing := map[int]bool{i: true}
	for hub := range l.hubs {
		missing[hub] = true
	}
	done := make(chan time.Time, 1)
	l.onApplied(func(index int, at time.Time) {
		if missing[index] {
			if delete(missing, index); len(missing) == 0 {
				done <- at
			}
		}
	})
	defer l.onApplied(nil)
	n := l.siteChanges
	l.siteChanges++
	began := time.Now()
	_, err := l.controller.topology.UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{
		Site: l.site(i, fmt.Sprintf("172.%d.%d.0/24", 16+n>>8, n&255)), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"prefixes"}},
	})
	if err != nil {
		return 0, err
	}
	select {
	case at := <-done:
		return at.Sub(began), nil
	case <-ctx.Done():
		l.onApplied(nil)
		return 0, fmt.Errorf("%d edges do not have it: %w", len(missing), ctx.Err())
	}
}

// timeAll changes what every tunnel has in it, and waits for the edges before one.
func (l *load) timeAll(ctx context.Context, from int) ([]map[int]time.Duration, error) {
	var all []map[int]time.Duration
	for n := range rounds {
		round, err := l.timeRound(ctx, from)
		if err != nil {
			return nil, fmt.Errorf("round %d: %w", n, err)
		}
		all = append(all, round)
		if err := l.settle(ctx, from); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (l *load) timeRound(ctx context.Context, from int) (map[int]time.Duration, error) {
	round := map[int]time.Duration{}
	done := make(chan struct{})
	began := time.Now()
	l.onApplied(func(index int, at time.Time) {
		if _, had := round[index]; !had && index < from {
			if round[index] = at.Sub(began); len(round) == from {
				close(done)
			}
		}
	})
	defer l.onApplied(nil)
	if err := l.updateProfile(ctx); err != nil {
		return nil, err
	}
	select {
	case <-done:
		return round, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *load) updateProfile(ctx context.Context) error {
	l.profileChanges++
	_, err := l.controller.topology.UpdateProfile(ctx, &swanherdv1.UpdateProfileRequest{
		Profile:    &swanherdv1.Profile{Name: network + "/profiles/default", DpdDelay: durationpb.New(time.Duration(10+l.profileChanges) * time.Second)},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"dpd_delay"}},
	})
	return err
}
