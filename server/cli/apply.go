package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newApply(s *session) *cobra.Command {
	var f manifestFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the fleet what files say, in one transaction",
		Long: `Make the fleet what files say, in one transaction.

Every resource in the files is created or updated; nothing is stored when
anything in them is wrong. Applying the same files again changes nothing.
"swanherd plan" and "swanherd diff" show beforehand what would change.`,
		Example: "  swanherd apply -f fleet.yaml\n  swanherd apply -f fleet/ --prune --dry-run\n" +
			"  swanherd apply -f team-a.yaml --prune -l owner=team-a\n  cat fleet.yaml | swanherd apply -f -",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			c, err := s.dial()
			if err != nil {
				return err
			}
			defer c.close()
			_, resp, err := f.send(cmd.Context(), s, c, dryRun)
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			s.printApply(resp, dryRun)
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check and show what would change; store nothing")
	return cmd
}

// printChanges lists what changes, a resource a line.
func (s *session) printChanges(resp *swanherdv1.ApplyResponse) {
	for _, c := range resp.GetChanges() {
		if c.GetAction() == swanherdv1.ResourceChange_ACTION_UNCHANGED {
			continue
		}
		fields := ""
		if len(c.GetFields()) > 0 {
			fields = " (" + strings.Join(c.GetFields(), ", ") + ")"
		}
		fmt.Fprintf(s.Out, "%s %s%s\n", c.GetName(), strings.ToLower(enumWord(c.GetAction())), fields)
	}
}

func (s *session) printApply(resp *swanherdv1.ApplyResponse, dryRun bool) {
	counts := map[swanherdv1.ResourceChange_Action]int{}
	for _, c := range resp.GetChanges() {
		counts[c.GetAction()]++
	}
	s.printChanges(resp)
	verdict := fmt.Sprintf("applied at revision %d", resp.GetRevision())
	if dryRun {
		verdict = "dry run, nothing stored"
	}
	fmt.Fprintf(s.Out, "%d created, %d updated, %d deleted, %d unchanged; tunnels +%d -%d; %s\n",
		counts[swanherdv1.ResourceChange_ACTION_CREATED], counts[swanherdv1.ResourceChange_ACTION_UPDATED],
		counts[swanherdv1.ResourceChange_ACTION_DELETED], counts[swanherdv1.ResourceChange_ACTION_UNCHANGED],
		resp.GetTunnelsAdded(), resp.GetTunnelsRemoved(), verdict)
}
