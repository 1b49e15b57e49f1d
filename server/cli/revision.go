package cli

import (
	"fmt"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newRevision(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "revision", Short: "Changes of the network, what it was after each, and the way back"}
	cmd.AddCommand(newRevisionList(s), newRevisionShow(s), newRevisionDiff(s), newRevisionRestore(s))
	return cmd
}

func newRevisionList(s *session) *cobra.Command {
	var filter string
	cmd := &cobra.Command{
		Use: "list", Short: "List changes, newest first", Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			resp, err := c.topology.ListRevisions(cmd.Context(), &swanherdv1.ListRevisionsRequest{Parent: c.parent, PageSize: pageSize, Filter: filter})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			t := newTable(s.Out, "REVISION", "AGE", "ACTOR", "SUMMARY")
			for _, r := range resp.GetRevisions() {
				t.row(base(r.GetName()), age(r.GetCreateTime(), time.Now()), r.GetActor(), r.GetSummary())
			}
			return t.flush()
		}),
	}
	cmd.Flags().StringVar(&filter, "filter", "", "which ones, as in `actor = \"token:ops\"` (AIP-160)")
	return cmd
}

func newRevisionShow(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "show REVISION", Short: "Show a change, and the network as it was after it", Args: exactly(1, "a revision"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			r, err := c.topology.GetRevision(cmd.Context(), &swanherdv1.GetRevisionRequest{Name: c.parent + "/revisions/" + args[0]})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(r)
			}
			b, err := plain(r.GetManifest())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(s.Out, "# %s by %s, %s: %s\n%s", r.GetName(), safe(r.GetActor()),
				r.GetCreateTime().AsTime().Local().Format(time.DateTime), safe(r.GetSummary()), b)
			return err
		}),
	}
}

func newRevisionDiff(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "diff REVISION REVISION", Short: "Show how the network differed between two changes", Args: exactly(2, "two revisions"),
		Long: "Show how the network differed between two changes. The exit code is 2 when it did.",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			var text [2][]byte
			for i, number := range args {
				r, err := c.topology.GetRevision(cmd.Context(), &swanherdv1.GetRevisionRequest{Name: c.parent + "/revisions/" + number})
				if err != nil {
					return err
				}
				if text[i], err = plain(r.GetManifest()); err != nil {
					return err
				}
			}
			lines := diff.Diff("revision/"+args[0], text[0], "revision/"+args[1], text[1])
			if _, err := s.Out.Write(lines); err != nil {
				return err
			}
			if len(lines) > 0 {
				return errChanges
			}
			return nil
		}),
	}
}

func newRevisionRestore(s *session) *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use: "restore REVISION", Short: "Make the network what it was after a change, as a new change", Args: exactly(1, "a revision"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			resp, err := c.topology.RestoreRevision(cmd.Context(), &swanherdv1.RestoreRevisionRequest{Name: c.parent + "/revisions/" + args[0], ValidateOnly: dryRun})
			if err != nil {
				return err
			}
			switch {
			case s.output != "table":
				return s.printMessage(resp)
			case dryRun:
				return s.printPlan(resp)
			}
			s.printApply(resp, false)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check and show what would change; store nothing")
	return cmd
}
