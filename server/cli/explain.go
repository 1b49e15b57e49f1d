package cli

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// errUnreachable is not an error of the command: it makes the exit code say that
// there is no path.
var errUnreachable = errors.New("there is no path")

func newExplain(s *session) *cobra.Command {
	segment := ""
	cmd := &cobra.Command{
		Use:   "explain SOURCE DESTINATION",
		Short: "Show over which tunnels a packet goes from one address to another, or why it does not",
		Long: `Show over which tunnels a packet goes from one address to another, or why it
does not. The exit code is 1 when there is no path.`,
		Example: "  swanherd explain 10.1.0.5 10.9.0.7",
		Args:    exactly(2, "two addresses"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			req := &swanherdv1.ExplainRequest{Parent: c.parent, Source: args[0], Destination: args[1], Segment: segmentName(c.parent, segment)}
			resp, err := c.topology.Explain(cmd.Context(), req)
			if err != nil {
				return err
			}
			if err := s.printExplanation(resp); err != nil {
				return err
			}
			if !resp.GetReachable() {
				return errUnreachable
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&segment, "segment", "", "the segment of both addresses; empty: the default one")
	return cmd
}

// segmentName is the name of a segment of which the id is given, or the name itself; empty
// for the default one.
func segmentName(network, segment string) string {
	if segment == "" || strings.Contains(segment, "/") {
		return segment
	}
	return network + "/segments/" + segment
}

func (s *session) printExplanation(resp *swanherdv1.ExplainResponse) error {
	if s.output != "table" {
		return s.printMessage(resp)
	}
	if len(resp.GetHops()) > 0 {
		t := newTable(s.Out, "FROM", "TO", "TUNNEL", "STATUS", "MESH", "SELECTORS")
		for _, h := range resp.GetHops() {
			t.row(base(cmp.Or(h.GetFromSite(), h.GetFromGateway())), base(cmp.Or(h.GetToSite(), h.GetToGateway())), base(h.GetTunnel()), enumWord(h.GetStatus()), base(h.GetMesh()),
				h.GetLocalPrefix()+" > "+h.GetRemotePrefix())
		}
		if err := t.flush(); err != nil {
			return err
		}
		if err := s.printPaths(resp.GetHops()); err != nil {
			return err
		}
	}
	verdict := "no path: "
	if resp.GetReachable() {
		verdict = "reachable: "
	}
	_, err := fmt.Fprintln(s.Out, verdict+safe(resp.GetReason()))
	return err
}

// printPaths writes, where two edges of a way have several pairs of uplinks, what is over
// each.
func (s *session) printPaths(hops []*swanherdv1.ExplainHop) error {
	t := newTable(s.Out, "FROM", "UPLINK", "TO", "UPLINK", "CLASS", "COST", "TUNNEL", "STATUS", "REASON")
	any := false
	for _, h := range hops {
		for _, p := range h.GetPaths() {
			any = true
			status := ""
			if p.GetTunnel() != "" {
				status = enumWord(p.GetStatus())
			}
			t.row(base(h.GetFromEdge()), p.GetFromUplink(), base(h.GetToEdge()), p.GetToUplink(), pathClass(p.GetClass(), p.GetMetered()), fmt.Sprint(p.GetCost()),
				base(p.GetTunnel()), status, p.GetReason())
		}
	}
	if !any {
		return nil
	}
	return t.flush()
}

// pathClass is the class of a path, in words.
func pathClass(class swanherdv1.TransportClass, metered bool) string {
	word := enumWord(class)
	if class == swanherdv1.TransportClass_TRANSPORT_CLASS_UNSPECIFIED {
		word = ""
	}
	if metered {
		word = strings.TrimSpace(word + " metered")
	}
	return word
}
