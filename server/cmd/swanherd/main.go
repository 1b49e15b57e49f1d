// Command swanherd is the operator's command line. It speaks the public API only.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/swanherd/swanherd/server/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Main(ctx, os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
