package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// What of the benchmark of the data plane is run, and where the result goes.
var (
	dataPlaneWith = flag.String("with", "", "only contenders that match this regular expression")
	dataPlaneOnly = flag.String("only", "", "only measures that match this regular expression")
	dataPlaneJSON = flag.String("figures", "", "file for all figures, as JSON, after each round")

	dataPlaneBefore = flag.String("before", "", "another build of our agent, to be measured beside this one")
)

// BenchmarkDataPlane measures what passes a tunnel between two gateways, each with a
// host behind it: through our userspace ESP, through wireguard-go, through Tailscale's
// fork of it and through strongSwan's userspace ESP. Of ours there is more: without a
// cipher, which is what the design costs by itself; with a peer that sends no UDP
// checksums; and with traffic spread over many SAs. No tunnel at all is the ceiling.
// All are there at once and take turns, since machines drift: ratios of medians are
// what counts.
func BenchmarkDataPlane(b *testing.B) {
	lab.Require(b, append(slices.Clone(lab.CharonPrograms), "iperf3", "ip", "nft")...)
	chosen := matching(b, contenders(b), *dataPlaneWith, func(c contender) string { return c.name })
	todo := matching(b, measures, *dataPlaneOnly, func(m measurement) string { return m.name })
	var all []*contender
	for _, c := range chosen {
		c.pair = newPair(b, 24*time.Hour) // go test's own limit comes before
		c.flows = []lab.UDPFlow{{Source: netip.MustParseAddr("10.1.0.1"), Destination: netip.MustParseAddr("10.2.0.1")}}
		c.start(&c)
		c.awaitPing(c.name, c.running...)
		c.figures = map[string][]float64{}
		all = append(all, &c)
	}
	for b.Loop() {
		for _, m := range todo {
			for _, c := range all {
				for what, v := range m.run(c) {
					c.figures[what] = append(c.figures[what], v)
				}
			}
		}
		writeDataPlane(b, all)
	}
	reportDataPlane(b, all, todo)
}

// matching returns those of all whose name the expression matches.
func matching[T any](b *testing.B, all []T, expression string, name func(T) string) (out []T) {
	b.Helper()
	re, err := regexp.Compile(expression)
	if err != nil {
		b.Fatalf("%q is no regular expression: %v", expression, err)
	}
	var names []string
	for _, x := range all {
		names = append(names, name(x))
		if re.MatchString(name(x)) {
			out = append(out, x)
		}
	}
	if len(out) == 0 {
		b.Fatalf("%q matches none of: %s", expression, strings.Join(names, "; "))
	}
	return out
}

// contender is one way from host to host.
type contender struct {
	*pair
	name    string
	start   func(*contender)
	running []*lab.Program // those that move the packets
	flows   []lab.UDPFlow  // over which datagrams are spread
	figures map[string][]float64
}

// measurement is done in turn with every contender.
type measurement struct {
	name    string
	figures []string // what it may return
	run     func(*contender) map[string]float64
}

// one is a measure of one figure.
func one(name string, run func(*contender) float64) measurement {
	return measurement{name, []string{name}, func(c *contender) map[string]float64 { return map[string]float64{name: run(c)} }}
}

const (
	rateTCP      = "TCP 1, Gbit/s"
	processorTCP = "CPU, s/Gbit"
	rateGateways = "TCP 1 between gateways, Gbit/s"
	pingMedian   = "ping p50, ms"
	pingHigh     = "ping p99, ms"
)

// single measures 1 stream, and what processor time of both daemons it takes.
func single(rate, processor string, tcp func(*contender) float64) measurement {
	return measurement{rate, []string{rate, processor}, func(c *contender) map[string]float64 {
		before := c.processorTime()
		got := tcp(c)
		used := (c.processorTime() - before).Seconds()
		figures := map[string]float64{rate: got}
		if len(c.running) > 0 {
			figures[processor] = used / (got * tcpSeconds)
		}
		return figures
	}}
}

// measures that are of 1 stream or of pings use one SA, also where there are more, and
// so do 8 streams but for those between the gateways.
var measures = []measurement{
	single(rateTCP, processorTCP, func(c *contender) float64 { return c.tcp() }),
	single(rateGateways, "CPU between gateways, s/Gbit", func(c *contender) float64 { return c.tcpOverFlows(1) }),
	one("TCP 1 reverse, Gbit/s", func(c *contender) float64 { return c.tcp("--reverse") }),
	one("TCP 8, Gbit/s", func(c *contender) float64 { return c.tcp("--parallel", "8") }),
	one("TCP 8 reverse, Gbit/s", func(c *contender) float64 { return c.tcp("--parallel", "8", "--reverse") }),
	one("TCP 8 between gateways, Gbit/s", func(c *contender) float64 { return c.tcpOverFlows(8) }),
	datagrams(1400),
	datagrams(200),
	datagrams(64),
	{"ping", []string{pingMedian, pingHigh}, (*contender).roundTrip},
	{"memory", []string{"memory, MB"}, (*contender).memory},
}

// datagrams measures how many IP packets of size octets can be sent without loss, and
// at half that rate how long they are under way and what processor time of both daemons
// each takes.
func datagrams(size int) measurement {
	name := fmt.Sprintf("UDP %d B", size)
	rate, middle, high, processor := name+", kpps", name+" p50, ms", name+" p99, ms", name+" CPU, us"
	return measurement{name, []string{rate, middle, high, processor}, func(c *contender) map[string]float64 {
		most := c.lossless(size)
		if most == 0 {
			return map[string]float64{rate: 0}
		}
		before := c.processorTime()
		half := c.datagrams(lab.UDPLoad{Size: size - udpHeaders, Rate: most / 2}, time.Second)
		used := c.processorTime() - before
		ms := func(quantile float64) float64 { return half.Latency.Quantile(quantile).Seconds() * 1e3 }
		figures := map[string]float64{rate: most / 1e3, middle: ms(0.5), high: ms(0.99)}
		if len(c.running) > 0 && half.Received > 0 {
			figures[processor] = used.Seconds() * 1e6 / float64(half.Received)
		}
		return figures
	}}
}

// processorTime is what the daemons have used.
func (c *contender) processorTime() (sum time.Duration) {
	for _, p := range c.running {
		sum += processorTime(c.t, p)
	}
	return sum
}

// memory is what a daemon has resident, in the middle of both ends.
func (c *contender) memory() map[string]float64 {
	if len(c.running) == 0 {
		return nil
	}
	var sum float64
	for _, p := range c.running {
		sum += float64(resident(c.t, p))
	}
	return map[string]float64{"memory, MB": sum / float64(len(c.running)) / 1e6}
}

// resident is the memory of a program in octets (proc(5), /proc/pid/statm).
func resident(t testing.TB, p *lab.Program) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// tcpSeconds is how long one measure of TCP takes.
const tcpSeconds = 3

// tcp runs iperf3 from host to host and returns what arrived, in Gbit/s.
func (c *contender) tcp(args ...string) float64 {
	c.t.Helper()
	rate, err := c.iperf(c.oursLAN, c.theirsLAN, lab.UDPFlow{Source: c.oursHost, Destination: c.theirsHost}, 0, args...)
	c.must(err)
	return rate
}

// tcpOverFlows runs that many streams from gateway to gateway, each over another flow
// as far as there are so many, and returns what arrived of all, in Gbit/s.
func (c *contender) tcpOverFlows(streams int) (sum float64) {
	c.t.Helper()
	rates, errs := make([]float64, streams), make([]error, streams)
	var running sync.WaitGroup
	for i := range streams {
		flow := c.flows[i*len(c.flows)/streams]
		running.Go(func() { rates[i], errs[i] = c.iperf(c.ours, c.theirs, flow, i) })
	}
	running.Wait()
	c.must(errors.Join(errs...))
	for _, r := range rates {
		sum += r
	}
	return sum
}

// iperf runs iperf3 over a flow, at a port of its own for each number, and returns what
// arrived, in Gbit/s.
func (c *contender) iperf(from, to *lab.Namespace, flow lab.UDPFlow, number int, args ...string) (float64, error) {
	port := strconv.Itoa(5201 + number)
	server, err := to.Start(nil, nil, "iperf3", "--server", "--one-off", "--bind", flow.Destination.String(), "--port", port, "--forceflush")
	if err != nil {
		return 0, err
	}
	defer server.Kill()
	for !strings.Contains(server.Output(), "listening") {
		select {
		case <-c.ctx.Done():
			return 0, fmt.Errorf("%s: iperf3 does not listen: %s", c.name, server.Output())
		case <-time.After(10 * time.Millisecond):
		}
	}
	client := []string{
		"iperf3", "--client", flow.Destination.String(), "--bind", flow.Source.String(), "--port", port,
		"--time", strconv.Itoa(tcpSeconds), "--json",
	}
	out, err := from.Run(c.ctx, append(client, args...)...)
	if err != nil {
		return 0, fmt.Errorf("%s: iperf3 %v: %w\n%s", c.name, args, err, out)
	}
	var result struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	err = json.Unmarshal([]byte(out[max(0, strings.Index(out, "{")):]), &result) // behind warnings
	return result.End.SumReceived.BitsPerSecond / 1e9, err
}

// datagrams sends for a while from gateway to gateway: forwarding each datagram from
// and to a host costs more than some tunnels do.
func (c *contender) datagrams(load lab.UDPLoad, duration time.Duration) lab.UDPResult {
	c.t.Helper()
	result, err := c.tryDatagrams(load, duration)
	if err != nil {
		c.t.Fatalf("%s: %v", c.name, err)
	}
	return result
}

func (c *contender) tryDatagrams(load lab.UDPLoad, duration time.Duration) (lab.UDPResult, error) {
	load.From, load.To, load.Flows = c.ours, c.theirs, c.flows
	ctx, cancel := context.WithTimeout(c.ctx, duration)
	defer cancel()
	return load.Run(ctx)
}

// udpHeaders are those of IPv4 and UDP.
const udpHeaders = 20 + 8

// lossless finds the highest rate of IP packets of size octets, which all tunnels take
// unfragmented up to 1400, of which at most one in a thousand is lost, in packets a
// second: it doubles until there is loss or the sender can do no more, then halves the
// interval. A rate is tried for a second, so that what queues on the way hold does not
// count.
func (c *contender) lossless(size int) float64 {
	c.t.Helper()
	passed := func(rate float64) (best float64) {
		for range 2 { // a machine that does something else for a moment loses packets, and is slow, too
			if result := c.datagrams(lab.UDPLoad{Size: size - udpHeaders, Rate: rate}, time.Second); result.Loss() <= 0.001 {
				best = max(best, result.Rate())
			}
			if best >= 0.8*rate {
				break
			}
		}
		return best
	}
	low, best := 0.0, 0.0
	high := 20e3
	for ; high < 4e6; high *= 2 {
		got := passed(high)
		if got == 0 {
			break
		}
		best = max(best, got)
		if got < 0.8*high {
			return best // the sender is the limit
		}
		low = high
	}
	for range 5 {
		middle := (low + high) / 2
		if got := passed(middle); got > 0 {
			low, best = middle, max(best, got)
		} else {
			high = middle
		}
	}
	return best
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
	return map[string]float64{pingMedian: times[len(times)/2], pingHigh: times[len(times)*99/100]}
}
