package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/deployments/lab/wan"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TestFleetNetns brings the demonstration's fleet up and then does to it what
// happens to fleets: processes are killed, sites are deleted, edges come back.
// The steps build on one another.
func TestFleetNetns(t *testing.T) {
	lab.Require(t)
	f := newFleet(t)
	for _, step := range []struct {
		name string
		run  func(*fleetTest)
	}{
		{"a used token is refused", (*fleetTest).usedToken},
		{"tunnels are rekeyed by command", (*fleetTest).rekeyed},
		{"a tunnel is restarted by command", (*fleetTest).restarted},
		{"edges do jobs", (*fleetTest).jobs},
		{"a path becomes too slow", (*fleetTest).pathTooSlow},
		{"the controller is killed under traffic", (*fleetTest).controllerKilled},
		{"an edge is killed and comes back", (*fleetTest).edgeKilled},
		{"an edge starts without the controller", (*fleetTest).headlessStart},
		{"a change that is wrong stores nothing", (*fleetTest).wrongChange},
		{"a change that cuts edges off takes itself back", (*fleetTest).cutOff},
		{"a change that costs critical tunnels takes itself back", (*fleetTest).tunnelsLost},
		{"somebody takes a route away", (*fleetTest).drift},
		{"a site is deleted", (*fleetTest).siteDeleted},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			f.T = t
			step.run(f)
		}) {
			return
		}
	}
}

type fleetTest struct {
	*testing.T
	*demo
	ctx context.Context
}

// newTest makes a demonstration that shows nothing yet, and ends within a time.
func newTest(t *testing.T, o options, within time.Duration) *fleetTest {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	o.dir = t.TempDir()
	if err := build(ctx, o.dir); err != nil {
		t.Fatal(err)
	}
	operators, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{options: o, began: time.Now(), progress: t.Output(), operators: operators}
	t.Cleanup(func() {
		if t.Failed() {
			d.printLogs()
		}
		d.stop()
		operators.Close()
	})
	return &fleetTest{T: t, demo: d, ctx: ctx}
}

func newFleet(t *testing.T) *fleetTest {
	t.Helper()
	f := newTest(t, options{line: "tokyo", confirmWithin: 12 * time.Second}, 8*time.Minute)
	if _, err := f.show(f.ctx); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleetTest) site(name string) *site {
	for _, s := range f.world.sites {
		if s.name == name {
			return s
		}
	}
	f.Fatalf("no site %s", name)
	return nil
}

func (f *fleetTest) usedToken() {
	berlin := f.site("berlin")
	token, err := f.access.CreateEnrollmentToken(f.ctx, &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: network, EnrollmentToken: &swanherdv1.EnrollmentToken{Site: network + "/sites/berlin"},
	})
	if err != nil {
		f.Fatal(err)
	}
	enroll := func(name, secret, edge string) (string, error) {
		return berlin.edge.Run(f.ctx, filepath.Join(f.dir, "swanherd-edge"), "enroll",
			"--token", secret, "--edge-id", edge, "--state-dir", filepath.Join(f.dir, "enroll-"+name))
	}
	if out, err := enroll("same-name", token.GetSecret(), "berlin"); err == nil || !strings.Contains(out, "has enrolled already") {
		f.Errorf("a second edge named berlin was not refused by name: %v: %s", err, out)
	}
	if _, err := enroll("first", token.GetSecret(), "berlin-2"); err != nil {
		f.Fatalf("a good token was refused: %v", err)
	}
	out, err := enroll("second", token.GetSecret(), "berlin-3")
	if err == nil {
		f.Fatal("a used token was accepted")
	}
	if !strings.Contains(out, "enrollment token is not valid") || strings.Contains(out, token.GetSecret()) {
		f.Errorf("the refusal says %q", out)
	}
	if _, err := f.topology.DeleteEdge(f.ctx, &swanherdv1.DeleteEdgeRequest{Name: network + "/edges/berlin-2"}); err != nil {
		f.Fatal(err)
	}
	f.await("the tunnels of berlin-2 to go", func() bool { return len(f.tunnels()) == 6 && f.up() == 6 })
}

// controllerKilled is the promise that a controller's end costs no packet, and
// that its return costs no octet of intent.
func (f *fleetTest) controllerKilled() {
	before := f.spis()
	sites := f.listSites()
	type answer struct {
		result lab.PingResult
		err    error
	}
	pinged := make(chan answer, 1)
	berlin, oslo := f.site("berlin"), f.site("oslo")
	go func() {
		r, err := berlin.lan.Ping(f.ctx, berlin.lanAddr4, oslo.lanAddr4, 250) // 5 s
		pinged <- answer{r, err}
	}()
	f.server.Kill()
	a := <-pinged
	if a.err != nil || a.result.Received != a.result.Sent {
		f.Errorf("without the controller %d of %d packets arrived: %v", a.result.Received, a.result.Sent, a.err)
	}
	f.startAgain()
	f.await("every edge to come back", func() bool { return f.connected() == len(f.world.sites) && f.up() == 6 })
	if diff := cmp.Diff(sites, f.listSites(), protocmp.Transform()); diff != "" {
		f.Errorf("the sites changed over the restart:\n%s", diff)
	}
	if diff := cmp.Diff(before, f.spis()); diff != "" {
		f.Errorf("SAs were negotiated anew:\n%s", diff)
	}
	if metrics := f.metrics(); strings.Contains(metrics, "swanherd_intent_octets_total{") {
		f.Errorf("edges that had everything were sent intent again:\n%s", grep(metrics, "swanherd_intent"))
	}
}

func (f *fleetTest) startAgain() {
	if err := f.runController(); err != nil {
		f.Fatal(err)
	}
	if err := f.awaitController(f.ctx); err != nil {
		f.Fatal(err)
	}
}

func (f *fleetTest) edgeKilled() {
	before := f.spis()
	lima := f.site("lima")
	lima.agent.Kill()
	if err := f.runEdge(lima); err != nil {
		f.Fatal(err)
	}
	f.await("the tunnels of lima to come back", func() bool {
		now := f.spis()
		for name, spi := range before {
			if strings.Contains(name, "lima") && now[name] == spi {
				return false
			}
		}
		return f.up() == 6
	})
	f.ping(lima, f.site("tokyo"))
	f.ping(f.site("berlin"), lima)
}

// headlessStart restarts an edge while there is no controller: it has its last
// intent and its certificates, and needs nobody.
func (f *fleetTest) headlessStart() {
	f.server.Kill()
	f.server = nil // expected to be gone
	oslo, berlin := f.site("oslo"), f.site("berlin")
	oslo.agent.Kill()
	if err := f.runEdge(oslo); err != nil {
		f.Fatal(err)
	}
	f.await("oslo to reach berlin without the controller", func() bool {
		_, err := oslo.lan.Ping(f.ctx, oslo.lanAddr4, berlin.lanAddr4, 1)
		return err == nil
	})
	f.startAgain()
	f.await("every edge to come back", func() bool { return f.connected() == len(f.world.sites) && f.up() == 6 })
}

func (f *fleetTest) wrongChange() {
	before := f.listSites()
	_, err := f.topology.Apply(f.ctx, &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{Sites: []*swanherdv1.Site{
		{Name: network + "/sites/good", Prefixes: []string{"10.9.0.0/24"}},
		{Name: network + "/sites/bad", Prefixes: []string{"10.1.0.128/25"}},
	}}})
	if status.Code(err) != codes.InvalidArgument {
		f.Errorf("a prefix inside berlin's was answered with %v", err)
	}
	if diff := cmp.Diff(before, f.listSites(), protocmp.Transform()); diff != "" {
		f.Errorf("a refused manifest changed the sites:\n%s", diff)
	}
}

// pathTooSlow has tokyo's line become slow: probes show it at both ends of its tunnels, and
// by the profile's SLA these are degraded, which is over when the SLA is.
func (f *fleetTest) pathTooSlow() {
	profile := func(p *swanherdv1.Profile) {
		p.Name = network + "/profiles/default"
		_, err := f.topology.UpdateProfile(f.ctx, &swanherdv1.UpdateProfileRequest{
			Profile: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"sla", "probing"}},
		})
		if err != nil {
			f.Fatal(err)
		}
	}
	before := f.spis()
	profile(&swanherdv1.Profile{
		Probing: &swanherdv1.Probing{Interval: durationpb.New(100 * time.Millisecond)}, Sla: &swanherdv1.PathSla{MaxLatency: durationpb.New(50 * time.Millisecond)},
	})
	f.await("probes in each tunnel, from both ends", func() bool {
		for _, t := range f.tunnels() {
			for _, end := range []*swanherdv1.TunnelEnd{t.GetA(), t.GetB()} {
				if q := end.GetReport().GetQuality(); q.GetWindowProbes()-q.GetWindowLost() < 20 {
					return false
				}
			}
		}
		return f.up() == 6
	})
	f.world.line.Set(wan.Conditions{Delay: 100 * time.Millisecond}, wan.Conditions{Delay: 100 * time.Millisecond})
	f.await("tokyo's tunnels, and no others, to be degraded", func() bool {
		degraded := 0
		for _, t := range f.tunnels() {
			if t.GetStatus() == swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED && strings.Contains(t.GetReason(), "ms, over the 50 ms of its SLA") {
				degraded++
			}
		}
		return degraded == 3 && f.up() == 3
	})
	f.world.line.Set(wan.Conditions{}, wan.Conditions{})
	profile(&swanherdv1.Profile{})
	f.await("all to be up", func() bool { return f.up() == 6 })
	for name, spi := range f.spis() {
		if before[name] != spi {
			f.Errorf("%s was negotiated anew for how it is probed", name)
		}
	}
}

// drift takes a route of berlin's away: it is there again at once, and an event tells.
func (f *fleetTest) drift() {
	berlin, oslo := f.site("berlin"), f.site("oslo")
	prefix := netip.PrefixFrom(oslo.lanAddr4, 24).Masked().String()
	if _, err := berlin.edge.Run(f.ctx, "ip", "route", "del", prefix); err != nil {
		f.Fatal(err)
	}
	began := time.Now()
	f.await("an event that tells of it", func() bool {
		resp, err := f.fleet.ListEvents(f.ctx, &swanherdv1.ListEventsRequest{Parent: network, PageSize: 100})
		if err != nil {
			f.Fatal(err)
		}
		return slices.ContainsFunc(resp.GetEvents(), func(e *swanherdv1.Event) bool {
			return e.GetAction() == "edge.drift_repaired" && path.Base(e.GetResource()) == "berlin" && strings.Contains(e.GetMessage(), prefix)
		})
	})
	f.Logf("the route was there again and told of after %v", time.Since(began).Round(time.Millisecond))
	f.ping(berlin, oslo)
}

// inState are the edges that are connected and as far with their intent.
func (f *fleetTest) inState(state swanherdv1.IntentState) (edges []string) {
	resp, err := f.topology.ListEdges(f.ctx, &swanherdv1.ListEdgesRequest{Parent: network})
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range resp.GetEdges() {
		if e.GetStatus().GetConnected() && e.GetStatus().GetIntentState() == state {
			edges = append(edges, path.Base(e.GetName()))
		}
	}
	return edges
}

func (f *fleetTest) siteDeleted() {
	began := time.Now()
	if _, err := f.topology.DeleteSite(f.ctx, &swanherdv1.DeleteSiteRequest{Name: network + "/sites/tokyo"}); err != nil {
		f.Fatal(err)
	}
	for _, s := range f.world.sites {
		f.await("the tunnels to tokyo to go at "+s.name, func() bool {
			for _, t := range f.edgeTunnels(s) {
				if strings.Contains(t.GetTunnel(), "tokyo") {
					return false
				}
			}
			return true
		})
	}
	f.Logf("both ends of tokyo's tunnels were gone %v after the call", time.Since(began).Round(time.Millisecond))
	f.await("the controller to show three tunnels", func() bool { return len(f.tunnels()) == 3 && f.up() == 3 })
	berlin, tokyo := f.site("berlin"), f.site("tokyo")
	if _, err := berlin.lan.Ping(f.ctx, berlin.lanAddr4, tokyo.lanAddr4, 1); err == nil {
		f.Error("a deleted site still answers")
	}
	f.ping(berlin, f.site("oslo"))
}

func (f *fleetTest) ping(from, to *site) {
	f.Helper()
	if _, err := from.lan.Ping(f.ctx, from.lanAddr4, to.lanAddr4, 3); err != nil {
		f.Error(err)
	}
}

// awaitPatience is more than an edge may pause before it looks for its controller
// again: a minute, after an outage as long.
const awaitPatience = 100 * time.Second

// await is poll with the test's context and a failure in the test.
func (f *fleetTest) await(what string, done func() bool) {
	f.Helper()
	err := f.poll(f.ctx, awaitPatience, what, func() (bool, error) { return done(), nil })
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fleetTest) tunnels() []*swanherdv1.Tunnel {
	tunnels, err := f.listTunnels(f.ctx)
	if err != nil {
		f.Fatal(err)
	}
	return tunnels
}

func (f *fleetTest) up() int {
	n := 0
	for _, t := range f.tunnels() {
		if t.GetStatus() == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP {
			n++
		}
	}
	return n
}

// spis are the SPIs of every tunnel's Child SAs as its first end reports them.
func (f *fleetTest) spis() map[string]string {
	all := map[string]string{}
	for _, t := range f.tunnels() {
		for _, c := range t.GetA().GetReport().GetChildSas() {
			all[t.GetName()] += c.GetSpiIn() + "/" + c.GetSpiOut() + " "
		}
	}
	return all
}

// rekeyed has every tunnel make new SAs, one half by new authentications, under traffic.
func (f *fleetTest) rekeyed() {
	ping := f.traffic("berlin", "oslo")
	ike, child := f.ikeSPIs(), f.spis()
	for i, t := range f.tunnels() {
		if _, err := f.demo.fleet.RekeyTunnel(f.ctx, &swanherdv1.RekeyTunnelRequest{Name: t.GetName(), Reauthenticate: i%2 == 0}); err != nil {
			f.Fatal(err)
		}
	}
	f.await("new SAs of every tunnel", func() bool {
		for name, spi := range f.ikeSPIs() {
			if spi == "" || spi == ike[name] || f.spis()[name] == child[name] {
				return false
			}
		}
		return f.up() == len(ike)
	})
	if sent, received := ping.end(); sent != received {
		f.Errorf("%d of %d pings were lost", sent-received, sent)
	}
	if events, err := f.demo.fleet.ListEvents(f.ctx, &swanherdv1.ListEventsRequest{Parent: network, Filter: `action = "tunnel.rekey"`}); err != nil || len(events.GetEvents()) != len(ike) {
		f.Errorf("the log has %d rekeys, %v", len(events.GetEvents()), err)
	}
}

// restarted has one tunnel begin anew. The others stay as they are.
func (f *fleetTest) restarted() {
	const one = network + "/tunnels/berlin--oslo"
	before := f.ikeSPIs()
	if _, err := f.demo.fleet.RestartTunnel(f.ctx, &swanherdv1.RestartTunnelRequest{Name: one}); err != nil {
		f.Fatal(err)
	}
	f.await("another IKE SA of "+one, func() bool {
		spi := f.ikeSPIs()[one]
		return spi != "" && spi != before[one] && f.up() == len(before)
	})
	after := f.ikeSPIs()
	delete(before, one)
	delete(after, one)
	if !maps.Equal(after, before) {
		f.Errorf("IKE SAs of the others are %v, were %v", after, before)
	}
	f.ping(f.site("berlin"), f.site("oslo"))
}

func (f *fleetTest) listSites() []*swanherdv1.Site {
	resp, err := f.topology.ListSites(f.ctx, &swanherdv1.ListSitesRequest{Parent: network})
	if err != nil {
		f.Fatal(err)
	}
	return resp.GetSites()
}

func (f *fleetTest) connected() int {
	resp, err := f.topology.ListEdges(f.ctx, &swanherdv1.ListEdgesRequest{Parent: network})
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	for _, e := range resp.GetEdges() {
		if e.GetStatus().GetConnected() {
			n++
		}
	}
	return n
}

// edgeTunnels asks the agent itself, as a person at the router would.
func (f *fleetTest) edgeTunnels(s *site) []*swanherdv1.TunnelReport {
	out, err := s.edge.Run(f.ctx, filepath.Join(f.dir, "swanherd-edge"), "status", "-o", "json", "--state-dir", filepath.Join(f.dir, s.name))
	if err != nil {
		f.Fatal(err)
	}
	var answer struct{ Tunnels []json.RawMessage }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		f.Fatalf("status of %s: %v\n%s", s.name, err, out)
	}
	reports := make([]*swanherdv1.TunnelReport, len(answer.Tunnels))
	for i, raw := range answer.Tunnels {
		reports[i] = &swanherdv1.TunnelReport{}
		if err := protojson.Unmarshal(raw, reports[i]); err != nil {
			f.Fatal(err)
		}
	}
	return reports
}

func (f *fleetTest) metrics() string {
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
		err = f.world.controller.Do(func() error {
			conn, err = net.Dial("tcp", metricsAddress)
			return err
		})
		return conn, err
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + metricsAddress + "/metrics")
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	return string(b)
}

func grep(text, word string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// A result that shows a tunnel which is not up is no success.
func TestVerdict(t *testing.T) {
	up := &swanherdv1.Tunnel{Name: "a", Status: swanherdv1.TunnelStatus_TUNNEL_STATUS_UP}
	down := proto.CloneOf(up)
	down.Status = swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN
	for name, c := range map[string]struct {
		r  result
		ok bool
	}{
		"good":      {result{Tunnels: []*swanherdv1.Tunnel{up}, Pings: []ping{{Sent: 3, Received: 3}}}, true},
		"down":      {result{Tunnels: []*swanherdv1.Tunnel{up, down}}, false},
		"lost ping": {result{Tunnels: []*swanherdv1.Tunnel{up}, Pings: []ping{{Sent: 3, Received: 2}}}, false},
	} {
		if err := c.r.verdict(); (err == nil) != c.ok {
			t.Errorf("%s: verdict is %v", name, err)
		}
	}
}
