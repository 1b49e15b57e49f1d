package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newEdge(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "edge", Short: "Revoke, replace, quarantine edges"}
	cmd.AddCommand(s.mayDryRun(newEdgeRevoke(s)), newEdgeReplace(s),
		s.mayDryRun(newEdgeDisable(s, "quarantine", true, "Take all tunnels from an edge; it keeps its identity and its session")),
		s.mayDryRun(newEdgeDisable(s, "release", false, "Give an edge its tunnels again")))
	return cmd
}

// edgeCommand is a command about one edge, by its name.
func (s *session) edgeCommand(use, short, example string, run func(cmd *cobra.Command, c *client, name string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Example: example, Args: exactly(1, "the edge's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := edgeKind().name(c, args[0])
			if err != nil {
				return err
			}
			return run(cmd, c, name)
		}),
	}
}

// intentWord is how far an edge is with its newest intent, and what that waits for.
func intentWord(st *swanherdv1.EdgeStatus) string {
	word, awaited := enumWord(st.GetIntentState()), st.GetAwaitedTunnels()
	switch len(awaited) {
	case 0:
		return word
	case 1:
		return fmt.Sprintf("%s, awaits %s", word, base(awaited[0]))
	}
	return fmt.Sprintf("%s, awaits %s and %d more", word, base(awaited[0]), len(awaited)-1)
}

func newEdgeRevoke(s *session) *cobra.Command {
	var reason string
	cmd := s.edgeCommand("revoke", "Revoke an edge's certificates: its session and its tunnels end at once",
		"  swanherd edge revoke oslo --reason stolen\n  swanherd cert revocations",
		func(cmd *cobra.Command, c *client, name string) error {
			resp, err := c.certificates.RevokeEdge(cmd.Context(), &swanherdv1.RevokeEdgeRequest{Name: name, Reason: reason})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			fmt.Fprintf(s.Out, "%s: %d certificates revoked; `swanherd cert revocations` shows which edges know, `swanherd edge replace %s` makes a token for another device\n",
				name, len(resp.GetSerials()), base(name))
			return nil
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}

func newEdgeReplace(s *session) *cobra.Command {
	var ttl time.Duration
	var attestation bool
	cmd := s.edgeCommand("replace", "Make a token with which another device takes an edge's place: its name, site and tunnels",
		"  swanherd edge replace oslo   # the device in use works until the other one enrols",
		func(cmd *cobra.Command, c *client, name string) error {
			return s.createToken(cmd, c, &swanherdv1.EnrollmentToken{
				Edge: name, MaxUses: 1, ExpireTime: timestamppb.New(time.Now().Add(ttl)), Description: "replaces the device of " + base(name),
				AttestationRequired: attestation,
			})
		})
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token may be used")
	cmd.Flags().BoolVar(&attestation, "attestation", false, "the other device has to prove that its key is in a TPM (swanherd-edge --tpm)")
	return cmd
}

func newEdgeDisable(s *session, use string, disabled bool, short string) *cobra.Command {
	return s.edgeCommand(use, short, "", func(cmd *cobra.Command, c *client, name string) error {
		e, err := c.topology.UpdateEdge(cmd.Context(), &swanherdv1.UpdateEdgeRequest{
			Edge:       &swanherdv1.Edge{Name: name, Disabled: disabled},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled"}},
		})
		if err != nil {
			return err
		}
		if s.output != "table" {
			return s.printMessage(e)
		}
		fmt.Fprintf(s.Out, "%s: disabled %t\n", name, e.GetDisabled())
		return nil
	})
}
