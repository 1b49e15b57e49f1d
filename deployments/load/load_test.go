package main

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"
)

// TestLoad runs a small fleet through every phase.
func TestLoad(t *testing.T) { runThrough(t, 1) }

func TestLoadOfReplicas(t *testing.T) { runThrough(t, 3) }

func runThrough(t *testing.T, replicas int) {
	if testing.Short() {
		return // it builds a controller without the race detector
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	l := &load{options: options{edges: 12, hubs: 2, replicas: replicas, changes: 3, json: true}, dir: t.TempDir()}
	defer l.close()
	if err := l.measure(ctx); err != nil {
		for _, c := range l.controllers {
			t.Log(c.lastWords())
		}
		t.Fatal(err)
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
