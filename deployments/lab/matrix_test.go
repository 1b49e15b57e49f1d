package lab_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
)

// scratch is a directory that goes when all tests have ended.
var scratch string

// TestMain lets more cases of interoperation run at a time than there are
// processors, unless -parallel says how many: they mostly wait.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0)))
	}
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "lab"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(scratch)
		return m.Run()
	}())
}

// longInterop says whether what is orthogonal is combined, which takes minutes
// more.
func longInterop() bool { return os.Getenv("SWANHERD_INTEROP") == "long" }

// shortShare is the part of the cases that -short runs: one of so many.
const shortShare = 8

// TestInteropMatrix runs our engine against the host's strongSwan in each of
// the cases.
func TestInteropMatrix(t *testing.T) {
	lab.Require(t, append(lab.CharonPrograms, "nft")...)
	runCases(t, classicCases(longInterop()), newCharonPeer(lab.Tree{}))
}

// TestInteropPostQuantum runs our engine against a strongSwan that has ML-KEM
// (FIPS 203) and several key exchanges (RFC 9370), and against the same that all
// others do.
func TestInteropPostQuantum(t *testing.T) {
	lab.Require(t, "nft", "unshare", "chroot")
	tree, err := lab.OpenTree(lab.TreeStrongSwan)
	if err != nil {
		t.Skipf("SKIPPED, so not run: %v", err)
	}
	newPeer := newCharonPeer(tree)
	runCases(t, quantumCases(longInterop()), newPeer)
	classic := classicCases(longInterop())
	if !longInterop() {
		classic = everyNth(classic, 4)
	}
	t.Run("classic", func(t *testing.T) { runCases(t, classic, newPeer) })
}

// everyNth takes some of many.
func everyNth(cases []interopCase, n int) []interopCase {
	var out []interopCase
	for i := 0; i < len(cases); i += n {
		out = append(out, cases[i])
	}
	return out
}

// runCases runs cases, several at a time.
func runCases(t *testing.T, cases []interopCase, newPeer func(*run) peer) {
	if inGuest() {
		if err := keepHooks(); err != nil {
			t.Fatal(err)
		}
		traceDrops() // an error is told with the first loss
	}
	for i, c := range cases {
		if testing.Short() && i%shortShare != 0 {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			runCase(t, c, newPeer)
		})
	}
}
