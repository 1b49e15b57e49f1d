package ike

import "time"

// lifetime is when what is due with an IKE SA. A zero time is never.
type lifetime struct {
	begun       time.Time // when its first message came or went
	established time.Time
	rekeyAt     time.Time
	expireAt    time.Time
	endAt       time.Time // half-open, redundant and lingering ones end then
	renewAt     time.Time // it is replaced then, if the peer has not done that
	outdated    bool      // a new configuration wants it replaced, and until then it stays
	wantRekey   bool
}

// lifetime chooses when an SA is replaced and when it must end. Its maker goes
// first, at a random time; the other end only steps in if that fails (RFC 7296,
// Section 2.8.1).
func (t *Tunnel) lifetime(life time.Duration, maker bool) (rekey, expire time.Time) {
	over := t.timing.overTime(life)
	soft := life - t.jitter(time.Duration(t.timing.Jitter*float64(life)))
	if !maker {
		soft = life + over/2
	}
	return t.now.Add(soft), t.now.Add(life + over)
}

func (t *Tunnel) setIKELifetime(sa *ikeSA) {
	if t.timing.RekeyIKE > 0 {
		sa.rekeyAt, sa.expireAt = t.lifetime(t.timing.RekeyIKE, sa.initiator)
	}
}

func (t *Tunnel) tickIKE(sa *ikeSA) {
	sa.forgetParts()
	switch {
	case sa.state == stateDead:
		return
	case sa.state.in(stateListening | stateHalfOpen | stateIdentified | stateLingering):
		if t.due(sa.endAt) {
			sa.die()
		}
		return
	case sa.fallsBack():
		t.fallBack(sa)
		return
	case !sa.retransmit():
		t.lastChance(sa)
		return
	}
	sa.tickLink()
	sa.tickSeries()
	if !t.tickLifetime(sa) {
		return
	}
	if t.due(sa.yieldAt) {
		t.yieldUnasked(sa)
	}
	t.tickAuth(sa)
	if t.due(sa.dpdAt()) {
		t.checkLiveness(sa)
	}
	if t.due(sa.homeAt()) {
		sa.goHome()
	}
	if at := sa.keepAliveAt(); t.due(at) {
		sa.sent = t.now
		t.emit(KeepAlive{Local: sa.local, Remote: sa.remote})
	}
}

// tickLifetime ends and renews sa when its time has come. It returns false if sa is
// no more.
func (t *Tunnel) tickLifetime(sa *ikeSA) bool {
	if t.due(sa.expireAt) {
		sa.expireAt = time.Time{}
		if sa.alive() && !sa.redundant {
			t.noteExpiry("IKE SA", "")
		}
		sa.end(ReasonExpired)
	}
	if t.due(sa.endAt) {
		sa.endAt = time.Time{}
		if sa.redundant && sa.replaced {
			// The loser of a collision. The peer, who made it, may have
			// forgotten it without learning our answer (RFC 7296, Section
			// 2.25.2).
			sa.die()
			return false
		}
		sa.end(ReasonRedundant)
	}
	if t.due(sa.rekeyAt) {
		sa.rekeyAt = time.Time{}
		sa.wantRekey = true
	}
	if t.due(sa.ticketAt) {
		sa.ticketAt, sa.wantTicket = time.Time{}, sa.client
	}
	t.renew(sa)
	if t.due(sa.expiresAt()) {
		sa.wantVerify = true
	}
	return true
}

// end makes an IKE SA be deleted.
func (sa *ikeSA) end(why Reason) {
	if sa.state == stateEstablished || sa.state == stateRekeyed {
		sa.wantDelete = true
		sa.because(why)
	}
}

func (sa *ikeSA) addDeadlines(e *earliest) {
	if o := sa.window.outstanding; o != nil {
		e.add(o.at)
	}
	e.add(sa.endAt)
	for _, s := range sa.series {
		e.add(s.until)
	}
	if r := sa.parts[0]; r != nil {
		e.add(r.until)
	}
	if sa.state.in(stateUsable) {
		e.add(sa.expireAt)
		e.add(sa.rekeyAt)
		e.add(sa.ticketAt)
		e.add(sa.renewAt)
		e.add(sa.expiresAt())
		e.add(sa.authAt())
		e.add(sa.yieldAt)
		e.add(sa.dpdAt())
		e.add(sa.keepAliveAt())
		e.add(sa.redialAt())
		e.add(sa.leftAt())
		e.add(sa.homeAt())
	}
}
