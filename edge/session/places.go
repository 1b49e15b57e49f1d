package session

import (
	mathrand "math/rand/v2"
	"slices"
	"time"
)

// Bounds of the backoff, see backoff.
const (
	backoffMin = 500 * time.Millisecond
	backoffMax = time.Minute
)

// backoff is how long to wait before the next try, when there has been no session for that
// long: anything up to half of it (full jitter). So a fleet is back soon after a short
// outage, however often each of it tried in the meantime, and asks seldom in a long one.
func backoff(gone time.Duration) time.Duration {
	return mathrand.N(min(max(gone/2, backoffMin), backoffMax))
}

// places are the controller's endpoints, in the order in which they are tried.
type places struct {
	endpoints []string
	next      int
}

// newPlaces puts the endpoints in an order of chance, with the last good one first.
func newPlaces(endpoints []string, last string) places {
	p := places{endpoints: slices.Clone(endpoints)}
	mathrand.Shuffle(len(p.endpoints), func(i, j int) { p.endpoints[i], p.endpoints[j] = p.endpoints[j], p.endpoints[i] })
	p.good(last)
	return p
}

// current is the endpoint to try.
func (p *places) current() string { return p.endpoints[p.next] }

// advance goes on to the next endpoint.
func (p *places) advance() { p.next = (p.next + 1) % len(p.endpoints) }

// good makes an endpoint the current one, if it is one of them.
func (p *places) good(endpoint string) {
	if i := slices.Index(p.endpoints, endpoint); i >= 0 {
		p.next = i
	}
}

// anew are the endpoints in an order of chance, for a session that is to begin anew: all
// but one, if there are others.
func (p *places) anew(but string) []string {
	to := newPlaces(p.endpoints, "").endpoints
	if len(to) > 1 {
		to = slices.DeleteFunc(to, func(e string) bool { return e == but })
	}
	return to
}
