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
}

// word is a line from a worker: that it is done with what it was told to do, or that an
// edge runs an intent.
type word struct {
	Done  bool   `json:"d,omitempty"`
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

func (w *worker) listen(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var said word
		switch err := json.Unmarshal(lines.Bytes(), &said); {
		case err != nil:
			w.done <- err
			return
		case said.Error != "":
			w.done <- errors.New(said.Error)
		case said.Done:
			w.done <- nil
		default:
			w.applied(said.Index, time.Unix(0, said.At))
		}
	}
}

func (w *worker) connect() error {
	if _, err := io.WriteString(w.in, "connect\n"); err != nil {
		return fmt.Errorf("tell a worker to connect its edges: %w", err)
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
	answer := func(err error) {
		w := word{Done: true}
		if err != nil {
			w.Error = err.Error()
		}
		said <- w
	}
	c := &controller{operators: j.Operators}
	if err := c.connect(j.Credential); err != nil {
		answer(err)
		return err
	}
	h := &hands{
		first: j.First, count: j.Count, enrolAt: j.Edges, access: c.access,
		applied: func(index int, at time.Time) { said <- word{Index: index, At: at.UnixNano()} },
	}
	answer(h.enrol(ctx))
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == "connect" {
			answer(h.connect())
		}
	}
	return nil // and with the process everything ends at once
}
