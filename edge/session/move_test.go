package session

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func leaveWithin(d time.Duration) *swanherdv1.ControllerMessage {
	return &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Goaway{
		Goaway: &swanherdv1.Goaway{Reason: "old", LeaveWithin: durationpb.New(d)},
	}}
}

func redirectTo(endpoints ...string) *swanherdv1.ControllerMessage {
	return &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Redirect{
		Redirect: &swanherdv1.Redirect{Endpoints: endpoints},
	}}
}

// An edge that is asked to begin anew is welcomed in the new session before it leaves the
// old one.
func TestNewSessionBeforeTheOldGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		welcomed, left := make(chan struct{}), make(chan struct{})
		play(t, f, func(c *Client, _ *controller) {
			<-left
			synctest.Wait()
			if st := c.Status(); !st.Connected {
				t.Errorf("Status = %+v", st)
			}
		},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				send(t, s, leaveWithin(30*time.Second))
				<-welcomed
				select {
				case <-s.Context().Done():
					t.Error("it left before it had another session")
				default:
				}
				f.transition(&swanherdv1.TunnelReport{Tunnel: "t1"}) // the old one still serves
				<-s.Context().Done()
				close(left)
				return nil
			},
			func(t *testing.T, s serverStream) error {
				recv(t, s) // Hello
				time.Sleep(10 * time.Second)
				close(welcomed)
				time.Sleep(time.Second)
				send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Welcome{
					Welcome: &swanherdv1.Welcome{ProtocolVersion: 1, Epoch: "e1"},
				}})
				if r := recvSkip(t, s).GetStatus(); !r.GetFull() {
					t.Errorf("first report = %v, want a full one", r)
				}
				return untilOver(s)
			})
	})
}

// Who is wanted elsewhere does not come back to the same controller, unless it knows no
// other.
func TestEndpointsForANewSession(t *testing.T) {
	p := newPlaces([]string{"a:1", "b:1", "c:1"}, "b:1")
	for but, want := range map[string]string{"": "a:1 b:1 c:1", "b:1": "a:1 c:1", "d:1": "a:1 b:1 c:1"} {
		got := p.anew(but)
		slices.Sort(got)
		if got := strings.Join(got, " "); got != want {
			t.Errorf("but for %q: %s, want %s", but, got, want)
		}
	}
	alone := newPlaces([]string{"a:1"}, "")
	if got := alone.anew("a:1"); len(got) != 1 {
		t.Errorf("of one endpoint %v are left", got)
	}
}

// An edge that cannot begin anew stays where it is.
func TestNewSessionThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		play(t, newFleet(), func(_ *Client, _ *controller) { <-done },
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				send(t, s, leaveWithin(30*time.Second))
				for range 4 {
					recv(t, s) // counters and pings go on
				}
				close(done)
				return untilOver(s)
			},
			func(*testing.T, serverStream) error { return errors.New("not here") },
			func(*testing.T, serverStream) error { return errors.New("nor here") })
	})
}

// A candidate is tried, and only then the old endpoints are let go; from then on the new
// ones are what the edge has.
func TestRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		done := make(chan struct{})
		play(t, f, func(c *Client, ctl *controller) {
			<-done
			synctest.Wait()
			ctl.mu.Lock()
			defer ctl.mu.Unlock()
			if !slices.Equal(ctl.dials[:3], []string{"one:1", "three:3", "three:3"}) {
				t.Errorf("dialled %v", ctl.dials)
			}
			if !slices.Equal(f.kept, []string{"three:3", "three:3"}) {
				t.Errorf("kept %v", f.kept)
			}
		},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				send(t, s, redirectTo("three:3"))
				return untilOver(s)
			},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				time.Sleep(time.Minute)
				return errors.New("that was it")
			},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				close(done)
				return untilOver(s)
			})
	})
}

// A redirection to where nobody welcomes the edge leaves everything as it is, and is
// reported.
func TestRedirectToNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		done := make(chan struct{})
		play(t, f, func(_ *Client, ctl *controller) {
			<-done
			if last := f.kept[len(f.kept)-1]; last != "one:1" || len(f.kept) != 3 {
				t.Errorf("kept %v", f.kept)
			}
		},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				send(t, s, redirectTo("three:3"))
				r := recvSkip(t, s).GetRedirectResult()
				if !slices.Equal(r.GetEndpoints(), []string{"three:3"}) || r.GetMessage() == "" {
					t.Errorf("got %v", r)
				}
				close(done)
				return untilOver(s)
			},
			func(*testing.T, serverStream) error { return errors.New("who are you") })
	})
}

// A redirection to where the edge is already, or soon after another, moves nothing.
func TestRedirectsDoNotChase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan struct{})
		play(t, newFleet(), func(_ *Client, ctl *controller) {
			<-done
			ctl.mu.Lock()
			defer ctl.mu.Unlock()
			if !slices.Equal(ctl.dials, []string{"one:1", "three:3"}) {
				t.Errorf("dialled %v", ctl.dials)
			}
		},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				send(t, s, redirectTo("two:2", "one:1"))
				send(t, s, redirectTo("three:3"))
				return untilOver(s)
			},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				send(t, s, redirectTo("three:3"))
				send(t, s, redirectTo("one:1"))
				if r := recvSkip(t, s).GetRedirectResult(); !slices.Equal(r.GetEndpoints(), []string{"one:1"}) {
					t.Errorf("got %v", r)
				}
				close(done)
				return untilOver(s)
			})
	})
}

func TestRedirectThatIsNone(t *testing.T) {
	for name, endpoints := range map[string][]string{
		"empty": {}, "no port": {"three"}, "no host": {":3"}, "too many": slices.Repeat([]string{"a:1"}, 33),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := make(chan struct{})
				play(t, newFleet(), func(_ *Client, _ *controller) { <-left }, func(t *testing.T, s serverStream) error {
					hello(t, s)
					send(t, s, redirectTo(endpoints...))
					<-s.Context().Done()
					close(left)
					return nil
				})
			})
		})
	}
}

// The pace of tries follows the length of an outage: an edge is back within half of it once
// the controller is, and asks at most twice a minute on average in a long one.
func TestBackoffFollowsTheOutage(t *testing.T) {
	for gone, most := range map[time.Duration]time.Duration{
		0: 500 * time.Millisecond, time.Second: 500 * time.Millisecond, 8 * time.Second: 4 * time.Second,
		20 * time.Second: 10 * time.Second, time.Hour: time.Minute,
	} {
		sum := time.Duration(0)
		for range 2000 {
			wait := backoff(gone)
			if wait < 0 || wait > most {
				t.Fatalf("%v after the loss the edge waits for %v, want %v at most", gone, wait, most)
			}
			sum += wait
		}
		if mean := sum / 2000; mean < most*4/10 || mean > most*6/10 {
			t.Errorf("%v after the loss the mean is %v, want half of %v", gone, mean, most)
		}
	}
}

// Endpoints are in an order of chance, so that a fleet spreads over them, and the last good
// one is first.
func TestPlaces(t *testing.T) {
	list := []string{"a:1", "b:1", "c:1"}
	first := map[string]int{}
	for range 3000 {
		p := newPlaces(list, "gone:1")
		first[p.current()]++
		seen := []string{}
		for range 3 {
			seen = append(seen, p.current())
			p.advance()
		}
		if slices.Sort(seen); !slices.Equal(seen, list) {
			t.Fatalf("tried %v", seen)
		}
		if p := newPlaces(list, "b:1"); p.current() != "b:1" {
			t.Fatalf("%s is tried first, and b:1 was good", p.current())
		}
	}
	for _, endpoint := range list {
		if first[endpoint] < 850 || first[endpoint] > 1150 {
			t.Errorf("first was %v", first)
		}
	}
}

// Counters come as often as they are wanted, and not at all when they are not.
func TestFlowGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet()
		done := make(chan struct{})
		play(t, f, func(_ *Client, _ *controller) { <-done }, func(t *testing.T, s serverStream) error {
			hello(t, s)
			grant := func(d time.Duration) {
				send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_FlowGrant{
					FlowGrant: &swanherdv1.FlowGrant{CounterInterval: durationpb.New(d)},
				}})
			}
			counters := func(within time.Duration) (n int) {
				for end := time.Now().Add(within); time.Now().Before(end); {
					switch m := recv(t, s); {
					case m.GetCounters() != nil:
						n++
					case m.GetPing() != nil:
						speak(t, s)
					}
				}
				return n
			}
			grant(2 * time.Second)
			if n := counters(60 * time.Second); n < 28 || n > 32 {
				t.Errorf("%d reports in a minute, one each 2 s is wanted", n)
			}
			grant(0)
			if n := counters(10 * time.Minute); n > 1 {
				t.Errorf("%d reports, none is wanted", n)
			}
			f.transition(&swanherdv1.TunnelReport{Tunnel: "t1"})
			if r := recvSkip(t, s).GetStatus(); len(r.GetTunnels()) != 1 {
				t.Errorf("got %v, want the transition", r)
			}
			grant(5 * time.Second)
			if n := counters(time.Minute); n < 11 || n > 13 {
				t.Errorf("%d reports in a minute, one each 5 s is wanted", n)
			}
			close(done)
			return untilOver(s)
		})
	})
}

// speak keeps the edge from taking the controller for silent.
func speak(t *testing.T, s serverStream) {
	send(t, s, &swanherdv1.ControllerMessage{Message: &swanherdv1.ControllerMessage_Bookmark{Bookmark: &swanherdv1.Bookmark{}}})
}

// A drift is told, also one from before the session.
func TestDriftIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, done := make(chan struct{}), make(chan struct{})
		play(t, newFleet(), func(c *Client, _ *controller) {
			<-first
			for range 2 * maxDrift { // of too many the first
				c.Drifted(&swanherdv1.DriftReport{Kind: swanherdv1.DriftReport_KIND_REPAIRED, Subject: "routes"})
			}
			<-done
		},
			func(t *testing.T, s serverStream) error {
				close(first)
				time.Sleep(time.Second)
				return errors.New("not now")
			},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				for range maxDrift {
					if d := recvSkip(t, s).GetDrift(); d.GetSubject() != "routes" {
						t.Errorf("got %v", d)
					}
				}
				close(done)
				return untilOver(s)
			})
	})
}

// A job's end is told in the next session when there is none now.
func TestJobsEndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, done := make(chan struct{}), make(chan struct{})
		play(t, newFleet(), func(c *Client, _ *controller) {
			<-first
			c.JobEnded(&swanherdv1.JobReport{Job: "networks/n/jobs/a", Output: []byte("packets")})
			<-done
		},
			func(*testing.T, serverStream) error {
				close(first)
				time.Sleep(time.Second) // of the bubble
				return errors.New("not now")
			},
			func(t *testing.T, s serverStream) error {
				hello(t, s)
				if r := recvSkip(t, s).GetJobReport(); r.GetJob() != "networks/n/jobs/a" || string(r.GetOutput()) != "packets" {
					t.Errorf("got %v", r)
				}
				close(done)
				return untilOver(s)
			})
	})
}
