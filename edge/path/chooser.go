package path

import (
	"cmp"
	"slices"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"

	"github.com/swanherd/swanherd/edge/probe"
)

// Chooser says which path of each group carries which class of traffic. It does no I/O and
// reads no clock; it is for one goroutine at a time.
type Chooser struct {
	groups []*group // by name
	// order is raised with each change of the order of any paths.
	order uint64
}

type group struct {
	Group
	uses []*use // the default class, then the others by name
}

// use is a group as one class of traffic sees it.
type use struct {
	choice     Choice
	transports []swanherdv1.TransportClass // as in Class
	standings  map[string]*standing
	members    []Member // in order; nil: they have to be put in order
	chosen     bool     // false until a path has lived
	lost       bool     // all are dead
}

// NewChooser returns a Chooser without groups.
func NewChooser() *Chooser { return &Chooser{} }

// Set makes groups those to choose in. Their names differ, and so do those of the members
// of one. What is known of a path stays as long as it is in a group of the same name.
func (c *Chooser) Set(groups []Group) {
	before := map[string]*group{}
	for _, g := range c.groups {
		before[g.Name] = g
	}
	c.groups = make([]*group, 0, len(groups))
	c.order++
	for _, want := range groups {
		if len(want.Members) == 0 {
			continue
		}
		g := before[want.Name]
		if g == nil {
			g = &group{}
		}
		g.set(want)
		c.groups = append(c.groups, g)
	}
	slices.SortFunc(c.groups, func(a, b *group) int { return cmp.Compare(a.Name, b.Name) })
}

func (g *group) set(want Group) {
	before := map[string]*use{}
	for _, u := range g.uses {
		before[u.choice.Class] = u
	}
	g.Group, g.uses = want, nil
	classes := append([]Class{{}}, want.Classes...)
	slices.SortStableFunc(classes, func(a, b Class) int { return cmp.Compare(a.Name, b.Name) })
	for _, class := range slices.CompactFunc(classes, func(a, b Class) bool { return a.Name == b.Name }) {
		u := before[class.Name]
		if u == nil {
			u = &use{choice: Choice{Group: want.Name, Class: class.Name}, standings: map[string]*standing{}}
		}
		u.transports = class.Transports
		standings := make(map[string]*standing, len(want.Members))
		for _, m := range want.Members {
			if standings[m.Tunnel] = u.standings[m.Tunnel]; standings[m.Tunnel] == nil {
				standings[m.Tunnel] = &standing{level: dead}
			}
		}
		u.standings, u.members = standings, nil
		g.uses = append(g.uses, u)
	}
}

// Step takes in what is observed of the tunnels, and returns where traffic goes another way
// from now on. A tunnel of which nothing is observed is down. What of seen is about tunnels
// of no group does not matter.
func (c *Chooser) Step(now time.Time, seen map[string]Observation) []Switch {
	var out []Switch
	for _, g := range c.groups {
		// All are to one peer: if it answers probes on one path, it does on the others too.
		answers := slices.ContainsFunc(g.Members, func(m Member) bool { return seen[m.Tunnel].State != probe.Unknown })
		for _, u := range g.uses {
			changed := u.members == nil
			for _, m := range g.Members {
				changed = u.standings[m.Tunnel].look(now, u.choice.Class, answers, seen[m.Tunnel]) || changed
			}
			if !changed {
				continue
			}
			before := u.choice.Paths
			if s, switched := u.choose(now, g.Members); switched {
				out = append(out, s)
			}
			if !slices.Equal(before, u.choice.Paths) {
				c.order++
			}
		}
	}
	return out
}

// Order is raised with each change of the order of any group's paths.
func (c *Chooser) Order() uint64 { return c.order }

// Choices are those of all groups in which a path has lived, by group and class.
func (c *Chooser) Choices() []Choice {
	var out []Choice
	for _, g := range c.groups {
		for _, u := range g.uses {
			if !u.chosen {
				continue
			}
			choice := u.choice
			if u.members != nil {
				choice.Reason = u.reason(u.members)
			}
			out = append(out, choice)
		}
	}
	return out
}

// choose orders the paths.
func (u *use) choose(now time.Time, members []Member) (s Switch, switched bool) {
	order := slices.Clone(members)
	u.members = order
	slices.SortFunc(order, func(a, b Member) int {
		return cmp.Or(u.prefer(a, b), cmp.Compare(a.Tunnel, b.Tunnel))
	})
	before := u.choice.InUse()
	kept := slices.DeleteFunc(slices.Clone(before), func(t string) bool { return u.standings[t] == nil })
	if lost := u.standings[order[0].Tunnel].level == dead; lost && (!u.chosen || len(kept) > 0) {
		u.keep(order, kept)
		return s, false
	}
	u.rank(order)
	after := u.choice.InUse()
	if u.lost = false; u.chosen && slices.Equal(before, after) {
		return s, false
	}
	s = Switch{Time: now, Group: u.choice.Group, Class: u.choice.Class, From: before, To: after}
	if s.Cause = First; u.chosen {
		s.Cause = u.cause(before, after)
	}
	u.chosen, u.choice.Since = true, now
	s.Reason = u.reason(order)
	return s, true
}

// prefer compares two paths: the one that is to be used first is less.
func (u *use) prefer(a, b Member) int {
	return cmp.Or(cmp.Compare(u.standings[a.Tunnel].level, u.standings[b.Tunnel].level), u.cheaper(a, b))
}

// cheaper compares two paths that are equally good.
func (u *use) cheaper(a, b Member) int {
	c := cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(u.wanted(a), u.wanted(b)), cmp.Compare(a.Cost, b.Cost))
	if c == 0 && a.Metered != b.Metered {
		if c = -1; a.Metered {
			c = 1
		}
	}
	return c
}

// wanted is the place of a path among those that the class wants.
func (u *use) wanted(m Member) int {
	if i := slices.Index(u.transports, m.Transport); i >= 0 {
		return i
	}
	return len(u.transports)
}

// rank puts paths in order; those between which there is nothing to choose have one rank.
func (u *use) rank(order []Member) {
	u.choice.Paths = make([]Ranked, 0, len(order))
	rank := 0
	for i, m := range order {
		if i > 0 && u.prefer(order[i-1], m) != 0 {
			rank++
		}
		u.choice.Paths = append(u.choice.Paths, Ranked{m.Tunnel, rank, 1})
	}
}

// keep has those in use go on, though all are dead: what they carry is protected, or
// dropped by the data plane's guard.
func (u *use) keep(order []Member, inUse []string) {
	u.lost = true
	var kept, others []Member
	for _, m := range order {
		if slices.Contains(inUse, m.Tunnel) {
			kept = append(kept, m)
		} else {
			others = append(others, m)
		}
	}
	u.rank(others)
	for i := range u.choice.Paths {
		u.choice.Paths[i].Rank++
	}
	first := make([]Ranked, 0, len(order))
	for _, m := range kept {
		first = append(first, Ranked{m.Tunnel, 0, 1})
	}
	u.choice.Paths = append(first, u.choice.Paths...)
}

// cause is why other paths are in use than before.
func (u *use) cause(before, after []string) Cause {
	worst := good
	for _, t := range before {
		s := u.standings[t]
		switch {
		case s == nil:
			return Configured
		case !slices.Contains(after, t):
			worst = max(worst, s.level)
		}
	}
	switch worst {
	case good:
		return Better
	case outside:
		return OverSLA
	case trial:
		return Damped
	case dead:
		return Died
	}
	return BrownOut
}
