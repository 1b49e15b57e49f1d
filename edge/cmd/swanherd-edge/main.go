// Command swanherd-edge is the agent that runs on a router: it enrolls with a
// Swanherd controller, or takes an intent from a file, and keeps the IPsec
// tunnels that the intent wants.
//
// Exit codes: 0 done or stopped, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "swanherd-edge:", err)
	if _, usage := err.(usageError); usage {
		os.Exit(2)
	}
	os.Exit(1)
}
