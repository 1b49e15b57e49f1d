// Command load measures a controller with a fleet of simulated edges.
//
//	go run ./deployments/load -edges 10000
//
// The controller is the real program, in a process of its own with etcd inside; with
// -replicas 3 there are three whose etcds form a cluster. The edges are in this process,
// or in several if there are many: each enrols with a token and keys of its own, holds a
// session over mutual TLS through the agent's own session code, takes intents, answers,
// and reports tunnels and counters. Only what runs the intent is not real: there is no
// data plane.
//
// Some of the edges can make trouble, each kind in turn, while the others are measured as
// before; the result has both beside each other, what the controller did with those who
// make trouble, and what it takes in memory:
//
//	go run ./deployments/load -edges 1000 -storm 0.5 -hostile 0.02
//
//	-churn 0.02    so many of all edges leave each second, each once in -churn-round, and come back a second later
//	-storm 0.5     so many drop at once and return at the same moment, each -storm-every
//	-slow 0.1      so many need -slow-by for an intent, and for each read
//	-refuse 0.1    so many refuse what they get, half of them as what they cannot do now
//	-revert 0.1    so many take back what they get when they are told to keep it
//	-flap 0.1      all tunnels of so many go down and come up, each for a second
//	-hostile 0.02  so many break the rules: giant messages, acks from the future, wrong
//	               digests, floods, sessions and connections that say nothing, readers that
//	               read nothing
//
// It is the last spokes that make trouble. With a knob the run ends after that, when all
// edges are honest again and in sync.
//
// The topology is a hub-and-spoke mesh. Everything is on loopback, bounded in time, and
// gone at the end. Figures are of this machine and this run: the edges take their share of
// the same processors.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// options are what the command line says.
type options struct {
	edges, hubs, changes int
	replicas             int
	// crew is how many edges a process has at most: each takes an open file.
	crew  int
	json  bool
	limit time.Duration
	// calm is how long nothing happens before the controllers' memory is looked at.
	calm time.Duration
	// profiles is where the controller's profiles with all sessions go, empty for nowhere.
	profiles string
	knobs    knobs
}

// collectorPercent is GOGC of this program, unless the environment has another: the edges
// have memory to spare here, and share the processors with the controller.
const collectorPercent = 400

func main() {
	var o options
	flag.IntVar(&o.edges, "edges", 1000, "how many edges, hubs among them")
	flag.IntVar(&o.hubs, "hubs", 4, "how many of them are hubs")
	flag.IntVar(&o.replicas, "replicas", 1, "how many controllers act as one")
	flag.IntVar(&o.changes, "changes", 100, "how many changes of one site are measured")
	flag.IntVar(&o.crew, "crew", 9000, "how many edges are simulated in one process")
	flag.BoolVar(&o.json, "json", false, "print the result as JSON")
	flag.StringVar(&o.profiles, "profiles", "", "`directory` for the controller's heap and goroutines with all sessions, and for its processor and this one's during the changes of all, as pprof reads them")
	o.knobs.flags(flag.CommandLine)
	var worker string
	flag.StringVar(&worker, "worker", "", "be a process of simulated edges for another one of this program, which says what to do as `JSON`")
	flag.DurationVar(&o.calm, "calm", 15*time.Second, "how long after the sessions' begin memory is looked at: what that left is given back after ten seconds")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "when to give up")
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectorPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := func() error { return run(ctx, o) }
	if worker != "" {
		do = func() error { return work(ctx, worker) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.hubs < 1 || o.edges <= o.hubs {
		return fmt.Errorf("%d edges with %d hubs: want at least a hub and an edge that is none", o.edges, o.hubs)
	}
	if err := o.knobs.check(o.edges, o.hubs); err != nil {
		return err
	}
	if err := raiseFileLimit(o.files()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	dir, err := os.MkdirTemp("", "load")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l := &load{options: o, dir: dir}
	defer l.close()
	if err := l.measure(ctx); err != nil {
		for _, c := range l.controllers {
			fmt.Fprintf(os.Stderr, "a controller's last words:\n%s", c.lastWords())
		}
		_ = l.results.print(os.Stderr) // as far as it came
		return err
	}
	if o.json {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(l.results)
	}
	return l.results.print(os.Stdout)
}

// files is how many files a process has open at most: a crew while it dials anew, or a
// controller that has the edges of another one too.
func (o options) files() uint64 {
	return uint64(max(2*min(o.edges, o.crew), o.edges/max(o.replicas-1, 1)) + 1000)
}

// raiseFileLimit lets this process and the controller have n files open.
func raiseFileLimit(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if n > limit.Max {
		return fmt.Errorf("%d open files are needed, and this user may have %d: raise the limit (ulimit -Hn), or take fewer edges", n, limit.Max)
	}
	limit.Cur = max(limit.Cur, n)
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
