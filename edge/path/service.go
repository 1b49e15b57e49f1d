package path

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/swanherd/swanherd/edge/probe"
)

const (
	// lookInterval is how often the paths are looked at when nothing is told of them: what
	// they lose, and what time brings.
	lookInterval = 500 * time.Millisecond
	// Looking takes at most one part in restFactor of a processor, however fast paths turn.
	restFactor = 10
	// recentSwitches is how many of the last switches are remembered.
	recentSwitches = 20
	// retryInterval is how often a consumer is told again what it refused.
	retryInterval = 5 * time.Second
)

// Consumer has traffic go along paths.
type Consumer interface {
	// SetPaths makes choices those to go by, in place of all that were set before. Tunnels
	// that are in none have no alternative. It does not wait for anybody.
	SetPaths(choices []Choice) error
}

// Probes is what is needed of package probe.
type Probes interface {
	// Lives is what is known of the paths with alternatives, by tunnel.
	Lives() map[string]probe.Life
	// Turned is sent to when one became alive, suspect or dead.
	Turned() <-chan struct{}
	// Use says which tunnels carry traffic.
	Use(inUse func(tunnel string) bool)
}

// Config is what a Service needs.
type Config struct {
	Probes Probes
	// Up returns the tunnels that have all their SAs.
	Up func() map[string]bool
	// Consumer is told; nil: nobody is.
	Consumer Consumer
	// Switched is told where traffic goes another way; nil: nobody is. It must not block.
	Switched func(Switch)
	Logger   *slog.Logger
}

// Service chooses paths by what their probes tell. Its methods may be called from any
// goroutine.
type Service struct {
	cfg     Config
	changed chan struct{}

	mu       sync.Mutex
	chooser  *Chooser
	switches map[string]uint64 // by cause
	recent   []Switch          // the last one last
	idle     bool              // there are no groups, and the consumer knows

	// Of Run alone.
	told     uint64 // the order that the consumer was told last
	tellNext time.Time
	refusal  string
}

// New returns a Service without groups.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, changed: make(chan struct{}, 1), chooser: NewChooser(), switches: map[string]uint64{}, idle: true}
	for _, cause := range Causes() {
		s.switches[cause] = 0
	}
	return s
}

// Set makes groups those to choose in, as Chooser.Set does.
func (s *Service) Set(groups []Group) {
	s.mu.Lock()
	if s.idle = s.idle && len(groups) == 0; !s.idle {
		s.chooser.Set(groups)
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Choices is Chooser.Choices.
func (s *Service) Choices() []Choice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chooser.Choices()
}

// Switches is how often traffic went another way, by cause.
func (s *Service) Switches() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.switches)
}

// Recent are the last switches, the last one last.
func (s *Service) Recent() []Switch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recent // never changed, only replaced
}

// Run chooses until ctx ends.
func (s *Service) Run(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-s.cfg.Probes.Turned():
		case <-ticker.C:
		}
		began := time.Now()
		s.look(began)
		rest := time.NewTimer(restFactor * time.Since(began))
		select {
		case <-ctx.Done():
			rest.Stop()
			return
		case <-rest.C:
		}
	}
}

// look chooses, and tells of it. The consumer first: what it does is what counts.
func (s *Service) look(now time.Time) {
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	if idle {
		return
	}
	lives, up := s.cfg.Probes.Lives(), s.cfg.Up()
	seen := make(map[string]Observation, len(lives))
	for tunnel := range up {
		seen[tunnel] = Observation{Up: up[tunnel], Life: lives[tunnel]}
	}
	s.mu.Lock()
	switches := s.chooser.Step(now, seen)
	for _, w := range switches {
		s.switches[w.Cause.String()]++
	}
	if len(switches) > 0 {
		all := slices.Concat(s.recent, switches)
		s.recent = all[max(0, len(all)-recentSwitches):]
	}
	order := s.chooser.Order()
	var choices []Choice
	if tell := order != s.told && !now.Before(s.tellNext); tell {
		choices = s.chooser.Choices()
		s.mu.Unlock()
		s.tell(now, order, choices)
		s.mu.Lock()
		s.idle = len(s.chooser.groups) == 0 && s.told == s.chooser.Order()
	}
	s.mu.Unlock()
	for _, w := range switches {
		s.cfg.Logger.Info("traffic goes another way", "group", w.Group, "class", w.Class,
			"from", strings.Join(w.From, " "), "to", strings.Join(w.To, " "), "cause", w.Cause.String(), "reason", w.Reason)
		if s.cfg.Switched != nil {
			s.cfg.Switched(w)
		}
	}
}

// tell has the consumer and the probes go by choices.
func (s *Service) tell(now time.Time, order uint64, choices []Choice) {
	inUse := map[string]bool{}
	for _, c := range choices {
		for _, tunnel := range c.InUse() {
			inUse[tunnel] = true
		}
	}
	s.cfg.Probes.Use(func(tunnel string) bool { return inUse[tunnel] })
	if s.cfg.Consumer != nil {
		if err := s.cfg.Consumer.SetPaths(choices); err != nil {
			if s.tellNext = now.Add(retryInterval); err.Error() != s.refusal {
				s.refusal = err.Error()
				s.cfg.Logger.Warn("the data plane does not take the paths; trying again", "error", err)
			}
			return
		}
	}
	s.told, s.tellNext, s.refusal = order, time.Time{}, ""
}
