package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
)

// baselineName is the contender that the others are compared with.
const baselineName = "wireguard-go"

// contenders are all ways from host to host. What they need is built when they start.
func contenders(b *testing.B) []contender {
	all := contendersOf("swanherd", func() string { return buildAgent(b) })
	if *dataPlaneBefore != "" {
		all = append(all, contendersOf("before", func() string { return *dataPlaneBefore })...)
	}
	return append(all,
		contender{name: "swanherd, no cipher", start: func(c *contender) { c.runTunnels(buildAgent(b, withoutCipher(b)...), 1) }},
		contender{name: baselineName, start: func(c *contender) { c.running = c.runWireGuard(lab.WireGuardGo, "wgu") }},
		contender{name: "tailscale", start: func(c *contender) { c.running = c.runWireGuard(lab.WireGuardTailscale, "wgt") }},
		contender{name: "strongswan", start: func(c *contender) { c.running = c.runCharons() }},
		contender{name: "no tunnel", start: func(c *contender) { c.routePlainly() }},
	)
}

// contendersOf are the ways through a build of our agent.
func contendersOf(name string, agent func() string) []contender {
	tunnels := func(count int) func(*contender) {
		return func(c *contender) { c.runTunnels(agent(), count) }
	}
	return []contender{
		{name: name, start: tunnels(1)},
		{name: name + ", no UDP checksums", start: func(c *contender) {
			c.runTunnels(agent(), 1)
			c.withoutChecksums()
		}},
		{name: name + ", 100 SAs", start: tunnels(100)},
		{name: name + ", 10,000 SAs", start: tunnels(10000)},
	}
}

// withoutCipher returns the arguments that have the go command replace the file of
// package esp that makes ciphers by one that makes none: nothing in the product can do
// that.
func withoutCipher(t testing.TB) []string {
	t.Helper()
	product, err1 := filepath.Abs("../../ipsec/esp/aead.go")
	instead, err2 := filepath.Abs("testdata/aead.go")
	text, err3 := json.Marshal(map[string]map[string]string{"Replace": {product: instead}})
	file := filepath.Join(t.TempDir(), "overlay.json")
	if err := errors.Join(err1, err2, err3, os.WriteFile(file, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return []string{"-overlay", file}
}

// TestWithoutCipher: what takes the place of a file of package esp still fits it.
func TestWithoutCipher(t *testing.T) {
	args := append([]string{"build"}, append(withoutCipher(t), "github.com/swanherd/swanherd/ipsec/esp")...)
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The gateways have an address for each further tunnel.
var oursHosts, theirsHosts = netip.MustParsePrefix("10.3.0.0/16"), netip.MustParsePrefix("10.4.0.0/16")

// runTunnels runs our agent on both gateways, from intent files with as many tunnels:
// the first is between the networks, the others between one address and another. It
// waits until all are up.
func (c *contender) runTunnels(agent string, count int) {
	c.t.Helper()
	c.write("psk", psk)
	c.must(c.ours.RouteLocal(oursHosts))
	c.must(c.theirs.RouteLocal(theirsHosts))
	for n := 1; n < count; n++ {
		c.flows = append(c.flows, lab.UDPFlow{Source: hostOf(oursHosts, n), Destination: hostOf(theirsHosts, n)})
	}
	for _, side := range []struct {
		host                       *lab.Namespace
		own, peer, role, net, nets string
		turn                       func(own, far string) (string, string)
	}{
		{c.ours, "192.0.2.1", "192.0.2.2", "INITIATOR", "10.1.0.0/24", oursHosts.String(), func(a, z string) (string, string) { return a, z }},
		{c.theirs, "192.0.2.2", "192.0.2.1", "RESPONDER", "10.2.0.0/24", theirsHosts.String(), func(a, z string) (string, string) { return z, a }},
	} {
		var intent strings.Builder
		fmt.Fprintf(&intent, "settings: {localPrefixes: [%s, %s]}\ntunnels:\n", side.net, side.nets)
		for n, f := range c.flows {
			a, z := netip.PrefixFrom(f.Source, 32), netip.PrefixFrom(f.Destination, 32)
			if n == 0 {
				a, z = netip.PrefixFrom(f.Source, 24).Masked(), netip.PrefixFrom(f.Destination, 24).Masked()
			}
			local, remote := side.turn(a.String(), z.String())
			localID, remoteID := side.turn(fmt.Sprintf("ours%d.example", n), fmt.Sprintf("theirs%d.example", n))
			fmt.Fprintf(&intent, `  - name: peer%d
    role: TUNNEL_ROLE_%s
    localAddress: %s
    remoteEndpoints: [{address: %s, port: 4500}]
    authentication: {localId: %s, remoteId: %s, psk: {file: %s/psk}}
    ikeProposals: [aes256gcm16-prfsha384-x25519]
    children: [{name: net, espProposals: [aes128gcm16-esn], localTs: [%s], remoteTs: [%s]}]
`, n, side.role, side.own, side.peer, localID, remoteID, c.dir, local, remote)
		}
		file := c.write(side.own+".yaml", intent.String())
		p, err := side.host.Start(nil, nil, agent, "run", "--intent", file, "--state-dir", c.sub("state-"+side.own))
		c.must(err)
		c.t.Cleanup(func() { p.Stop(5 * time.Second) })
		c.running = append(c.running, p)
	}
	c.awaitFlows()
}

// awaitFlows waits until every flow passes.
func (c *contender) awaitFlows() {
	c.t.Helper()
	c.awaitPing(c.name, c.running...)
	ctx, cancel := context.WithTimeout(c.ctx, 6*time.Minute)
	defer cancel()
	var last lab.UDPResult
	var err error // the way of a tunnel that is not up is unreachable
	for ctx.Err() == nil {
		const rate = 20000
		last, err = c.tryDatagrams(lab.UDPLoad{Size: 64, Rate: rate}, time.Duration(2*len(c.flows)+100)*time.Second/rate)
		if err == nil && last.Received == last.Sent {
			return
		}
	}
	c.t.Fatalf("%s: not all of %d tunnels come up: %+v, %v\n%s", c.name, len(c.flows), last, err, c.running[0].Output())
}

// withoutChecksums has what the gateways send each other arrive as the kernel's ESP
// sends it, each datagram by itself and with the UDP checksum zero (RFC 3948, Section
// 2.1), which receivers do not merge.
func (c *contender) withoutChecksums() {
	c.t.Helper()
	for _, host := range []*lab.Namespace{c.ours, c.theirs} {
		for _, argv := range [][]string{
			{"ip", "link", "set", "wan1", "gso_max_segs", "1"},
			{"nft", "add table ip wire; add chain ip wire in { type filter hook prerouting priority 0; }; add rule ip wire in udp dport 4500 udp checksum set 0"},
		} {
			_, err := host.Run(c.ctx, argv...)
			c.must(err)
		}
	}
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
		_, err := host.Run(x.ctx, "ip", "link", "set", name, "mtu", "1420")
		x.must(err)
		x.lengthenQueue(host, name)
	}
	return running
}

// lengthenQueue gives a TUN interface as long a queue as ours has: the kernel's
// default drops bursts.
func (x *pair) lengthenQueue(host *lab.Namespace, name string) {
	x.t.Helper()
	_, err := host.Run(x.ctx, "ip", "link", "set", name, "txqueuelen", strconv.Itoa(userspace.DefaultQueueLength))
	x.must(err)
}

// routePlainly has no tunnel at all.
func (x *pair) routePlainly() {
	x.t.Helper()
	x.must(x.ours.Route(netip.MustParsePrefix("10.2.0.0/24"), netip.MustParseAddr("192.0.2.2")))
	x.must(x.theirs.Route(netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr("192.0.2.1")))
}

// runCharons runs strongSwan on both gateways with the same algorithms.
func (x *pair) runCharons() (running []*lab.Program) {
	x.t.Helper()
	for _, side := range []struct {
		host                *lab.Namespace
		own, peer, from, to string
	}{
		{x.theirs, "192.0.2.2", "192.0.2.1", "10.2.0.0/24", "10.1.0.0/24"},
		{x.ours, "192.0.2.1", "192.0.2.2", "10.1.0.0/24", "10.2.0.0/24"},
	} {
		charon, err := lab.StartCharon(x.ctx, side.host, x.sub("charon-"+side.own), fmt.Sprintf(`connections {
  peer {
    version = 2
    local_addrs = %[1]s
    remote_addrs = %[2]s
    proposals = aes256gcm16-prfsha384-x25519
    encap = yes
    local {
      auth = psk
    }
    remote {
      auth = psk
    }
    children {
      net {
        local_ts = %[3]s
        remote_ts = %[4]s
        esp_proposals = aes128gcm16
      }
    }
  }
}
secrets {
  ike-1 {
    secret = "%[5]s"
  }
}
`, side.own, side.peer, side.from, side.to, psk))
		x.must(err)
		x.t.Cleanup(func() { charon.Stop(5 * time.Second) })
		running = append(running, charon.Program)
		x.lengthenQueue(side.host, "ipsec0")
		if side.own == "192.0.2.1" {
			if out, err := charon.Swanctl(x.ctx, "--initiate", "--child", "net", "--timeout", "10"); err != nil {
				x.t.Fatalf("initiate: %v\n%s", err, out)
			}
		}
	}
	return running
}
