package plan

import (
	"cmp"
	"fmt"
	"net/netip"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// Ways answers over which tunnels of a plan one prefix reaches another. Unlike
// Explain it knows nothing but the plan, so it is also for plans that are made of two
// topologies.
type Ways struct {
	plan *Plan
	// sites by segment and name, with the ends of tunnels that they have there.
	sites map[waySiteKey]*waySite
}

type waySiteKey struct{ segment, site string }

type waySite struct {
	name     string
	segment  string
	prefixes []netip.Prefix
	ends     []wayEnd
}

// wayEnd is an end of a tunnel, seen from its site.
type wayEnd struct {
	tunnel, to string
	// edge whose intent says what the tunnel takes: the one here or, at a gateway, the one
	// at the other end.
	edge     string
	mirrored bool
}

// NewWays makes the index of a network's tunnels.
func NewWays(p *Plan, network model.NetworkName) *Ways {
	w := &Ways{plan: p, sites: map[waySiteKey]*waySite{}}
	for row := range p.Tunnels.InNetwork(network) {
		a, b := row.Value.GetA(), row.Value.GetB()
		segment := model.SegmentID(row.Value.GetSegment())
		w.add(row.Name, segment, a, b)
		w.add(row.Name, segment, b, a)
	}
	return w
}

func (w *Ways) add(tunnel, segment string, at, to *swanherdv1.TunnelEnd) {
	key := waySiteKey{segment, place(at)}
	s := w.sites[key]
	if s == nil {
		s = &waySite{name: place(at), segment: segment, prefixes: parsePrefixes(at.GetPrefixes())}
		w.sites[key] = s
	}
	s.ends = append(s.ends, wayEnd{tunnel: tunnel, to: place(to), edge: cmp.Or(at.GetEdge(), to.GetEdge()), mirrored: at.GetEdge() == ""})
}

// place is the site or the gateway at an end.
func place(end *swanherdv1.TunnelEnd) string { return cmp.Or(end.GetSite(), end.GetGateway()) }

// Reach says whether all of source reaches all of destination, both in the segment with
// that id (empty: the default one), over tunnels of which usable is true, and if not why.
// At each site the way is the tunnel whose traffic selectors take both, the narrowest
// first.
func (w *Ways) Reach(segment string, source, destination netip.Prefix, usable func(tunnel string) bool) (reason string, ok bool) {
	at := w.siteOf(segment, source)
	if at == nil {
		return fmt.Sprintf("no site with a tunnel has %s", source), false
	}
	for visited := map[*waySite]bool{}; !covers(at.prefixes, destination); {
		if visited[at] || len(visited) == maxHops {
			return fmt.Sprintf("the way goes round in circles at %s", short(at.name)), false
		}
		visited[at] = true
		next, down := w.hop(at, source, destination, usable)
		switch {
		case next == nil && down != "":
			return fmt.Sprintf("tunnel %s is not up", short(down)), false
		case next == nil:
			return fmt.Sprintf("no tunnel at %s takes %s to %s", short(at.name), source, destination), false
		}
		at = next
	}
	return "", true
}

// siteOf is the site with the narrowest prefix that covers p.
func (w *Ways) siteOf(segment string, p netip.Prefix) *waySite {
	var found *waySite
	bits := -1
	for key, s := range w.sites {
		if key.segment != segment {
			continue
		}
		for _, have := range s.prefixes {
			if have.Bits() > bits && cover(have, p) {
				found, bits = s, have.Bits()
			}
		}
	}
	return found
}

// hop is the site behind the best tunnel at a site; without one, a tunnel that would
// do if it were usable.
func (w *Ways) hop(at *waySite, source, destination netip.Prefix, usable func(string) bool) (next *waySite, down string) {
	bits := -1
	for _, e := range at.ends {
		for _, child := range w.plan.tunnelIntent(e.edge, e.tunnel).GetChildren() {
			near, far := protected(child)
			if e.mirrored {
				near, far = far, near
			}
			if !covers(parsePrefixes(near), source) {
				continue
			}
			for _, remote := range parsePrefixes(far) {
				switch {
				case remote.Bits() <= bits || !cover(remote, destination):
				case !usable(e.tunnel):
					down = e.tunnel
				default:
					next, bits = w.sites[waySiteKey{at.segment, e.to}], remote.Bits()
				}
			}
		}
	}
	return next, down
}

// cover says whether all of p is in have.
func cover(have, p netip.Prefix) bool {
	return have.Bits() <= p.Bits() && have.Contains(p.Addr())
}

func covers(have []netip.Prefix, p netip.Prefix) bool {
	for _, h := range have {
		if cover(h, p) {
			return true
		}
	}
	return false
}
