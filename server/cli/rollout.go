package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newRollout(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "rollout", Short: "Bring a change to the fleet in batches, which is taken back when it does harm"}
	cmd.AddCommand(
		newRolloutStart(s), newRolloutList(s), newRolloutStatus(s),
		s.rolloutCommand("pause", "Admit no more edges; those that have the change keep it", func(ctx context.Context, c *client, name string) (*swanherdv1.Rollout, error) {
			return c.rollouts.PauseRollout(ctx, &swanherdv1.PauseRolloutRequest{Name: name})
		}),
		s.rolloutCommand("resume", "Go on with a rollout that is paused or halted", func(ctx context.Context, c *client, name string) (*swanherdv1.Rollout, error) {
			return c.rollouts.ResumeRollout(ctx, &swanherdv1.ResumeRolloutRequest{Name: name})
		}),
		s.rolloutCommand("abort", "Take the change back from every edge that has it", func(ctx context.Context, c *client, name string) (*swanherdv1.Rollout, error) {
			return c.rollouts.AbortRollout(ctx, &swanherdv1.AbortRolloutRequest{Name: name})
		}),
	)
	return cmd
}

// rolloutFlags are what a rollout is made of on the command line.
type rolloutFlags struct {
	id, onFailure                                   string
	batches                                         []string
	bake, settle                                    time.Duration
	success, nacks, reverts, down, violations, risk uint32
}

func (f *rolloutFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.id, "name", "", "name of the rollout; the server makes one")
	flags.StringArrayVar(&f.batches, "batch", nil, "a batch, by labels of sites, a share or a number of edges, as canary=yes, 10% or region=emea,5; may be repeated, and what is left is a last one")
	flags.DurationVar(&f.bake, "bake", time.Minute, "how long a batch has to be good without a break")
	flags.DurationVar(&f.settle, "settle-timeout", 2*time.Minute, "how long a batch may be not good")
	flags.Uint32Var(&f.success, "success", 100, "percent of a batch's edges that have to confirm the change")
	flags.Uint32Var(&f.nacks, "max-nacks", 0, "edges that may refuse the change")
	flags.Uint32Var(&f.reverts, "max-reverts", 0, "edges that may take it back")
	flags.Uint32Var(&f.down, "max-tunnels-down", 0, "tunnels that were up and may be not up")
	flags.Uint32Var(&f.violations, "max-sla-violations", 0, "tunnels that were within their SLA and may be over it")
	flags.Uint32Var(&f.risk, "budget", 0, "sites that may be without a tunnel, or not done, at once; 0: a whole batch")
	flags.StringVar(&f.onFailure, "on-failure", "revert", "what happens when a batch fails: revert or halt")
}

func (f *rolloutFlags) rollout(changeSet string) (*swanherdv1.Rollout, error) {
	r := &swanherdv1.Rollout{ChangeSet: changeSet, Policy: &swanherdv1.RolloutPolicy{
		SuccessPercent: f.success, BakeTime: durationpb.New(f.bake), SettleTimeout: durationpb.New(f.settle),
		MaxNacks: f.nacks, MaxReverts: f.reverts, MaxTunnelsDown: f.down, MaxSlaViolations: f.violations, DisruptionBudget: f.risk,
	}}
	switch f.onFailure {
	case "revert":
		r.Policy.OnFailure = swanherdv1.RolloutPolicy_ON_FAILURE_REVERT
	case "halt":
		r.Policy.OnFailure = swanherdv1.RolloutPolicy_ON_FAILURE_HALT
	default:
		return nil, usagef("--on-failure %q is neither revert nor halt", f.onFailure)
	}
	for _, text := range f.batches {
		b, err := parseBatch(text)
		if err != nil {
			return nil, err
		}
		r.Batches = append(r.Batches, b)
	}
	return r, nil
}

// parseBatch reads `key=value,10%,5`.
func parseBatch(text string) (*swanherdv1.RolloutBatch, error) {
	b := &swanherdv1.RolloutBatch{MatchLabels: map[string]string{}}
	for part := range strings.SplitSeq(text, ",") {
		if key, value, ok := strings.Cut(part, "="); ok && key != "" {
			b.MatchLabels[key] = value
			continue
		}
		number, share := strings.CutSuffix(part, "%")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n == 0 || share && n > 100 {
			return nil, usagef("--batch %q: %q is neither a label as key=value, nor a share as 10%%, nor a number of edges", text, part)
		}
		if share {
			b.Percent = uint32(n)
		} else {
			b.MaxEdges = uint32(n)
		}
	}
	return b, nil
}

func newRolloutStart(s *session) *cobra.Command {
	var f rolloutFlags
	var set changeSetFlags
	var changeSet string
	var follow bool
	cmd := &cobra.Command{
		Use:   "start {-f FILE | --change-set NAME}",
		Short: "Begin to roll out what files say, or a change set",
		Long: `Begin to roll out what files say, or a change set that there is.

Each batch of edges gets the change together. It is good when its edges have confirmed
the change, the tunnels that were up are up, and what is asserted holds; when it was good
for its bake time the next one follows. A batch that does not become good, or one of
whose edges refuses the change, has it taken back from all.`,
		Example: "  swanherd rollout start -f fleet.yaml --batch canary=yes --batch 10% --bake 10m\n" +
			"  swanherd rollout start --change-set new-proposals --batch region=emea,5 --assert 10.1.0.0/16,10.9.0.0/16 --follow",
		Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			if (changeSet == "") == (len(set.files) == 0) {
				return usagef("give the files with -f, or a change set with --change-set")
			}
			r, err := f.rollout("")
			if err != nil {
				return err
			}
			if changeSet == "" {
				made, err := set.create(cmd.Context(), s, c, "")
				if err != nil {
					return err
				}
				changeSet = made.GetName()
			}
			r.ChangeSet = changeSetName(c, changeSet)
			if r, err = c.rollouts.CreateRollout(cmd.Context(), &swanherdv1.CreateRolloutRequest{Parent: c.parent, RolloutId: f.id, Rollout: r}); err != nil {
				return err
			}
			return s.showRollout(cmd.Context(), c, r, follow)
		}),
	}
	f.add(cmd)
	set.add(cmd)
	cmd.Flags().StringVar(&changeSet, "change-set", "", "the change set to roll out")
	cmd.Flags().BoolVar(&follow, "follow", false, "wait for its end; the exit code is 1 if it is not completed")
	return cmd
}

func rolloutKind() kind {
	return kind{
		plural: "rollouts", singular: "rollout", segment: "rollouts",
		header: []string{"NAME", "STATE", "BATCH", "CHANGE SET", "AGE", "ACTOR", "REASON"},
		row: func(m proto.Message, now time.Time) []string {
			r := m.(*swanherdv1.Rollout)
			return []string{
				base(r.GetName()), strings.ToLower(enumWord(r.GetState())), batchOf(r), base(r.GetChangeSet()),
				age(r.GetCreateTime(), now), r.GetActor(), r.GetReason(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.rollouts.ListRollouts(ctx, &swanherdv1.ListRolloutsRequest{
				Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy,
			})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.rollouts.GetRollout(ctx, &swanherdv1.GetRolloutRequest{Name: name})
		},
	}
}

// batchOf is at which batch a rollout is.
func batchOf(r *swanherdv1.Rollout) string {
	all := uint32(len(r.GetBatchStates()))
	return fmt.Sprintf("%d/%d", min(r.GetBatch()+1, all), all)
}

func newRolloutList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List rollouts, newest first", Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, rolloutKind(), listing{orderBy: "create_time desc"})
		}),
	}
}

func newRolloutStatus(s *session) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "status NAME", Short: "Show how far a rollout is, and what it waits for", Args: exactly(1, "the rollout's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			r, err := c.rollouts.GetRollout(cmd.Context(), &swanherdv1.GetRolloutRequest{Name: rolloutName(c, args[0])})
			if err != nil {
				return err
			}
			return s.showRollout(cmd.Context(), c, r, follow)
		}),
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "wait for its end; the exit code is 1 if it is not completed")
	return cmd
}

func rolloutName(c *client, id string) string {
	if strings.HasPrefix(id, "networks/") {
		return id
	}
	return c.parent + "/rollouts/" + id
}

func (s *session) rolloutCommand(use, short string, do func(context.Context, *client, string) (*swanherdv1.Rollout, error)) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: exactly(1, "the rollout's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			r, err := do(cmd.Context(), c, rolloutName(c, args[0]))
			if err != nil {
				return err
			}
			return s.showRollout(cmd.Context(), c, r, false)
		}),
	}
}

// followInterval is how often a rollout that is followed is looked at.
const followInterval = time.Second

// showRollout prints a rollout, and with follow each news of it until it ends or waits
// for a person.
func (s *session) showRollout(ctx context.Context, c *client, r *swanherdv1.Rollout, follow bool) error {
	for shown := ""; ; {
		if text := rolloutText(r, time.Now()); s.output != "table" {
			if err := s.printMessage(r); err != nil {
				return err
			}
		} else if text != shown {
			if _, err := fmt.Fprint(s.Out, text); err != nil {
				return err
			}
			shown = text
		}
		if !follow {
			return nil
		}
		switch r.GetState() {
		case swanherdv1.Rollout_STATE_COMPLETED:
			return nil
		case swanherdv1.Rollout_STATE_REVERTED, swanherdv1.Rollout_STATE_HALTED, swanherdv1.Rollout_STATE_PAUSED:
			return errors.New("the rollout is " + strings.ToLower(enumWord(r.GetState())))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followInterval):
		}
		next, err := c.rollouts.GetRollout(ctx, &swanherdv1.GetRolloutRequest{Name: r.GetName()})
		if err != nil {
			return err
		}
		r = next
	}
}

func rolloutText(r *swanherdv1.Rollout, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, batch %s of %s\n", r.GetName(), strings.ToLower(enumWord(r.GetState())), batchOf(r), base(r.GetChangeSet()))
	if r.GetReason() != "" {
		fmt.Fprintf(&b, "  %s\n", safe(r.GetReason()))
	}
	for i, batch := range r.GetBatchStates() {
		when := "waits"
		switch {
		case batch.GetEndTime() != nil:
			when = "done after " + batch.GetEndTime().AsTime().Sub(batch.GetStartTime().AsTime()).Round(time.Second).String()
		case batch.GetStartTime() != nil:
			when = "began " + age(batch.GetStartTime(), now) + " ago"
		}
		fmt.Fprintf(&b, "  batch %d: %d edges, %s\n", i+1, batch.GetEdges(), when)
	}
	p := r.GetProgress()
	if p == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "  %d of %d edges have the change: %d confirmed, %d refused, %d reverted, %d offline; %d tunnels down, %d over their SLA\n",
		p.GetAdmitted(), p.GetEdges(), p.GetConfirmed(), p.GetRefused(), p.GetReverted(), p.GetOffline(), p.GetTunnelsDown(), p.GetSlaViolations())
	for _, w := range p.GetWaiting() {
		fmt.Fprintf(&b, "  waiting: %s\n", safe(w))
	}
	return b.String()
}
