package engine

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
)

const (
	// cookiesStay is how long cookies are demanded after the load has gone.
	// Switching them on and off with every packet would make initiators that
	// are under way repeat themselves.
	cookiesStay = 10 * time.Second
	// refuseFactor is how many times its rate a source may be over before it
	// gets no answer at all.
	refuseFactor = 8
	// What has been admitted and waits for the workers may take them backlogCookies
	// before cookies are demanded, and strangersBacklog before strangers are turned
	// away: they ask again, and by then the wait is shorter. Configured peers have
	// some more time.
	backlogCookies   = 250 * time.Millisecond
	strangersBacklog = time.Second
	peersBacklog     = 4 * time.Second
	// reserved is the part of the half-open responders that strangers cannot
	// take.
	reserved = 4
	// Sizes of the tables of sources.
	knownBuckets, strangerBuckets = 8192, 8192
)

// admission decides on IKE_SA_INIT requests before they cost any state. It is
// used by all receiving goroutines at once.
type admission struct {
	counters  *counters
	limits    Limits
	known     rates // sources that are configured peers have a budget of their own
	strangers rates
	// backlog is how long the handshakes that were admitted keep the workers busy,
	// as far as measured.
	backlog func() time.Duration

	cookiesUntil atomic.Int64 // nanoseconds since 1970

	mu      sync.Mutex
	cookies *ike.CookieSecret // guarded by mu
}

// rates are the two limits of a source: above soft it has to prove its
// address, above hard it is not heard.
type rates struct{ soft, hard *rateLimiter }

func newRates(l Limits, buckets int) rates {
	return rates{
		soft: newRateLimiter(l.InitPerSecond, l.InitBurst, buckets),
		hard: newRateLimiter(refuseFactor*l.InitPerSecond, refuseFactor*l.InitBurst, buckets),
	}
}

func newAdmission(c Config, counters *counters, backlog func() time.Duration) (*admission, error) {
	cookies, err := ike.NewCookieSecret(time.Now(), c.Rand)
	if err != nil {
		return nil, err
	}
	return &admission{
		counters:  counters,
		limits:    c.Limits,
		known:     newRates(c.Limits, knownBuckets),
		strangers: newRates(c.Limits, strangerBuckets),
		cookies:   cookies,
		backlog:   backlog,
	}, nil
}

// decide returns whether an IKE_SA_INIT request goes on to the front loop; it
// then counts as half open. If not, reply is what to answer, nil for nothing.
// A source that is proved is not asked for a cookie: with TCP its address is (RFC
// 9329, Section 6.3). peers is how many configured peers have that address: many
// sites behind one carrier's NAT have as much as many addresses.
func (a *admission) decide(now time.Time, source netip.Addr, peers int, proved bool, b []byte) (admitted bool, reply []byte) {
	nonce, cookie, ok := scanInit(b)
	if !ok {
		a.counters.drop(DropInitMalformed)
		return false, nil
	}
	r, room, patience := a.strangers, a.limits.HalfOpen-a.limits.HalfOpen/reserved, strangersBacklog
	if peers > 0 {
		r, room, patience = a.known, a.limits.HalfOpen, peersBacklog
	}
	if !r.hard.allowOf(source, now, peers) {
		a.counters.drop(DropRate)
		return false, nil
	}
	overRate := !r.soft.allowOf(source, now, peers)
	if !proved && (a.loaded(now) || overRate) {
		spi := wire.SPI(b[:8])
		if cookie == nil || !a.check(now, cookie, source, spi, nonce) {
			// RFC 7296, Section 2.6: a wrong cookie is as none.
			a.counters.drop(DropCookieSent)
			return false, a.demand(now, source, wire.ExchangeType(b[18]), spi, nonce)
		}
	}
	if a.backlog() > patience {
		a.counters.drop(DropBusy)
		return false, nil
	}
	if a.counters.halfOpen.Add(1) > int64(room) {
		a.counters.halfOpen.Add(-1)
		a.counters.drop(DropHalfOpenFull)
		return false, nil
	}
	return true, nil
}

// loaded reports whether every initiator has to prove its address.
func (a *admission) loaded(now time.Time) bool {
	if a.limits.CookieThreshold < 0 {
		return true
	}
	t := now.UnixNano()
	if a.counters.halfOpen.Load() >= int64(a.limits.CookieThreshold) || a.backlog() > backlogCookies {
		a.cookiesUntil.Store(t + int64(cookiesStay))
		return true
	}
	return t < a.cookiesUntil.Load()
}

func (a *admission) check(now time.Time, cookie []byte, source netip.Addr, spi wire.SPI, nonce []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cookies.Check(now, cookie, source, spi, nonce)
}

// demand returns the response that asks for a cookie (RFC 7296, Section 2.6).
// It is shorter than the request.
func (a *admission) demand(now time.Time, source netip.Addr, exchange wire.ExchangeType, spi wire.SPI, nonce []byte) []byte {
	a.mu.Lock()
	cookie, err := a.cookies.Make(now, source, spi, nonce)
	a.mu.Unlock()
	if err != nil {
		return nil
	}
	response := wire.Message{
		Header: wire.Header{
			InitiatorSPI: spi, Major: 2, Exchange: exchange, Flags: wire.FlagResponse,
		},
		Payloads: []wire.Payload{&wire.Notify{Kind: wire.NotifyCookie, Data: cookie}},
	}
	b, err := response.Append(nil)
	if err != nil {
		return nil
	}
	return b
}

// admit takes an IKE_SA_INIT request from a receiving goroutine to the front
// loop, or answers it without keeping anything.
func (e *Engine) admit(now time.Time, w way, b []byte) {
	peers := len(e.index.Load().matcher.peersAt[w.remote.Addr().Unmap()])
	admitted, reply := e.front.admission.decide(now, w.remote.Addr(), peers, w.tcp, b)
	if reply != nil {
		e.sendOver(w, reply)
	}
	if admitted && !e.front.offer(datagram{way: w, data: append([]byte(nil), b...)}) {
		e.counters.halfOpen.Add(-1)
		e.counters.drop(DropMailboxFull)
	}
}

// sendOver sends one message back the way that another came.
func (e *Engine) sendOver(w way, b []byte) {
	e.send(ike.Send{Local: w.local, Remote: w.remote, TCP: w.tcp, Datagrams: [][]byte{b}, NATPort: !e.isOwn(w.local)})
}

// isOwn reports whether local is the engine's own socket and not the data
// plane's.
func (e *Engine) isOwn(local netip.AddrPort) bool {
	return e.socket != nil && local.Port() == e.socket.port
}
