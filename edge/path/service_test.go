package path

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/edge/probe"
)

// surroundings is what a Service has around it: what it is told, and what it tells.
type surroundings struct {
	mu       sync.Mutex
	lives    map[string]probe.Life
	turned   chan struct{}
	used     []string
	set      []string // what the consumer was told
	refuse   error
	switches []Switch
}

func (s *surroundings) Lives() map[string]probe.Life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.lives)
}

func (s *surroundings) Turned() <-chan struct{} { return s.turned }

func (s *surroundings) Use(inUse func(string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = nil
	for tunnel := range s.lives {
		if inUse(tunnel) {
			s.used = append(s.used, tunnel)
		}
	}
	slices.Sort(s.used)
}

func (s *surroundings) SetPaths(choices []Choice) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	var text []string
	for _, c := range choices {
		text = append(text, c.Group+"/"+c.Class+": "+ranks(c.Paths))
	}
	s.set = append(s.set, strings.Join(text, " | "))
	return nil
}

func (s *surroundings) up() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	up := map[string]bool{}
	for tunnel := range s.lives {
		up[tunnel] = true
	}
	return up
}

func (s *surroundings) switched(w Switch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.switches = append(s.switches, w)
}

// become changes a path, as a probe service does.
func (s *surroundings) become(tunnel string, state probe.State) {
	s.mu.Lock()
	s.lives[tunnel] = probe.Life{State: state, Since: time.Now()}
	s.mu.Unlock()
	select {
	case s.turned <- struct{}{}:
	default:
	}
	synctest.Wait()
}

func (s *surroundings) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.set) == 0 {
		return ""
	}
	return s.set[len(s.set)-1]
}

// after lets virtual time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestService has a consumer told what is chosen, at once and until it takes it, and of
// nothing that does not change.
func TestService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &surroundings{lives: map[string]probe.Life{}, turned: make(chan struct{}, 1)}
		service := New(Config{Probes: s, Up: s.up, Consumer: s, Switched: s.switched, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { service.Run(ctx) })
		defer run.Wait()
		defer cancel()
		after(10 * time.Second)
		if s.last() != "" {
			t.Errorf("without groups the consumer is told %q", s.last())
		}
		service.Set([]Group{{Name: "g", Members: []Member{{Tunnel: "a", Cost: 1}, {Tunnel: "b", Cost: 2, Metered: true}}, Classes: []Class{{Name: "voice"}}}})
		s.become("b", probe.Alive)
		s.become("a", probe.Alive)
		const normal = "g/: a; b | g/voice: a; b"
		if s.last() != normal || !slices.Equal(s.used, []string{"a"}) {
			t.Errorf("told %q, in use %v", s.last(), s.used)
		}
		n := len(s.set)
		after(time.Minute)
		if len(s.set) != n {
			t.Errorf("told %d times more in a quiet minute", len(s.set)-n)
		}
		s.become("a", probe.Dead)
		if s.last() != "g/: b; a | g/voice: b; a" || !slices.Equal(s.used, []string{"b"}) {
			t.Errorf("told %q, in use %v", s.last(), s.used)
		}
		refuse(t, s, normal)
		service.Set(nil)
		after(time.Second)
		if s.last() != "" || len(service.Choices()) != 0 {
			t.Errorf("without groups again: %q", s.last())
		}
		if got := service.Switches(); got["dead"] != 2 || got["better"] != 4 || len(s.switches) != 8 || !reflect.DeepEqual(service.Recent(), s.switches) {
			t.Errorf("%v, %d told", got, len(s.switches))
		}
	})
}

// refuse has the consumer refuse what it is told when the first path comes back.
func refuse(t *testing.T, s *surroundings, want string) {
	s.mu.Lock()
	s.refuse = errors.New("not now")
	s.mu.Unlock()
	s.become("a", probe.Alive)
	after(holdTime + time.Second)
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	after(retryInterval)
	if s.last() != want {
		t.Errorf("told %q when it takes it again", s.last())
	}
}
