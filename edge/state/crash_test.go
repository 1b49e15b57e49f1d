package state

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// crashDirEnv names the directory for the test binary's second self, which is
// killed while it writes there.
const crashDirEnv = "SWANHERD_TEST_CRASH_DIR"

// However often an agent is killed while it renews its identity and stores
// intents, the next one finds a whole identity, a whole intent, and no rubbish.
func TestKilledWhileWriting(t *testing.T) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		writeForEver(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "state")
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := d.CandidateKeys()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Promote(identityFor(t, keys)), d.SaveIntent(testIntent()), d.Close()); err != nil {
		t.Fatal(err)
	}
	for round := range 25 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledWhileWriting$")
		child.Env = append(os.Environ(), crashDirEnv+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatalf("round %d: the writer did not begin: %v", round, err)
		}
		// Somewhere within the writes: each round a little later.
		<-time.After(time.Duration(round) * 613 * time.Microsecond)
		child.Process.Kill()
		child.Wait()
		checkAfterCrash(t, dir, round)
	}
}

func writeForEver(t *testing.T, dir string) {
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(1); ; i++ {
		keys, err := d.CandidateKeys()
		if err != nil {
			t.Fatal(err)
		}
		intent := testIntent()
		intent.SourceRevision = i
		id := identityFor(t, keys)
		if i == 1 {
			fmt.Print("x")
		}
		trial := &swanherdv1.Reverted{SetDigest: intent.Digest(), Attempts: uint32(i)}
		if err := errors.Join(d.Promote(id), d.SaveTrial(trial), d.SaveIntent(intent)); err != nil {
			t.Fatal(err)
		}
	}
}

func checkAfterCrash(t *testing.T, dir string, round int) {
	t.Helper()
	d, err := Open(dir)
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer d.Close()
	if _, err := d.LoadIdentity(); err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	if i, err := d.LoadIntent(); err != nil || !bytes.Equal(i.Digest(), testIntent().Digest()) {
		t.Fatalf("round %d: LoadIntent = %v, %v", round, i, err)
	}
	if trial, err := d.LoadTrial(); err != nil || trial != nil && trial.GetAttempts() == 0 {
		t.Fatalf("round %d: LoadTrial = %v, %v", round, trial, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), ".tmp") {
			t.Errorf("round %d: %s is left over", round, e.Name())
		}
	}
	if _, err := d.CandidateKeys(); err != nil {
		t.Errorf("round %d: the next renewal cannot begin: %v", round, err)
	}
}

// A write that fails for want of room leaves the old file and nothing else.
func TestDiskFull(t *testing.T) {
	d := open(t)
	if err := d.SaveIntent(testIntent()); err != nil {
		t.Fatal(err)
	}
	limitFileSize(t, 16)
	next := testIntent()
	next.SourceRevision++
	err := d.SaveIntent(next)
	limitFileSize(t, unix.RLIM_INFINITY)
	if err == nil || !strings.Contains(err.Error(), d.intentPath()) {
		t.Errorf("SaveIntent without room = %v, want an error that names the file", err)
	}
	if i, err := d.LoadIntent(); err != nil || i.SourceRevision != 42 {
		t.Errorf("LoadIntent = %v, %v, want the intent before", i, err)
	}
	if left, _ := filepath.Glob(temporaryOf(d.intentPath())); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// limitFileSize makes writes beyond n octets of a file fail with EFBIG, in this
// process; the Go runtime ignores the signal that comes with it.
func limitFileSize(t *testing.T, n uint64) {
	t.Helper()
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &l); err != nil {
		t.Fatal(err)
	}
	l.Cur = min(n, l.Max)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &l); err != nil {
		t.Fatal(err)
	}
}
