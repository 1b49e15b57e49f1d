package state

import (
	"os"
	"slices"
	"testing"
)

func TestEndpoints(t *testing.T) {
	d := open(t)
	enrolled := []string{"a:1", "b:1"}
	moved := Endpoints{Enrolled: enrolled, Current: []string{"c:1"}, Last: "c:1"}
	load := func(enrolled []string) []string {
		t.Helper()
		e, err := d.LoadEndpoints(enrolled)
		if err != nil || !slices.Equal(e.Enrolled, enrolled) {
			t.Errorf("loaded %+v, %v", e, err)
		}
		return append(e.Current, e.Last)
	}
	if got := load(enrolled); !slices.Equal(got, []string{"a:1", "b:1", ""}) {
		t.Errorf("at first %v", got)
	}
	if err := d.SaveEndpoints(moved); err != nil {
		t.Fatal(err)
	}
	if got := load(enrolled); !slices.Equal(got, []string{"c:1", "c:1"}) {
		t.Errorf("after a redirection %v", got)
	}
	if got := load([]string{"d:1"}); !slices.Equal(got, []string{"d:1", ""}) {
		t.Errorf("enrolled anew %v", got)
	}
	if err := os.WriteFile(d.endpointsPath(), []byte("{"), fileMode); err != nil {
		t.Fatal(err)
	}
	if e, err := d.LoadEndpoints(enrolled); err == nil || !slices.Equal(e.Current, enrolled) {
		t.Errorf("broken: %+v, %v", e, err)
	}
}
