package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// Dir is an edge's state directory, locked for this process.
type Dir struct {
	path string
	lock *os.File
	tpm  TPM // nil: keys are files

	promoting sync.Mutex // held while files of the identity in use are written or exchanged
}

// Open opens the state directory at path, makes it where it is missing, and
// locks it. It fails if somebody else may read the directory or another agent
// uses it.
func Open(path string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find state directory: %w", err)
	}
	if err := os.MkdirAll(abs, dirMode); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, fmt.Errorf("inspect state directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("state directory %s is not a directory", abs)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("state directory %s has mode %04o and would show keys to others; run: chmod 700 %s", abs, perm, abs)
	}
	lock, err := lockFile(filepath.Join(abs, "lock"))
	if err != nil {
		return nil, err
	}
	d := &Dir{path: abs, lock: lock}
	d.clearLeftovers()
	return d, nil
}

// clearLeftovers removes what a crash left behind that never was in use. If that
// fails it is in nobody's way but takes room.
func (d *Dir) clearLeftovers() {
	intents, _ := filepath.Glob(temporaryOf(d.intentPath()))
	trials, _ := filepath.Glob(temporaryOf(d.trialPath()))
	for _, path := range slices.Concat(intents, trials, []string{d.candidatePath() + ".tmp"}) {
		_ = os.RemoveAll(path)
	}
	d.EngineMemory().clear()
}

// lockFile takes the lock at path and notes the owner's process id in it, for
// the message to whoever comes second.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return nil, fmt.Errorf("open lock of state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		owner := "another process"
		if pid, _ := os.ReadFile(path); len(pid) > 0 {
			owner = "process " + strings.TrimSpace(string(pid))
		}
		return nil, fmt.Errorf("state directory %s is in use by %s; stop it or give this agent its own --state-dir", filepath.Dir(path), owner)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // informative only: the lock itself is the flock
	}
	return f, nil
}

// Close releases the lock. Closing twice is no error.
func (d *Dir) Close() error {
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	return err
}

// Path is the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// StatusSocket is where the agent that runs in the state directory dir answers
// for its status.
func StatusSocket(dir string) string { return filepath.Join(dir, "status.sock") }

// quarantine moves a broken file or directory of the state out of the way,
// where a person can look at it, and returns its new name.
func quarantine(path string) (string, error) {
	base := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
	aside := base
	for i := 2; ; i++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s-%d", base, i)
	}
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("set aside broken state: %w", err)
	}
	return aside, syncDir(filepath.Dir(path))
}
