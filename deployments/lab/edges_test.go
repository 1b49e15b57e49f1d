package lab_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestEdgesFromIntentFiles runs two agents without a controller: the LANs behind
// them reach each other, with a pre-shared key and with certificates; an agent
// that is killed and started again comes back; one that is stopped tells its
// peer and leaves no route.
func TestEdgesFromIntentFiles(t *testing.T) {
	lab.Require(t, "ip")
	for _, auth := range []string{"psk", "certificate"} {
		t.Run(auth, func(t *testing.T) {
			p := newEdgePair(t, auth)
			p.start(0)
			p.start(1)
			p.check("at first")

			p.agents[1].Kill()
			<-p.agents[1].Done()
			p.guarded(1, "while it is dead")
			p.start(1)
			p.check("after one end was killed")

			if err := p.agents[0].Stop(10 * time.Second); err != nil {
				t.Errorf("stop: %v", err)
			}
			p.checkGone()
		})
	}
}

// TestEdgesFailClosed: an agent that was told so keeps its tunnels' traffic from leaving
// in clear when it is stopped, as when its service is restarted, until it is released.
func TestEdgesFailClosed(t *testing.T) {
	lab.Require(t, "ip")
	p := newEdgePair(t, "psk", "--fail-closed")
	p.start(0)
	p.start(1)
	p.check("at first")
	release := []string{p.agent, "release", "--state-dir", p.stateDir(1)}
	if out, err := p.edges[1].Run(p.ctx, release...); err == nil {
		t.Errorf("release beside a running agent: %s", out)
	}
	p.must(p.agents[1].Stop(10 * time.Second))
	p.guarded(1, "after a stop")
	p.start(1)
	p.check("after the restart")
	p.must(p.agents[1].Stop(10 * time.Second))
	if out, err := p.edges[1].Run(p.ctx, release...); err != nil {
		t.Errorf("release: %v: %s", err, out)
	}
	if out, err := p.edges[1].Run(p.ctx, "ip", "route", "show", "proto", "83"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("routes after the release: %q, %v", out, err)
	}
}

// TestEdgesOnKernel runs two agents with the data plane of the kernel, in a virtual
// machine whose kernel has ESP.
func TestEdgesOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("psk", testEdgesOnKernel)
}

func testEdgesOnKernel(t *testing.T) {
	p := newEdgePair(t, "psk", "--data-plane", "auto", "--tcp-port", "0")
	p.addSegment()
	p.start(0)
	p.start(1)
	p.check("at first")
	if table := p.status(0, "json"); !strings.Contains(table, `"data_plane": "kernel"`) {
		t.Errorf("status of edge 0, want the kernel's data plane:\n%s", table)
	}

	p.agents[1].Kill()
	<-p.agents[1].Done()
	p.routedIntoTunnel(1, "while it is dead")
	p.start(1)
	p.routedIntoTunnel(1, "when it begins again")
	p.check("after one end was killed")

	p.agents[1].Kill()
	<-p.agents[1].Done()
	p.options = []string{"--data-plane", "userspace"}
	p.start(1)
	p.check("after the killed end changed to user space")

	if err := p.agents[0].Stop(10 * time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	p.checkGone()
	for what, command := range map[string][]string{"states": {"ip", "xfrm", "state"}, "policies": {"ip", "xfrm", "policy"}} {
		if out, err := p.edges[0].Run(p.ctx, command...); err != nil || strings.TrimSpace(out) != "" {
			t.Errorf("%s after the stop: %q, %v", what, out, err)
		}
	}
}

// routedIntoTunnel wants that an edge sends what is for the LAN of the other into the
// tunnel's interface, and not out in clear.
func (p *edgePair) routedIntoTunnel(i int, when string) {
	p.t.Helper()
	lan := [2]string{"10.1.0.1", "10.2.0.1"}[1-i]
	if out, err := p.edges[i].Run(p.ctx, "ip", "route", "get", lan); err != nil || !strings.Contains(out, "dev swan0") {
		p.t.Errorf("%s, edge %d has the route %q (%v) to %s", when, i, out, err, lan)
	}
}

// guarded wants that an edge whose interface went with its agent sends what is for the
// LAN of the other nowhere, also where it has a default route.
func (p *edgePair) guarded(i int, when string) {
	p.t.Helper()
	other := 1 - i
	gateway, lan := [2]string{"192.0.2.1", "192.0.2.2"}[other], [2]string{"10.1.0.1", "10.2.0.1"}[other]
	if out, err := p.edges[i].Run(p.ctx, "ip", "route", "add", "default", "via", gateway); err != nil {
		p.t.Fatalf("default route of edge %d: %v: %s", i, err, out)
	}
	if out, err := p.edges[i].Run(p.ctx, "ip", "route", "get", lan); err == nil {
		p.t.Errorf("%s, edge %d has the route %q to %s", when, i, out, lan)
	}
	if out, err := p.edges[i].Run(p.ctx, "ip", "route", "del", "default"); err != nil {
		p.t.Fatalf("default route of edge %d: %v: %s", i, err, out)
	}
}

// edgePair is two edges of ours, with the files and certificates of a case of
// interoperation.
type edgePair struct {
	*interop
	edges  [2]*lab.Namespace
	agents [2]*lab.Program
	// options are more of both agents, further the second address of each in the
	// intent of the other.
	options []string
	further [2]string
	// child is what each wants of its Child SA, if not the LANs.
	child [2]string
	port  int  // of IKE, 4500 if 0
	dual  bool // the LANs have IPv6 too
	// probed is the SLA of a tunnel that is probed, in the form of an intent; empty: it is
	// not.
	probed string
	// corp is where each has the LAN of a segment, with the same prefix as the other one; nil:
	// there is no segment.
	corp [2]*lab.Namespace
	// planned are the intents of both, if they come from a plan.
	planned [2]string
}

// newEdgePair makes two edges that do not run yet, with more options for both agents.
func newEdgePair(t *testing.T, auth string, options ...string) *edgePair {
	t.Helper()
	p := &edgePair{interop: newInterop(t, buildAgent(t), auth, "ours"), options: options}
	p.edges = [2]*lab.Namespace{p.ours, p.theirs}
	p.writeCredentials()
	return p
}

var edgeNames = [2]string{"ours.example", "theirs.example"}

// start runs an agent; its output is shown if the test fails.
func (p *edgePair) start(i int) {
	p.t.Helper()
	file := p.write(fmt.Sprintf("edge%d.yaml", i), p.edgeIntent(i))
	var err error
	argv := append([]string{p.agent, "run", "--intent", file, "--state-dir", p.stateDir(i)}, p.options...)
	if p.corp[i] != nil {
		argv = append(argv, "--segment", "name=corp,netns="+p.corp[i].Path())
	}
	p.agents[i], err = p.edges[i].Start(nil, nil, argv...)
	p.must(err)
	running := p.agents[i]
	p.t.Cleanup(func() {
		if err := running.Stop(10 * time.Second); err != nil && !p.t.Failed() {
			p.t.Logf("stop edge %d: %v", i, err)
		}
		if p.t.Failed() {
			p.t.Logf("edge %d:\n%s", i, running.Output())
		}
	})
}

func (p *edgePair) stateDir(i int) string { return filepath.Join(p.dir, fmt.Sprintf("state%d", i)) }

func (p *edgePair) edgeIntent(i int) string {
	if p.planned[i] != "" {
		return p.planned[i]
	}
	other := 1 - i
	role := [2]string{"TUNNEL_ROLE_INITIATOR", "TUNNEL_ROLE_RESPONDER"}[i]
	lan := func(i int) string {
		if p.dual {
			return fmt.Sprintf(`[10.%d.0.0/24, "2001:db8:%d::/64"]`, i+1, i+1)
		}
		return fmt.Sprintf("[10.%d.0.0/24]", i+1)
	}
	settings := "settings:\n  localPrefixes: " + lan(i) + "\n"
	probe := ""
	if p.probed != "" {
		settings += fmt.Sprintf("  probes: {networkPrefix: 'fd00:5a::/48', localPrefix: 'fd00:5a:0:%d::/96'}\n", i+1)
		probe = fmt.Sprintf("    probe: {localAddress: 'fd00:5a:0:%d::7', remoteAddress: 'fd00:5a:0:%d::7', interval: 0.1s, sla: %s}\n", i+1, other+1, p.probed)
	}
	method := "psk: {file: psk}"
	if p.auth == "certificate" {
		files := [2][2]string{{"ours.pem", "ours.key"}, {"charon/x509/theirs.pem", "charon/private/theirs.key"}}[i]
		settings += fmt.Sprintf("  identityFiles: {certificate: %s, key: %s}\n", files[0], files[1]) +
			"  trustAnchors:\n    - |\n      " + strings.ReplaceAll(strings.TrimSpace(p.read("charon/x509ca/ca.pem")), "\n", "\n      ") + "\n"
		method = "certificate: {}"
	}
	further := ""
	if a := p.further[other]; a != "" {
		further = ", {address: " + a + ", port: 4500}"
	}
	child := p.child[i]
	if child == "" {
		child = fmt.Sprintf("localTs: %s, remoteTs: %s", lan(i), lan(other))
	}
	port := cmp.Or(p.port, 4500)
	tunnel := fmt.Sprintf(`    role: %s
    remoteEndpoints: [{address: 192.0.2.%d, port: %d}%s]
    authentication:
      localId: %s
      remoteId: %s
      %s
    children: [{name: net, %s}]
%s`, role, other+1, port, further, edgeNames[i], edgeNames[other], method, child, probe)
	tunnels := "tunnels:\n  - name: a--b\n" + tunnel
	if p.corp[i] != nil {
		settings += "  segments: [{segment: corp, localPrefixes: " + lan(i) + "}]\n"
		tunnels += "  - name: a--b.corp\n    segment: corp\n" + tunnel
	}
	return settings + tunnels
}

// addSegment gives both edges a segment that has the addresses of their LANs.
func (p *edgePair) addSegment() {
	p.t.Helper()
	p.corp = labelPlaces(p.t)
	for i, at := range p.corp {
		p.must(at.Address("lo", netip.PrefixFrom(segmentHost(i), 24)))
	}
}

func segmentHost(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i + 1), 0, 1}) }

// reached waits until the segment of one edge is reached from that of the other.
func (p *edgePair) reached(when string) {
	p.t.Helper()
	var last lab.PingResult
	for last.Received == 0 && p.ctx.Err() == nil {
		last, _ = p.corp[0].Ping(p.ctx, segmentHost(0), segmentHost(1), 1)
	}
	if last.Received == 0 {
		p.t.Fatalf("%s: the segment of the other edge is not reached", when)
	}
}

// check waits until both ends have the tunnel, passes traffic, and sees that it
// went through the Child SAs rather than in clear.
func (p *edgePair) check(when string) {
	p.t.Helper()
	p.established(when)
	p.awaitPing("the tunnel "+when, p.agents[0], p.agents[1])
	p.ping(when)
	p.counted(when, p.ping)
	if p.corp[0] != nil {
		p.reached(when)
	}
}

// established waits until both ends have the tunnel.
func (p *edgePair) established(when string) {
	p.t.Helper()
	for i := range p.edges {
		for {
			tunnels := p.tunnels(i)
			wanted := 1
			if p.corp[i] != nil {
				wanted = 2
			}
			if len(tunnels) == wanted && !slices.ContainsFunc(tunnels, func(t tunnelStatus) bool { return t.State != "TUNNEL_STATE_ESTABLISHED" }) {
				break
			}
			if p.ctx.Err() != nil {
				p.t.Fatalf("%s: edge %d has no tunnel: %+v", when, i, tunnels)
			}
		}
	}
}

// counted wants the packets of the pings on the Child SAs of both ends. Those of an end that
// has begun anew take the place of others one after the other, so that it may take some
// more pings.
func (p *edgePair) counted(when string, ping func(when string)) {
	p.t.Helper()
	for i := range p.edges {
		for in, out := p.packets(i); in < 20 || out < 20; in, out = p.packets(i) {
			if p.ctx.Err() != nil {
				p.t.Fatalf("%s: edge %d counts %d packets in, %d out, want the 20 of the pings", when, i, in, out)
			}
			ping(when)
		}
		if table := p.status(i, "table"); !strings.Contains(table, "established") || !strings.Contains(table, "a--b") {
			p.t.Errorf("%s: status of edge %d:\n%s", when, i, table)
		}
	}
}

// packets are those that an edge counts on the Child SAs of its first tunnel: they may be
// spread over those of several processors.
func (p *edgePair) packets(i int) (in, out int) {
	p.t.Helper()
	for _, c := range p.tunnels(i)[0].ChildSAs {
		in, out = in+c.Counters.PacketsIn, out+c.Counters.PacketsOut
	}
	return in, out
}

// tunnelStatus is what the test reads of the agent's status.
type tunnelStatus struct {
	Tunnel   string
	State    string
	ChildSAs []struct {
		Counters struct {
			PacketsIn  int `json:"packets_in,string"`
			PacketsOut int `json:"packets_out,string"`
			Missing    int `json:"missing,string"`
		}
	} `json:"child_sas"`
	Quality    pathQuality
	Violations []struct{ Metric string } `json:"sla_violations"`
}

// tunnels are the tunnels in the status of an agent, none if it does not answer
// yet.
func (p *edgePair) tunnels(i int) []tunnelStatus {
	p.t.Helper()
	var s struct{ Tunnels []tunnelStatus }
	out, err := exec.CommandContext(p.ctx, p.agent, "status", "--state-dir", p.stateDir(i), "-o", "json").Output()
	if err != nil {
		return nil
	}
	if err := json.Unmarshal(out, &s); err != nil {
		p.t.Fatalf("status of edge %d: %v\n%s", i, err, out)
	}
	return s.Tunnels
}

func (p *edgePair) status(i int, format string) string {
	p.t.Helper()
	out, err := exec.CommandContext(p.ctx, p.agent, "status", "--state-dir", p.stateDir(i), "-o", format).CombinedOutput()
	if err != nil {
		p.t.Errorf("status of edge %d: %v\n%s", i, err, out)
	}
	return string(out)
}

// checkGone sees that edge 0 left nothing behind and that edge 1 knows.
func (p *edgePair) checkGone() {
	p.t.Helper()
	out, err := p.edges[0].Run(p.ctx, "ip", "route", "show", "proto", "83")
	if err != nil || strings.TrimSpace(out) != "" {
		p.t.Errorf("routes after the stop: %q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(p.stateDir(0), "status.sock")); !os.IsNotExist(err) {
		p.t.Errorf("status socket after the stop: %v", err)
	}
	for strings.Contains(p.status(1, "table"), "established") {
		if p.ctx.Err() != nil {
			p.t.Fatal("the peer of a stopped edge still takes the tunnel for established")
		}
	}
}
