package lab_test

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

const pairingFleet = `networks: [{name: networks/lab}]
profiles: [{name: networks/lab/profiles/p}]
sites: [{name: networks/lab/sites/berlin, prefixes: [10.1.0.0/24]}, {name: networks/lab/sites/oslo, prefixes: [10.2.0.0/24]}]
meshes: [{name: networks/lab/meshes/m, profile: networks/lab/profiles/p, paths: {pairing: PAIRING}, fullMesh: {sites: {all: true}}}]
`

// TestPairingChangesUnderTraffic has a controller give two edges of two uplinks each several
// tunnels in the place of one, and one again, while packets go: what is there stays until the
// others are up.
func TestPairingChangesUnderTraffic(t *testing.T) {
	lab.Require(t, "ip")
	if testing.Short() {
		return // the programs are built without the race detector
	}
	t.Parallel()
	programs := buildPrograms(t)
	c := &gatewayCase{programs: programs, interop: newInterop(t, filepath.Join(programs, "swanherd-edge"), "", "")}
	c.startController()
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	at := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	c.must(n.Link(lab.End{Host: c.control, Interface: "oslo", Addresses: at("10.255.0.5/30")}, lab.End{Host: c.theirs, Interface: "mgmt0", Addresses: at("10.255.0.6/30")}))
	if out, err := c.theirs.Run(c.ctx, "ip", "route", "add", "10.255.0.1/32", "via", "10.255.0.5"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.must(n.Link(lab.End{Host: c.ours, Interface: "wan2", Addresses: at("198.51.100.1/24")}, lab.End{Host: c.theirs, Interface: "wan2", Addresses: at("198.51.100.2/24")}))
	c.pairing("PAIRING_PREFERRED")
	c.startSite(c.ours, "berlin")
	c.startSite(c.theirs, "oslo")
	c.awaitTunnels("berlin--oslo")
	c.awaitPing("the only tunnel")
	for _, change := range []struct {
		pairing string
		tunnels []string
	}{
		{"PAIRING_SAME_CLASS", []string{"berlin--oslo.wan1.wan1", "berlin--oslo.wan2.wan2"}},
		{"PAIRING_PREFERRED", []string{"berlin--oslo"}},
	} {
		const pings = 75 // 20 ms apart
		done := make(chan lab.PingResult)
		go func() {
			result, _ := c.oursLAN.Ping(c.ctx, c.oursHost, c.theirsHost, pings)
			done <- result
		}()
		c.pairing(change.pairing)
		c.awaitTunnels(change.tunnels...)
		if result := <-done; result.Sent-result.Received > 10 {
			t.Errorf("%s: %d of %d packets were lost", change.pairing, result.Sent-result.Received, result.Sent)
		} else {
			t.Logf("%s: %d of %d packets were lost", change.pairing, result.Sent-result.Received, result.Sent)
		}
	}
}

func (c *gatewayCase) pairing(pairing string) {
	file := c.write("fleet.yaml", strings.Replace(pairingFleet, "pairing: PAIRING", "pairing: "+pairing, 1))
	c.swanherd("apply", "-f", file)
}

// startSite enrols an edge of a site, which has its name, with two uplinks.
func (c *gatewayCase) startSite(host *lab.Namespace, site string) {
	token := strings.TrimSpace(c.swanherd("token", "create", "--site", site))
	token = token[strings.LastIndexByte(token, '\n')+1:]
	edge, err := host.Start(nil, nil, c.agent, "run", "--state-dir", c.sub(site), "--edge-id", site, "--token", token,
		"--uplink", "name=wan1,interface=wan1,class=broadband", "--uplink", "name=wan2,interface=wan2,class=lte,cost=10")
	c.must(err)
	c.t.Cleanup(func() {
		edge.Stop(5 * time.Second)
		if c.t.Failed() {
			c.t.Logf("edge %s:\n%s", site, edge.Output())
		}
	})
}

// awaitTunnels waits until the controller shows these tunnels, up, and no others.
func (c *gatewayCase) awaitTunnels(want ...string) {
	c.t.Helper()
	for {
		var up []string
		out := c.swanherd("get", "tunnels")
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "UP" {
				up = append(up, fields[0])
			}
		}
		if slices.Equal(up, want) {
			return
		}
		if c.ctx.Err() != nil {
			c.t.Fatalf("tunnels are not %v:\n%s", want, out)
		}
	}
}
