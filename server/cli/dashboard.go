package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newDashboard(s *session) *cobra.Command {
	var link linkFlags
	cmd := &cobra.Command{
		Use: "dashboard", Short: "Print a link that signs a browser in to the dashboard, once", Args: cobra.NoArgs,
		Example: "  swanherd dashboard\n  swanherd dashboard --role operator --session-ttl 1h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := link.request()
			if err != nil {
				return err
			}
			c, err := s.dial()
			if err != nil {
				return err
			}
			defer c.close()
			made, err := c.access.CreateLoginLink(cmd.Context(), req)
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(made)
			}
			fmt.Fprintf(s.Err, "works once, until %s:\n", made.GetExpireTime().AsTime().Local().Format(time.DateTime))
			fmt.Fprintln(s.Out, made.GetUrl())
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&link.role, "role", "viewer", "role of the session: viewer, operator or admin, at most your own")
	flags.DurationVar(&link.ttl, "ttl", 15*time.Minute, "how long the link may wait to be opened, at most 24h")
	flags.DurationVar(&link.sessionTTL, "session-ttl", 8*time.Hour, "how long the session lasts, at most 168h")
	return cmd
}

// linkFlags say what a sign-in link is to be like.
type linkFlags struct {
	role            string
	ttl, sessionTTL time.Duration
}

func (f linkFlags) request() (*swanherdv1.CreateLoginLinkRequest, error) {
	role, err := parseRole(f.role)
	if err != nil {
		return nil, err
	}
	if f.ttl <= 0 || f.ttl > 24*time.Hour {
		return nil, usagef("--ttl %v is not within 0 and 24h", f.ttl)
	}
	if f.sessionTTL <= 0 || f.sessionTTL > 7*24*time.Hour {
		return nil, usagef("--session-ttl %v is not within 0 and 168h", f.sessionTTL)
	}
	return &swanherdv1.CreateLoginLinkRequest{
		Role: role, Ttl: durationpb.New(f.ttl), SessionTtl: durationpb.New(f.sessionTTL),
	}, nil
}
