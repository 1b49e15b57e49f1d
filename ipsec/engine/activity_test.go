package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// countingPlane counts how often it is asked for its counters.
type countingPlane struct {
	dataplane.Plane
	asked *int
}

func (p countingPlane) Counters() []dataplane.Counters {
	*p.asked++
	return p.Plane.Counters()
}

// A tunnel with traffic sends no liveness check in four minutes; as soon as the
// packets of the peer stop coming it does.
func TestPacketsAreASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(t, memory.NewSwitch())
		quiet := a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))
		quiet.Timing.PathMTU = -1
		a.apply([]TunnelConfig{quiet}, Changed)
		quiet = b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))
		quiet.Timing.PathMTU = -1
		b.apply([]TunnelConfig{quiet}, Changed)
		before := a.Counters().Sent + b.Counters().Sent
		for range 240 {
			ping(t, a, b, lan(1, 0), lan(2, 0))
			ping(t, b, a, lan(2, 0), lan(1, 0))
			time.Sleep(time.Second)
		}
		if sent := a.Counters().Sent + b.Counters().Sent - before; sent != 0 {
			t.Errorf("%d IKE messages between two ends that hear each other", sent)
		}
		alone := a.Counters().Sent
		for range 15 {
			ping(t, a, b, lan(1, 0), lan(2, 0))
			time.Sleep(time.Second)
		}
		if a.Counters().Sent == alone {
			t.Error("no liveness check while packets go out and none comes back")
		}
	})
}

// The counters are read once for all who ask within a second, and not at all
// while nobody asks.
func TestActivityIsShared(t *testing.T) {
	asked := 0
	a := newActivity(countingPlane{memory.New(memory.NewSwitch(), addrA), &asked})
	answers := 0
	for range 100 {
		a.ask(question{"t", func(got ike.Activity) {
			if answers++; !got.Inbound.IsZero() {
				t.Errorf("activity of no tunnel: %+v", got)
			}
			if answers == 100 {
				a.close()
			}
		}})
	}
	a.run()
	if answers != 100 || asked != 1 {
		t.Errorf("%d answers, counters read %d times; want 100 and 1", answers, asked)
	}
}
