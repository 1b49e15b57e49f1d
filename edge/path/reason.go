package path

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swanherd/swanherd/edge/probe"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// reason says why the first of order are in use: what each of the others lacks that would
// come before them, or share with them, if it were as good.
func (u *use) reason(order []Member) string {
	inUse := u.choice.InUse()
	if u.lost {
		return fmt.Sprintf("none of %d paths lives: what was in use goes on", len(order))
	}
	var names, others []string
	last := order[0]
	for _, m := range order {
		if slices.Contains(inUse, m.Tunnel) {
			names, last = append(names, describe(m)), m
		} else if u.cheaper(m, last) <= 0 {
			others = append(others, describe(m)+" "+u.standings[m.Tunnel].fault(u.choice.Class))
		}
	}
	text := strings.Join(names, " and ")
	if s := u.standings[last.Tunnel]; s.level != good {
		text += ", though it " + s.fault(u.choice.Class)
	}
	switch {
	case len(others) > 0:
		return text + ": " + strings.Join(others, "; ")
	case len(order) == 1:
		return text + ": the only path"
	}
	return text + fmt.Sprintf(": best of %d paths", len(order))
}

// describe names a path, by the last part of its tunnel's name, and what it is preferred for
// or not.
func describe(m Member) string {
	var what []string
	if m.Transport != swanherdv1.TransportClass_TRANSPORT_CLASS_UNSPECIFIED {
		what = append(what, strings.ToLower(strings.TrimPrefix(m.Transport.String(), "TRANSPORT_CLASS_")))
	}
	if m.Priority > 0 {
		what = append(what, fmt.Sprintf("priority %d", m.Priority))
	}
	what = append(what, fmt.Sprintf("cost %d", m.Cost))
	if m.Metered {
		what = append(what, "metered")
	}
	name := m.Tunnel[strings.LastIndexByte(m.Tunnel, '/')+1:]
	return fmt.Sprintf("%s (%s)", name, strings.Join(what, ", "))
}

// fault says what is wrong with a path.
func (s *standing) fault(class string) string {
	switch o := s.last; s.level {
	case dead:
		if !o.Up {
			return "is down"
		}
		return "answers no probes, and nothing else comes from there"
	case hollow, heavy, brown:
		if o.Lost == 0 {
			return "lost too many probes until now"
		}
		return fmt.Sprintf("loses %d of %d probes", o.Lost, o.Probes)
	case trial:
		if s.damper.suppressed {
			return fmt.Sprintf("was dead or bad too often (figure of merit %.1f, used again below %.1f)", s.damper.merit, reuse)
		}
		return "came back a moment ago"
	case outside:
		if v := o.Outside[class]; len(v) > 0 {
			metric := strings.ToLower(strings.TrimPrefix(v[0].GetMetric().String(), "SLA_METRIC_"))
			unit := "ms"
			if v[0].GetMetric() == swanherdv1.SlaMetric_SLA_METRIC_LOSS {
				unit = "%"
			}
			return fmt.Sprintf("is over its SLA: %s %.3g %s, limit %.3g %s", metric, v[0].GetMeasured(), unit, v[0].GetLimit(), unit)
		}
		return "was over its SLA until now"
	}
	if s.last.State == probe.Suspect {
		return "has not answered the last probe"
	}
	return "is good"
}
