package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// Each knob does what it says, and says so; the other edges get what they are to have, and
// when it is over all of them are in sync.
func TestKnobs(t *testing.T) {
	if testing.Short() {
		return // it builds a controller without the race detector
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	// 20 edges in two processes, of which the last 8 make trouble.
	o := options{edges: 20, hubs: 2, replicas: 1, crew: 14, changes: 3, json: true}
	o.knobs = knobs{churnRound: time.Second, stormEvery: 1500 * time.Millisecond, slow: 20 * time.Millisecond, lasts: 300 * time.Millisecond}
	for i := range o.knobs.shares {
		o.knobs.shares[i] = 0.4
	}
	if err := o.knobs.check(o.edges, o.hubs); err != nil {
		t.Fatal(err)
	}
	l := &load{options: o, dir: t.TempDir()}
	defer l.close()
	err := l.measure(ctx)
	var out bytes.Buffer
	if err := l.results.print(&out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	if err != nil {
		for _, c := range l.controllers {
			t.Log(c.lastWords())
		}
		t.Fatal(err)
	}
	if len(l.results.Ordeals) != len(kinds) {
		t.Fatalf("%d ordeals, want one for each of the %d knobs", len(l.results.Ordeals), len(kinds))
	}
	for i, o := range l.results.Ordeals {
		checkOrdeal(t, kinds[i].name, o)
	}
	answers, err := l.controller.samples("swanherd_intent_answer_seconds_count")
	if err != nil || answers[`{result="nack"}`] < 8 {
		t.Errorf("the controller was answered %v, %v; want a refusal by each of 8 edges", answers, err)
	}
}

func checkOrdeal(t *testing.T, knob string, o ordeal) {
	t.Helper()
	if o.Knob != knob || o.Edges != 8 {
		t.Errorf("%s with %d edges, want 8 of %s", o.Knob, o.Edges, knob)
	}
	for _, f := range []feeling{o.Without, o.With} {
		if f.Site.Median <= 0 || f.All.Median <= 0 || f.Last.Max < f.All.Max || f.Memory <= 0 {
			t.Errorf("%s: the others feel %+v", knob, f)
		}
	}
	for _, want := range done[knob] {
		if n := o.Did[want]; n == 0 {
			t.Errorf("%s: %q is not among what was done: %v", knob, want, o.Did)
		}
	}
	if knob == "churn" || knob == "storm" {
		if n := o.Did["left and came back"]; o.Return == nil || o.Return.Median <= 0 || n < 8 || o.Ended[codes.Canceled.String()]+o.Ended[codes.OK.String()] == 0 {
			t.Errorf("%s: %d edges left, and came back within %v; %v", knob, n, o.Return, o.Ended)
		}
	}
	if knob == "hostile" {
		for _, code := range []codes.Code{codes.ResourceExhausted, codes.InvalidArgument} {
			if o.Ended[code.String()] == 0 {
				t.Errorf("no session ended with %v: %v", code, o.Ended)
			}
		}
	}
	if knob == "slow" && o.Ended["DeadlineExceeded"] > 0 {
		t.Errorf("slow edges are taken for silent ones: %v", o.Ended)
	}
}

// done is what each kind of trouble is.
var done = map[string][]string{
	"churn":  {"left and came back"},
	"storm":  {"left and came back"},
	"slow":   {"took its time for an intent"},
	"refuse": {"refused an intent"},
	"revert": {"took an intent back"},
	"flap":   {"all its tunnels went down or came up"},
	"hostile": {
		"a giant Hello: ResourceExhausted", "a giant report: ResourceExhausted", "an ack from the future: InvalidArgument",
		"a wrong digest: acknowledged", "a flood of reports: taken", "a session without Hello: opened",
		"a connection without handshake: opened", "a reader that reads nothing: asked",
	},
}

// A knob leaves hubs and a spoke to be measured, or is refused.
func TestKnobsThatAreRefused(t *testing.T) {
	for words, set := range map[string]func(*knobs){
		"-storm 1 is for 20 of 20 edges":         func(k *knobs) { k.shares[1] = 1 },
		"-storm 0.9 is for 18 of 20 edges":       func(k *knobs) { k.shares[1] = 0.9 },
		"-churn 0.1 is for 20 of 20 edges":       func(k *knobs) { k.shares[0] = 0.1 },
		"-hostile -1 is for -20 of 20 edges":     func(k *knobs) { k.shares[6] = -1 },
		"-storm-every 1s: edges are away for 1s": func(k *knobs) { k.stormEvery = time.Second },
	} {
		k := knobs{churnRound: 10 * time.Second, stormEvery: time.Minute}
		if err := k.check(20, 2); err != nil {
			t.Fatal(err)
		}
		set(&k)
		if err := k.check(20, 2); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q, got %v", words, err)
		}
	}
}
