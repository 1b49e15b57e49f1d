package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newChangeSet(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "changeset", Short: "Changes with their plan, to be approved and rolled out"}
	cmd.AddCommand(
		s.mayDryRun(newChangeSetCreate(s)), newChangeSetList(s),
		s.changeSetCommand("show", "Show a change set and its plan", func(ctx context.Context, c *client, name string) (*swanherdv1.ChangeSet, error) {
			return c.rollouts.GetChangeSet(ctx, &swanherdv1.GetChangeSetRequest{Name: name})
		}),
		s.changeSetCommand("plan", "Plan a change set anew, on the network as it is now", func(ctx context.Context, c *client, name string) (*swanherdv1.ChangeSet, error) {
			return c.rollouts.PlanChangeSet(ctx, &swanherdv1.PlanChangeSetRequest{Name: name})
		}),
		s.changeSetCommand("approve", "Approve of what somebody else planned", func(ctx context.Context, c *client, name string) (*swanherdv1.ChangeSet, error) {
			return c.rollouts.ApproveChangeSet(ctx, &swanherdv1.ApproveChangeSetRequest{Name: name})
		}),
		s.mayDryRun(newChangeSetDelete(s)),
	)
	return cmd
}

// changeSetFlags are what a change set is made of on the command line.
type changeSetFlags struct {
	manifestFlags
	description string
	assertions  []string
	approval    bool
}

func (f *changeSetFlags) add(cmd *cobra.Command) {
	f.manifestFlags.add(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.description, "description", "", "what the change is for")
	flags.StringArrayVar(&f.assertions, "assert", nil, "prefixes of which the first reaches the second, before and after, as 10.1.0.0/16,10.9.0.0/16, or with a segment behind them, 10.1.0.0/16,10.9.0.0/16,corp; may be repeated")
	flags.BoolVar(&f.approval, "require-approval", false, "somebody else has to approve before it is rolled out")
}

// create stores what the files say as a change set.
func (f *changeSetFlags) create(ctx context.Context, s *session, c *client, id string) (*swanherdv1.ChangeSet, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	m, err := LoadManifest(f.files, s.In)
	if err != nil {
		return nil, err
	}
	set := &swanherdv1.ChangeSet{
		Description: f.description, Manifest: m.Manifest, Prune: f.prune, PruneLabels: f.pruneLabels, ApprovalRequired: f.approval,
	}
	for _, text := range f.assertions {
		part := strings.Split(text, ",")
		if len(part) != 2 && len(part) != 3 {
			return nil, usagef("--assert %q: want two prefixes, as 10.1.0.0/16,10.9.0.0/16, and no more than a segment behind them", text)
		}
		a := &swanherdv1.Assertion{Source: part[0], Destination: part[1]}
		if len(part) == 3 {
			a.Segment = segmentName(c.parent, part[2])
		}
		set.Assertions = append(set.Assertions, a)
	}
	made, err := c.rollouts.CreateChangeSet(ctx, &swanherdv1.CreateChangeSetRequest{Parent: c.parent, ChangeSetId: id, ChangeSet: set})
	if err != nil {
		return nil, m.Locate(err)
	}
	return made, nil
}

func newChangeSetCreate(s *session) *cobra.Command {
	var f changeSetFlags
	cmd := &cobra.Command{
		Use: "create NAME -f FILE", Short: "Store what files say as a change set, with its plan", Args: exactly(1, "a name for the change set"),
		Example: "  swanherd changeset create new-proposals -f fleet.yaml --assert 10.1.0.0/16,10.9.0.0/16 --require-approval",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			set, err := f.create(cmd.Context(), s, c, args[0])
			if err != nil {
				return err
			}
			return s.showChangeSet(set)
		}),
	}
	f.add(cmd)
	return cmd
}

func changeSetKind() kind {
	return kind{
		plural: "changesets", singular: "changeset", segment: "changeSets",
		header: []string{"NAME", "STATE", "AGE", "ACTOR", "APPROVER", "DESCRIPTION"},
		row: func(m proto.Message, now time.Time) []string {
			c := m.(*swanherdv1.ChangeSet)
			return []string{
				base(c.GetName()), strings.ToLower(enumWord(c.GetState())), age(c.GetCreateTime(), now), c.GetActor(), c.GetApprover(), c.GetDescription(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.rollouts.ListChangeSets(ctx, &swanherdv1.ListChangeSetsRequest{
				Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy,
			})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.rollouts.GetChangeSet(ctx, &swanherdv1.GetChangeSetRequest{Name: name})
		},
	}
}

func newChangeSetList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List change sets, newest first", Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, changeSetKind(), listing{orderBy: "create_time desc"})
		}),
	}
}

func newChangeSetDelete(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Forget a change set", Args: exactly(1, "the change set's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name := changeSetName(c, args[0])
			if _, err := c.rollouts.DeleteChangeSet(cmd.Context(), &swanherdv1.DeleteChangeSetRequest{Name: name}); err != nil {
				return err
			}
			return s.printDeleted(name, s.dryRun)
		}),
	}
}

func changeSetName(c *client, id string) string {
	if strings.HasPrefix(id, "networks/") {
		return id
	}
	return c.parent + "/changeSets/" + id
}

func (s *session) changeSetCommand(use, short string, do func(context.Context, *client, string) (*swanherdv1.ChangeSet, error)) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: exactly(1, "the change set's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			set, err := do(cmd.Context(), c, changeSetName(c, args[0]))
			if err != nil {
				return err
			}
			return s.showChangeSet(set)
		}),
	}
}

func (s *session) showChangeSet(c *swanherdv1.ChangeSet) error {
	if s.output != "table" {
		return s.printMessage(c)
	}
	fmt.Fprintf(s.Out, "%s %s", c.GetName(), strings.ToLower(enumWord(c.GetState())))
	switch {
	case c.GetApprover() != "":
		fmt.Fprintf(s.Out, " by %s", safe(c.GetApprover()))
	case c.GetApprovalRequired():
		fmt.Fprintf(s.Out, ", to be approved by somebody else than %s", safe(c.GetActor()))
	}
	fmt.Fprintln(s.Out)
	for _, a := range c.GetAssertions() {
		in := ""
		if a.GetSegment() != "" {
			in = " in segment " + safe(base(a.GetSegment()))
		}
		fmt.Fprintf(s.Out, "asserts that %s reaches %s%s\n", a.GetSource(), a.GetDestination(), in)
	}
	return s.printPlan(&swanherdv1.ApplyResponse{Changes: c.GetChanges(), Plan: c.GetPlan()})
}
