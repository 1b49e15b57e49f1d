package ike

import "time"

// clock turns the time that a machine is given into one that never goes back.
// Lifetimes are measured by it (RFC 7296, Section 2.8), so a caller's clock that
// is set back does not keep an SA in use for longer. One that leaps ahead does
// make SAs expire: it may be that the host slept.
//
// Times from time.Now have a monotonic part and never go back.
type clock struct {
	now   time.Time
	ahead time.Duration // of the caller's time
}

// set takes the caller's time.
func (c *clock) set(now time.Time) {
	now = now.Add(c.ahead)
	if now.Before(c.now) {
		c.ahead += c.now.Sub(now)
		now = c.now
	}
	c.now = now
}

// outside returns a time as the caller's clock shows it.
func (c *clock) outside(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(-c.ahead)
}
