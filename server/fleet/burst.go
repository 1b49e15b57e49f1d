package fleet

import (
	"fmt"
	"path"
	"strings"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// burstSize is how many transitions of one kind in one network are told one by one
	// before the rest is told in one event. When a network or the controller itself fails,
	// ten thousand edges say the same, and it is one thing that happened.
	burstSize = 50
	// burstQuiet is after how long without another one a burst is over, and burstMost how
	// long it lasts before it is told so far.
	burstQuiet = 10 * time.Second
	burstMost  = time.Minute
	// burstExamples is how many of those that are not told one by one are named.
	burstExamples = 3
)

// burst is transitions of one kind in one network, one after the other.
type burst struct {
	network, action string
	began, last     time.Time
	told            int // one by one
	more            int
	examples        []string
}

type burstKey struct{ network, action string }

// bursts holds the transitions of the last seconds.
type bursts map[burstKey]*burst

// add says whether the event is to be told by itself. If not, it is in the burst's own.
func (b bursts) add(e *swanherdv1.Event) bool {
	now := e.GetTime().AsTime()
	key := burstKey{networkOf(e.GetResource()), e.GetAction()}
	one := b[key]
	if one == nil {
		one = &burst{network: key.network, action: key.action, began: now}
		b[key] = one
	}
	one.last = now
	if one.told < burstSize {
		one.told++
		return true
	}
	one.more++
	if len(one.examples) < burstExamples {
		one.examples = append(one.examples, path.Base(e.GetResource()))
	}
	return false
}

// over returns what is to be told of bursts that are over, or have lasted long.
func (b bursts) over(now time.Time) []*swanherdv1.Event {
	var events []*swanherdv1.Event
	for key, one := range b {
		quiet, long := now.Sub(one.last) >= burstQuiet, now.Sub(one.began) >= burstMost
		if !quiet && !long {
			continue
		}
		if one.more > 0 {
			events = append(events, one.event())
		}
		if quiet {
			delete(b, key)
		} else { // what goes on stays in one event
			one.began, one.more, one.examples = now, 0, nil
		}
	}
	return events
}

func (o *burst) event() *swanherdv1.Event {
	e := transition(o.network, "system", o.action, fmt.Sprintf("the same of %d more within %s, such as %s",
		o.more, o.last.Sub(o.began).Round(time.Second), strings.Join(o.examples, ", ")))
	return e
}

// networkOf is the network of a resource's name.
func networkOf(resource string) string {
	parts := strings.SplitN(resource, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}
