package nat

import (
	"net/netip"
	"time"
)

// At first the peer's attempt may be on its way already; then it is enough that a NAT does
// not forget, which some do after 30 s in which nothing came back. It is what a tunnel that is
// up costs too (RFC 3948, Section 4).
const (
	openQuickly = 10
	openBegin   = time.Second
	openLater   = 20 * time.Second
)

// Opening is a tunnel whose peer initiates, and is let in by the NAT of this end once
// something was sent to it.
type Opening struct {
	Tunnel        string
	Local, Remote netip.AddrPort
}

// Opener says when to send to peers that are waited for. It is for one goroutine.
type Opener struct {
	waiting map[Opening]*opening
}

type opening struct {
	sent int
	next time.Time
}

// Set says which tunnels wait for their peers.
func (o *Opener) Set(now time.Time, waiting []Opening) {
	next := make(map[Opening]*opening, len(waiting))
	for _, w := range waiting {
		if next[w] = o.waiting[w]; next[w] == nil {
			next[w] = &opening{next: now}
		}
	}
	o.waiting = next
}

// Step returns where a keepalive (RFC 3948, Section 2.3) is due now.
func (o *Opener) Step(now time.Time) []Opening {
	var out []Opening
	for w, at := range o.waiting {
		if now.Before(at.next) {
			continue
		}
		out = append(out, w)
		at.next = now.Add(openLater)
		if at.sent++; at.sent < openQuickly {
			at.next = now.Add(openBegin)
		}
	}
	return out
}
