package ike

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// play tells a list of commands and returns the story, and the name of what went
// wrong or nothing. The story ends there.
func play(lines []string, mute bool, mutate func(*node)) (*story, string) {
	trial := &trial{}
	s := &story{t: trial, mute: mute, mutate: mutate}
	trial.run(func() {
		for _, line := range lines {
			if !mute {
				fmt.Fprintf(&s.out, "%s\n", line)
			}
			d := &datadriven.TestData{}
			var err error
			if d.Cmd, d.CmdArgs, err = datadriven.ParseLine(line); err != nil {
				trial.Fatalf("%q: %v", line, err)
			}
			s.tellOne(d)
			if len(trial.failures) > 0 {
				return
			}
		}
	})
	return s, failureOf(s, trial)
}

// failureOf names what went wrong in a story, up to the first colon: the
// invariant, without its circumstances.
func failureOf(s *story, t *trial) string {
	if len(t.failures) == 0 {
		return ""
	}
	first, _, _ := strings.Cut(t.failures[0], ":")
	if first == "panic" {
		first, _, _ = strings.Cut(t.failures[0], "\n")
	}
	if s.w != nil && s.w.broken != nil && first != "panic" {
		first = s.w.broken.name
	}
	return first
}

// shrinkTrials bounds the search for a shorter story.
const shrinkTrials = 3000

// shrink returns fewer commands that go wrong in the same way: it leaves out
// ever smaller parts of the list as long as that works (delta debugging), then
// makes the arguments simpler.
func shrink(lines []string, mutate func(*node)) []string {
	_, want := play(lines, true, mutate)
	trials := 0
	fails := func(try []string) bool {
		if trials++; trials > shrinkTrials {
			return false
		}
		if _, got := play(try, true, mutate); got != want {
			return false
		}
		// Nor may the two ends be configured so that they never come up.
		if alone := []string{try[0], "connect a", "calm 2m", "check"}; try[0] != lines[0] {
			_, got := play(alone, true, mutate)
			return got == ""
		}
		return true
	}
	if want == "" {
		return lines
	}
	lines = simplify(lines, 0, fails)
	lines = leaveOut(lines, fails)
	for _, easier := range []func([]string) []string{withoutWork, connected} {
		if try := easier(lines); fails(try) {
			lines = leaveOut(try, fails)
		}
	}
	for {
		before := len(lines)
		lines = settleInstead(lines, fails)
		lines = leaveOut(lines, fails)
		lines = joinWaits(lines, fails)
		if len(lines) == before {
			break
		}
	}
	for i := range lines {
		lines = simplify(lines, i, fails)
	}
	return leaveOut(lines, fails)
}

// withoutWork has results come at once.
func withoutWork(lines []string) []string {
	var out []string
	for _, line := range lines {
		if !strings.HasPrefix(line, "work ") {
			out = append(out, strings.Replace(line, " work=later", "", 1))
		}
	}
	return out
}

// connected begins with both ends up.
func connected(lines []string) []string {
	return append([]string{lines[0] + " up=yes"}, lines[1:]...)
}

// settleInstead has one settle take the place of several commands.
func settleInstead(lines []string, fails func([]string) bool) []string {
	for size := (len(lines) + 1) / 2; size > 1; size /= 2 {
		for at := len(lines) - size; at >= 1; at -= size {
			some := slices.DeleteFunc(slices.Clone(lines[at:at+size]), removable)
			try := slices.Concat(lines[:at], some, []string{"settle"}, lines[at+size:])
			if len(some) < size-1 && fails(try) {
				lines = try
				at = min(at, len(lines))
			}
		}
	}
	return lines
}

// removable reports whether a command may be left out: those that ask for peace
// and order, without which there is none, may not.
func removable(line string) bool {
	for _, needed := range []string{"connect ", "fail a n=0", "fail b n=0", "nat a 203.0.113.7:20000", "unblock", "tell ", "udp open", "tcp open", "calm ", "check"} {
		if strings.HasPrefix(line, needed) {
			return false
		}
	}
	return true
}

// leaveOut removes what is not needed. The first command makes the pair and
// stays.
func leaveOut(lines []string, fails func([]string) bool) []string {
	for size := (len(lines) + 1) / 2; size > 0; size /= 2 {
		for at := len(lines) - size; at >= 1-size; at -= size {
			from, to := max(1, at), min(at+size, len(lines))
			try := slices.Concat(lines[:from], slices.DeleteFunc(slices.Clone(lines[from:to]), removable), lines[to:])
			if len(try) < len(lines) && fails(try) {
				lines = try
				at = min(at, len(lines))
			}
		}
	}
	return lines
}

// joinWaits makes one of two waits with nothing between them.
func joinWaits(lines []string, fails func([]string) bool) []string {
	for i := len(lines) - 1; i > 0; i-- {
		x, ok1 := strings.CutPrefix(lines[i-1], "wait ")
		y, ok2 := strings.CutPrefix(lines[i], "wait ")
		if !ok1 || !ok2 {
			continue
		}
		dx, _ := time.ParseDuration(x)
		dy, _ := time.ParseDuration(y)
		try := slices.Concat(lines[:i-1], []string{"wait " + (dx + dy).String()}, lines[i+1:])
		if fails(try) {
			lines = try
		}
	}
	return lines
}

// simplify makes the arguments of one command fewer and rounder.
func simplify(lines []string, at int, fails func([]string) bool) []string {
	try := func(line string) bool {
		if line == lines[at] {
			return false
		}
		other := slices.Clone(lines)
		other[at] = line
		if !fails(other) {
			return false
		}
		lines = other
		return true
	}
	words := strings.Fields(lines[at])
	for i := len(words) - 1; i > 0; i-- {
		if words[0] == "pair" || strings.HasPrefix(words[i], "at=") || strings.HasPrefix(words[i], "n=") {
			if fewer := slices.Delete(slices.Clone(words), i, i+1); try(strings.Join(fewer, " ")) {
				words = fewer
			}
		}
	}
	if words[0] != "wait" && words[0] != "jump" {
		return lines
	}
	last := len(words) - 1
	d, err := time.ParseDuration(words[last])
	if err != nil {
		return lines
	}
	for _, unit := range []time.Duration{time.Minute, 10 * time.Second, time.Second, 100 * time.Millisecond, time.Millisecond} {
		for _, rounder := range []time.Duration{d.Truncate(unit), d.Truncate(unit) + unit} {
			words[last] = rounder.String()
			if rounder > 0 && try(strings.Join(words, " ")) {
				return lines
			}
		}
	}
	return lines
}

// shrunk shortens what the simulator did, writes it as a story, and returns
// where and what.
func (s *simulator) shrunk(t *testing.T, seed uint64) string {
	return writeStory(t, fmt.Sprintf("seed%d", seed), fmt.Sprintf("Found by simulation with seed %d.", seed), s.lines, s.mutate)
}

// writeStory shortens commands that go wrong and writes a file for testdata.
func writeStory(t testing.TB, name, why string, lines []string, mutate func(*node)) string {
	text := storyText(why, shrink(lines, mutate), mutate)
	dir := t.ArtifactDir()
	path := filepath.Join(dir, name+".txt")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err.Error() + "\n" + text
	}
	return "A short story of it is in " + path + ":\n" + text
}

// storyText is a file for testdata, with what the ends do now as the expected
// output.
func storyText(why string, lines []string, mutate func(*node)) string {
	var b strings.Builder
	broken, _ := play(lines, true, mutate)
	failure := strings.Join(broken.t.(*trial).failures, "\n")
	fmt.Fprintf(&b, "# %s\n# %s\nrun\n%s\n----\n", why, strings.ReplaceAll(failure, "\n", "\n# "), strings.Join(lines, "\n"))
	s, _ := play(lines, false, mutate)
	out := s.out.String()
	for _, line := range lines {
		out = strings.Replace(out, line+"\n", "", 1)
	}
	b.WriteString(out)
	return b.String()
}

// transcript is the whole run, told again with its messages.
func (s *simulator) transcript() string {
	again, _ := play(s.lines, false, s.mutate)
	return again.out.String()
}

// TestShrink has one end lose what its peer makes in a collision, and wants the
// simulator to find that, and a story of it that is short and fails too.
func TestShrink(t *testing.T) {
	always := func(n *node) {
		for _, c := range n.t.children {
			if n.name == "a" && c.passive != nil && c.passive.child != nil {
				n.t.dropChild(c.passive.child)
			}
		}
	}
	var s *simulator
	for seed := uint64(1); seed <= 20; seed++ {
		if other := simulate(seed, badNetwork, always); other.failure() != "" && (s == nil || len(other.lines) < len(s.lines)) {
			s = other
		}
	}
	if s == nil {
		t.Fatal("no seed finds the planted bug")
	}
	short := shrink(s.lines, always)
	_, failure := play(short, true, always)
	_, sound := play(short, true, nil)
	t.Logf("%d commands, %s; %d are enough:\n%s", len(s.lines), s.failure(), len(short), strings.Join(short, "\n"))
	if failure != s.failure() {
		t.Errorf("the short story fails by %q, want %q", failure, s.failure())
	}
	if sound != "" {
		t.Errorf("the short story fails by %q without the planted bug too", sound)
	}
	if len(short) > 15 {
		t.Errorf("the story has %d commands, want at most 15", len(short))
	}
}
