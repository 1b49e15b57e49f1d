package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// result is what the demonstration found.
type result struct {
	// UpAfter is the time from the start of the programs until every tunnel was up.
	UpAfter   time.Duration
	Tunnels   []*swanherdv1.Tunnel
	Pings     []ping
	Dashboard string
	Switch    *cut // nil where each site has one uplink
}

// ping is one ping from a LAN to another.
type ping struct {
	From     string        `json:"from"`
	To       string        `json:"to"`
	Address  string        `json:"address"`
	Sent     int           `json:"sent"`
	Received int           `json:"received"`
	Average  time.Duration `json:"average_ns"`
}

// verdict is nil when every tunnel is up and has carried what was sent.
func (r *result) verdict() error {
	for _, t := range r.Tunnels {
		if t.GetStatus() != swanherdv1.TunnelStatus_TUNNEL_STATUS_UP {
			return fmt.Errorf("%s is %s: %s", t.GetName(), t.GetStatus(), t.GetReason())
		}
	}
	for _, p := range r.Pings {
		if p.Received != p.Sent {
			return fmt.Errorf("ping %s to %s: %d of %d answered", p.From, p.To, p.Received, p.Sent)
		}
	}
	return r.Switch.verdict()
}

func (r *result) print(out io.Writer, format string) error {
	if format == "json" {
		return r.printJSON(out)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TUNNEL\tSTATUS\tA\tB\tIKE SA\tCHILD SA\tSPI A/B\tPACKETS A>B/B>A")
	for _, t := range r.Tunnels {
		a, b := t.GetA(), t.GetB()
		child := &swanherdv1.ChildSa{}
		if c := a.GetReport().GetChildSas(); len(c) > 0 {
			child = c[0]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s/%s\t%d/%d\n",
			strings.TrimPrefix(t.GetName(), network+"/tunnels/"), strings.TrimPrefix(t.GetStatus().String(), "TUNNEL_STATUS_"),
			a.GetEndpoint(), b.GetEndpoint(), a.GetReport().GetIkeSa().GetSuite(), child.GetSuite(),
			child.GetSpiIn(), child.GetSpiOut(), child.GetCounters().GetPacketsOut(), child.GetCounters().GetPacketsIn())
	}
	w.Flush()
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PING\tTO\tANSWERED\tAVERAGE")
	for _, p := range r.Pings {
		fmt.Fprintf(w, "%s > %s\t%s\t%d/%d\t%v\n", p.From, p.To, p.Address, p.Received, p.Sent, p.Average.Round(time.Microsecond))
	}
	w.Flush()
	if c := r.Switch; c != nil {
		fmt.Fprintf(out, "\nThe first line of %s was dark for %v: traffic to %s was away for %v, %d of %d pings lost.\n",
			c.From, c.Away, c.To, c.Gone.Round(time.Millisecond), c.Sent-c.Received, c.Sent)
	}
	_, err := fmt.Fprintf(out, "\nAll tunnels up after %.1f s. Dashboard: %s\n", r.UpAfter.Seconds(), r.Dashboard)
	return err
}

func (r *result) printJSON(out io.Writer) error {
	tunnels := make([]json.RawMessage, len(r.Tunnels))
	for i, t := range r.Tunnels {
		b, err := protojson.Marshal(t)
		if err != nil {
			return fmt.Errorf("encode %s: %w", t.GetName(), err)
		}
		tunnels[i] = b
	}
	verdict := "ok"
	if err := r.verdict(); err != nil {
		verdict = err.Error()
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(map[string]any{
		"verdict": verdict, "up_after_seconds": r.UpAfter.Seconds(), "tunnels": tunnels, "pings": r.Pings, "dashboard": r.Dashboard, "switch": r.Switch,
	})
}
