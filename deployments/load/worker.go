package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// job is what a worker does, as its argument in JSON.
type job struct {
	First, Count int
	// Credential is the operator's, for the controller at Operators; edges enrol at Edges.
	Credential, Operators, Edges string
	// Dir is where edges store what they renew.
	Dir string
}

// word is a line from a worker: that it is done with what it was told to do, or that an
// edge runs an intent.
type word struct {
	Done  bool   `json:"d,omitempty"`
	Tally *tally `json:"y,omitempty"`
	Error string `json:"e,omitempty"`
	Index int    `json:"i,omitempty"`
	// At is when, in nanoseconds of Unix time.
	At int64 `json:"t,omitempty"`
}

// worker is a crew in a process of its own, which is this program. It goes when its
// standard input ends.
type worker struct {
	job     job
	applied func(index int, at time.Time)

	process *exec.Cmd
	in      io.WriteCloser
	done    chan error
	tally   tally // of the last calm
}

func (w *worker) enrol(ctx context.Context) error {
	b, err := json.Marshal(w.job)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w.process = exec.Command(self, "-worker", string(b))
	w.process.Stderr = os.Stderr
	w.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if w.in, err = w.process.StdinPipe(); err != nil {
		return err
	}
	out, err := w.process.StdoutPipe()
	if err != nil {
		return err
	}
	if err := w.process.Start(); err != nil {
		return err
	}
	w.done = make(chan error, 1)
	go w.listen(out)
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxWord bounds a worker's line: a tally of many returns is long.
const maxWord = 16 << 20

func (w *worker) listen(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxWord)
	for lines.Scan() {
		var said word
		switch err := json.Unmarshal(lines.Bytes(), &said); {
		case err != nil:
			w.done <- err
			return
		case said.Error != "":
			w.done <- errors.New(said.Error)
		case said.Done:
			if said.Tally != nil {
				w.tally = *said.Tally
			}
			w.done <- nil
		default:
			w.applied(said.Index, time.Unix(0, said.At))
		}
	}
}

func (w *worker) connect() error { return w.tell("connect") }

func (w *worker) disturb(k knob) error {
	b, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return w.tell("disturb " + string(b))
}

func (w *worker) calm() (tally, error) {
	err := w.tell("calm")
	return w.tally, err
}

// tell has the worker do something, and waits until it has.
func (w *worker) tell(what string) error {
	if _, err := io.WriteString(w.in, what+"\n"); err != nil {
		return fmt.Errorf("tell a worker to %s: %w", what, err)
	}
	return <-w.done
}

func (w *worker) close() {
	if w.process == nil {
		return
	}
	w.in.Close()
	_ = w.process.Wait()
}

// work is what a worker's process does.
func work(ctx context.Context, argument string) error {
	var j job
	if err := json.Unmarshal([]byte(argument), &j); err != nil {
		return err
	}
	if err := raiseFileLimit(uint64(j.Count + 1000)); err != nil {
		return err
	}
	said := make(chan word, 1024)
	go func() {
		out := bufio.NewWriter(os.Stdout)
		for w := range said {
			b, err := json.Marshal(w)
			if err != nil {
				panic(err) // of numbers and a text
			}
			_, _ = out.Write(append(b, '\n')) // who does not read ends this process
			if len(said) == 0 {
				_ = out.Flush()
			}
		}
	}()
	answer := func(t *tally, err error) {
		w := word{Done: true, Tally: t}
		if err != nil {
			w.Error = err.Error()
		}
		said <- w
	}
	c := &controller{operators: j.Operators}
	if err := c.connect(j.Credential); err != nil {
		answer(nil, err)
		return err
	}
	h := &hands{
		first: j.First, count: j.Count, enrolAt: j.Edges, access: c.access, dir: j.Dir,
		applied: func(index int, at time.Time) { said <- word{Index: index, At: at.UnixNano()} },
	}
	answer(nil, h.enrol(ctx))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer(obey(h, lines.Text()))
	}
	return nil // and with the process everything ends at once
}

// obey has the crew do what a worker was told.
func obey(h *hands, line string) (*tally, error) {
	what, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch what {
	case "connect":
		return nil, h.connect()
	case "disturb":
		var k knob
		if err := json.Unmarshal([]byte(argument), &k); err != nil {
			return nil, err
		}
		return nil, h.disturb(k)
	case "calm":
		t, err := h.calm()
		return &t, err
	}
	return nil, fmt.Errorf("a worker is told to %q, which it does not know", what)
}
