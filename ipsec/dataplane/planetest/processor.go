package planetest

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// onOneProcessor keeps every thread of this process on one processor until the test ends.
// What a thread sends may overtake what it has sent on another processor before, which still
// has that in its backlog: the kernel keeps the order of what one processor sends.
func onOneProcessor(t *testing.T) {
	t.Helper()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatalf("read on which processors this process may run: %v", err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	setAffinity(t, &one)
	t.Cleanup(func() { setAffinity(t, &all) })
}

// setAffinity is for the threads that there are; what they make inherits it. A thread that
// is made meanwhile is found the second time.
func setAffinity(t *testing.T, set *unix.CPUSet) {
	t.Helper()
	for range 2 {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatalf("list the threads of this process: %v", err)
		}
		for _, thread := range threads {
			id, err := strconv.Atoi(thread.Name())
			if err == nil {
				err = unix.SchedSetaffinity(id, set)
			}
			if err != nil && err != unix.ESRCH { // it may have ended
				t.Fatalf("keep thread %s on some processors: %v", thread.Name(), err)
			}
		}
	}
}
