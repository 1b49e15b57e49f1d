package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"buf.build/go/protoyaml"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newAlert(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "alert", Short: "What is wrong, and the rules by which it is told"}
	cmd.AddCommand(newAlertList(s), s.mayDryRun(newAlertApply(s)))
	return cmd
}

func newAlertList(s *session) *cobra.Command {
	var want listing
	cmd := &cobra.Command{
		Use: "list", Short: "List alerts that fire, and those of the last day that are over", Args: cobra.NoArgs,
		Example: "  swanherd alert list --filter 'state = FIRING AND severity = CRITICAL'\n  swanherd alert list -n -   # of all networks",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, alertKind(), want)
		}),
	}
	cmd.Flags().StringVar(&want.filter, "filter", "", "which ones (AIP-160)")
	cmd.Flags().StringVar(&want.orderBy, "order-by", "", "fields to order by, as in `fire_time desc`")
	return cmd
}

func newAlertApply(s *session) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Make alert rules what a file says, one after the other", Args: cobra.NoArgs,
		Long: `Make alert rules what a file says, one after the other. The file holds a rule per YAML
document, as "swanherd get alertrules NAME -o yaml" shows them. Rules that it does not name stay
as they are.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rules, err := loadRules(file, s.In)
			if err != nil {
				return err
			}
			c, err := s.dial()
			if err != nil {
				return err
			}
			defer c.close()
			for _, r := range rules {
				got, err := c.alerts.UpdateAlertRule(cmd.Context(), &swanherdv1.UpdateAlertRuleRequest{
					AlertRule: r, AllowMissing: true, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}},
				})
				if err != nil {
					return err
				}
				if s.output != "table" {
					err = s.printMessage(got)
				} else {
					_, err = fmt.Fprintf(s.Out, "%s applied\n", got.GetName())
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML file of rules, - for standard input")
	return cmd
}

func loadRules(file string, in io.Reader) ([]*swanherdv1.AlertRule, error) {
	if file == "" {
		return nil, usagef("give the file of the rules with -f")
	}
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(in)
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, usagef("read rules: %w", err)
	}
	var out []*swanherdv1.AlertRule
	for _, doc := range splitDocuments(b) {
		r := &swanherdv1.AlertRule{}
		if err := (protoyaml.UnmarshalOptions{Path: file}).Unmarshal(doc, r); err != nil {
			return nil, decodeError(file, err)
		}
		if r.GetName() == "" {
			return nil, usagef("%s: a rule has no name, networks/NETWORK/alertRules/RULE", file)
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, usagef("%s: no rule in it", file)
	}
	return out, nil
}

func newWebhook(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "webhook", Short: "Where alerts are sent"}
	cmd.AddCommand(s.mayDryRun(newWebhookCreate(s)), newWebhookTest(s))
	return cmd
}

func newWebhookCreate(s *session) *cobra.Command {
	sink := &swanherdv1.WebhookSink{}
	var secretFile, caFile, severity string
	cmd := &cobra.Command{
		Use: "create NAME --url URL", Short: "Send alerts of the network to a receiver; -n - for those of all networks", Args: exactly(1, "a name"),
		Long: `Send alerts of the network to a receiver: CloudEvents in JSON, signed as Standard Webhooks are.
Without --secret-file it makes a secret and shows it; the controller never does.`,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			shown, err := readSink(sink, secretFile, caFile, severity)
			if err != nil {
				return err
			}
			made, err := c.alerts.CreateWebhookSink(cmd.Context(), &swanherdv1.CreateWebhookSinkRequest{Parent: c.parent, WebhookSinkId: args[0], WebhookSink: sink})
			if err != nil {
				return err
			}
			if s.dryRun {
				shown = "" // it is that of no sink
			}
			made.Secret = shown
			if s.output != "table" {
				return s.printMessage(made)
			}
			fmt.Fprintf(s.Out, "%s created; try it with `swanherd webhook test %s`\n", made.GetName(), args[0])
			if shown != "" {
				fmt.Fprintf(s.Out, "secret, which is not shown again: %s\n", shown)
			}
			return nil
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&sink.Url, "url", "", "where to, https://host/path")
	flags.StringVar(&secretFile, "secret-file", "", "file with the key of the signatures, whsec_...; empty: one is made")
	flags.StringVar(&caFile, "ca", "", "PEM file of the authorities of the receiver's certificate (default the system's)")
	flags.StringVar(&severity, "min-severity", "", "info, warning or critical: only alerts that are at least as severe")
	flags.StringSliceVar(&sink.Networks, "only", nil, "with -n -, only alerts of these networks, networks/NETWORK,...")
	return cmd
}

// readSink fills in what flags name, and returns the secret if it made one.
func readSink(sink *swanherdv1.WebhookSink, secretFile, caFile, severity string) (made string, err error) {
	if severity != "" {
		n, ok := swanherdv1.AlertSeverity_value["ALERT_SEVERITY_"+strings.ToUpper(severity)]
		if !ok {
			return "", usagef("--min-severity %q is not one of info, warning, critical", severity)
		}
		sink.MinSeverity = swanherdv1.AlertSeverity(n)
	}
	read := func(flag, file string) string {
		b, rerr := os.ReadFile(file)
		if rerr != nil {
			err = errors.Join(err, usagef("read --%s: %w", flag, rerr))
		}
		return string(bytes.TrimSpace(b))
	}
	if caFile != "" {
		sink.CaCertificates = read("ca", caFile)
	}
	if secretFile != "" {
		sink.Secret = read("secret-file", secretFile)
		return "", err
	}
	key := make([]byte, 32)
	rand.Read(key)
	sink.Secret = "whsec_" + base64.StdEncoding.EncodeToString(key)
	return sink.GetSecret(), err
}

func newWebhookTest(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "test NAME", Short: "Send a receiver a test and show what it answers", Args: exactly(1, "a webhook"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := webhookKind().name(c, args[0])
			if err != nil {
				return err
			}
			got, err := c.alerts.TestWebhookSink(cmd.Context(), &swanherdv1.TestWebhookSinkRequest{Name: name})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(got)
			}
			if !got.GetDelivered() {
				return fmt.Errorf("%s did not take it: %s", name, safe(got.GetError()))
			}
			fmt.Fprintf(s.Out, "%s took it: status %d\n", name, got.GetStatusCode())
			return nil
		}),
	}
}

func alertKind() kind {
	return kind{
		plural: "alerts", singular: "alert", segment: "alerts",
		header: []string{"STATE", "SEVERITY", "RESOURCE", "SINCE", "RULE", "SUMMARY"},
		row: func(m proto.Message, now time.Time) []string {
			a := m.(*swanherdv1.Alert)
			return []string{enumWord(a.GetState()), enumWord(a.GetSeverity()), a.GetResource(), age(a.GetStartTime(), now), base(a.GetRule()), a.GetSummary()}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.alerts.ListAlerts(ctx, &swanherdv1.ListAlertsRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.alerts.GetAlert(ctx, &swanherdv1.GetAlertRequest{Name: name})
		},
	}
}

func alertRuleKind() kind {
	return kind{
		plural: "alertrules", singular: "alertrule", segment: "alertRules", fleetWide: true,
		header: []string{"NAME", "CONDITION", "SEVERITY", "FOR", "KEEP", "LABELS", "ENABLED"},
		row: func(m proto.Message, _ time.Time) []string {
			r := m.(*swanherdv1.AlertRule)
			enabled := "yes"
			if r.GetDisabled() {
				enabled = "no"
			}
			return []string{
				base(r.GetName()), enumWord(r.GetCondition()), enumWord(r.GetSeverity()), r.GetPendingFor().AsDuration().String(),
				r.GetKeepFiringFor().AsDuration().String(), labels(r.GetMatchLabels()), enabled,
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.alerts.ListAlertRules(ctx, &swanherdv1.ListAlertRulesRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.alerts.GetAlertRule(ctx, &swanherdv1.GetAlertRuleRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.alerts.DeleteAlertRule(ctx, &swanherdv1.DeleteAlertRuleRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

func webhookKind() kind {
	return kind{
		plural: "webhooks", singular: "webhook", segment: "webhookSinks", fleetWide: true,
		header: []string{"NAME", "URL", "MIN SEVERITY", "NETWORKS", "ENABLED", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			w := m.(*swanherdv1.WebhookSink)
			enabled := "yes"
			if w.GetDisabled() {
				enabled = "no"
			}
			return []string{base(w.GetName()), w.GetUrl(), enumWord(w.GetMinSeverity()), strings.Join(w.GetNetworks(), ","), enabled, age(w.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.alerts.ListWebhookSinks(ctx, &swanherdv1.ListWebhookSinksRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.alerts.GetWebhookSink(ctx, &swanherdv1.GetWebhookSinkRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.alerts.DeleteWebhookSink(ctx, &swanherdv1.DeleteWebhookSinkRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}
