package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const network = "networks/load"

// quiet keeps what the edges log to themselves.
var quiet = slog.New(slog.DiscardHandler)

// load is a run.
type load struct {
	options
	dir     string
	results results
	// controllers are the replicas; controller is the first, which is asked.
	controllers []*controller
	controller  *controller
	crews       []crew

	before memory // without sessions
	calmly sample // before there was trouble
	// How often a site was changed, and the profile of all.
	siteChanges, profileChanges int

	mu   sync.Mutex
	wait func(index int, at time.Time) // for each intent that is applied
}

func (l *load) close() {
	_ = l.each(func(c crew) error { c.close(); return nil })
	for _, c := range l.controllers {
		c.kill()
	}
}

// sum adds up a metric of the replicas that run.
func (l *load) sum(name string) (float64, error) {
	total := 0.0
	for _, c := range l.controllers {
		if c.process == nil {
			continue
		}
		v, err := c.metric(name)
		if err != nil {
			return 0, err
		}
		total += v
	}
	return total, nil
}

// memory adds up what the replicas take.
func (l *load) memory(ctx context.Context) (sum memory, err error) {
	for _, c := range l.controllers {
		m, err := c.memory(ctx)
		if err != nil {
			return sum, err
		}
		sum.resident += m.resident
		sum.inUse += m.inUse
	}
	return sum, nil
}

// applied is called by an edge when it runs an intent.
func (l *load) applied(index int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wait != nil {
		l.wait(index, at)
	}
}

func (l *load) onApplied(f func(int, time.Time)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wait = f
}

func (l *load) step(format string, args ...any) {
	if !l.json {
		fmt.Printf("%s\n", fmt.Sprintf(format, args...))
	}
}

func (l *load) measure(ctx context.Context) (err error) {
	l.results = results{Edges: l.options.edges, Replicas: max(l.replicas, 1), Hubs: l.hubs, Tunnels: l.hubs*(l.options.edges-l.hubs) + l.hubs*(l.hubs-1)/2, CPUs: runtime.NumCPU()}
	// The controller goes when we go, by a signal that is tied to this thread.
	runtime.LockOSThread()
	if l.controllers, err = newControllers(ctx, l.dir, max(l.replicas, 1)); err != nil {
		return err
	}
	l.controller = l.controllers[0]
	if err := startAll(ctx, l.controllers); err != nil {
		return err
	}
	phases := []phase{
		{"topology", l.makeTopology},
		{"enrolment", l.enrol},
		{"sessions", l.connect},
		{"changes of one site", l.changeSites},
		{"a change of all", l.changeAll},
	}
	if on := l.knobs.on(l.options.edges); len(on) > 0 {
		for _, k := range on {
			phases = append(phases, phase{k.Name, func(ctx context.Context) error { return l.endure(ctx, k) }})
		}
	} else {
		phases = append(phases, phase{"idle", l.idle}, phase{"a controller's end", l.lose})
	}
	for _, phase := range phases {
		l.step("%s ...", phase.name)
		if err := phase.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
	}
	return nil
}

// phase is a part of a run.
type phase struct {
	name string
	run  func(context.Context) error
}

func siteName(i int) string { return fmt.Sprintf("%s/sites/site-%05d", network, i) }

func (l *load) site(i int, more ...string) *swanherdv1.Site {
	labels := map[string]string{"role": "spoke"}
	if i < l.hubs {
		labels["role"] = "hub"
	}
	prefix := fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)
	return &swanherdv1.Site{Name: siteName(i), Prefixes: append([]string{prefix}, more...), Labels: labels}
}

// batch is how many sites are applied in one call.
const batch = 2000

func (l *load) makeTopology(ctx context.Context) error {
	role := func(r string) *swanherdv1.SiteSelector {
		return &swanherdv1.SiteSelector{MatchLabels: map[string]string{"role": r}}
	}
	began := time.Now()
	m := &swanherdv1.Manifest{
		Networks: []*swanherdv1.Network{{Name: network}},
		Profiles: []*swanherdv1.Profile{{Name: network + "/profiles/default"}},
		Meshes: []*swanherdv1.Mesh{{
			Name: network + "/meshes/all", Profile: network + "/profiles/default",
			Topology: &swanherdv1.Mesh_HubAndSpoke{HubAndSpoke: &swanherdv1.HubAndSpoke{Hubs: role("hub"), Spokes: role("spoke")}},
		}},
	}
	for i := range l.options.edges {
		m.Sites = append(m.Sites, l.site(i))
		if len(m.Sites) == batch || i == l.options.edges-1 {
			if _, err := l.controller.topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: m}); err != nil {
				return err
			}
			m = &swanherdv1.Manifest{}
		}
	}
	l.results.took("sites stored", time.Since(began), "")
	return nil
}

// gatherCrews makes the crews: one in this process, or as many in processes of their own
// as it takes.
func (l *load) gatherCrews() {
	if l.options.edges <= l.options.crew {
		l.crews = []crew{&hands{count: l.options.edges, enrolAt: l.controller.edges, access: l.controller.access, applied: l.applied, dir: l.dir}}
		return
	}
	for first := 0; first < l.options.edges; first += l.options.crew {
		at := l.controllers[len(l.crews)%len(l.controllers)]
		l.crews = append(l.crews, &worker{applied: l.applied, job: job{
			First: first, Count: min(l.options.crew, l.options.edges-first),
			Credential: l.controller.credential, Operators: at.operators, Edges: at.edges, Dir: l.dir,
		}})
	}
}

// each has every crew do the same at the same time.
func (l *load) each(do func(crew) error) error {
	errs := make([]error, len(l.crews))
	var all sync.WaitGroup
	for i, c := range l.crews {
		all.Go(func() { errs[i] = do(c) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (l *load) enrol(ctx context.Context) error {
	l.gatherCrews()
	began := time.Now()
	if err := l.each(func(c crew) error { return c.enrol(ctx) }); err != nil {
		return err
	}
	l.results.add("enrolments a second", float64(l.options.edges)/time.Since(began).Seconds(), "/s", "")
	return nil
}

func (l *load) connect(ctx context.Context) error {
	before, err := l.memory(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := l.each(crew.connect); err != nil {
		return err
	}
	if err := l.settle(ctx, l.options.edges); err != nil {
		return err
	}
	l.results.took("from no session to all in sync", time.Since(began), "")
	if err := pause(ctx, l.calm); err != nil {
		return err
	}
	l.before = before
	if err := l.weigh(ctx, ""); err != nil {
		return err
	}
	return l.profile()
}

// weigh tells what the sessions take.
func (l *load) weigh(ctx context.Context, when string) error {
	m, err := l.memory(ctx)
	if err != nil {
		return err
	}
	each := func(octets float64) float64 { return octets / float64(l.options.edges) / 1024 }
	l.results.add("memory of the controllers"+when, m.resident/(1<<20), "MiB", "")
	l.results.add("memory for each session"+when, each(m.resident-l.before.resident), "KiB", "64")
	l.results.add("of it in use: heap and stacks"+when, each(m.inUse-l.before.inUse), "KiB", "")
	return nil
}

// profile keeps what the controller's memory and goroutines are for, if that is wanted.
func (l *load) profile() error {
	if l.profiles == "" {
		return nil
	}
	for _, name := range []string{"heap", "goroutine"} {
		if err := l.controller.profile(name, filepath.Join(l.profiles, name)); err != nil {
			return err
		}
	}
	return nil
}

// profileProcessor keeps what the controller's processor does in the next seconds, and
// this process's, if that is wanted. The function that it returns waits for it.
func (l *load) profileProcessor() (func() error, error) {
	if l.profiles == "" {
		return func() error { return nil }, nil
	}
	own, err := os.Create(filepath.Join(l.profiles, "cpu-load"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(own); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() {
		err := l.controller.profile("profile?seconds=5", filepath.Join(l.profiles, "cpu"))
		pprof.StopCPUProfile()
		done <- errors.Join(err, own.Close())
	}()
	return func() error { return <-done }, nil
}

// idleTime is how long nothing happens.
const idleTime = 20 * time.Second

func (l *load) idle(ctx context.Context) error {
	if err := pause(ctx, 12*time.Second); err != nil { // what became of the last change is written, and sealed
		return err
	}
	before, err := l.controller.revision(ctx)
	if err != nil {
		return err
	}
	cpu, err := l.sum("process_cpu_seconds_total")
	if err != nil {
		return err
	}
	if err := pause(ctx, idleTime); err != nil {
		return err
	}
	after, err := l.controller.revision(ctx)
	if err != nil {
		return err
	}
	now, err := l.sum("process_cpu_seconds_total")
	if err != nil {
		return err
	}
	l.results.add("writes to etcd while idle", float64(after-before), fmt.Sprintf("in %v", idleTime), "0")
	l.results.add("processor while idle", 100*(now-cpu)/idleTime.Seconds(), "% of one", "")
	return l.weigh(ctx, ", after the changes")
}

// lose kills a controller. A single one is started again; of several the others take its
// edges.
func (l *load) lose(ctx context.Context) error {
	lost := l.controllers[len(l.controllers)-1]
	octets, err := l.sum("swanherd_intent_octets_total")
	if err != nil {
		return err
	}
	itsOwn, err := lost.metric("swanherd_intent_octets_total") // which it takes along
	if err != nil {
		return err
	}
	octets -= itsOwn
	lost.kill()
	began := time.Now()
	if len(l.controllers) == 1 {
		took, err := lost.start(ctx)
		if err != nil {
			return err
		}
		l.results.took("cold start until it serves", took, "1 s")
	} else if err := l.gather(ctx); err != nil {
		return err
	}
	if err := l.settle(ctx, l.options.edges); err != nil {
		return err
	}
	l.results.took("from the controller's end to all in sync", time.Since(began), "20 s")
	now, err := l.sum("swanherd_intent_octets_total")
	if err != nil {
		return err
	}
	l.results.add("octets of intents sent for it", now-octets, "", "0")
	return nil
}

// gather waits until every edge has its session with a controller that runs.
func (l *load) gather(ctx context.Context) error {
	for {
		open, err := l.sum("swanherd_sessions")
		if err != nil {
			return err
		}
		if int(open) == l.options.edges {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%.0f of %d edges have a session: %w", open, l.options.edges, err)
		}
	}
}
