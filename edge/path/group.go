package path

import (
	"slices"
	"time"

	"github.com/swanherd/swanherd/edge/probe"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Group are tunnels to one peer that carry the same prefixes by different uplinks.
type Group struct {
	Name    string
	Members []Member
	// Classes are those of traffic beside the default one, "", that every group has.
	Classes []Class
}

// Class is a kind of traffic.
type Class struct {
	Name string
	// Transports are those whose paths go first if they are good enough, the first of them
	// before the second; then others. Empty: cost decides.
	Transports []swanherdv1.TransportClass
}

// Member is a tunnel of a group.
type Member struct {
	Tunnel string
	// Priority goes before all else between paths that are equally good, the lower first: of
	// several hubs one is the first.
	Priority uint32
	// Cost is lower where the path is preferred.
	Cost      uint64
	Transport swanherdv1.TransportClass
	Metered   bool
}

// Observation is what is known of a tunnel at a moment.
type Observation struct {
	// Up: it has all its SAs.
	Up bool
	probe.Life
}

// Choice is which paths of a group carry a class of traffic.
type Choice struct {
	Group, Class string
	// Paths are all of the group, in the order in which they are to be used.
	Paths []Ranked
	// Reason says why the first are first, for people.
	Reason string
	// Since is when they became so.
	Since time.Time
}

// Ranked is a path of a Choice.
type Ranked struct {
	Tunnel string
	// Rank is 0 for those that are in use and share the load. The others are for when the
	// data plane has no SA of any path of a lower rank; those of one rank share then.
	Rank int
	// Weight is this path's part of the load of its rank. The rates of uplinks are not
	// known, so it is the same for all.
	Weight uint32
}

// InUse are the tunnels that share the load, by name.
func (c *Choice) InUse() []string {
	var out []string
	for _, p := range c.Paths {
		if p.Rank == 0 {
			out = append(out, p.Tunnel)
		}
	}
	slices.Sort(out)
	return out
}

// Switch is that traffic goes another way.
type Switch struct {
	Time         time.Time
	Group, Class string
	// From and To are the paths in use before and afterwards, by name.
	From, To []string
	Cause    Cause
	Reason   string
}

// Cause is why traffic goes another way.
type Cause uint8

const (
	// First: nothing carried the traffic before.
	First Cause = iota
	// Died: a path that was in use is down, or answers no probes.
	Died
	// BrownOut: it loses too much.
	BrownOut
	// OverSLA: it is over the SLA of the class, and another is not.
	OverSLA
	// Damped: it was dead or bad too often.
	Damped
	// Better: another path is as good or better, and has been for a while.
	Better
	// Configured: the group has other members, or they have other costs.
	Configured
)

var causes = [...]string{"first", "dead", "brown-out", "sla", "damped", "better", "configured"}

func (c Cause) String() string { return causes[c] }

// Causes are all there are, as text.
func Causes() []string { return causes[:] }
