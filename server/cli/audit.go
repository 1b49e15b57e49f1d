package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newAudit(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "The log of what people and machines changed"}
	cmd.AddCommand(newAuditList(s), newAuditShow(s), newAuditExport(s), newAuditVerify(s))
	return cmd
}

// auditFilter is which audit events are wanted; texts may hold `*`.
type auditFilter struct {
	actor, action, resource, from, request, more string
	global, everywhere                           bool
}

func (f auditFilter) String() string {
	terms := []string{"kind = AUDIT"}
	for _, t := range []struct{ field, value string }{
		{"actor", f.actor}, {"action", f.action}, {"resource", f.resource}, {"source.address", f.from}, {"source.request_id", f.request},
	} {
		if t.value != "" {
			terms = append(terms, fmt.Sprintf("%s = %q", t.field, t.value))
		}
	}
	if f.global {
		terms = append(terms, `name = "networks/-/events/*"`)
	}
	if f.more != "" {
		terms = append(terms, "("+f.more+")")
	}
	return strings.Join(terms, " AND ")
}

func newAuditList(s *session) *cobra.Command {
	var limit int32
	var filter auditFilter
	cmd := &cobra.Command{
		Use: "list", Short: "Show who changed what, newest first", Args: cobra.NoArgs,
		Example: `  swanherd audit list --actor 'token:ops' --action 'site.*'
  swanherd audit list --resource '*/sites/berlin' --from 192.0.2.7
  swanherd audit list --all-networks --resource 'networks/gone*'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > pageSize {
				return usagef("--limit %d is not within 1 and %d", limit, pageSize)
			}
			c, err := s.dialNetwork()
			if err != nil {
				return err
			}
			defer c.close()
			resp, err := c.fleet.ListEvents(cmd.Context(), &swanherdv1.ListEventsRequest{Parent: filter.parent(c), PageSize: limit, Filter: filter.String()})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			t := newTable(s.Out, "EVENT", "TIME", "ACTOR", "FROM", "ACTION", "RESOURCE", "CHANGED")
			for _, e := range resp.GetEvents() {
				t.row(e.GetName()[strings.LastIndexByte(e.GetName(), '/')+1:], e.GetTime().AsTime().Local().Format(time.DateTime), e.GetActor(),
					e.GetSource().GetAddress(), e.GetAction(), e.GetResource(), changedPaths(e))
			}
			return t.flush()
		},
	}
	cmd.Flags().Int32Var(&limit, "limit", 50, "how many")
	filter.addTo(cmd)
	return cmd
}

// addTo gives the command the flags of the filter.
func (f *auditFilter) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.actor, "actor", "", "by whom, such as token:ops; * stands for any text, here and below")
	flags.StringVar(&f.action, "action", "", "what was done, such as site.update")
	flags.StringVar(&f.resource, "resource", "", "what it was done to, such as '*/sites/berlin'")
	flags.StringVar(&f.from, "from", "", "the address that it came from")
	flags.StringVar(&f.request, "request-id", "", "the request_id that it came with")
	flags.StringVar(&f.more, "filter", "", "a condition besides (AIP-160), as in 'message:revoked'")
	flags.BoolVar(&f.global, "global", false, "what belongs to no network, such as API tokens")
	flags.BoolVar(&f.everywhere, "all-networks", false, "of all networks, also deleted ones, and what belongs to none; for who is bound to none")
	cmd.MarkFlagsMutuallyExclusive("global", "all-networks")
}

func (f *auditFilter) parent(c *client) string { return auditParent(c, f.global || f.everywhere) }

func newAuditExport(s *session) *cobra.Command {
	var filter auditFilter
	cmd := &cobra.Command{
		Use: "export", Short: "Write the audit log out, one event in JSON per line, newest first", Args: cobra.NoArgs,
		Long: `Write the audit log out, one event in JSON per line, newest first: for an archive,
or for what keeps the logs of all systems.`,
		Example: `  swanherd audit export --all-networks > audit.ndjson
  swanherd audit export --filter 'time > "2026-11-01T00:00:00Z"'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.dialNetwork()
			if err != nil {
				return err
			}
			defer c.close()
			req := &swanherdv1.ListEventsRequest{Parent: filter.parent(c), PageSize: pageSize, Filter: filter.String()}
			for {
				resp, err := c.fleet.ListEvents(cmd.Context(), req)
				if err != nil {
					return err
				}
				for _, e := range resp.GetEvents() {
					line, err := protojson.Marshal(e)
					if err != nil {
						return fmt.Errorf("encode %s: %w", e.GetName(), err)
					}
					if _, err := s.Out.Write(append(line, '\n')); err != nil {
						return err
					}
				}
				if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
					return nil
				}
			}
		},
	}
	filter.addTo(cmd)
	return cmd
}

func auditParent(c *client, global bool) string {
	if global {
		return "networks/-"
	}
	return c.parent
}

// maxPaths is how many fields a line of a list names.
const maxPaths = 4

func changedPaths(e *swanherdv1.Event) string {
	var paths []string
	for _, c := range e.GetChanges()[:min(len(e.GetChanges()), maxPaths)] {
		paths = append(paths, c.GetPath())
	}
	if more := len(e.GetChanges()) + int(e.GetChangesOmitted()) - len(paths); more > 0 {
		paths = append(paths, fmt.Sprintf("%d more", more))
	}
	return strings.Join(paths, ", ")
}

func newAuditShow(s *session) *cobra.Command {
	var global bool
	cmd := &cobra.Command{
		Use: "show EVENT", Short: "Show one event: from where, and each field before and after", Args: cobra.ExactArgs(1),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name := args[0]
			if !strings.Contains(name, "/") {
				name = auditParent(c, global) + "/events/" + name
			}
			e, err := c.fleet.GetEvent(cmd.Context(), &swanherdv1.GetEventRequest{Name: name})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(e)
			}
			_, err = fmt.Fprint(s.Out, describeEvent(e))
			return err
		}),
	}
	cmd.Flags().BoolVar(&global, "global", false, "an event that belongs to no network")
	return cmd
}

func describeEvent(e *swanherdv1.Event) string {
	var b strings.Builder
	line := func(label, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-11s %s\n", label+":", value)
		}
	}
	line("event", e.GetName())
	line("time", e.GetTime().AsTime().Local().Format(time.DateTime))
	line("actor", e.GetActor())
	line("action", e.GetAction())
	line("resource", e.GetResource())
	line("revision", fmt.Sprint(e.GetRevision()))
	line("message", e.GetMessage())
	source := e.GetSource()
	line("from", source.GetAddress())
	line("credential", source.GetCredential())
	line("user agent", source.GetUserAgent())
	line("method", source.GetMethod())
	line("request id", source.GetRequestId())
	for _, c := range e.GetChanges() {
		fmt.Fprintf(&b, "\n%s\n", c.GetPath())
		if c.GetOldValue() != "" {
			fmt.Fprintf(&b, "  - %s\n", c.GetOldValue())
		}
		if c.GetNewValue() != "" {
			fmt.Fprintf(&b, "  + %s\n", c.GetNewValue())
		}
	}
	if more := e.GetChangesOmitted(); more > 0 {
		fmt.Fprintf(&b, "\nand %d more fields\n", more)
	}
	return b.String()
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
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
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
		}),
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
