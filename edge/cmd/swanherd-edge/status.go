package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/edge"
	"github.com/swanherd/swanherd/edge/health"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newStatusCommand() *cobra.Command {
	var dir, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running agent does",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usagef("--output %q: use table or json", output)
			}
			s, err := edge.ReadStatus(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return printStatus(cmd.OutOrStdout(), s, time.Now())
		},
	}
	stateDirFlag(cmd, &dir)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func newTranscriptCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "transcript TUNNEL",
		Short: "Show the last IKE messages and events of a tunnel",
		Long: `Show the last IKE messages and events of a tunnel, as the running agent remembers
them: what went (>), came (<), was dropped (x) and happened (!), with the SPI of
the IKE SA at this end. There is no secret in it: it can be sent to whoever is to
help.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s takes the name of one tunnel; swanherd-edge status lists them", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := edge.ReadTranscript(cmd.Context(), dir, args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	stateDirFlag(cmd, &dir)
	return cmd
}

// printStatus prints the status for people.
func printStatus(to io.Writer, s *edge.Status, now time.Time) error {
	tunnels, err := s.TunnelReports()
	if err != nil {
		return err
	}
	uplinks, err := s.UplinkList()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	printAgent(w, s, now)
	for _, u := range uplinks {
		fmt.Fprintf(w, "Uplink:\t%s  %s  %s%s\n", u.GetName(), u.GetInterface(), dash(strings.Join(u.GetAddresses(), ", ")), because(s.UplinksDown[u.GetName()]))
		for _, n := range u.GetNats() {
			fmt.Fprintf(w, "Outside:\t%s is %s\n", n.GetAddress(), health.NATWords(n))
		}
	}
	fmt.Fprintln(w)
	if len(tunnels) == 0 {
		fmt.Fprintln(w, "No tunnels.")
		return w.Flush()
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w, "TUNNEL\tSTATE\tSINCE\tREMOTE\tPATH MTU\tRTT\tLOSS\tIKE SUITE\tCHILD\tSPI IN/OUT\tIN\tOUT\tLAST ERROR")
	for _, t := range tunnels {
		printTunnel(w, t, now)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printPaths(w, s, now)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range tunnels {
		printFailure(w, t, now)
	}
	return w.Flush()
}

// shownSwitches is how many of the last switches people are shown.
const shownSwitches = 5

// printPaths prints which tunnels of those that carry the same prefixes are in use, and what
// changed that last.
func printPaths(w io.Writer, s *edge.Status, now time.Time) {
	if len(s.Paths) > 0 {
		fmt.Fprintln(w, "\nPATHS TO\tCLASS\tIN USE\tSINCE\tWHY")
	}
	for _, p := range s.Paths {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", path.Base(p.Group), dash(p.Class), bases(p.InUse), age(now, p.Since), p.Reason)
	}
	last := s.Switches[max(0, len(s.Switches)-shownSwitches):]
	if len(last) > 0 {
		fmt.Fprintln(w, "\nSWITCHED\tPATHS TO\tCLASS\tFROM\tTO\tCAUSE\tWHY")
	}
	for _, x := range slices.Backward(last) {
		fmt.Fprintf(w, "%s ago\t%s\t%s\t%s\t%s\t%s\t%s\n", age(now, x.Time), path.Base(x.Group), dash(x.Class), bases(x.From), bases(x.To), x.Cause, x.Reason)
	}
}

// bases are the last parts of names.
func bases(names []string) string {
	short := make([]string, len(names))
	for i, name := range names {
		short[i] = path.Base(name)
	}
	return dash(strings.Join(short, ", "))
}

// printFailure prints all that is known of a tunnel's last failure.
func printFailure(w io.Writer, t *swanherdv1.TunnelReport, now time.Time) {
	e := t.GetLastError()
	if e == nil {
		return
	}
	side := "this end"
	if e.GetRemote() {
		side = "the peer"
	}
	fmt.Fprintf(w, "\n%s failed %s ago, as %s found:\n", shortName(t), age(now, at(e.GetTime())), side)
	for _, line := range []struct{ key, value string }{
		{"what", e.GetMessage()},
		{"kind", health.KindWord(e.GetKind())},
		{"exchange", e.GetExchange()},
		{"payload", e.GetPayload()},
		{"Child SA", e.GetChild()},
		{"ours", strings.Join(e.GetOurs(), " or ")},
		{"theirs", strings.Join(e.GetTheirs(), " or ")},
		{"remedy", e.GetRemedy()},
	} {
		if line.value != "" {
			fmt.Fprintf(w, "  %s:\t%s\n", line.key, line.value)
		}
	}
}

func shortName(t *swanherdv1.TunnelReport) string {
	return t.GetTunnel()[strings.LastIndexByte(t.GetTunnel(), '/')+1:]
}

func printAgent(w io.Writer, s *edge.Status, now time.Time) {
	fmt.Fprintf(w, "Edge:\t%s\n", dash(s.Edge))
	fmt.Fprintf(w, "Agent:\t%s, up %s\n", s.AgentVersion, age(now, s.StartTime))
	fmt.Fprintf(w, "Data plane:\t%s on %s (%s)\n", s.DataPlane, s.Interface, s.DataPlaneReason)
	if s.KeyLog != "" {
		fmt.Fprintf(w, "KEY LOG:\t%s gets the keys of all tunnels: whoever reads it reads their traffic\n", s.KeyLog)
	}
	switch session := s.Session; {
	case session == nil:
		fmt.Fprintf(w, "Controller:\tnone\n")
	case session.Connected:
		fmt.Fprintf(w, "Controller:\t%s, connected for %s", session.Endpoint, age(now, session.Since))
		if session.RoundTripMs > 0 {
			fmt.Fprintf(w, ", round trip %.1f ms", session.RoundTripMs)
		}
		fmt.Fprintln(w)
	default:
		fmt.Fprintf(w, "Controller:\tnot connected for %s: %s\n", age(now, session.Since), dash(session.LastError))
	}
	if i := s.Intent; i != nil {
		fmt.Fprintf(w, "Intent:\trevision %d of %s, digest %s%s\n", i.Revision, i.Epoch, i.Digest, trialWords(i))
	} else {
		fmt.Fprintf(w, "Intent:\tnone yet\n")
	}
	if c := s.Certificates; c != nil {
		fmt.Fprintf(w, "Certificates:\tcontrol until %s, IKE until %s\n", c.ControlExpire.Format(time.DateOnly), c.IKEExpire.Format(time.DateOnly))
	}
}

// trialWords say what an intent on trial waits for.
func trialWords(i *edge.IntentStatus) string {
	switch {
	case len(i.Awaited) > 0:
		names := make([]string, len(i.Awaited))
		for n, name := range i.Awaited {
			names[n] = path.Base(name)
		}
		return ", on trial: awaits " + strings.Join(names, ", ")
	case i.Unconfirmed:
		return ", on trial"
	}
	return ""
}

// printTunnel prints a tunnel: a line for its first Child SA, and one for each
// further one.
func printTunnel(w io.Writer, t *swanherdv1.TunnelReport, now time.Time) {
	name := shortName(t)
	children := t.GetChildSas()
	if len(children) == 0 {
		children = []*swanherdv1.ChildSa{nil}
	}
	for i, c := range children {
		lead := "\t\t\t\t\t\t\t"
		if i == 0 {
			lead = strings.Join([]string{
				name, health.StateWord(t.GetState()), age(now, at(t.GetStateTime())),
				remote(t), pathMTU(t), roundTrip(t), loss(t), dash(t.GetIkeSa().GetSuite()),
			}, "\t")
		}
		child, spis, in, out := "-", "-", "-", "-"
		if c != nil {
			child, spis = c.GetName(), c.GetSpiIn()+"/"+c.GetSpiOut()
			in = volume(c.GetCounters().GetPacketsIn(), c.GetCounters().GetOctetsIn())
			out = volume(c.GetCounters().GetPacketsOut(), c.GetCounters().GetOctetsOut())
		}
		failure := "-"
		if e := t.GetLastError(); e != nil && i == 0 {
			failure = e.GetCode()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", lead, child, spis, in, out, failure)
	}
}

// remote is where the peer is.
func remote(t *swanherdv1.TunnelReport) string {
	if t.GetIkeSa().GetTcpEncapsulated() {
		return "tcp " + t.GetRemoteEndpoint()
	}
	return dash(t.GetRemoteEndpoint())
}

// pathMTU is the longest datagram that is known to reach the peer.
func pathMTU(t *swanherdv1.TunnelReport) string {
	switch path := t.GetPathMtu(); {
	case path.GetOctets() == 0:
		return dash(path.GetSearch())
	case path.GetLimited():
		return fmt.Sprintf("%d (limited)", path.GetOctets())
	default:
		return fmt.Sprint(path.GetOctets())
	}
}

// roundTrip is the mean one of the probes in the window.
func roundTrip(t *swanherdv1.TunnelReport) string {
	if q := t.GetQuality(); q.GetWindowProbes() > q.GetWindowLost() {
		return fmt.Sprintf("%.2f ms", float64(q.GetRttAvgUs())/1000)
	}
	return "-"
}

// loss is the part of the probes in the window that were lost.
func loss(t *swanherdv1.TunnelReport) string {
	q := t.GetQuality()
	if q.GetWindowProbes() == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(q.GetWindowLost())/float64(q.GetWindowProbes()))
}

func at(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func age(now, then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return now.Sub(then).Round(time.Second).String()
}

// because is why an uplink is down.
func because(down string) string {
	if down == "" {
		return ""
	}
	return "  down: " + down
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// volume is packets and octets: "12 p 1.2 kB".
func volume(packets, octets uint64) string {
	value, unit := float64(octets), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if value < 1000 {
			break
		}
		value, unit = value/1000, u
	}
	if unit == "B" {
		return fmt.Sprintf("%d p %d B", packets, octets)
	}
	return fmt.Sprintf("%d p %.1f %s", packets, value, unit)
}
