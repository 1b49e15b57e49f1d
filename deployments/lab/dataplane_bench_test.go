package lab_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// BenchmarkDataPlane measures what passes a tunnel between two gateways, each with a
// host behind it: through our userspace ESP, through wireguard-go, through Tailscale's
// fork of it and through strongSwan's userspace ESP, and without a tunnel as the
// ceiling. All are there at once and take turns, since machines drift: ratios of
// medians are what counts. SWANHERD_BENCH_JSON names a file for the result.
func BenchmarkDataPlane(b *testing.B) {
	lab.Require(b, append(slices.Clone(lab.CharonPrograms), "iperf3", "ip")...)
	var all []*contender
	for _, c := range []contender{
		{name: "swanherd", start: func(x *pair) []*lab.Program { return x.runAgents(buildAgent(b)) }},
		{name: "wireguard-go", start: func(x *pair) []*lab.Program { return x.runWireGuard(lab.WireGuardGo, "wgu") }},
		{name: "tailscale", start: func(x *pair) []*lab.Program { return x.runWireGuard(lab.WireGuardTailscale, "wgt") }},
		{name: "strongswan", start: (*pair).runCharons},
		{name: "no tunnel", start: (*pair).routePlainly},
	} {
		c.pair = newPair(b, time.Hour)
		c.running = c.start(c.pair)
		c.awaitPing(c.name, c.running...)
		c.figures = map[string][]float64{}
		all = append(all, &c)
	}
	for b.Loop() {
		for _, m := range measures {
			for _, c := range all {
				for what, v := range m(c) {
					c.figures[what] = append(c.figures[what], v)
				}
			}
		}
	}
	reportDataPlane(b, all)
}

// contender is one way from host to host.
type contender struct {
	*pair
	name    string
	start   func(*pair) []*lab.Program
	running []*lab.Program // those that move the packets
	figures map[string][]float64
}

// measures are done in turn, each with every contender, and return figures by name.
var measures = []func(*contender) map[string]float64{
	func(c *contender) map[string]float64 {
		before := c.processorTime()
		rate := c.tcp("--time", "3")
		used := (c.processorTime() - before).Seconds()
		figures := map[string]float64{"TCP 1 stream, Gbit/s": rate}
		if len(c.running) > 0 {
			figures["daemons, CPU s/Gbit"] = used / (rate * 3)
		}
		return figures
	},
	func(c *contender) map[string]float64 {
		return map[string]float64{"TCP 8 streams, Gbit/s": c.tcp("--time", "3", "--parallel", "8")}
	},
	func(c *contender) map[string]float64 {
		return map[string]float64{"TCP reverse, Gbit/s": c.tcp("--time", "3", "--reverse")}
	},
	func(c *contender) map[string]float64 {
		return map[string]float64{"UDP 1400 B, kpps": c.lossless(1400)}
	},
	func(c *contender) map[string]float64 { return map[string]float64{"UDP 200 B, kpps": c.lossless(200)} },
	func(c *contender) map[string]float64 { return map[string]float64{"UDP 64 B, kpps": c.lossless(64)} },
	func(c *contender) map[string]float64 { return c.roundTrip() },
}

// processorTime is what the daemons have used.
func (c *contender) processorTime() (sum time.Duration) {
	for _, p := range c.running {
		sum += processorTime(c.t, p)
	}
	return sum
}

// tcp returns what arrived, in Gbit/s.
func (c *contender) tcp(args ...string) float64 {
	c.t.Helper()
	return c.iperf(args...).SumReceived.BitsPerSecond / 1e9
}

// iperfEnd is the end of what iperf3 says.
type iperfEnd struct {
	SumReceived struct {
		BitsPerSecond float64 `json:"bits_per_second"`
	} `json:"sum_received"`
	Sum struct { // of UDP
		Packets     float64 `json:"packets"`
		LostPercent float64 `json:"lost_percent"`
		Seconds     float64 `json:"seconds"`
	} `json:"sum"`
}

// iperf runs iperf3 from host to host.
func (c *contender) iperf(args ...string) iperfEnd {
	c.t.Helper()
	server, err := c.theirsLAN.Start(nil, nil, "iperf3", "--server", "--one-off", "--bind", c.theirsHost.String(), "--forceflush")
	c.must(err)
	defer server.Kill()
	for !strings.Contains(server.Output(), "listening") {
		select {
		case <-c.ctx.Done():
			c.t.Fatal("iperf3 does not listen: " + server.Output())
		case <-time.After(10 * time.Millisecond):
		}
	}
	out, err := c.oursLAN.Run(c.ctx, append([]string{"iperf3", "--client", c.theirsHost.String(), "--json"}, args...)...)
	if err != nil {
		c.t.Fatalf("%s: iperf3 %v: %v\n%s", c.name, args, err, out)
	}
	var result struct{ End iperfEnd }
	c.must(json.Unmarshal([]byte(out[max(0, strings.Index(out, "{")):]), &result)) // behind warnings
	return result.End
}

// lossless finds the highest rate of datagrams of which at most one in a thousand is
// lost, in thousands a second: it doubles until there is loss or the sender can do no
// more, then halves the interval.
func (c *contender) lossless(size int) float64 {
	c.t.Helper()
	passed := func(rate float64) float64 {
		for range 3 { // a machine that does something else for a moment loses packets too
			end := c.iperf("--udp", "--time", "1", "--length", strconv.Itoa(size), "--bitrate", strconv.FormatFloat(rate*float64(size)*8, 'f', 0, 64))
			if end.Sum.LostPercent <= 0.1 && end.Sum.Seconds > 0 {
				return end.Sum.Packets / end.Sum.Seconds
			}
		}
		return 0
	}
	low, best := 0.0, 0.0
	high := 10e3
	for ; high < 2e6; high *= 2 {
		got := passed(high)
		if got == 0 {
			break
		}
		best = max(best, got)
		if got < 0.8*high {
			return best / 1e3 // the sender is the limit
		}
		low = high
	}
	for range 4 {
		middle := (low + high) / 2
		if got := passed(middle); got > 0 {
			low, best = middle, max(best, got)
		} else {
			high = middle
		}
	}
	return best / 1e3
}

// roundTrip pings over an idle tunnel.
func (c *contender) roundTrip() map[string]float64 {
	c.t.Helper()
	out, err := c.oursLAN.Run(c.ctx, "ping", "-c", "200", "-i", "0.005", "-I", c.oursHost.String(), c.theirsHost.String())
	c.must(err)
	var times []float64
	for line := range strings.Lines(out) {
		_, rest, ok := strings.Cut(line, "time=")
		if v, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " ms"), 64); ok && err == nil {
			times = append(times, v)
		}
	}
	if len(times) < 100 {
		c.t.Fatalf("%s: %d of 200 pings answered:\n%s", c.name, len(times), out)
	}
	slices.Sort(times)
	return map[string]float64{"ping p50, ms": times[len(times)/2], "ping p99, ms": times[len(times)*99/100]}
}

// runWireGuard runs WireGuard on both gateways.
func (x *pair) runWireGuard(w lab.WireGuard, prefix string) []*lab.Program {
	x.t.Helper()
	program, err := w.Build(x.ctx, x.sub("bin"))
	x.must(err)
	const port = 51820
	running, err := lab.StartWireGuard(x.ctx, program, [2]lab.WireGuardEnd{
		{Host: x.ours, Interface: prefix + "0", Address: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.1:%d", port)), Behind: netip.MustParsePrefix("10.1.0.0/24")},
		{Host: x.theirs, Interface: prefix + "1", Address: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.2:%d", port)), Behind: netip.MustParsePrefix("10.2.0.0/24")},
	})
	for _, p := range running {
		x.t.Cleanup(func() { p.Stop(5 * time.Second) })
	}
	x.must(err)
	for host, name := range map[*lab.Namespace]string{x.ours: prefix + "0", x.theirs: prefix + "1"} {
		// Ours has as long a queue; the kernel's default drops bursts.
		_, err := host.Run(x.ctx, "ip", "link", "set", name, "txqueuelen", "1000", "mtu", "1420")
		x.must(err)
	}
	return running
}

// routePlainly has no tunnel at all.
func (x *pair) routePlainly() []*lab.Program {
	x.t.Helper()
	x.must(x.ours.Route(netip.MustParsePrefix("10.2.0.0/24"), netip.MustParseAddr("192.0.2.2")))
	x.must(x.theirs.Route(netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr("192.0.2.1")))
	return nil
}

// reportDataPlane prints medians with their spread and what they are beside
// wireguard-go's.
func reportDataPlane(b *testing.B, all []*contender) {
	b.Helper()
	var rows []string
	for what := range all[0].figures {
		rows = append(rows, what)
	}
	slices.SortFunc(rows, func(a, z string) int { return cmp.Or(strings.Compare(a[:3], z[:3]), strings.Compare(a, z)) })
	var table strings.Builder
	table.WriteString("| |")
	for _, c := range all {
		fmt.Fprintf(&table, " %s |", c.name)
	}
	table.WriteString(" beside wireguard-go |\n|" + strings.Repeat("---|", len(all)+2) + "\n")
	for _, what := range rows {
		fmt.Fprintf(&table, "| %s |", what)
		for _, c := range all {
			v := c.figures[what]
			if len(v) == 0 {
				table.WriteString(" - |")
				continue
			}
			fmt.Fprintf(&table, " %.3g (%.3g-%.3g) |", median(v), slices.Min(v), slices.Max(v))
		}
		fmt.Fprintf(&table, " %.2f |\n", median(all[0].figures[what])/median(all[1].figures[what]))
	}
	fmt.Printf("\n%s\n", table.String()) // a benchmark's log is cut short
	for _, w := range []lab.WireGuard{lab.WireGuardGo, lab.WireGuardTailscale} {
		fmt.Printf("%s: %s %s\n", w.Name, w.Module, w.Version)
	}
	b.ReportMetric(median(all[0].figures["TCP 1 stream, Gbit/s"]), "Gbit/s")
	b.ReportMetric(0, "ns/op") // the time is that of the measurement itself
	if file := os.Getenv("SWANHERD_BENCH_JSON"); file != "" {
		result := map[string]map[string][]float64{}
		for _, c := range all {
			result[c.name] = c.figures
		}
		text, err := json.MarshalIndent(result, "", "  ")
		if err == nil {
			err = os.WriteFile(file, append(text, '\n'), 0o644)
		}
		if err != nil {
			b.Errorf("write %s: %v", file, err)
		}
	}
}
