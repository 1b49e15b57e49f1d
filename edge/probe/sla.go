package probe

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// judgeInterval is how often a path is held against its limits.
	judgeInterval = time.Second
	// leastProbes is how many there have to be before a path is judged.
	leastProbes = 20
	// A path has to be over a limit for violateAfter before that counts, and at most
	// clearShare of it for clearAfter before it does no more.
	violateAfter = 3 * time.Second
	clearAfter   = 10 * time.Second
	clearShare   = 0.9
)

// judge holds one path against its limits, with hysteresis: a path at a limit does not
// flap.
type judge struct {
	limits []limit
}

type limit struct {
	metric swanherdv1.SlaMetric
	most   float64
	// since is for how long the path has been on the other side of the limit than what
	// stands; zero: it is not.
	since    time.Time
	violated *swanherdv1.SlaViolation
}

func newJudge(sla *swanherdv1.PathSla) judge {
	var j judge
	if sla == nil {
		return j
	}
	if sla.MaxLossPercent != nil {
		j.limits = append(j.limits, limit{metric: swanherdv1.SlaMetric_SLA_METRIC_LOSS, most: sla.GetMaxLossPercent()})
	}
	if d := sla.GetMaxLatency(); d != nil {
		j.limits = append(j.limits, limit{metric: swanherdv1.SlaMetric_SLA_METRIC_LATENCY, most: millis(d.AsDuration())})
	}
	if d := sla.GetMaxJitter(); d != nil {
		j.limits = append(j.limits, limit{metric: swanherdv1.SlaMetric_SLA_METRIC_JITTER, most: millis(d.AsDuration())})
	}
	return j
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// look judges the figures of now.
func (j *judge) look(now time.Time, q *swanherdv1.PathQuality) {
	for i := range j.limits {
		if v, ok := measured(j.limits[i].metric, q); ok {
			j.limits[i].look(now, v)
		}
	}
}

func (l *limit) look(now time.Time, v float64) {
	turning, after := v > l.most, violateAfter
	if l.violated != nil {
		turning, after = v <= l.most*clearShare, clearAfter
	}
	switch {
	case !turning:
		l.since = time.Time{}
		return
	case l.since.IsZero():
		l.since = now
	}
	if now.Sub(l.since) < after {
		return
	}
	l.since = time.Time{}
	if l.violated != nil {
		l.violated = nil
	} else {
		l.violated = &swanherdv1.SlaViolation{Metric: l.metric, Measured: v, Limit: l.most, StartTime: timestamppb.New(now)}
	}
}

// measured is what q says of a metric; false if there is too little of it.
func measured(m swanherdv1.SlaMetric, q *swanherdv1.PathQuality) (float64, bool) {
	// Of a peer that never answered, such as one whose firewall is in the way, nothing is
	// known: whether the tunnel carries traffic, IKE tells.
	if q.GetWindowProbes() < leastProbes || q.GetProbes() == q.GetProbesLost() {
		return 0, false
	}
	if m == swanherdv1.SlaMetric_SLA_METRIC_LOSS {
		return 100 * float64(q.GetWindowLost()) / float64(q.GetWindowProbes()), true
	}
	if q.GetWindowProbes() == q.GetWindowLost() {
		return 0, false
	}
	if m == swanherdv1.SlaMetric_SLA_METRIC_LATENCY {
		return float64(q.GetRttAvgUs()) / 1000, true
	}
	return float64(max(q.GetJitterOutUs(), q.GetJitterInUs())) / 1000, true
}

// violations are those that stand.
func (j *judge) violations() []*swanherdv1.SlaViolation {
	var out []*swanherdv1.SlaViolation
	for _, l := range j.limits {
		if l.violated != nil {
			out = append(out, l.violated)
		}
	}
	return out
}

// classJudge is a judge for one class of traffic.
type classJudge struct {
	Class
	judge
}

// newClassJudges judges for classes; of those whose limits are the same what is known stays.
func newClassJudges(classes []Class, before []classJudge) []classJudge {
	var out []classJudge
	for _, c := range classes {
		j := classJudge{c, newJudge(c.SLA)}
		for _, old := range before {
			if old.Name == c.Name && sameLimits(old.SLA, c.SLA) {
				j = old
			}
		}
		out = append(out, j)
	}
	return out
}

// outside are the limits that a path is over, by class.
func (p *path) outside() map[string][]*swanherdv1.SlaViolation {
	var out map[string][]*swanherdv1.SlaViolation
	add := func(name string, j *judge) {
		if v := j.violations(); len(v) > 0 {
			if out == nil {
				out = map[string][]*swanherdv1.SlaViolation{}
			}
			out[name] = v
		}
	}
	add("", &p.judge)
	for i := range p.classes {
		add(p.classes[i].Name, &p.classes[i].judge)
	}
	return out
}
