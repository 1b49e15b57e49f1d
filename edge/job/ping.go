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
	pingCount    = 5
	pingInterval = time.Second
	pingSize     = 56
	// answerWait is how long after a request its answer may come.
	answerWait = 2 * time.Second
	// Bounds of what the controller may ask for, which it checks too.
	maxPings = 100
	maxSize  = 9000
)

func (r *Runner) ping(t *swanherdv1.PingTask) (work, time.Duration, error) {
	interval := pingInterval
	if t.GetInterval() != nil {
		interval = min(max(t.GetInterval().AsDuration(), 10*time.Millisecond), 10*time.Second)
	}
	count, size := min(cmp.Or(int(t.GetCount()), pingCount), maxPings), min(cmp.Or(int(t.GetSize()), pingSize), maxSize)
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
		p := &pings{echo: e, size: size, result: &swanherdv1.PingResult{}}
		if err := p.run(ctx, count, interval); err != nil {
			return failed(err)
		}
		return &swanherdv1.JobReport{Result: &swanherdv1.JobReport_PingResult{PingResult: p.result}}
	}
	return do, time.Duration(count)*interval + workLimit, nil
}

// pings are requests and what came back for them.
type pings struct {
	*echo
	size   int
	sent   []time.Time // by sequence number; zero: it was answered
	open   int         // how many were not
	total  time.Duration
	result *swanherdv1.PingResult
}

// run sends requests at an interval, and waits for the last answers.
func (p *pings) run(ctx context.Context, count int, interval time.Duration) error {
	for seq := range count {
		if ctx.Err() != nil {
			break
		}
		sent := time.Now()
		p.sent = append(p.sent, sent)
		p.result.Sent++
		if err := p.send(uint16(seq), p.size); err != nil { // as when there is no route, or it is too large
			p.sent[seq] = time.Time{}
			p.result.LastError = fmt.Sprintf("send: %v", errors.Unwrap(err))
		} else {
			p.open++
		}
		if seq == count-1 {
			interval = answerWait
		}
		if err := p.collect(ctx, sent.Add(interval), seq == count-1); err != nil {
			return err
		}
	}
	if n := p.result.GetReceived(); n > 0 {
		p.result.Mean = durationpb.New(p.total / time.Duration(n))
	}
	return nil
}

// collect takes answers until then, or, of the last request, until all are there.
func (p *pings) collect(ctx context.Context, until time.Time, last bool) error {
	for ctx.Err() == nil {
		if last && p.open == 0 {
			return nil
		}
		// A job that is cancelled is not waited for.
		a, err := p.receive(earlier(until, time.Now().Add(200*time.Millisecond)))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !time.Now().Before(until) {
				return nil
			}
		case err != nil:
			return fmt.Errorf("read answers: %w", err)
		default:
			p.take(a)
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (p *pings) take(a answer) {
	if int(a.seq) >= len(p.sent) || p.sent[a.seq].IsZero() {
		return // a second answer
	}
	round := a.at.Sub(p.sent[a.seq])
	p.sent[a.seq] = time.Time{}
	p.open--
	if a.err != nil {
		p.result.LastError = fmt.Sprintf("%s: %v", a.from, a.err)
		return
	}
	p.result.Received++
	p.total += round
	if p.result.GetMin() == nil || round < p.result.GetMin().AsDuration() {
		p.result.Min = durationpb.New(round)
	}
	if round > p.result.GetMax().AsDuration() {
		p.result.Max = durationpb.New(round)
	}
}
