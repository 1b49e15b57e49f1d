package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	traceHops = 30
	maxHops   = 64
	// traceTries is how often a router is asked that does not answer, and tryWait how
	// long each time. All are asked at once, as most of those behind the destination
	// would not be told apart from routers that keep silent.
	traceTries = 3
	tryWait    = time.Second
	// tracePace is the time between two requests: routers answer few at once.
	tracePace = 5 * time.Millisecond
)

func (r *Runner) trace(t *swanherdv1.TraceTask) (work, time.Duration, error) {
	hops := min(cmp.Or(int(t.GetMaxHops()), traceHops), maxHops)
	at, err := r.place(t.GetSegment())
	if err != nil {
		return nil, 0, err
	}
	e, err := openEcho(at, t.GetSource(), t.GetDestination())
	if err != nil {
		return nil, 0, err
	}
	do := func(ctx context.Context) *swanherdv1.JobReport {
		defer e.close()
		way := &way{echo: e, hops: make([]*swanherdv1.TraceHop, hops), sent: make([]time.Time, hops*traceTries), end: hops}
		for try := range traceTries {
			if err := way.ask(ctx, try); err != nil {
				return failed(err)
			}
		}
		return &swanherdv1.JobReport{Result: &swanherdv1.JobReport_TraceResult{TraceResult: way.result()}}
	}
	return do, workLimit, nil
}

// way is what is known of the way to a destination.
type way struct {
	*echo
	hops []*swanherdv1.TraceHop // by the hop limit less one; nil: nobody answered
	sent []time.Time            // by sequence number, which is try * len(hops) + hop
	// end is how many hops it has at the most.
	end     int
	reached bool
}

// ask asks those on the way that have not answered yet.
func (w *way) ask(ctx context.Context, try int) error {
	for hop := 0; hop < w.end && ctx.Err() == nil; hop++ {
		if w.hops[hop] != nil {
			continue
		}
		seq := try*len(w.hops) + hop
		w.sent[seq] = time.Now()
		if err := w.limit(hop + 1); err != nil {
			return fmt.Errorf("set the hop limit: %w", err)
		}
		if err := w.send(uint16(seq), pingSize); err != nil {
			return fmt.Errorf("send to %s: %w", w.destination, err)
		}
		if err := w.collect(ctx, time.Now().Add(tracePace)); err != nil {
			return err
		}
	}
	return w.collect(ctx, time.Now().Add(tryWait))
}

// collect takes answers until then, or until all are there.
func (w *way) collect(ctx context.Context, until time.Time) error {
	for ctx.Err() == nil && !w.complete() {
		a, err := w.receive(until)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("read answers: %w", err)
		}
		w.take(a)
	}
	return nil
}

func (w *way) complete() bool {
	for _, h := range w.hops[:w.end] {
		if h == nil {
			return false
		}
	}
	return true
}

func (w *way) take(a answer) {
	if int(a.seq) >= len(w.sent) || w.sent[a.seq].IsZero() {
		return
	}
	hop := int(a.seq) % len(w.hops)
	if w.hops[hop] != nil && w.hops[hop].GetAddress() != "" {
		return
	}
	h := &swanherdv1.TraceHop{Address: a.from.String(), RoundTrip: durationpb.New(a.at.Sub(w.sent[a.seq]))}
	w.hops[hop] = h
	if errors.Is(a.err, errHopLimit) {
		return
	}
	if a.err != nil {
		h.Error = a.err.Error()
	}
	if hop+1 <= w.end { // what was asked with more hops came to the same one
		w.end, w.reached = hop+1, a.err == nil
	}
}

// result is the way up to its end, or to the last router that answered.
func (w *way) result() *swanherdv1.TraceResult {
	hops := w.hops[:w.end]
	for len(hops) > 0 && hops[len(hops)-1] == nil {
		hops = hops[:len(hops)-1]
	}
	out := &swanherdv1.TraceResult{Reached: w.reached}
	for _, h := range hops {
		out.Hops = append(out.Hops, cmp.Or(h, &swanherdv1.TraceHop{}))
	}
	return out
}
