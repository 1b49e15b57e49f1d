package health

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/probe"
)

// choosing is a chooser that has chosen.
func choosing() PathSource {
	lives := map[string]probe.Life{"a": {State: probe.Alive}, "b": {State: probe.Dead}, "c": {State: probe.Suspect}}
	chooser := path.NewChooser()
	chooser.Set([]path.Group{{Name: "g", Classes: []path.Class{{Name: "voice"}}, Members: []path.Member{{Tunnel: "a", Cost: 1}, {Tunnel: "b", Cost: 1}, {Tunnel: "c", Cost: 1}}}})
	seen := map[string]path.Observation{}
	for tunnel, life := range lives {
		seen[tunnel] = path.Observation{Up: true, Life: life}
	}
	chooser.Step(time.Now(), seen)
	return PathSource{
		Choices: chooser.Choices, Switches: func() map[string]uint64 { return map[string]uint64{"dead": 3, "sla": 0} },
		Lives: func() map[string]probe.Life { return lives },
	}
}

func TestPathMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewPathMetrics(choosing()))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			text := f.GetName()
			for _, l := range m.GetLabel() {
				text += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
			}
			got = append(got, fmt.Sprint(text, " ", m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	want := []string{
		"swanherd_edge_path_in_use class= group=g tunnel=a 1", "swanherd_edge_path_in_use class= group=g tunnel=c 1",
		"swanherd_edge_path_in_use class=voice group=g tunnel=a 1", "swanherd_edge_path_in_use class=voice group=g tunnel=c 1",
		"swanherd_edge_path_state state=alive tunnel=a 1", "swanherd_edge_path_state state=dead tunnel=b 1", "swanherd_edge_path_state state=suspect tunnel=c 1",
		"swanherd_edge_path_switches_total cause=dead 3", "swanherd_edge_path_switches_total cause=sla 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("scraped\n%q, want\n%q", got, want)
	}
}
