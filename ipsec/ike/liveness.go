package ike

import (
	"time"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Whether the peer lives is told by what it sends: fresh IKE messages and ESP
// packets that passed authentication (RFC 7296, Section 2.4). Only silence makes
// this end ask. The data plane sees the packets, so it is asked first; the peer
// is asked by an empty request when it was silent for Timing.DPD, or for a third
// of that while packets go out to it and none comes back. Packets may come from a
// kernel whose IKE is dead, so it is also asked when it has said nothing by IKE for
// Timing.Silence.
//
// A peer that leaves a request unanswered is suspect after suspectTries
// repetitions: that is told, and nothing else happens. It is dead when the
// schedule of the request is used up, and no sooner.

// liveness is what is known of the life of the peer of an IKE SA.
type liveness struct {
	heard     time.Time // when the peer last proved to be alive
	spoke     time.Time // when it last did so by IKE
	sent      time.Time // when the last packet went to it
	asked     time.Time // when the data plane was last asked for that
	asking    bool      // it has not answered yet
	suspect   bool      // the peer leaves repeated requests unanswered
	wantProbe bool
	askUntil  time.Time // then the data plane is not waited for any more
	strayAt   time.Time // when a packet last came from where the peer should not be
	probeAt   time.Time // earliest next check caused by a hint
}

const (
	// oneWay is how much younger than the last packet received the last one sent
	// must be to count as sent in vain: the data plane knows the times to about a
	// second, and the last word of a conversation has no answer.
	oneWay = 2 * time.Second
	// strayTime is how long after a packet from another address than the peer's no
	// packet counts as a sign of life: the peer may have missed an update of
	// addresses (RFC 4555, Section 3.12).
	strayTime = 2 * time.Second
	// activityTime is how long the data plane may take to answer; after it
	// nothing has passed, as far as anybody knows.
	activityTime = 5 * time.Second
)

// Schedule says when a request is repeated that gets no answer: after Base, and
// then after ever longer intervals, each Backoff times the last (RFC 7296,
// Section 2.1) and varied by up to 10 %. When the one after the last of Tries
// repetitions is over, the IKE SA is given up.
type Schedule struct {
	Base    time.Duration
	Backoff float64
	Tries   int
}

// GiveUp is how long after its first transmission a request is given up, without
// the variation.
func (s Schedule) GiveUp() time.Duration {
	total, interval := 0.0, float64(s.Base)
	for range s.Tries + 1 {
		total += interval
		interval *= s.Backoff
	}
	return time.Duration(total)
}

// withDefaults takes from d what is not set.
func (s Schedule) withDefaults(d Schedule) Schedule {
	if s.Base == 0 {
		s.Base = d.Base
	}
	if s.Backoff == 0 {
		s.Backoff = d.Backoff
	}
	if s.Tries == 0 {
		s.Tries = d.Tries
	}
	return s
}

// schedule is that of the request which is about to be sent, or is out.
func (sa *ikeSA) schedule() Schedule {
	t := sa.m.timing
	if sa.state.in(stateLarval) {
		s := t.Handshake
		if sa.state == stateInit {
			s.Tries = min(s.Tries, sa.t.pairTries())
		}
		return s
	}
	switch sa.active.(type) {
	case *probeTask, *pathProbeTask, *fragmentTask, *updateTask, *checkTask, *announceTask, *homeTask:
		return t.Probe
	}
	return Schedule{t.RetransmitBase, t.RetransmitBackoff, t.RetransmitTries}
}

// dpdAt is when the silence of the peer is looked into. While a request is out,
// its repetitions are the check.
func (sa *ikeSA) dpdAt() time.Time {
	dpd := sa.m.timing.DPD
	switch {
	case dpd <= 0 || sa.state != stateEstablished || sa.wantProbe || sa.window.outstanding != nil:
		return time.Time{}
	case sa.asking:
		return sa.askUntil
	}
	last := sa.heard
	if sa.asked.After(last) {
		last = sa.asked
	}
	var at earliest
	at.add(last.Add(dpd / 3))
	at.add(sa.heard.Add(dpd))
	if silence := sa.m.timing.Silence; silence > 0 {
		at.add(sa.spoke.Add(silence))
	}
	return at.at
}

// hears notes that the peer has proved by IKE to be alive.
func (l *liveness) hears(now time.Time) { l.heard, l.spoke = now, now }

// checkLiveness asks the data plane what has passed since the peer was heard. An
// IKE SA without Child SAs asks the peer itself, when it is time for that.
func (t *Tunnel) checkLiveness(sa *ikeSA) {
	if sa == t.primary() && len(t.childrenOf(sa)) > 0 && !sa.asking {
		t.askActivity(sa, sa.passed)
		return
	}
	sa.passed(Activity{})
}

// askActivity has then called with what the data plane says.
func (t *Tunnel) askActivity(sa *ikeSA, then func(Activity)) {
	sa.asking, sa.askUntil = true, t.now.Add(activityTime)
	token := t.await(sa, func(a any) {
		sa.asking = false
		activity, _ := a.(Activity)
		then(activity)
	})
	t.emit(AskActivity{Token: token, Remote: sa.placed.remote.Addr()})
}

// passed takes what the data plane has seen, and decides whether to ask the
// peer.
func (sa *ikeSA) passed(a Activity) {
	now, dpd := sa.m.now, sa.m.timing.DPD
	sa.asked, sa.asking = now, false
	sa.noteActivity(a)
	silent, silence := now.Sub(sa.heard), sa.m.timing.Silence
	if silent >= dpd || silent >= dpd/3 && a.Outbound.Sub(sa.heard) > oneWay || silence > 0 && now.Sub(sa.spoke) >= silence {
		sa.wantProbe = sa.state == stateEstablished && sa.window.outstanding == nil
	}
}

// noteActivity counts packets that came from where the peer should be as a sign
// of life, and reports whether there were any since it was heard.
func (sa *ikeSA) noteActivity(a Activity) bool {
	if a.Outbound.After(sa.sent) {
		sa.sent = a.Outbound // as good as an IKE message for a NAT on the way
	}
	in := a.Inbound
	if in.After(sa.m.now) {
		in = sa.m.now
	}
	if !in.After(sa.heard) || !sa.strayAt.IsZero() && in.Sub(sa.strayAt) < strayTime {
		return false
	}
	sa.heard = in
	return true
}

// lastChance looks for packets of a peer that has left a liveness check
// unanswered for the whole schedule. If there are any, it goes on being asked:
// its IKE has trouble, its SAs work.
func (t *Tunnel) lastChance(sa *ikeSA) {
	o := sa.window.outstanding
	if _, asks := sa.active.(*probeTask); !asks || sa != t.primary() || sa.asking {
		t.unanswered(sa)
		return
	}
	o.at = t.now.Add(activityTime)
	t.askActivity(sa, func(a Activity) {
		switch {
		case sa.window.outstanding != o: // answered meanwhile
		case !sa.noteActivity(a):
			t.unanswered(sa)
		default:
			o.at = t.now.Add(sa.vary(o.interval))
			sa.repeat(o)
		}
	})
}

// keepAliveAt is when the NAT in front of this end needs a packet to keep its
// mapping: nothing else does that, and it says nothing about the peer (RFC 3948,
// Section 4).
func (sa *ikeSA) keepAliveAt() time.Time {
	if !sa.localNAT || sa.tcp || sa.state != stateEstablished || sa.m.timing.KeepAlive <= 0 {
		return time.Time{}
	}
	return sa.sent.Add(sa.m.timing.KeepAlive)
}

// suspectTries is how often a request is repeated before its silence is told:
// one lost datagram and one lost repetition are not worth a word.
const suspectTries = 2

// setSuspect tells when the doubt about an established peer begins and ends.
func (sa *ikeSA) setSuspect(suspect bool) {
	if suspect == sa.suspect || sa.state != stateEstablished {
		return
	}
	sa.suspect = suspect
	sa.m.emit(IKESuspect{sa.status()})
}

// probeTask asks the peer whether it lives, with an empty request (RFC 7296,
// Section 2.4). From behind a NAT it also asks where the peer sees this end (RFC
// 4555, Section 3.8).
type probeTask struct{ sa *ikeSA }

func (p *probeTask) start() {
	sa := p.sa
	sa.wantProbe = false
	var payloads []wire.Payload
	if sa.mobike && sa.decides() && (sa.localNAT || sa.remoteNAT) {
		payloads = sa.natNow()
	}
	sa.ask(wire.ExchangeInformational, payloads, func(m *message) {
		sa.finish()
		if payloads != nil {
			sa.remapped(m)
		}
	})
}

func (p *probeTask) abandon() {}
