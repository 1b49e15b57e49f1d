package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newTunnel(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "tunnel", Short: "Act on a tunnel"}
	cmd.AddCommand(newTunnelRekey(s))
	return cmd
}

func newTunnelRekey(s *session) *cobra.Command {
	var reauthenticate bool
	cmd := &cobra.Command{
		Use: "rekey NAME", Short: "Make new SAs of a tunnel before their time, without a gap",
		Example: "  swanherd tunnel rekey berlin--oslo\n  swanherd tunnel rekey berlin--oslo --reauthenticate",
		Args:    exactly(1, "the tunnel's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := tunnelKind().name(c, args[0])
			if err != nil {
				return err
			}
			resp, err := c.fleet.RekeyTunnel(cmd.Context(), &swanherdv1.RekeyTunnelRequest{Name: name, Reauthenticate: reauthenticate})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			_, err = fmt.Fprintf(s.Out, "%s has begun\n", resp.GetEdge())
			return err
		}),
	}
	cmd.Flags().BoolVar(&reauthenticate, "reauthenticate", false, "by a new authentication, which also proves both ends' certificates again")
	return cmd
}
