package ike

import (
	"encoding/binary"
	"io"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// machine is what a tunnel and a half-open responder have in common: the
// current time, the queue of effects, and the answers they wait for.
type machine struct {
	clock
	runtime *Runtime
	timing  *Timing
	natPort uint16
	// datagram is the largest IP datagram for IKE messages, 0 for the default.
	datagram int
	found    pathSize

	effects   []Effect
	lastToken Token
	waits     []wait
	stats     Stats

	transcript transcript
}

// wait is an answer that is still to come.
type wait struct {
	token Token
	owner *ikeSA // dropped with it; nil if nobody's
	done  func(answer any)
}

func (m *machine) emit(e Effect) {
	m.noteEvent(e)
	m.effects = append(m.effects, e)
}

// Next returns the next effect, or false if there is none.
func (m *machine) Next() (Effect, bool) {
	if len(m.effects) == 0 {
		return nil, false
	}
	e := m.effects[0]
	m.effects[0] = nil
	m.effects = m.effects[1:]
	if len(m.effects) == 0 {
		m.effects = nil
	}
	return e, true
}

func (m *machine) await(owner *ikeSA, done func(any)) Token {
	m.lastToken++
	if done != nil {
		m.waits = append(m.waits, wait{m.lastToken, owner, done})
	}
	return m.lastToken
}

// answer gives a result to whoever waits for token. Late ones find nobody, and
// their keys are zeroed.
func (m *machine) answer(token Token, result any) {
	for i, w := range m.waits {
		if w.token == token {
			m.waits = slices.Delete(m.waits, i, i+1) // also out of the memory
			w.done(result)
			return
		}
	}
	if r, ok := result.(JobResult); ok {
		r.Destroy()
	}
}

// forget drops what owner waits for.
func (m *machine) forget(owner *ikeSA) {
	kept := m.waits[:0]
	for _, w := range m.waits {
		if w.owner != owner {
			kept = append(kept, w)
		}
	}
	clear(m.waits[len(kept):])
	m.waits = kept
}

// apply sends operations to the data plane. done, which may be nil, gets the
// results unless owner has ended by then. Keys are zeroed when the data plane
// has copied them.
func (m *machine) apply(owner *ikeSA, ops []dataplane.Op, done func(errs []error)) {
	if len(ops) == 0 {
		return
	}
	install := slices.ContainsFunc(ops, func(op dataplane.Op) bool {
		_, ok := op.(dataplane.InstallSA)
		return ok
	})
	if done == nil && !install {
		m.emit(Plane{Token: m.await(nil, nil), Ops: ops}) // nobody waits for it
		return
	}
	token := m.await(nil, func(a any) {
		for _, op := range ops {
			if install, ok := op.(dataplane.InstallSA); ok {
				clear(install.SA.Key)
			}
		}
		errs, _ := a.([]error)
		if done != nil && (owner == nil || !owner.state.in(stateLingering|stateDead)) {
			done(errs)
		}
	})
	m.emit(Plane{Token: token, Ops: ops})
}

// random returns n octets from the configured source. The source is
// cryptographic and does not fail; if it does there is no safe way on.
func (m *machine) random(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(m.runtime.Rand, b); err != nil {
		panic("ike: random source failed: " + err.Error())
	}
	return b
}

// fraction returns a uniform number in [0, 1).
func (m *machine) fraction() float64 {
	return float64(binary.BigEndian.Uint64(m.random(8))>>11) / (1 << 53)
}

// jitter returns a uniform duration in [0, d).
func (m *machine) jitter(d time.Duration) time.Duration {
	return time.Duration(m.fraction() * float64(d))
}

const nonceLen = 32 // enough for every PRF (RFC 7296, Section 2.10)

func (m *machine) nonce() []byte {
	if m.runtime.NonceForTest != nil {
		return m.runtime.NonceForTest()
	}
	return m.random(nonceLen)
}

// due reports whether the moment t is set and has come.
func (m *machine) due(t time.Time) bool { return !t.IsZero() && !m.now.Before(t) }

// earliest collects deadlines.
type earliest struct{ at time.Time }

func (e *earliest) add(t time.Time) {
	if !t.IsZero() && (e.at.IsZero() || t.Before(e.at)) {
		e.at = t
	}
}

// firstError returns the first error of errs, or nil.
func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
