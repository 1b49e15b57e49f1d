package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newApply(s *session) *cobra.Command {
	var files []string
	var prune, dryRun bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the fleet what files say, in one transaction",
		Long: `Make the fleet what files say, in one transaction.

Every resource in the files is created or updated; nothing is stored when
anything in them is wrong. Applying the same files again changes nothing.`,
		Example: "  swanherd apply -f fleet.yaml\n  swanherd apply -f fleet/ --prune --dry-run\n  cat fleet.yaml | swanherd apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("give the files with -f")
			}
			m, err := LoadManifest(files, s.In)
			if err != nil {
				return err
			}
			c, err := s.dial()
			if err != nil {
				return err
			}
			defer c.close()
			resp, err := c.topology.Apply(cmd.Context(), &swanherdv1.ApplyRequest{
				Manifest: m.Manifest, Prune: prune, ValidateOnly: dryRun,
			})
			if err != nil {
				return m.Locate(err)
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			s.printApply(resp, dryRun)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVarP(&files, "filename", "f", nil, "file, directory, or - for standard input; may be repeated")
	flags.BoolVar(&prune, "prune", false, "delete what the files' networks have and the files do not name")
	flags.BoolVar(&dryRun, "dry-run", false, "check and show what would change; store nothing")
	return cmd
}

func (s *session) printApply(resp *swanherdv1.ApplyResponse, dryRun bool) {
	counts := map[swanherdv1.ResourceChange_Action]int{}
	for _, c := range resp.GetChanges() {
		counts[c.GetAction()]++
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_UNCHANGED {
			continue
		}
		fields := ""
		if len(c.GetFields()) > 0 {
			fields = " (" + strings.Join(c.GetFields(), ", ") + ")"
		}
		fmt.Fprintf(s.Out, "%s %s%s\n", c.GetName(), strings.ToLower(strings.TrimPrefix(c.GetAction().String(), "ACTION_")), fields)
	}
	verdict := fmt.Sprintf("applied at revision %d", resp.GetRevision())
	if dryRun {
		verdict = "dry run, nothing stored"
	}
	fmt.Fprintf(s.Out, "%d created, %d updated, %d deleted, %d unchanged; tunnels +%d -%d; %s\n",
		counts[swanherdv1.ResourceChange_ACTION_CREATED], counts[swanherdv1.ResourceChange_ACTION_UPDATED],
		counts[swanherdv1.ResourceChange_ACTION_DELETED], counts[swanherdv1.ResourceChange_ACTION_UNCHANGED],
		resp.GetTunnelsAdded(), resp.GetTunnelsRemoved(), verdict)
}
