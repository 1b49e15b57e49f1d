package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newKey(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "The keys that seal secrets in the controller's store"}
	cmd.AddCommand(newKeyShow(s), newKeyRotate(s))
	return cmd
}

func newKeyShow(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show which keys there are, and what is sealed with each", Args: cobra.NoArgs,
		RunE: s.connected(func(cmd *cobra.Command, c *client, _ []string) error {
			sealing, err := c.keys.GetSealing(cmd.Context(), &swanherdv1.GetSealingRequest{})
			if err != nil {
				return err
			}
			return s.printSealing(sealing)
		}),
	}
}

func newKeyRotate(s *session) *cobra.Command {
	var wrapping bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Make another key, with which everything is sealed anew",
		Long: `Make another key, with which everything is sealed anew within minutes, whatever
replica is restarted meanwhile. "swanherd key show" tells how far that is.

With --wrapping the keys stay, and are wrapped with the newest version of the
key of the key management service: rotate that there first.`,
		Args: cobra.NoArgs,
		RunE: s.connected(func(cmd *cobra.Command, c *client, _ []string) error {
			req := &swanherdv1.RotateSealingRequest{What: swanherdv1.RotateSealingRequest_WHAT_DATA_KEY}
			if wrapping {
				req.What = swanherdv1.RotateSealingRequest_WHAT_WRAPPING
			}
			sealing, err := c.keys.RotateSealing(cmd.Context(), req)
			if err != nil {
				return err
			}
			return s.printSealing(sealing)
		}),
	}
	cmd.Flags().BoolVar(&wrapping, "wrapping", false, "wrap the keys anew, and make none")
	return cmd
}

func (s *session) printSealing(sealing *swanherdv1.Sealing) error {
	if s.output != "table" {
		return s.printMessage(sealing)
	}
	t := newTable(s.Out, "KEY", "STATE", "SECRETS", "AUDIT SEALS", "AGE", "WRAPPED BY")
	for _, k := range sealing.GetKeys() {
		state, by := "opens", sealing.GetWrapper()
		if k.GetActive() {
			state = "seals"
		}
		if k.GetInFile() {
			by = "- (key file)"
		}
		t.row(k.GetId(), state, fmt.Sprint(k.GetSecrets()), fmt.Sprint(k.GetAuditSeals()), age(k.GetCreateTime(), time.Now()), by)
	}
	return t.flush()
}
