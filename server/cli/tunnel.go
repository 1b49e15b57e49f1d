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

func newTunnel(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "tunnel", Short: "Look at the paths of tunnels, and act on a tunnel"}
	cmd.AddCommand(newTunnelRekey(s), newTunnelRestart(s), newTunnelQuality(s), newTunnelPaths(s))
	return cmd
}

func newTunnelRekey(s *session) *cobra.Command {
	var reauthenticate bool
	cmd := &cobra.Command{
		Use: "rekey NAME", Short: "Make new SAs of a tunnel before their time, without a gap",
		Example: "  swanherd tunnel rekey berlin--oslo\n  swanherd tunnel rekey berlin--oslo --reauthenticate",
		Args:    exactly(1, "the tunnel's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := tunnelKind().name(c, args[0])
			if err != nil {
				return err
			}
			resp, err := c.fleet.RekeyTunnel(cmd.Context(), &swanherdv1.RekeyTunnelRequest{Name: name, Reauthenticate: reauthenticate})
			if err != nil {
				return err
			}
			return s.printBegun(resp)
		}),
	}
	cmd.Flags().BoolVar(&reauthenticate, "reauthenticate", false, "by a new authentication, which also proves both ends' certificates again")
	return cmd
}

func newTunnelRestart(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "restart NAME", Short: "Delete all SAs of a tunnel and have it connect anew, with a gap",
		Example: "  swanherd tunnel restart berlin--oslo",
		Args:    exactly(1, "the tunnel's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := tunnelKind().name(c, args[0])
			if err != nil {
				return err
			}
			resp, err := c.fleet.RestartTunnel(cmd.Context(), &swanherdv1.RestartTunnelRequest{Name: name})
			if err != nil {
				return err
			}
			return s.printBegun(resp)
		}),
	}
}

// printBegun says which end of a tunnel has begun to do what it was told.
func (s *session) printBegun(resp interface {
	proto.Message
	GetEdge() string
}) error {
	if s.output != "table" {
		return s.printMessage(resp)
	}
	_, err := fmt.Fprintf(s.Out, "%s has begun\n", resp.GetEdge())
	return err
}

func newTunnelQuality(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "quality [NAME]", Short: "Show what probes measure in a tunnel, or in all, at each end",
		Long: "Shows what probes measure in a tunnel, or in all, at each end: round trip, jitter and loss out and in, of the\n" +
			"last 100 probes, and the limits of the profile's SLA that are exceeded.",
		Example: "  swanherd tunnel quality\n  swanherd tunnel quality berlin--oslo",
		Args:    cobra.MaximumNArgs(1),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			t := newTable(s.Out, "TUNNEL", "AT", "RTT", "P50", "P99", "JITTER OUT", "IN", "LOSS", "OUT", "IN", "SLA")
			return s.showTunnels(cmd.Context(), c, args, t, qualityRows)
		}),
	}
}

func newTunnelPaths(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "paths [NAME]", Short: "Show which tunnels are used of those that have alternatives, at each end",
		Long: "Shows the tunnels that carry the same prefixes by different uplinks, or one of them, and at each end which\n" +
			"traffic goes by it: what is of no traffic class (default), classes, or nothing while it stands by.",
		Example: "  swanherd tunnel paths\n  swanherd tunnel paths berlin--oslo.wan2.wan1",
		Args:    cobra.MaximumNArgs(1),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			t := newTable(s.Out, "TUNNEL", "PATH", "STATUS", "AT", "SENDS", "SINCE", "WHY")
			return s.showTunnels(cmd.Context(), c, args, t, pathRows)
		}),
	}
}

// showTunnels shows the tunnel of that name, or all, by rows of a table if it is one.
func (s *session) showTunnels(ctx context.Context, c *client, args []string, t *table, rows func(*table, *swanherdv1.Tunnel)) error {
	show := func(m *swanherdv1.Tunnel) error {
		if s.output != "table" {
			return s.printMessage(m)
		}
		rows(t, m)
		return nil
	}
	if len(args) == 1 {
		name, err := tunnelKind().name(c, args[0])
		if err != nil {
			return err
		}
		m, err := c.fleet.GetTunnel(ctx, &swanherdv1.GetTunnelRequest{Name: name})
		if err == nil {
			err = show(m)
		}
		if err != nil || s.output != "table" {
			return err
		}
		return t.flush()
	}
	req := &swanherdv1.ListTunnelsRequest{Parent: c.parent, PageSize: pageSize}
	for {
		page, err := c.fleet.ListTunnels(ctx, req)
		if err != nil {
			return err
		}
		for _, m := range page.GetTunnels() {
			if err := show(m); err != nil {
				return err
			}
		}
		if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if s.output != "table" {
		return nil
	}
	return t.flush()
}

// pathRows writes a row for each end of a tunnel that has alternatives.
func pathRows(t *table, m *swanherdv1.Tunnel) {
	if m.GetPath() == nil {
		return
	}
	for _, end := range []*swanherdv1.TunnelEnd{m.GetA(), m.GetB()} {
		use := end.GetReport().GetUse()
		sends := use.GetClasses()
		if use.GetInUse() {
			sends = append([]string{"default"}, sends...)
		}
		if use != nil && len(sends) == 0 {
			sends = []string{"nothing"}
		}
		since, why := "", ""
		if use.GetInUse() {
			since, why = age(use.GetSince(), time.Now()), use.GetReason()
		}
		t.row(base(m.GetName()), fmt.Sprintf("%s cost %d", tunnelPath(m), m.GetPath().GetCost()), enumWord(m.GetStatus()), base(end.GetEdge()), strings.Join(sends, ", "), since, why)
	}
}

// qualityRows writes a row for each end of a tunnel.
func qualityRows(t *table, m *swanherdv1.Tunnel) {
	for _, end := range []*swanherdv1.TunnelEnd{m.GetA(), m.GetB()} {
		q, row := end.GetReport().GetQuality(), []string{base(m.GetName()), base(end.GetEdge())}
		if q == nil {
			t.row(append(row, make([]string, 9)...)...)
			continue
		}
		for _, us := range []uint32{q.GetRttAvgUs(), q.GetRttP50Us(), q.GetRttP99Us(), q.GetJitterOutUs(), q.GetJitterInUs()} {
			row = append(row, millis(float64(us)))
		}
		for _, lost := range []uint32{q.GetWindowLost(), q.GetWindowLostOut(), q.GetWindowLostIn()} {
			row = append(row, fmt.Sprintf("%.1f %%", 100*float64(lost)/float64(max(1, q.GetWindowProbes()))))
		}
		var over []string
		for _, v := range end.GetReport().GetSlaViolations() {
			over = append(over, enumWord(v.GetMetric()))
		}
		t.row(append(row, strings.Join(over, ","))...)
	}
}

// millis renders microseconds.
func millis(us float64) string { return fmt.Sprintf("%.2f ms", us/1000) }
