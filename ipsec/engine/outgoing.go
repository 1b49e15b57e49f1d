package engine

import (
	"slices"
	"sync"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// What carries the packets between two ends may become another tunnel: one that has another
// name, or several in the place of one. What is there stays until its successor is up, so a
// tunnel that is not named any more and is up stays while one that is to carry some of the
// same between the same ends is not. Peers begin with the successors meanwhile.
const (
	// successionTime is how long a tunnel stays for its successors at most: the peer may
	// get them a little later, and an end that waits for the other to begin does so itself
	// some seconds later (ike.Timing.TakeOver).
	successionTime = time.Minute
	// successionLook is how often it is looked whether one is up. It is less than what an
	// edge waits before it connects again, for the peer may have ended the tunnel.
	successionLook = 200 * time.Millisecond
)

// betweenEnds is what a tunnel and its successors have in common.
type betweenEnds struct {
	identities [2]string
	label      string
}

func betweenOf(c *TunnelConfig) betweenEnds {
	b := betweenEnds{identities: identityPair(*c)}
	if len(c.Children) > 0 {
		b.label = c.Children[0].Label // they all have the same
	}
	return b
}

// carrySame says whether some packets are those of children of both.
func carrySame(a, b *TunnelConfig) bool {
	return slices.ContainsFunc(a.Children, func(x ike.ChildConfig) bool {
		return slices.ContainsFunc(b.Children, func(y ike.ChildConfig) bool {
			return len(ts.Narrow(x.LocalTS, y.LocalTS)) > 0 && len(ts.Narrow(x.RemoteTS, y.RemoteTS)) > 0
		})
	})
}

// retire has a tunnel that is not named any more go once it has a successor that is up, or at
// once where it has none. It is to be called with applyMu, when all that is named is there.
func (e *Engine) retire(names []string, done *sync.WaitGroup) {
	now := time.Now()
	for _, name := range names {
		e.tunnels[name].outgoing = now
	}
	if e.letGo(now, done) == 0 {
		return
	}
	for _, name := range names {
		if en := e.tunnels[name]; en.wanted {
			e.quieten(en, done)
		}
	}
	e.lookAgain()
}

// quieten has an outgoing tunnel not begin anew when the peer ends it: the peer would take
// that for its successor.
func (e *Engine) quieten(en *entry, done *sync.WaitGroup) {
	quiet := *en.config
	quiet.Role, quiet.Timing.TakeOver = ike.RoleResponder, 2*successionTime
	full, err := e.complete(quiet, en.tunnel)
	if err != nil {
		return // it goes soon
	}
	en.config = &quiet
	t := en.tunnel
	inLoop(t, done, func() {
		if t.machine != nil && !t.closing {
			t.step(time.Now(), ike.Reconfigure{Config: full})
		}
	})
}

// letGo closes the outgoing tunnels that nothing is waited for any more, and returns how many
// others there are.
func (e *Engine) letGo(now time.Time, done *sync.WaitGroup) (left int) {
	waiting := map[betweenEnds][]*entry{} // the successors, once filled in
	for _, en := range e.tunnels {
		if !en.outgoing.IsZero() {
			waiting[betweenOf(en.config)] = nil
		}
	}
	if len(waiting) == 0 {
		return 0
	}
	for _, en := range e.tunnels {
		if !en.wanted || !en.outgoing.IsZero() {
			continue
		}
		between := betweenOf(en.config)
		if others, ok := waiting[between]; ok {
			waiting[between] = append(others, en)
		}
	}
	for _, en := range e.tunnels {
		switch {
		case en.outgoing.IsZero():
		case en.awaits(waiting[betweenOf(en.config)], now):
			left++
		default:
			en.wanted, en.outgoing = false, time.Time{}
			t := en.tunnel
			inLoop(t, done, func() { t.disconnect(time.Now()) })
		}
	}
	return left
}

// awaits says whether an outgoing tunnel stays: some are to take its place, and none can yet.
// Who takes any peer has no two ends.
func (en *entry) awaits(others []*entry, now time.Time) bool {
	if !en.isUp() || en.config.Peer.ID.IsZero() || now.Sub(en.outgoing) >= successionTime {
		return false
	}
	successors := slices.DeleteFunc(slices.Clone(others), func(o *entry) bool { return !carrySame(en.config, o.config) })
	return len(successors) > 0 && !slices.ContainsFunc(successors, (*entry).isUp)
}

func (en *entry) isUp() bool { return en.tunnel.status.Load().State == ike.StateUp }

// lookAgain has it looked soon whether outgoing tunnels may go.
func (e *Engine) lookAgain() {
	if e.looking != nil {
		return
	}
	e.looking = time.AfterFunc(successionLook, func() {
		e.applyMu.Lock()
		defer e.applyMu.Unlock()
		e.looking = nil
		if e.isClosing() {
			return
		}
		var done sync.WaitGroup
		left := e.letGo(time.Now(), &done)
		e.publishIndex()
		done.Wait()
		if left > 0 {
			e.lookAgain()
		}
	})
}
