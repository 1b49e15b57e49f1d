// Command swanherd-server is the controller.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"google.golang.org/grpc"

	"github.com/swanherd/swanherd/dashboard"
	"github.com/swanherd/swanherd/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := newCommand(func(cfg server.Config) error {
		cfg.Version = version()
		cfg.Dashboard = func(conn grpc.ClientConnInterface) (http.Handler, error) {
			if cfg.OIDC == nil {
				return dashboard.New(conn, nil)
			}
			return dashboard.New(conn, cfg.OIDC.RootCAs)
		}
		return server.Run(ctx, cfg)
	})
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "swanherd-server:", err)
		stop()
		os.Exit(1)
	}
}

// version is the module's version, with the commit where it was built from one.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			v += " " + s.Value[:12]
		}
	}
	return v
}
