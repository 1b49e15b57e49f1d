// Command demo shows the whole of Swanherd on one machine: a controller, four
// sites on an emulated WAN, an edge agent at each that enrols by itself, a full
// mesh applied from fleet.yaml, pings across every tunnel, and the dashboard.
//
//	go run ./deployments/demo            # until Ctrl-C
//	go run ./deployments/demo --once     # the same, then exit 0 or 1
//	go run ./deployments/demo --uplinks 2   # two providers; Berlin's first line goes dark
//
// Everything runs in network namespaces of its own, as root or in a user
// namespace, and is gone when the program ends, however it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options are what the command line gives.
type options struct {
	once   bool
	output string
	listen string
	// dir is the scratch directory with the binaries; it is removed at the end.
	dir string
	// uplinks is how many each site has, 1 or 2.
	uplinks int
	// line is the site whose cable to the WAN has conditions that can be set; empty: none.
	line string
	// confirmWithin is how long an update is on trial at the edges; zero: the default.
	confirmWithin time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var o options
	flag.BoolVar(&o.once, "once", false, "leave when everything was shown; the exit code is the verdict")
	flag.StringVar(&o.output, "o", "table", "output: table or json")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:7443", "where the dashboard and the API listen")
	flag.IntVar(&o.uplinks, "uplinks", 1, "uplinks of each site: 1, or 2 by two providers, of which one is then cut off from Berlin")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see --help", flag.Arg(0))
	}
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("-o %q is not table or json", o.output)
	}
	if o.uplinks != 1 && o.uplinks != 2 {
		return fmt.Errorf("--uplinks %d is not 1 or 2", o.uplinks)
	}
	if o.uplinks == 2 {
		o.line = "berlin"
	}
	if dir := os.Getenv(insideVariable); dir != "" {
		o.dir = dir
		return runInside(ctx, o)
	}
	err := runIsolated(ctx, o)
	if ctx.Err() != nil && !errors.Is(err, errVerdict) {
		return nil // interrupted, as asked
	}
	return err
}
