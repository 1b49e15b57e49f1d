package main

import (
	"fmt"
	"io"
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
	slices.Sort(all)
	at := func(q float64) float64 { return all[int(q*float64(len(all)-1))].Seconds() * 1000 }
	r.Measures = append(r.Measures, measure{Name: name, Value: at(0.5), P99: at(0.99), Max: at(1), Unit: "ms", Bar: bar})
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
	return w.Flush()
}
