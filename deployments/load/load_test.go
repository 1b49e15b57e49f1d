package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain makes the tests' program a worker, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-worker" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestLoad runs a small fleet through every phase.
func TestLoad(t *testing.T) { runThrough(t, 1, 100) }

// TestLoadOfReplicas has edges in several processes too.
func TestLoadOfReplicas(t *testing.T) { runThrough(t, 3, 5) }

func runThrough(t *testing.T, replicas, crew int) {
	if testing.Short() {
		return // it builds a controller without the race detector
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	l := &load{options: options{edges: 12, hubs: 2, replicas: replicas, crew: crew, changes: 3, json: true}, dir: t.TempDir()}
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

// A controller that does not come up is not waited for, and says why.
func TestControllerThatEnds(t *testing.T) {
	if testing.Short() {
		return // it builds a controller without the race detector
	}
	runtime.LockOSThread() // the process ends with this thread
	defer runtime.UnlockOSThread()
	all, err := newControllers(t.Context(), t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", all[0].operators)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	defer all[0].kill()
	if _, err := all[0].start(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a controller whose port is taken: %v", err)
	}
}
