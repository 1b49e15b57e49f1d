package main

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"
)

// TestLoad runs a small fleet through every phase.
func TestLoad(t *testing.T) {
	if testing.Short() {
		return // it builds a controller without the race detector
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	l := &load{options: options{edges: 12, hubs: 2, changes: 3, json: true}, dir: t.TempDir()}
	defer l.close()
	if err := l.measure(ctx); err != nil {
		t.Fatalf("%v\n%s", err, l.controller.lastWords())
	}
	var out bytes.Buffer
	if err := l.results.print(&out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	i := slices.IndexFunc(l.results.Measures, func(m measure) bool { return m.Name == "octets of intents sent for it" })
	if i < 0 || l.results.Measures[i].Value != 0 {
		t.Errorf("the return of the controller cost intents: %+v", l.results.Measures)
	}
}

func TestTail(t *testing.T) {
	var w tail
	for range 3 {
		w.Write(bytes.Repeat([]byte("x"), tailLen))
	}
	w.Write([]byte("end"))
	if s := w.String(); len(s) != tailLen || s[len(s)-3:] != "end" {
		t.Errorf("%d octets are kept", len(s))
	}
}
