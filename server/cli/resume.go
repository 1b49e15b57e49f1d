package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newResume(s *session) *cobra.Command {
	req := &swanherdv1.ResumeEdgesRequest{}
	var all bool
	cmd := &cobra.Command{
		Use:   "resume EDGE... | --all",
		Short: "Give up what edges run that come from a future the store has lost",
		Long: `After the store was restored from a backup, edges that run something newer than the
backup are paused: they keep what they run. resume gives that up, and they get what
the store plans. "swanherd get edges" shows who is conflict-paused and why.`,
		Example: "  swanherd resume berlin oslo\n  swanherd resume --all --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("name the edges, or give --all for every one that is paused")
			}
			c, err := s.dialNetwork()
			if err != nil {
				return err
			}
			defer c.close()
			req.Parent = c.parent
			for _, name := range args {
				if !strings.HasPrefix(name, "networks/") {
					name = c.parent + "/edges/" + name
				}
				req.Names = append(req.Names, name)
			}
			resp, err := c.topology.ResumeEdges(cmd.Context(), req)
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			for _, name := range resp.GetNames() {
				fmt.Fprintln(s.Out, name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every edge of the network that is paused")
	cmd.Flags().BoolVar(&req.ValidateOnly, "dry-run", false, "only say which")
	return cmd
}
