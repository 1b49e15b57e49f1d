package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
)

// runTest runs everything: lint, the Go tests, those in which something runs side by side
// again with the race detector, the fuzz targets for a moment, the dashboard's tests, and the demo once.
func runTest(ctx context.Context, _ []string) error {
	start := time.Now()
	var total tally
	err := errors.Join(
		stage("setup", func() error { return runSetup(ctx, nil) }),
		stage("lint", func() error { return runLint(ctx, nil) }),
		// With what is built for edges with a TPM only; programs that tests build are without.
		stage("tests", func() error { return total.goTests(ctx, nil, "-tags", "tpm") }),
		stage("race", func() error { return total.goTests(ctx, sequential, "-race", "-short", "-skip", notForRaces) }),
		stage("fuzz", func() error { return runFuzz(ctx, []string{"-target", "ipsec/", "-total", fuzzTime()}) }),
		stage("dashboard", func() error { return testUI(ctx) }),
		stage("demo", func() error { return command(ctx, "", "go", "run", "./deployments/demo", "--once") }),
	)
	fmt.Printf("all stages took %v\n", time.Since(start).Round(time.Second))
	fmt.Printf("%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	return err
}

// fuzzTime is how long the fuzz targets of ipsec run together: a minute, or what
// SWANHERD_FUZZ_TIME says, such as 10m.
func fuzzTime() string { return cmp.Or(os.Getenv("SWANHERD_FUZZ_TIME"), "1m") }

func runLab(ctx context.Context, args []string) error {
	var total tally
	err := total.goTest(ctx, append([]string{"-run", "Lab|Interop|Netns"}, append(args, "./...")...)...)
	fmt.Printf("%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	return err
}

// stage runs one part and says how long it took, and how much room is left: without it
// tests fail in ways that do not say so.
func stage(name string, f func() error) error {
	fmt.Printf("\n=== %s\n", name)
	start := time.Now()
	err := f()
	verdict := "ok"
	if err != nil {
		verdict = "FAILED: " + err.Error()
	}
	fmt.Printf("=== %s: %s (%v, %s)\n", name, verdict, time.Since(start).Round(time.Second), room())
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// room is what is left where temporary files go.
func room() string {
	var fs unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &fs); err != nil {
		return fmt.Sprintf("room on disk unknown: %v", err)
	}
	return fmt.Sprintf("%d MB left in %s", fs.Bavail*uint64(fs.Bsize)>>20, os.TempDir())
}

// tally counts test results of several runs.
type tally struct {
	passed, failed, skipped int
}

// testEvent is one line of `go test -json`; see `go doc test2json`.
type testEvent struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

// inRealTime are packages whose tests have real programs, kernels and peers keep
// to their intervals. They run one after the other with nothing beside them.
var inRealTime = []string{"/deployments/lab", "/deployments/demo", "/ipsec/engine", "/ipsec/dataplane/userspace"}

// long are the packages whose tests take longest. They begin first, lest one of them
// has a processor to itself at the end.
var long = []string{"/swanherd/server", "/deployments/load", "/ipsec/ike", "/server/store", "/server/plan"}

// takesLong is the place of a package in long, or the one behind all.
func takesLong(pkg string) int {
	i := slices.IndexFunc(long, func(suffix string) bool { return strings.HasSuffix(pkg, suffix) })
	if i < 0 {
		return len(long)
	}
	return i
}

// sequential are packages in which nothing runs side by side and nothing is locked, nor
// in their tests: there is nothing for the race detector to find.
var sequential = []string{
	"/ipsec/wire", "/ipsec/ts", "/ipsec/notation", "/server/model", "/server/rollout", "/server/alert", "/server/query", "/server/gatewayconfig", "/server/attest",
}

// notForRaces are tests of algorithms, of IKE told as stories and simulated, and of requests
// one after the other, in which nothing runs side by side, and of programs, which are built
// without the race detector.
const notForRaces = "Wycheproof|^TestStories$|^TestEvil|^TestSimulator$|^TestNoLoss$|^TestNarrowPath$|^TestFirewall$|^TestTranscriptIsBounded$|^FuzzSchedule$|^TestEveryFieldOfEvery" +
	"|^TestEdges|^TestKernel|^TestFleetNetns$|^TestSegmentsNetns$|^TestCertificatesNetns$" +
	"|^TestStrongSwanThroughBlackHole$|^TestGatewayStrongSwan$|^TestInteropStrongSwan$"

// goTests runs all Go tests but those of some packages.
func (t *tally) goTests(ctx context.Context, but []string, flags ...string) error {
	out, err := exec.CommandContext(ctx, "go", "list", "./...").Output()
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	var together, alone []string
	for _, pkg := range strings.Fields(string(out)) {
		of := func(suffix string) bool { return strings.HasSuffix(pkg, suffix) }
		switch {
		case slices.ContainsFunc(but, of):
		case slices.ContainsFunc(inRealTime, of):
			alone = append(alone, pkg)
		default:
			together = append(together, pkg)
		}
	}
	slices.SortStableFunc(together, func(a, b string) int { return takesLong(a) - takesLong(b) })
	return errors.Join(
		t.goTest(ctx, slices.Concat(flags, together)...),
		t.goTest(ctx, slices.Concat(flags, []string{"-p", "1"}, alone)...),
	)
}

// goTest runs go test, without vet, which is of lint, and without recalling earlier
// results: namespaces, kernel and peers are no inputs that the cache knows. It fails when a test failed or skipped: here, where
// everything was set up, a skipped test is a test that did not run. One whose kernel is not
// to be had is only told.
func (t *tally) goTest(ctx context.Context, args ...string) error {
	cmd := prepare(ctx, "", append([]string{"go", "test", "-json", "-count=1", "-vet=off", "-timeout", "45m"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	r := report{output: map[string][]string{}}
	r.read(out)
	waitErr := cmd.Wait()
	t.passed += r.passed
	t.failed += len(r.failed)
	t.skipped += len(r.skipped) + r.absent
	if len(r.failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(r.failed, ", "))
	}
	if waitErr != nil {
		return fmt.Errorf("go test: %w", waitErr)
	}
	if len(r.skipped) > 0 {
		return fmt.Errorf("skipped, so not proven: %s", strings.Join(r.skipped, ", "))
	}
	return nil
}

// report collects the results of one run and prints failures as they come.
type report struct {
	passed          int
	absent          int // skipped, as something is not to be had
	failed, skipped []string
	output          map[string][]string
}

func (r *report) read(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e testEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text())
			continue
		}
		r.event(e)
	}
}

func (r *report) event(e testEvent) {
	key := e.Package + "." + e.Test
	name := strings.TrimPrefix(key, "github.com/swanherd/swanherd/")
	switch e.Action {
	case "output", "build-output":
		r.output[key] = append(r.output[key], e.Output)
		return
	case "pass":
		if e.Test != "" {
			r.passed++
		} else {
			fmt.Printf("ok    %s %.1fs\n", e.Package, e.Elapsed)
		}
	case "fail", "build-fail":
		fmt.Printf("FAIL  %s %.1fs\n%s", name, e.Elapsed, strings.Join(r.output[key], ""))
		if e.Test != "" || !slices.ContainsFunc(r.failed, func(f string) bool { return strings.HasPrefix(f, strings.TrimSuffix(name, ".")) }) {
			r.failed = append(r.failed, name)
		}
	case "skip":
		if e.Test != "" { // a package without tests skips as a whole
			output := strings.Join(r.output[key], "")
			fmt.Printf("SKIP  %s\n%s", name, output)
			if strings.Contains(output, lab.NotToBeHad) {
				r.absent++
			} else {
				r.skipped = append(r.skipped, name)
			}
		}
	default:
		return
	}
	delete(r.output, key)
}
