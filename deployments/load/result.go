package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// A measure is one row of the result.
type measure struct {
	Name string `json:"name"`
	// Value in Unit; for times the median, with the 99th percentile and the most.
	Value float64 `json:"value"`
	P99   float64 `json:"p99,omitempty"`
	Max   float64 `json:"max,omitempty"`
	Unit  string  `json:"unit"`
	// Bar is what is aimed at, at the size and on the machine that it is stated for.
	Bar string `json:"bar,omitempty"`
}

type results struct {
	Edges    int       `json:"edges"`
	Replicas int       `json:"replicas"`
	Hubs     int       `json:"hubs"`
	Tunnels  int       `json:"tunnels"`
	CPUs     int       `json:"cpus"`
	Measures []measure `json:"measures"`
	Ordeals  []ordeal  `json:"ordeals,omitempty"`
}

// An ordeal is a time in which some edges made trouble.
type ordeal struct {
	Knob string `json:"knob"`
	// Edges made it. What the others felt is beside what the same ones did before.
	Edges   int     `json:"edges"`
	Without feeling `json:"without"`
	With    feeling `json:"with"`
	// Ended is how many sessions ended, by code; Did what the edges did, and were told.
	Ended map[string]float64 `json:"ended,omitempty"`
	Did   map[string]int     `json:"did,omitempty"`
	// Return is how long edges that came back waited for Welcome.
	Return *times `json:"return,omitempty"`
	// Settled is how many seconds after it a change was with all edges.
	Settled float64 `json:"settled"`
}

// feeling is how long changes take for edges that make no trouble: of one site, of all
// until an edge runs it and until the last does; and the controllers' memory in MiB.
type feeling struct {
	Site   times   `json:"site"`
	All    times   `json:"all"`
	Last   times   `json:"last"`
	Memory float64 `json:"memory"`
}

// times are a distribution, in milliseconds.
type times struct {
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

func (t times) String() string { return fmt.Sprintf("%.1f / %.1f / %.1f", t.Median, t.P99, t.Max) }

func distribution(all []time.Duration) times {
	if len(all) == 0 {
		return times{}
	}
	slices.Sort(all)
	at := func(q float64) float64 { return all[int(q*float64(len(all)-1))].Seconds() * 1000 }
	return times{at(0.5), at(0.99), at(1)}
}

func (r *results) add(name string, value float64, unit, bar string) {
	r.Measures = append(r.Measures, measure{Name: name, Value: value, Unit: unit, Bar: bar})
}

// took adds one duration.
func (r *results) took(name string, d time.Duration, bar string) {
	r.add(name, d.Seconds(), "s", bar)
}

// times adds a distribution.
func (r *results) times(name string, all []time.Duration, bar string) {
	if len(all) == 0 {
		return
	}
	d := distribution(all)
	r.Measures = append(r.Measures, measure{Name: name, Value: d.Median, P99: d.P99, Max: d.Max, Unit: "ms", Bar: bar})
}

func (r *results) print(to io.Writer) error {
	fmt.Fprintf(to, "%d controllers, %d edges, %d of them hubs, %d tunnels, %d processors\n\n", r.Replicas, r.Edges, r.Hubs, r.Tunnels, r.CPUs)
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MEASURE\tVALUE\tP99\tMOST\tBAR")
	for _, m := range r.Measures {
		tail := [2]string{"-", "-"}
		if m.Unit == "ms" {
			tail = [2]string{fmt.Sprintf("%.1f", m.P99), fmt.Sprintf("%.1f", m.Max)}
		}
		fmt.Fprintf(w, "%s\t%.4g %s\t%s\t%s\t%s\n", m.Name, m.Value, m.Unit, tail[0], tail[1], m.Bar)
	}
	if err := w.Flush(); err != nil || len(r.Ordeals) == 0 {
		return err
	}
	return r.printOrdeals(to)
}

func (r *results) printOrdeals(to io.Writer) error {
	fmt.Fprint(to, "\nThe other edges, without trouble and with it; times in ms: median / p99 / most\n\n")
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TROUBLE\tEDGES\tONE SITE\tALL, AN EDGE\tALL, THE LAST\tMEMORY, MiB")
	for _, o := range r.Ordeals {
		for _, row := range []struct {
			name string
			feeling
		}{{"without", o.Without}, {"with", o.With}} {
			fmt.Fprintf(w, "%s, %s\t%d\t%v\t%v\t%v\t%.0f\n", o.Knob, row.name, o.Edges, row.Site, row.All, row.Last, row.Memory)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, o := range r.Ordeals {
		fmt.Fprintf(to, "\n%s: all had the change after it within %.1f s", o.Knob, o.Settled)
		if o.Return != nil {
			fmt.Fprintf(to, "; who came back was welcomed in %v ms", o.Return)
		}
		fmt.Fprintln(to)
		for _, code := range slices.Sorted(maps.Keys(o.Ended)) {
			fmt.Fprintf(to, "  %.0f sessions ended: %s\n", o.Ended[code], code)
		}
		for _, what := range slices.Sorted(maps.Keys(o.Did)) {
			fmt.Fprintf(to, "  %d times %s\n", o.Did[what], what)
		}
	}
	return nil
}
