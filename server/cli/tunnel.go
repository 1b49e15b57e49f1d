package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newTunnel(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "tunnel", Short: "Look at the paths of tunnels, and act on a tunnel"}
	cmd.AddCommand(newTunnelRekey(s), newTunnelRestart(s), newTunnelQuality(s))
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
			if len(args) == 1 {
				name, err := tunnelKind().name(c, args[0])
				if err != nil {
					return err
				}
				m, err := c.fleet.GetTunnel(cmd.Context(), &swanherdv1.GetTunnelRequest{Name: name})
				if err != nil {
					return err
				}
				if s.output != "table" {
					return s.printMessage(m)
				}
				qualityRows(t, m)
				return t.flush()
			}
			req := &swanherdv1.ListTunnelsRequest{Parent: c.parent, PageSize: pageSize}
			for {
				page, err := c.fleet.ListTunnels(cmd.Context(), req)
				if err != nil {
					return err
				}
				for _, m := range page.GetTunnels() {
					if s.output == "table" {
						qualityRows(t, m)
					} else if err := s.printMessage(m); err != nil {
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
		}),
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
