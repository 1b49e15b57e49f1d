package lab_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/deployments/lab/wan"
)

// TestEdgesSwitchPaths joins two edges by two lines, with a tunnel over each, of which the
// first costs less. What becomes of the first line moves the traffic to the second one, soon
// when it goes dark, within seconds when it loses much; and back again without loss when it is
// good for a while.
func TestEdgesSwitchPaths(t *testing.T) {
	lab.Require(t, "ip")
	if testing.Short() {
		return // the agent is built without the race detector, and it waits for times to pass
	}
	testSwitchPaths(t)
}

// TestEdgesSwitchPathsOnKernel does so with the kernel's data plane, in a virtual machine.
func TestEdgesSwitchPathsOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("psk", func(t *testing.T) { testSwitchPaths(t, "--data-plane", "kernel", "--tcp-port", "0") })
}

func testSwitchPaths(t *testing.T, options ...string) {
	w := newTwoWays(t, options...)
	w.start(0)
	w.start(1)
	w.inUse("at first", 0)
	const ms = time.Millisecond
	good := wan.Conditions{Delay: 10 * ms, Jitter: ms}
	dark, bad := wan.Conditions{Blackout: true}, wan.Conditions{Delay: 10 * ms, Loss: 0.4, Burst: 3}

	w.outage("blackout", dark, dark, 3*time.Second)
	w.inUse("while the first line is dark", 1)
	w.returns(good)
	w.outage("brown-out", bad, bad, 10*time.Second)
	w.inUse("while the first line loses much", 1)
}

// TestEdgesChooseByClass has voice go over the line that costs more, as the other one takes
// too long for it, and all else over that.
func TestEdgesChooseByClass(t *testing.T) {
	lab.Require(t, "ip", "ping")
	if testing.Short() {
		return // the agent is built without the race detector, and it waits for figures
	}
	w := newTwoWays(t)
	slow := wan.Conditions{Delay: 200 * time.Millisecond}
	w.lines[0].Set(slow, slow)
	w.start(0)
	w.start(1)
	w.inUse("at first", 0)
	w.inUseFor("voice", "at first", 1)
	for _, of := range []struct {
		what   string
		tos    string
		tunnel int
	}{{"voice", "0xb8", 1}, {"all else", "0", 0}} {
		before := w.sent(0)
		if out, err := w.edges[0].Run(w.ctx, "ping", "-q", "-c", "20", "-i", "0.05", "-Q", of.tos, "-I", segmentHost(0).String(), segmentHost(1).String()); err != nil {
			t.Fatalf("ping as %s: %v: %s", of.what, err, out)
		}
		for w.sent(0)[of.tunnel] < before[of.tunnel]+20 {
			if w.ctx.Err() != nil {
				t.Fatalf("%s: the tunnels sent %v before and %v afterwards, want 20 more of the one over line %d", of.what, before, w.sent(0), of.tunnel+1)
			}
		}
	}
}

// sent is how many packets an edge has sent by each tunnel, probes among them.
func (w *twoWays) sent(i int) (out [2]int) {
	w.t.Helper()
	for _, tunnel := range w.tunnels(i) {
		for k := range out {
			for _, c := range tunnel.ChildSAs {
				if tunnel.Tunnel == fmt.Sprintf("a--b.wan%d.wan%d", k+1, k+1) {
					out[k] += c.Counters.PacketsOut
				}
			}
		}
	}
	return out
}

// twoWays are two edges with two lines between them.
type twoWays struct {
	*edgePair
	lines [2]*wan.Line
}

func newTwoWays(t *testing.T, options ...string) *twoWays {
	t.Helper()
	w := &twoWays{edgePair: newEdgePair(t, "psk", options...)}
	w.planned = [2]string{w.intentOfTwo(0), w.intentOfTwo(1)}
	if out, err := w.edges[0].Run(w.ctx, "ip", "link", "del", "wan1"); err != nil {
		t.Fatalf("take the cable away: %v: %s", err, out)
	}
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	for k := range w.lines {
		between, err := n.Add(fmt.Sprintf("line%d", k+1))
		w.must(err)
		for i, port := range []string{"a", "b"} {
			w.must(n.Link(lab.End{Host: w.edges[i], Interface: fmt.Sprintf("wan%d", k+1), Addresses: []netip.Prefix{netip.PrefixFrom(outerOf(i, k), 24)}},
				lab.End{Host: between, Interface: port}))
		}
		w.must(between.Do(func() error {
			w.lines[k], err = wan.Join("a", "b", uint64(k))
			return err
		}))
		t.Cleanup(func() { w.must(w.lines[k].Close()) })
	}
	return w
}

// outerOf is the address of an edge on a line.
func outerOf(edge, line int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, 2 + byte(line), byte(edge + 1)})
}

func (w *twoWays) intentOfTwo(i int) string {
	other := 1 - i
	text := fmt.Sprintf(`settings:
  localPrefixes: [10.%d.0.0/24]
  probes: {networkPrefix: 'fd00:5a::/48', localPrefix: 'fd00:5a:0:%d::/96'}
  trafficClasses: [{id: voice, matches: [{dscp: [46]}], sla: {maxLatency: 0.3s}}]
tunnels:
`, i+1, i+1)
	for k := range w.lines {
		text += fmt.Sprintf(`  - name: a--b.wan%d.wan%d
    role: %s
    remoteEndpoints: [{address: %s, port: 4500}]
    authentication: {localId: %s, remoteId: %s, psk: {file: psk}}
    children: [{name: net, localTs: [10.%d.0.0/24], remoteTs: [10.%d.0.0/24]}]
    probe: {localAddress: 'fd00:5a:0:%d::%d', remoteAddress: 'fd00:5a:0:%d::%d', interval: 0.5s}
    path: {group: a--b, cost: %d}
`, k+1, k+1, [2]string{"TUNNEL_ROLE_INITIATOR", "TUNNEL_ROLE_RESPONDER"}[i], outerOf(other, k), edgeNames[i], edgeNames[other],
			i+1, other+1, i+1, k+7, other+1, k+7, 10*k)
	}
	return text
}

// inUse waits until both edges use the tunnel over a line alone, for what is of no class.
func (w *twoWays) inUse(when string, line int) {
	w.t.Helper()
	w.inUseFor("", when, line)
}

func (w *twoWays) inUseFor(class, when string, line int) {
	w.t.Helper()
	want := []string{fmt.Sprintf("a--b.wan%d.wan%d", line+1, line+1)}
	for i := range w.edges {
		for {
			var s struct{ Paths []pathStatus }
			out, err := exec.CommandContext(w.ctx, w.agent, "status", "--state-dir", w.stateDir(i), "-o", "json").Output()
			if err == nil {
				w.must(json.Unmarshal(out, &s))
			}
			at := slices.IndexFunc(s.Paths, func(p pathStatus) bool { return p.Class == class })
			if at >= 0 && slices.Equal(s.Paths[at].InUse, want) {
				w.t.Logf("%s edge %d uses %s", when, i, s.Paths[at].Reason)
				break
			}
			if w.ctx.Err() != nil {
				w.t.Fatalf("%s edge %d uses %+v, want %v\n%s", when, i, s.Paths, want, w.status(i, "table"))
			}
		}
	}
}

// pathStatus is what the test reads of a choice in an agent's status.
type pathStatus struct {
	Class  string
	InUse  []string `json:"in_use"`
	Reason string
}

// flow lets packets pass between the LANs of the edges.
func (w *twoWays) flow() *flow {
	w.t.Helper()
	f, err := startFlow([2]flowHost{
		{ns: w.edges[0], own: segmentHost(0), far: segmentHost(1)},
		{ns: w.edges[1], own: segmentHost(1), far: segmentHost(0)},
	})
	w.must(err)
	return f
}

// outage makes the first line bad in the midst of traffic, and wants this to be whole again
// after a time. How long it takes is told; the limit is far above, as other work on the
// machine must fail no test, and far below what IKE's own liveness takes.
func (w *twoWays) outage(what string, there, back wan.Conditions, limit time.Duration) {
	w.t.Helper()
	f := w.flow()
	f.ends[1].awaitMore(100)
	began := time.Now()
	w.lines[0].Set(there, back)
	w.inUse("in the "+what, 1)
	for _, e := range f.ends {
		e.awaitMore(int(2 * time.Second / flowInterval))
	}
	out, in := f.end(time.Second)
	for i, c := range []flowCount{out, in} {
		last := time.Duration(0)
		if n := len(c.when); n > 0 {
			last = c.when[n-1].Sub(began)
		}
		w.t.Logf("%s, from edge %d: %v lost of %v, the last %v after it began", what, i, c.lost, c.sent, last.Round(time.Millisecond))
		if last > limit {
			w.t.Errorf("%s: packets from edge %d are lost %v after it began, want less than %v: %v", what, i, last, limit, c)
		}
	}
}

// returns makes the first line good, and wants the traffic back there without loss.
func (w *twoWays) returns(good wan.Conditions) {
	w.t.Helper()
	f := w.flow()
	began := time.Now()
	w.lines[0].Set(good, good)
	w.inUse("when the first line is good again", 0)
	out, in := f.end(time.Second)
	w.t.Logf("back after %v: to them %v, to us %v", time.Since(began).Round(time.Millisecond), out, in)
	if out.lost+in.lost != 0 {
		w.t.Errorf("the way back loses packets: to them %v, to us %v", out, in)
	}
}
