package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newHistory(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "history", Short: "How tunnels were: up or not, what went through them, and how good their paths were"}
	cmd.AddCommand(
		s.historyOf("tunnel NAME", "Show how a tunnel was", "swanherd history tunnel berlin--oslo --since 24h", exactly(1, "a tunnel"),
			func(c *client, args []string) (string, error) { return tunnelKind().name(c, args[0]) }),
		s.historyOf("network", "Show how all tunnels of the network were", "swanherd history network --since 30d --step 1d", cobra.NoArgs,
			func(c *client, _ []string) (string, error) {
				if c.parent == "networks/-" {
					return "", usagef("name one network with --network")
				}
				return c.parent, nil
			}),
	)
	return cmd
}

func (s *session) historyOf(use, short, example string, args cobra.PositionalArgs, of func(*client, []string) (string, error)) *cobra.Command {
	var since, step string
	cmd := &cobra.Command{
		Use: use, Short: short, Example: "  " + example, Args: args,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := of(c, args)
			if err != nil {
				return err
			}
			back, err := parseSpan("since", since)
			if err != nil {
				return err
			}
			req := &swanherdv1.QueryHistoryRequest{Name: name + "/history", StartTime: timestamppb.New(time.Now().Add(-back))}
			if step != "" {
				length, err := parseSpan("step", step)
				if err != nil {
					return err
				}
				req.Step = durationpb.New(length)
			}
			got, err := c.history.QueryHistory(cmd.Context(), req)
			if err != nil {
				return err
			}
			for _, r := range got.GetMissingReplicas() {
				fmt.Fprintf(s.Err, "warning: without what %s has, which does not answer the replica that was asked\n", r)
			}
			if s.output != "table" {
				return s.printMessage(got)
			}
			t := newTable(s.Out, "TIME", "UP", "IN", "OUT", "PACKETS IN", "PACKETS OUT", "DROPS", "RTT", "JITTER", "LOSS")
			for _, p := range got.GetPoints() {
				t.row(historyRow(p.GetTime().AsTime().Local().Format(time.DateTime), p)...)
			}
			t.row(historyRow("total", got.GetTotal())...)
			return t.flush()
		}),
	}
	cmd.Flags().StringVar(&since, "since", "24h", "how far back, as 90m, 24h or 7d")
	cmd.Flags().StringVar(&step, "step", "", "how much time a row is about, as 10m or 1d (default as fine as is kept)")
	return cmd
}

func historyRow(first string, p *swanherdv1.HistoryPoint) []string {
	return []string{
		first, part(p.GetUpSamples(), p.GetSamples()), octets(p.GetOctetsIn()), octets(p.GetOctetsOut()),
		strconv.FormatUint(p.GetPacketsIn(), 10), strconv.FormatUint(p.GetPacketsOut(), 10), strconv.FormatUint(p.GetDrops(), 10),
		span(p.GetLatency()), span(p.GetJitter()), part(p.GetProbesLost(), p.GetProbes()),
	}
}

// part renders one number as a part of another; of nothing there is none.
func part(of, all uint64) string {
	if all == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f %%", 100*float64(of)/float64(all))
}

// span renders a short time.
func span(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return millis(float64(d.AsDuration().Microseconds()))
}

// parseSpan reads a span of time, which may also be one of days.
func parseSpan(flag, text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, usagef("--%s %q is no time such as 90m, 24h or 7d", flag, text)
	}
	return d, nil
}
