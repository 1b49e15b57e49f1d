package probe

import (
	"cmp"
	"math"
	"slices"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// windowProbes is how many settled probes the figures of a path are about.
	windowProbes = 100
	// ringSize holds them, those that may still be answered, and as many extra ones as
	// there are in some ten seconds: a power of two.
	ringSize = 256
	// lostAfter is when a probe that was not answered counts as lost: longer than any
	// path takes on which people still work.
	lostAfter = 2 * time.Second
)

type outcome uint8

const (
	none outcome = iota
	waiting
	answered
	lost
)

// sent is a probe: a slot of a ring, by its sequence number.
type sent struct {
	outcome  outcome
	sequence uint32
	// at is when it was sent, by the monotonic clock, and stamp what the packet says: a
	// peer that does not have the packet cannot answer it.
	at    time.Time
	stamp uint64
	// extra ones are sent when something is wrong, so no figures are of them.
	extra bool

	// Of answered ones.
	reflected uint32        // the peer's own number
	rtt       time.Duration // without the peer's part
	out, in   time.Duration // one way, by the clocks of both ends
}

// ring holds the last probes of a path. Its memory does not grow.
type ring struct {
	slots [ringSize]sent
	next  uint32 // sequence number of the next probe
	// settled is the number below which all probes are answered or lost.
	settled uint32
	totals  totals
}

// totals are since the path is probed.
type totals struct {
	probes, lost, answers uint64
	rtt                   time.Duration
	jitter                time.Duration
	jitters               uint64
}

func (r *ring) slot(sequence uint32) *sent { return &r.slots[sequence%ringSize] }

// send notes a probe and returns its packet's content.
func (r *ring) send(now time.Time, noise uint32, extra bool) test {
	t := test{Sequence: r.next, Time: ntp(now), ErrorEstimate: errorEstimate}
	// The lowest bits are below what the clock tells: a nonce.
	t.Time = t.Time&^0xff | uint64(noise&0xff)
	r.settle(now, r.next-min(r.next, ringSize-1))
	*r.slot(r.next) = sent{outcome: waiting, sequence: r.next, at: now, stamp: t.Time, extra: extra}
	r.next++
	return t
}

// settle counts as lost what was not answered for too long, and all below a number.
func (r *ring) settle(now time.Time, below uint32) {
	for ; r.settled != r.next; r.settled++ {
		s := r.slot(r.settled)
		if s.outcome == waiting {
			if r.settled >= below && now.Sub(s.at) < lostAfter {
				return
			}
			s.outcome = lost
			if !s.extra {
				r.totals.lost++
			}
		}
		if !s.extra {
			r.totals.probes++
		}
	}
}

// take takes in an answer. It is false if it answers no probe that waits for one.
func (r *ring) take(now time.Time, a answer) bool {
	r.settle(now, 0)
	s := r.slot(a.Test.Sequence)
	if s.outcome != waiting || s.sequence != a.Test.Sequence || s.stamp != a.Test.Time {
		return false
	}
	elapsed := now.Sub(s.at)
	s.outcome, s.reflected, s.rtt = answered, a.Sequence, elapsed
	// A peer whose clock jumped meanwhile tells nonsense about itself.
	if inside := between(a.Received, a.Time); inside > 0 && inside < elapsed {
		s.rtt -= inside
	}
	s.out, s.in = between(a.Test.Time, a.Received), between(a.Time, ntp(now))
	if s.extra {
		return true
	}
	r.totals.answers++
	r.totals.rtt += s.rtt
	if before := r.slot(s.sequence - 1); before.outcome == answered && before.sequence == s.sequence-1 && !before.extra {
		for _, d := range variations(before, s) {
			r.totals.jitter += d
			r.totals.jitters++
		}
	}
	return true
}

// variations are how much the delays of two successive probes differ, out and in; none
// if a clock jumped between them.
func variations(a, b *sent) []time.Duration {
	out, in := (b.out - a.out).Abs(), (b.in - a.in).Abs()
	if out > lostAfter || in > lostAfter {
		return nil
	}
	return []time.Duration{out, in}
}

// window returns the settled probes of it, in order, with the extra ones between them.
func (r *ring) window() []*sent {
	first, regular := r.settled, 0
	for ; regular < windowProbes && r.settled-first < ringSize && first != 0; first-- {
		s := r.slot(first - 1)
		if s.outcome == none || s.sequence != first-1 { // many that wait leave room for fewer
			break
		}
		if !s.extra {
			regular++
		}
	}
	out := make([]*sent, 0, r.settled-first)
	for ; first != r.settled; first++ {
		out = append(out, r.slot(first))
	}
	return out
}

// quality returns the figures; nil if there are none yet.
func (r *ring) quality(now time.Time) *swanherdv1.PathQuality {
	r.settle(now, 0)
	probes := r.window()
	if len(probes) == 0 {
		return nil
	}
	q := &swanherdv1.PathQuality{
		Probes: r.totals.probes, ProbesLost: r.totals.lost,
		RttSumUs: uint64(r.totals.rtt.Microseconds()), JitterSumUs: uint64(r.totals.jitter.Microseconds()), JitterCount: r.totals.jitters,
	}
	good := probes[:0] // what is read of it was read before
	extra := false
	for _, s := range probes {
		if s.outcome == answered {
			good = append(good, s)
		}
		if s.extra {
			extra = true
		} else if q.WindowProbes++; s.outcome != answered {
			q.WindowLost++
		}
	}
	if q.WindowProbes == 0 {
		return nil
	}
	q.WindowLostOut, q.WindowLostIn = r.directions(good)
	regular := good
	if extra {
		regular = slices.DeleteFunc(good, func(s *sent) bool { return s.extra })
	}
	if len(regular) > 0 {
		delays(q, regular)
	}
	return q
}

// directions tells on which way probes between answered ones were lost: the peer numbers
// what it answers, so what it has no number for did not reach it (RFC 8762, Section 4).
func (r *ring) directions(good []*sent) (out, in uint32) {
	for i := 1; i < len(good); i++ {
		a, b := good[i-1], good[i]
		gap := b.sequence - a.sequence - 1
		reflected := b.reflected - a.reflected - 1
		if gap == 0 || reflected > gap { // answers that overtook each other, or a peer that began anew
			continue
		}
		lost := r.regular(a.sequence+1, b.sequence)
		in += min(reflected, lost)
		out += lost - min(reflected, lost)
	}
	return out, in
}

// regular counts the probes from one number to below another that are no extra ones.
func (r *ring) regular(from, to uint32) (n uint32) {
	for i := from; i != to; i++ {
		if !r.slot(i).extra {
			n++
		}
	}
	return n
}

// delays fills in what answered probes say, at least one.
func delays(q *swanherdv1.PathQuality, good []*sent) {
	rtts := make([]time.Duration, len(good))
	var sum, difference time.Duration
	for i, s := range good {
		rtts[i] = s.rtt
		sum += s.rtt
		difference += s.out - s.in
	}
	slices.SortFunc(rtts, cmp.Compare[time.Duration])
	rank := func(percent int) time.Duration { return rtts[(len(rtts)*percent+99)/100-1] }
	n := time.Duration(len(rtts))
	q.RttMinUs, q.RttAvgUs, q.RttP50Us, q.RttP99Us = micros(rtts[0]), micros(sum/n), micros(rank(50)), micros(rank(99))
	q.OneWayDifferenceUs = (difference / n).Microseconds()
	var jitter [2]time.Duration
	var count time.Duration
	for i := 1; i < len(good); i++ {
		if good[i].sequence != good[i-1].sequence+1 {
			continue
		}
		if v := variations(good[i-1], good[i]); v != nil {
			jitter[0] += v[0]
			jitter[1] += v[1]
			count++
		}
	}
	if count > 0 {
		q.JitterOutUs, q.JitterInUs = micros(jitter[0]/count), micros(jitter[1]/count)
	}
}

func micros(d time.Duration) uint32 {
	return uint32(min(max(d.Microseconds(), 0), math.MaxUint32))
}
