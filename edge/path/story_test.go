package path

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/edge/probe"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

var start = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// tick is how often stories and simulations look.
const tick = 100 * time.Millisecond

// TestStories runs the files of testdata.
//
//	group NAME [classes=(voice,bulk:lte+mpls)]   those transports first; the input has a member in each line: a cost=10 mpls metered
//	see a=alive b=(suspect,lost=5/40)   what is observed from now on; others stay as they were:
//	                                    up states unknown, alive, suspect, dead; down; lost=LOST/PROBES;
//	                                    over=CLASS, over=default; within
//	run 10s                             lets time pass, and shows where traffic goes
//	choices                             shows all paths in order
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") {
			return
		}
		s := &story{chooser: NewChooser(), now: start, seen: map[string]Observation{}}
		datadriven.RunTest(t, path, s.do)
	})
}

type story struct {
	chooser *Chooser
	now     time.Time
	groups  []Group
	seen    map[string]Observation
}

func (s *story) do(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "group":
		s.group(t, d)
	case "see":
		for _, arg := range d.CmdArgs {
			o := s.seen[arg.Key]
			for _, what := range arg.Vals {
				o = see(t, d, o, what)
			}
			s.seen[arg.Key] = o
		}
	case "run":
		span, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return s.run(span)
	case "choices":
		var out strings.Builder
		for _, c := range s.chooser.Choices() {
			fmt.Fprintf(&out, "%s %s: %s\n", c.Group, named(c.Class), ranks(c.Paths))
			fmt.Fprintf(&out, "  %s\n", c.Reason)
		}
		return out.String()
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	return ""
}

func (s *story) group(t *testing.T, d *datadriven.TestData) {
	g := Group{Name: d.CmdArgs[0].Key}
	for _, arg := range d.CmdArgs[1:] {
		for _, class := range arg.Vals {
			name, transports, _ := strings.Cut(class, ":")
			c := Class{Name: name}
			for text := range strings.FieldsFuncSeq(transports, func(r rune) bool { return r == '+' }) {
				c.Transports = append(c.Transports, transport(t, d, text))
			}
			g.Classes = append(g.Classes, c)
		}
	}
	for line := range strings.SplitSeq(d.Input, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		m := Member{Tunnel: fields[0]}
		for _, f := range fields[1:] {
			if cost, ok := strings.CutPrefix(f, "cost="); ok {
				n, err := strconv.ParseUint(cost, 10, 64)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				m.Cost = n
			} else if priority, ok := strings.CutPrefix(f, "priority="); ok {
				n, err := strconv.ParseUint(priority, 10, 32)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				m.Priority = uint32(n)
			} else if f == "metered" {
				m.Metered = true
			} else {
				m.Transport = transport(t, d, f)
			}
		}
		g.Members = append(g.Members, m)
	}
	var others []Group
	for _, other := range s.groups {
		if other.Name != g.Name {
			others = append(others, other)
		}
	}
	s.groups = append(others, g)
	s.chooser.Set(s.groups)
}

func transport(t *testing.T, d *datadriven.TestData, text string) swanherdv1.TransportClass {
	v, ok := swanherdv1.TransportClass_value["TRANSPORT_CLASS_"+strings.ToUpper(text)]
	if !ok {
		d.Fatalf(t, "%q is no transport and no other property", text)
	}
	return swanherdv1.TransportClass(v)
}

func see(t *testing.T, d *datadriven.TestData, o Observation, what string) Observation {
	states := map[string]probe.State{"unknown": probe.Unknown, "alive": probe.Alive, "suspect": probe.Suspect, "dead": probe.Dead}
	if state, ok := states[what]; ok {
		o.Up, o.State = true, state
		return o
	}
	key, value, _ := strings.Cut(what, "=")
	switch key {
	case "down":
		return Observation{}
	case "within":
		o.Outside = nil
	case "lost":
		if _, err := fmt.Sscanf(value, "%d/%d", &o.Lost, &o.Probes); err != nil {
			d.Fatalf(t, "%s: %v", what, err)
		}
	case "over":
		if value == "default" {
			value = ""
		}
		o.Outside = map[string][]*swanherdv1.SlaViolation{value: {{Metric: swanherdv1.SlaMetric_SLA_METRIC_LATENCY, Measured: 340, Limit: 300}}}
	default:
		d.Fatalf(t, "unknown observation %q", what)
	}
	return o
}

func (s *story) run(span time.Duration) string {
	var out strings.Builder
	for end := s.now.Add(span); s.now.Before(end); s.now = s.now.Add(tick) {
		for _, w := range s.chooser.Step(s.now, s.seen) {
			fmt.Fprintf(&out, "%5.1fs %s %s: %s > %s, %s\n       %s\n", w.Time.Sub(start).Seconds(), w.Group, named(w.Class),
				strings.Join(w.From, "+"), strings.Join(w.To, "+"), w.Cause, w.Reason)
		}
	}
	return out.String()
}

func named(class string) string {
	if class == "" {
		return "default"
	}
	return class
}

// ranks are paths as text: those of one rank between commas, ranks between semicolons.
func ranks(paths []Ranked) string {
	var out strings.Builder
	for i, p := range paths {
		switch {
		case i == 0:
		case paths[i-1].Rank == p.Rank:
			out.WriteString(", ")
		default:
			out.WriteString("; ")
		}
		out.WriteString(p.Tunnel)
	}
	return out.String()
}
