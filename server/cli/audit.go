package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newAudit(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "The log of what people and machines changed"}
	cmd.AddCommand(newAuditVerify(s))
	return cmd
}

func newAuditVerify(s *session) *cobra.Command {
	var global bool
	cmd := &cobra.Command{
		Use: "verify", Short: "Check that the audit log of the network is as it was written",
		Long: `Check that the audit log of the network is as it was written: that nothing was
changed in it, taken out or put in by somebody who can write to the store. Exits
with 1 when something was.

The hash of the newest seal stands in the log of the controller too. Kept
elsewhere, it also shows a store that was put back as a whole.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.dialNetwork()
			if err != nil {
				return err
			}
			defer c.close()
			parent := c.parent
			if global {
				parent = "networks/-"
			}
			resp, err := c.fleet.VerifyAuditLog(cmd.Context(), &swanherdv1.VerifyAuditLogRequest{Parent: parent})
			if err != nil {
				return err
			}
			if s.output != "table" {
				err = s.printMessage(resp)
			} else if resp.GetProblem() == "" {
				_, err = fmt.Fprintln(s.Out, describeAudit(resp))
			}
			if err == nil && resp.GetProblem() != "" {
				return errors.New("the audit log was altered: " + resp.GetProblem())
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&global, "global", false, "the log of what belongs to no network, such as API tokens")
	return cmd
}

func describeAudit(r *swanherdv1.VerifyAuditLogResponse) string {
	text := fmt.Sprintf("%d events, as they were written", r.GetEvents()-r.GetUnsealed())
	if r.GetUnsealed() > 0 {
		text += fmt.Sprintf("; %d of the last seconds have no seal yet", r.GetUnsealed())
	}
	if r.GetRemoved() > 0 {
		text += fmt.Sprintf("; %d older ones were removed by the retention", r.GetRemoved())
	}
	if r.GetSealTime() != nil {
		text += fmt.Sprintf("\nnewest seal: %x, revision %d, %s", r.GetHash(), r.GetThroughRevision(), r.GetSealTime().AsTime().Local().Format(time.DateTime))
	}
	return text
}
