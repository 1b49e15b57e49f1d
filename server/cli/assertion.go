package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// errBroken is not an error of the command: it makes the exit code say that an assertion
// does not hold.
var errBroken = errors.New("an assertion does not hold")

func newAssertion(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "assertion", Short: "What has to reach what, whatever is changed"}
	cmd.AddCommand(s.mayDryRun(s.createAssertion()), s.testAssertions())
	return cmd
}

func (s *session) createAssertion() *cobra.Command {
	a := &swanherdv1.Assertion{}
	segment := ""
	cmd := &cobra.Command{
		Use:   "create NAME SOURCE DESTINATION",
		Short: "Assert that one prefix reaches another",
		Long: `Assert that one prefix reaches another, both as a whole. A change that would
break that by the plan is refused, and each rollout is held to it.`,
		Example: "  swanherd assertion create tills 10.1.0.0/16 10.9.0.0/16 --segment corp",
		Args:    exactly(3, "a name and two prefixes"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			a.Source, a.Destination, a.Segment = args[1], args[2], segmentName(c.parent, segment)
			got, err := c.topology.CreateAssertion(cmd.Context(), &swanherdv1.CreateAssertionRequest{
				Parent: c.parent, AssertionId: args[0], Assertion: a,
			})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(got)
			}
			fmt.Fprintf(s.Out, "%s created\n", got.GetName())
			return nil
		}),
	}
	cmd.Flags().StringVar(&segment, "segment", "", "the segment of both prefixes; empty: the default one")
	cmd.Flags().StringVar(&a.Description, "description", "", "what it is for")
	return cmd
}

func (s *session) testAssertions() *cobra.Command {
	return &cobra.Command{
		Use:   "test",
		Short: "Say of each assertion whether it holds",
		Long: `Say of each assertion whether it holds: by the plan, and by the tunnels that are
up. The exit code is 1 when one does not.`,
		Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			got, err := c.topology.TestAssertions(cmd.Context(), &swanherdv1.TestAssertionsRequest{Parent: c.parent})
			if err != nil {
				return err
			}
			if err := s.printResults(got); err != nil {
				return err
			}
			for _, r := range got.GetResults() {
				if r.GetState() != swanherdv1.AssertionResult_STATE_HOLDS {
					return errBroken
				}
			}
			return nil
		}),
	}
}

func (s *session) printResults(got *swanherdv1.TestAssertionsResponse) error {
	if s.output != "table" {
		return s.printMessage(got)
	}
	t := newTable(s.Out, "NAME", "STATE", "REASON")
	for _, r := range got.GetResults() {
		t.row(base(r.GetAssertion()), strings.ToLower(enumWord(r.GetState())), r.GetReason())
	}
	return t.flush()
}

func assertionKind() kind {
	return kind{
		plural: "assertions", singular: "assertion", segment: "assertions",
		header: []string{"NAME", "SOURCE", "DESTINATION", "SEGMENT", "DESCRIPTION", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			a := m.(*swanherdv1.Assertion)
			return []string{base(a.GetName()), a.GetSource(), a.GetDestination(), base(a.GetSegment()), a.GetDescription(), age(a.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListAssertions(ctx, &swanherdv1.ListAssertionsRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetAssertion(ctx, &swanherdv1.GetAssertionRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteAssertion(ctx, &swanherdv1.DeleteAssertionRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}
