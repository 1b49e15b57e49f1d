package main

import (
	"os"
	"slices"
	"testing"
	"time"
)

// Every fuzz target is found where it is, and all of them together keep to their
// time.
func TestFuzzTargets(t *testing.T) {
	t.Chdir("../..")
	if _, err := os.Stat(".git"); err != nil {
		t.Skip("the targets are found by git grep; this is no git checkout")
	}
	targets, err := fuzzTargets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []fuzzTarget{{"./ipsec/ike", "FuzzSchedule"}, {"./ipsec/ike", "FuzzOpen"}, {"./ipsec/wire", "FuzzMessage"}} {
		if !slices.Contains(targets, want) {
			t.Errorf("%v is not among %v", want, targets)
		}
	}
	if got := fuzzShare(time.Minute, 24); got != 2500*time.Millisecond {
		t.Errorf("each of 24 targets gets %v of a minute, want 2.5s", got)
	}
	if got := fuzzShare(time.Second, 24); got != time.Second {
		t.Errorf("each gets %v of too little time, want 1s", got)
	}
}

// A run is repeated only if nothing but the end of its time was wrong.
func TestEndedBadly(t *testing.T) {
	over := "--- FAIL: FuzzFilter (2.35s)\n    context deadline exceeded\nFAIL\n"
	if !endedBadly(over) {
		t.Error("the end of the time is taken for a finding")
	}
	for _, finding := range []string{
		"--- FAIL: FuzzFilter (1.87s)\n    filter_test.go:40: dropped\nFAIL\n",
		"--- FAIL: FuzzFilter (1.87s)\n    context deadline exceeded\n    Failing input written to testdata/fuzz/FuzzFilter/1\n",
	} {
		if endedBadly(finding) {
			t.Errorf("a finding is taken for the end of the time:\n%s", finding)
		}
	}
}
