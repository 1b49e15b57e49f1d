package ike

import (
	"bytes"
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// steal gives n an input, keeps the first job that it starts from being done,
// and carries out all other effects.
func (n *node) steal(in Input) StartJob {
	n.t.Step(n.w.now, in)
	var stolen StartJob
	var rest []Effect
	for e, ok := n.t.Next(); ok; e, ok = n.t.Next() {
		if job, ok := e.(StartJob); ok && stolen.Run == nil {
			stolen = job
			continue
		}
		rest = append(rest, e)
	}
	n.t.effects = rest
	n.drain(n.t, nil)
	return stolen
}

// TestLateResultsAreZeroed holds that keys which come after their IKE SA has
// ended do not stay in memory.
func TestLateResultsAreZeroed(t *testing.T) {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.deliver(w.flight[0])
	answer := w.flight[1]
	job := w.a.steal(Datagram{Local: answer.dst, Remote: answer.src, Data: answer.data})
	result := job.Run()
	keys := result.value.(respondResult).keys
	secrets := [][]byte{keys.D, keys.Ei, keys.Er, keys.Pi, keys.Pr}
	w.a.step(Disconnect{})
	w.a.step(JobDone{job.Token, result})
	wantZero(t, "IKE keys", secrets...)

	w = pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.a.step(RekeyChild{})
	request := w.flight[0]
	job = w.b.steal(Datagram{Local: request.dst, Remote: request.src, Data: request.data})
	result = job.Run()
	child := result.value.(childResult).keys
	secrets = [][]byte{child.InitiatorToResponder, child.ResponderToInitiator}
	w.b.t.ikeDown(w.b.t.sas[0], ReasonPeerDead)
	w.b.step(JobDone{job.Token, result})
	wantZero(t, "Child keys", secrets...)
}

// TestInstalledKeysAreZeroed holds that no key stays with the machine that the
// data plane has, and none of a Child SA that has ended.
func TestInstalledKeysAreZeroed(t *testing.T) {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.a.step(RekeyChild{})
	request := w.flight[0]
	job := w.b.steal(Datagram{Local: request.dst, Remote: request.src, Data: request.data})
	result := job.Run()
	var secrets [][]byte
	add := func(k *suite.ChildKeys) { secrets = append(secrets, k.InitiatorToResponder, k.ResponderToInitiator) }
	add(result.value.(childResult).keys)
	w.b.step(JobDone{job.Token, result})
	w.settle()
	w.a.traffic()
	w.check(t)
	wantZero(t, "installed keys", secrets...)
}

// TestLarvalEndGivesBack holds that an IKE SA which ends before its peer is
// verified leaves no SPI reserved.
func TestLarvalEndGivesBack(t *testing.T) {
	w := pair(1, nil)
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.deliver(w.flight[0])
	w.deliver(w.flight[1])
	if len(w.a.reserved) != 1 {
		t.Fatalf("%d SPIs are reserved during IKE_AUTH, want 1", len(w.a.reserved))
	}
	w.a.step(Disconnect{})
	if len(w.a.reserved) != 0 {
		t.Errorf("%d SPIs are reserved after the end, want 0", len(w.a.reserved))
	}
}

func wantZero(t *testing.T, what string, secrets ...[]byte) {
	t.Helper()
	for _, s := range secrets {
		if len(s) == 0 || !bytes.Equal(s, make([]byte, len(s))) {
			t.Errorf("%s: %x is not zeroed", what, s)
		}
	}
}
