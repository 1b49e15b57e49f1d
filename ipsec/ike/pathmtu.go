package ike

import (
	"net/netip"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// How long the datagrams of Child SAs may be on their way is found out by IKE (RFC
// 8899), where ESP has nothing that confirms an arrival. A probe is an INFORMATIONAL
// request, padded to the size to be tried and sent as one datagram that nobody may
// fragment, on the path of the Child SAs. Its answer is short, so that it says something
// of one direction: each end finds out about its own.
//
// A probe that gets no answer in time has failed, and becomes an ordinary request: its
// repetitions are cut into fragments (RFC 7383, Section 2.5.2), so that the exchange
// ends on every path on which IKE works. So there are none to a peer that does not take
// fragments. As some say that they do and ignore those of INFORMATIONAL exchanges, such as
// strongSwan with its mediation extension, that is tried first, with a request that is
// cut although it is short: where only its whole repetition is answered there is no search.
//
// Probes go when nothing else is to, and do not keep the window from what comes up then:
// they are repeated at once, and say nothing. But for those after an IKE SA was made they
// go only while packets go to the peer. See search.go for what is tried.

// pathMTU is the search on the path of the Child SAs in use.
type pathMTU struct {
	pathSearch
	path route // that it is about, zero for none yet
	want bool  // a probe of the size to be tried is to go
	// fresh: look whether or not packets go out.
	fresh    bool
	lookAt   time.Time // at the path, zero for never
	lookedAt time.Time
	told     int // the limit that the data plane has
	trial    trialOutcome
	// unended counts the probes in succession that got no answer in fragments either,
	// so that their IKE SA was given up. It may have been for another reason, or it is
	// a peer that cannot take them.
	unended int
}

// searchDelay is how long after an IKE SA was made its path is looked at, and a
// random time up to that longer: what is to be said first goes first.
const searchDelay = time.Second

// probeTimer is the least time after which a probe has failed (RFC 8899, Section 5.1.1).
// Any answer, also one to the repetitions, comes soon on a path that IKE works on.
const probeTimer = time.Second

// trialOutcome says whether the peer takes fragments of INFORMATIONAL exchanges: it does
// if maxProbes trials were not in vain.
type trialOutcome struct {
	takes bool
	vain  int
}

func (o trialOutcome) refuses() bool { return o.vain >= maxProbes }

const (
	// trialPadding makes a request that passes as a whole wherever IPv4 does, and is
	// cut for datagrams of trialSize octets.
	trialPadding = 380
	trialSize    = 320
)

// maxUnended bounds how often the time doubles for which no probe goes.
const maxUnended = 8

// searches reports whether sa is on the path to be searched and can do that. TCP has
// segments of its own.
func (t *Tunnel) searches(sa *ikeSA) bool {
	return sa != nil && sa == t.primary() && t.timing.PathMTU > 0 && sa.fragment && !sa.tcp && !t.pathMTU.trial.refuses() &&
		!t.moving && sa.unproved.isZero() && sa.route == sa.placed.route
}

// soon has the path looked at because an IKE SA was made: whatever it was before.
func (p *pathMTU) soon(t *Tunnel) {
	p.fresh, p.trial = true, trialOutcome{}
	if p.unended == 0 && t.timing.PathMTU > 0 {
		p.lookAt = t.now.Add(searchDelay + t.jitter(searchDelay))
	}
}

// forget begins anew, as the data plane does, because the Child SAs go another way.
func (p *pathMTU) forget() {
	*p = pathMTU{fresh: p.fresh, lookAt: p.lookAt, unended: p.unended, trial: p.trial}
}

// unanswered notes that an IKE SA is given up because a probe was not answered: there
// are none for a while.
func (p *pathMTU) unanswered(t *Tunnel) {
	p.want, p.fresh, p.lookAt = false, true, t.now.Add(t.timing.PathMTU<<p.unended)
	p.unended = min(p.unended+1, maxUnended)
}

// at is the limit of the path, 0 for what the host knows.
func (p *pathMTU) at(path route) int {
	if path != p.path {
		return 0
	}
	return p.told
}

func (p *pathMTU) status() PathStatus {
	s := PathStatus{MTU: p.exact, Limited: p.told != 0, Search: p.phase.String()}
	switch {
	case p.trial.refuses():
		s.Search = "unsupported"
	case p.exact == 0 && p.phase == searchComplete:
		s.Search = searching.String() // the size that the host knows is on its way
	}
	return s
}

// dueAt is when the path is to be looked at.
func (p *pathMTU) dueAt(t *Tunnel) time.Time {
	if sa := t.primary(); p.want || !t.searches(sa) || sa.asking {
		return time.Time{}
	}
	return p.lookAt
}

// watchPath begins the search on the path that the Child SAs go from now on.
func (t *Tunnel) watchPath() {
	sa, p := t.primary(), &t.pathMTU
	if !t.searches(sa) || sa.route == p.path {
		return
	}
	t.tellPath(0)
	p.forget()
	p.path, p.least = sa.route, []int{DefaultDatagram}
	if sa.remote.Addr().Unmap().Is4() {
		p.least = append(p.least, leastDatagram)
	}
	p.soon(t)
}

// lookAtPath asks what the host knows of the path, and whether it is in use, when it is
// time for that.
func (t *Tunnel) lookAtPath() {
	sa, p := t.primary(), &t.pathMTU
	if !t.due(p.dueAt(t)) {
		return
	}
	p.lookAt = t.now.Add(sa.vary(t.timing.PathMTU / confirmations))
	t.askActivity(sa, func(a Activity) {
		used := t.outside(t.now).Sub(a.Outbound) < t.now.Sub(p.lookedAt)
		if !used && !p.fresh || sa.route != p.path {
			return
		}
		p.fresh, p.lookedAt = false, t.now
		p.want = p.begin(a.PathMTU, t.now) != 0
	})
}

// tellPath has the data plane keep to a limit.
func (t *Tunnel) tellPath(limit int) {
	p := &t.pathMTU
	if p.told == limit {
		return
	}
	p.told = limit
	t.apply(nil, []dataplane.Op{dataplane.SetPathMTU{Tunnel: t.cfg.Name, MTU: limit}}, nil)
	t.emit(PathMTU{Local: p.path.local, Remote: p.path.remote, MTU: limit})
}

// tooLong takes that a probe was not sent.
func (t *Tunnel) tooLong(remote netip.AddrPort) {
	for _, sa := range t.sas {
		if o := sa.window.outstanding; o != nil && o.probe && o.silent == 0 && sa.remote == remote {
			o.refused, o.at = true, t.now
		}
	}
}

// lostProbe reports whether the request is a probe that is repeated for the first time.
func (o *outstanding) lostProbe() bool { return o.probe && o.silent == 1 }

// searchTask is the next request of the search.
func (t *Tunnel) searchTask(sa *ikeSA) task {
	if !t.pathMTU.trial.takes {
		return &fragmentTask{sa}
	}
	return &pathProbeTask{sa: sa}
}

// fragmentTask tries whether the peer takes fragments.
type fragmentTask struct{ sa *ikeSA }

func (f *fragmentTask) start() {
	o := f.sa.askPadded(trialPadding, trialSize, f.answered)
	if o != nil {
		o.trial = true
		f.sa.sendNew(o)
	}
}

func (f *fragmentTask) abandon() {}

func (f *fragmentTask) answered(*message) {
	trial, o := &f.sa.t.pathMTU.trial, f.sa.answered
	f.sa.finish()
	if trial.takes = o.silent == 0; !trial.takes && !o.hurried {
		trial.vain++
	}
}

// mendTrial has a trial repeated as a whole too.
func (sa *ikeSA) mendTrial(o *outstanding) {
	if datagrams, err := sa.cut(o.whole, leastDatagram); err == nil && o.original == nil {
		o.original, o.datagrams = o.datagrams, datagrams
	}
}

// askPadded makes a request with so much padding, in datagrams of that size.
func (sa *ikeSA) askPadded(padding, size int, handle func(*message)) *outstanding {
	o, err := sa.newSealed(wire.ExchangeInformational, []wire.Payload{&wire.Notify{Kind: wire.NotifyPadding, Data: make([]byte, padding)}}, size, handle)
	if err != nil {
		sa.fail(&Error{Op: "probe the path", Kind: KindInternal, Exchange: wire.ExchangeInformational, Err: err})
		return nil
	}
	o.at = sa.m.now.Add(sa.vary(max(o.pace.Base, probeTimer)))
	return o
}

// hurry ends a probe or trial that is out, because something else is to be done.
func (t *Tunnel) hurry(sa *ikeSA) {
	o := sa.window.outstanding
	if o == nil || !o.probe && !o.trial || o.silent > 0 || !t.hasOtherTask(sa) {
		return
	}
	o.hurried, o.at = true, t.now
	sa.retransmit()
}

// hasOtherTask reports whether sa has something to do that cannot wait.
func (t *Tunnel) hasOtherTask(sa *ikeSA) bool {
	if sa.wantDelete || t.pathTask(sa) != nil || len(t.doomedChildren(sa)) > 0 || len(sa.orphans) > 0 {
		return true
	}
	return sa == t.primary() && (sa.wantRekey || t.missingChild(sa) != nil ||
		slices.ContainsFunc(t.children, func(c *childSA) bool { return c.ike == sa && c.wantRekey && c.live() }))
}

// pathProbeTask sends a probe.
type pathProbeTask struct {
	sa    *ikeSA
	path  route
	exact int // octets of the datagram
}

func (p *pathProbeTask) start() {
	sa := p.sa
	search := &sa.t.pathMTU
	search.want, p.path = false, search.path
	padding, exact := sa.pad(search.try)
	p.exact = exact
	o := sa.askPadded(padding, search.try+markerLen, p.answered)
	if o != nil {
		o.probe = true
		sa.sendNew(o)
	}
}

// abandon has the search go on with the IKE SA that comes after.
func (p *pathProbeTask) abandon() {
	search := &p.sa.t.pathMTU
	search.want = search.path == p.path && search.unended == 0
}

// answered ends the exchange, whose answer says that the probe arrived unless it had to
// be repeated.
func (p *pathProbeTask) answered(*message) {
	sa, o := p.sa, p.sa.answered
	sa.finish()
	t, search := sa.t, &sa.t.pathMTU
	search.unended = 0
	if search.path != p.path {
		return
	}
	next := search.try
	switch {
	case o.hurried:
	case o.silent > 0:
		next = search.failed(o.refused, t.now, t.timing.PathMTU)
	case o.only(p.path):
		next = search.passed(p.exact, t.now, t.timing.PathMTU)
	}
	search.want = next != 0
	t.tellPath(search.limit)
}

// markerLen is the length of the non-ESP marker (RFC 3948, Section 2.2).
const markerLen = 4

// pad returns how many octets of padding make an IP datagram of size octets out of a
// request, or the next shorter one that the cipher allows, and how long that is.
func (sa *ikeSA) pad(size int) (padding, exact int) {
	room := room(size, sa.remote)
	if sa.local.Port() != sa.m.natPort {
		room += markerLen
	}
	const headers = wire.HeaderLen + 4 // and that of the Encrypted payload
	const notify = 8                   // the header of the notification
	for padding = room - headers - notify; padding > 0; padding-- {
		if n := headers + sa.sealer.SealedLen(notify+padding); n <= room {
			return padding, size - (room - n)
		}
	}
	return 0, size
}

// withoutPadding returns the payloads that say something.
func withoutPadding(payloads []wire.Payload) []wire.Payload {
	pads := func(p wire.Payload) bool {
		n, ok := p.(*wire.Notify)
		return ok && n.Kind == wire.NotifyPadding
	}
	if !slices.ContainsFunc(payloads, pads) {
		return payloads
	}
	return slices.DeleteFunc(slices.Clone(payloads), pads)
}
