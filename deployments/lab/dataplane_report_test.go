package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/swanherd/swanherd/deployments/lab"
)

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// reportDataPlane prints a column for each contender.
func reportDataPlane(b *testing.B, all []*contender, done []measurement) {
	b.Helper()
	fmt.Printf("\n%s\n", dataPlaneTable(all, done)) // a benchmark's log is cut short
	for _, w := range []lab.WireGuard{lab.WireGuardGo, lab.WireGuardTailscale} {
		fmt.Printf("%s: %s %s\n", w.Name, w.Module, w.Version)
	}
	if version, err := exec.CommandContext(b.Context(), "swanctl", "--version").Output(); err == nil {
		fmt.Printf("%s", version)
	}
	b.ReportMetric(0, "ns/op") // the time is that of the measurement itself
}

// writeDataPlane writes the figures so far to a file if one is named.
func writeDataPlane(b *testing.B, all []*contender) {
	b.Helper()
	if *dataPlaneJSON == "" {
		return
	}
	type figure struct {
		Median, Min, Max float64
		All              []float64
	}
	result := map[string]map[string]figure{}
	for _, c := range all {
		result[c.name] = map[string]figure{}
		for what, v := range c.figures {
			result[c.name][what] = figure{median(v), slices.Min(v), slices.Max(v), v}
		}
	}
	text, err := json.MarshalIndent(result, "", "  ")
	if err == nil {
		err = os.WriteFile(*dataPlaneJSON, append(text, '\n'), 0o644)
	}
	if err != nil {
		b.Fatalf("write %s: %v", *dataPlaneJSON, err)
	}
}

// dataPlaneTable has medians in Markdown. Behind each is, of several rounds, the range,
// and then how many times the median of the baseline it is.
func dataPlaneTable(all []*contender, done []measurement) string {
	var baseline map[string][]float64
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 1, ' ', 0)
	fmt.Fprint(w, "|")
	for _, c := range all {
		fmt.Fprintf(w, "\t| %s", c.name)
		if c.name == baselineName {
			baseline = c.figures
		}
	}
	fmt.Fprintf(w, "\t|\n|%s\n", strings.Repeat("---\t|", len(all)+1))
	for _, m := range done {
		for _, what := range m.figures {
			fmt.Fprintf(w, "| %s", what)
			for _, c := range all {
				beside := baseline[what]
				if c.name == baselineName {
					beside = nil
				}
				fmt.Fprintf(w, "\t| %s", dataPlaneCell(c.figures[what], beside))
			}
			fmt.Fprint(w, "\t|\n")
		}
	}
	w.Flush()
	return text.String()
}

func dataPlaneCell(v, baseline []float64) string {
	if len(v) == 0 {
		return "-"
	}
	cell := fmt.Sprintf("%.3g", median(v))
	if len(v) > 1 {
		cell += fmt.Sprintf(" (%.3g-%.3g)", slices.Min(v), slices.Max(v))
	}
	if len(baseline) > 0 {
		cell += fmt.Sprintf(" %.2fx", median(v)/median(baseline))
	}
	return cell
}

func TestDataPlaneTable(t *testing.T) {
	got := dataPlaneTable([]*contender{
		{name: "swanherd", figures: map[string][]float64{rateTCP: {8, 6, 7}, processorTCP: {0.1}}},
		{name: baselineName, figures: map[string][]float64{rateTCP: {3.5, 3.5, 4}, processorTCP: {0.4}}},
		{name: "no tunnel", figures: map[string][]float64{rateTCP: {17}}},
	}, measures[:1])
	want := `|               | swanherd      | wireguard-go | no tunnel |
|---            |---            |---           |---        |
| TCP 1, Gbit/s | 7 (6-8) 2.00x | 3.5 (3.5-4)  | 17 4.86x  |
| CPU, s/Gbit   | 0.1 0.25x     | 0.4          | -         |
`
	if got != want {
		t.Errorf("the table is\n%swant\n%s", got, want)
	}
}
