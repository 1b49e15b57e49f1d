package probe

import (
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// FastInterval is the mean time between two probes of a path with alternatives, in use.
	FastInterval = 300 * time.Millisecond
	// fastVary is by how much that varies: less than for others, or the longest pause would
	// be too much of the second in which a dead path is to be left.
	fastVary = 0.1
	// An answer is late after slackFactor times the round trip and slack: what the hosts
	// hold packets back for (gatherTime, at both ends) is within the latter.
	slackFactor = 1.25
	slack       = 50 * time.Millisecond
	// firstPatience is for the first answer, of which the round trip is not known, and
	// mostPatience bounds it for the others.
	firstPatience = 500 * time.Millisecond
	mostPatience  = time.Second
	// rttDecay is the part of the way down to a shorter round trip that one answer goes.
	rttDecay = 8
	// quickProbes, quickInterval apart, tell whether a path whose answer is late is dead.
	quickProbes   = 3
	quickInterval = 40 * time.Millisecond
	// deadAfter is how long there was no answer when a path is dead, at least: a round trip
	// that jumps by some hundred milliseconds, as when a queue fills, is no death.
	deadAfter = 650 * time.Millisecond
	// roundPause is between two rounds of them, while packets of the peer come in.
	roundPause = 300 * time.Millisecond
	// For doubtTime after the answer to a regular probe is late a path is probed each
	// doubtInterval, unless it is metered: to tell within seconds what it loses takes more
	// probes than liveness does. Then it is not for doubtPause, so that the figures of a path
	// that always loses some are of enough regular probes.
	doubtTime     = 5 * time.Second
	doubtInterval = 60 * time.Millisecond
	doubtPause    = 15 * time.Second
	// mostSilences is how often in a row the silence of a peer makes its path suspect.
	mostSilences = 3
	// recentTime is what Life's loss is about.
	recentTime = 4 * time.Second
	// A dead path lives again after reviveAnswers in a row, over reviveTime at least.
	reviveAnswers = 5
	reviveTime    = 2 * time.Second
)

// State says whether a path carries packets, as far as that can be seen from here.
type State uint8

const (
	// Unknown: no probe was answered yet. Whether the peer answers any, such as one with a
	// firewall in the way, is not known, so it says nothing about the path.
	Unknown State = iota
	// Alive: probes are answered.
	Alive
	// Suspect: the answer to the last probe is late. It stays so while none comes and
	// other packets of the peer do: the path is not dead in that direction.
	Suspect
	// Dead: no answer, and no other packet of the tunnel either.
	Dead
)

func (s State) String() string {
	return [...]string{"unknown", "alive", "suspect", "dead"}[s]
}

// Life is what is known of a path with alternatives.
type Life struct {
	State State
	// Since is when it became so.
	Since time.Time
	// Probes and Lost are those of the last seconds of which it is known whether they were
	// answered in time, and those that were not; of an Unknown path none was.
	Probes, Lost int
	// RTT is the round trip that answers are awaited for: up at once, down slowly. Zero:
	// not known.
	RTT time.Duration
	// Outside are the limits that the path is over, by class of traffic; "" is the path's
	// own SLA.
	Outside map[string][]*swanherdv1.SlaViolation
}

// liveness tells whether a path is alive. It is part of its path, and has no clock.
type liveness struct {
	state State
	since time.Time
	rtt   time.Duration
	// decided is the number below which it is known of all probes whether their answers
	// came in time.
	decided uint32
	// doubt is until when probes are sent as in doubt; extra when the next one is that is
	// not of the regular ones; zero: there is none.
	doubt, extra time.Time
	// quick is how many of a round are still to be sent, last the number of its last one.
	quick int
	last  uint32
	// over is when it counts that none of the round was answered in time; zero: some may
	// still be.
	over time.Time
	// answered is when the last answer came.
	answered time.Time
	// asks is why the counter of received packets is to be read.
	asks     question
	received uint64
	// row counts the answers since rowSince while dead.
	row      int
	rowSince time.Time
	// revived is when it became alive for the first time, or last after it was dead: what was
	// lost before says nothing, or nothing any more.
	revived time.Time
	// peer is when the last probe of the peer came, and every how often they come, at
	// most; silent is when its next one is overdue. They stand in for probes of this end
	// where it has too many tunnels to send enough.
	peer, silent time.Time
	every        time.Duration
	silences     int
}

// question is what the counter of received packets has to answer.
type question uint8

const (
	noQuestion question = iota
	// before: how much has been received before a round.
	before
	// verdict: whether anything was received since.
	verdict
)

// patience is how long an answer may take.
func (l *liveness) patience() time.Duration {
	if l.rtt == 0 {
		return firstPatience
	}
	return min(time.Duration(slackFactor*float64(l.rtt))+slack, mostPatience)
}

func (l *liveness) become(now time.Time, s State) (turned bool) {
	if l.state == s {
		return false
	}
	l.state, l.since = s, now
	l.row, l.quick, l.asks, l.over = 0, 0, noQuestion, time.Time{}
	return true
}

// answer takes in that the probe was answered, which was sent at a time.
func (l *liveness) answer(now, sent time.Time) (turned bool) {
	if took := now.Sub(sent); took >= l.rtt {
		l.rtt = took
	} else {
		l.rtt -= (l.rtt - took) / rttDecay
	}
	l.answered = now
	if l.state == Unknown {
		l.revived = now
	}
	if l.state != Dead {
		return l.become(now, Alive)
	}
	if sent.Before(l.since) {
		return false // on its way since before the path died
	}
	if l.row++; l.row == 1 {
		l.rowSince = now
	}
	if l.row < reviveAnswers || now.Sub(l.rowSince) < reviveTime {
		return false
	}
	l.revived = now
	return l.become(now, Alive)
}

// decide looks which probes' answers are late. Known says that the peer has ever answered.
func (l *liveness) decide(now time.Time, r *ring, known bool) (turned bool) {
	for ; l.decided != r.next; l.decided++ {
		s := r.slot(l.decided)
		if s.outcome == waiting && now.Before(s.at.Add(l.patience())) {
			break
		}
		if s.outcome == answered || !known {
			continue
		}
		if !s.extra && now.Sub(l.doubt) > doubtPause {
			l.doubt = now.Add(doubtTime)
		}
		turned = l.late(now, l.decided) || turned
	}
	l.judge(now)
	return turned
}

// late takes in that the answer to a probe is late.
func (l *liveness) late(now time.Time, sequence uint32) bool {
	switch l.state {
	case Dead:
		l.row = 0
		return false
	case Suspect:
		if l.quick == 0 && sequence == l.last {
			l.over = l.answered.Add(deadAfter)
		}
		return false
	}
	return l.suspect(now)
}

// suspect begins to find out whether the path is dead.
func (l *liveness) suspect(now time.Time) bool {
	turned := l.become(now, Suspect)
	l.round(now)
	return turned
}

// round has quick probes sent from a time on.
func (l *liveness) round(at time.Time) {
	l.quick, l.extra, l.asks, l.over = quickProbes, at, before, time.Time{}
}

// judge asks whether the path is dead, if it is time to.
func (l *liveness) judge(now time.Time) {
	if !l.over.IsZero() && !l.over.After(now) && l.asks == noQuestion {
		l.asks, l.over = verdict, time.Time{}
	}
}

// hear takes in how many packets of the tunnel were received.
func (l *liveness) hear(now time.Time, received uint64) (turned bool) {
	asked := l.asks
	l.asks = noQuestion
	grown := received > l.received
	l.received = received
	switch {
	case l.state != Suspect:
		return false
	case asked == before:
		l.judge(now)
		return false
	case grown:
		// Something comes in: it is the probes that are lost, or all that goes out.
		l.round(now.Add(roundPause))
		l.asks = noQuestion // it was just read
		return false
	}
	l.extra = time.Time{}
	return l.become(now, Dead)
}

// sentExtra notes that a probe beside the regular ones was sent, and when the next is due.
func (l *liveness) sentExtra(now time.Time, sequence uint32) {
	switch {
	case l.quick > 1:
		l.quick, l.extra = l.quick-1, now.Add(quickInterval)
	case l.quick == 1:
		l.quick, l.last, l.extra = 0, sequence, now.Add(doubtInterval)
	case now.Before(l.doubt) && l.state != Dead:
		l.extra = now.Add(doubtInterval)
	default:
		l.extra = time.Time{}
	}
}

// heardProbe takes in that a probe of the peer came.
func (l *liveness) heardProbe(now time.Time) {
	switch gap := now.Sub(l.peer); {
	case l.peer.IsZero():
	case gap > mostPatience:
		l.every = 0 // too seldom to tell anything
	case gap >= l.every:
		l.every = gap
	default:
		l.every -= (l.every - gap) / rttDecay
	}
	l.peer, l.silences = now, 0
	l.listen(now)
}

// listen awaits the peer's next probe.
func (l *liveness) listen(now time.Time) {
	if l.silent = (time.Time{}); l.every > 0 && l.silences < mostSilences {
		l.silent = now.Add(time.Duration(slackFactor*float64(l.every)) + slack)
	}
}

// wake is when something is due beside the regular probes; zero: nothing is.
func (l *liveness) wake(r *ring) time.Time {
	late := time.Time{}
	if l.decided != r.next {
		late = r.slot(l.decided).at.Add(l.patience())
	}
	first, over := l.extra, l.over
	if l.asks != noQuestion {
		over = time.Time{} // hear goes on with it
	}
	for _, at := range []time.Time{late, l.silent, over} {
		if first.IsZero() || !at.IsZero() && at.Before(first) {
			first = at
		}
	}
	return first
}

// recent counts the probes of the last seconds, and those not answered in time.
func (l *liveness) recent(now time.Time, r *ring) (probes, lost int) {
	patience := l.patience()
	for i := r.next - 1; i != r.next; i-- {
		s := r.slot(i)
		if s.outcome == none || s.sequence != i || now.Sub(s.at) > recentTime || s.at.Before(l.revived) {
			break
		}
		switch {
		case s.outcome == answered:
			probes++
		case s.outcome != waiting || now.Sub(s.at) > patience:
			probes++
			lost++
		}
	}
	return probes, lost
}
