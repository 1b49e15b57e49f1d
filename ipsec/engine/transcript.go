package engine

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/ike"
)

// Transcript returns the last messages and events of a tunnel, the oldest
// first, without a secret in them; of one that panicked, those up to then. An
// error says that there is no such tunnel.
func (e *Engine) Transcript(name string) ([]ike.Entry, error) {
	t := e.index.Load().byName[name]
	if t == nil || t.gone.Load() {
		return nil, fmt.Errorf("no tunnel %q", name)
	}
	reply := make(chan []ike.Entry, 1)
	if !t.shard.post(func() { reply <- t.transcript() }) {
		return nil, ErrClosed
	}
	select {
	case entries := <-reply:
		return entries, nil
	case <-t.shard.stopped:
		return nil, ErrClosed
	}
}

func (t *tunnel) transcript() []ike.Entry {
	if t.machine == nil {
		return t.lastWords
	}
	return t.machine.Transcript()
}

// rescueTranscript keeps what led to a panic. The machine is broken, so it may
// panic again.
func (t *tunnel) rescueTranscript() {
	defer func() { _ = recover() }()
	if t.machine != nil {
		t.lastWords = t.machine.Transcript()
	}
}
