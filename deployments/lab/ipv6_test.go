package lab_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestEdgesOverIPv6 has nothing but IPv6 between two of our agents, and LANs
// with both families behind them: IPv4 in IPv6, and IPv6 in IPv6.
func TestEdgesOverIPv6(t *testing.T) {
	lab.Require(t)
	agent := buildAgent(t)
	x := newPair(t, 60*time.Second)
	x.write("psk", psk)
	lan6 := x.dualLANs()
	for i, side := range []struct {
		gateway *lab.Namespace
		role    string
	}{{x.ours, "INITIATOR"}, {x.theirs, "RESPONDER"}} {
		own, peer := i+1, 2-i
		prefix := func(format string) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(format, own)) }
		x.must(side.gateway.Address("wan1", prefix("2001:db8:ffff::%d/64")))
		intent := x.write(fmt.Sprintf("edge%d.yaml", i), fmt.Sprintf(`settings: {localPrefixes: [10.%[1]d.0.0/24, "2001:db8:%[1]d::/64"]}
tunnels:
  - name: six
    role: TUNNEL_ROLE_%[3]s
    localAddress: "2001:db8:ffff::%[1]d"
    remoteEndpoints: [{address: "2001:db8:ffff::%[2]d", port: 4500}]
    authentication: {localId: edge%[1]d.example, remoteId: edge%[2]d.example, psk: {file: psk}}
    children:
      - name: net
        localTs: [10.%[1]d.0.0/24, "2001:db8:%[1]d::/64"]
        remoteTs: [10.%[2]d.0.0/24, "2001:db8:%[2]d::/64"]
`, own, peer, side.role))
		p, err := side.gateway.Start(nil, nil, agent, "run", "--intent", intent, "--state-dir", x.sub(fmt.Sprintf("state%d", i)))
		x.must(err)
		t.Cleanup(func() {
			p.Stop(10 * time.Second)
			if t.Failed() {
				t.Logf("edge %d:\n%s", i, p.Output())
			}
		})
	}
	x.awaitPing("the tunnel to come up")
	x.ping("IPv4 in IPv6")
	if _, err := x.oursLAN.Ping(x.ctx, lan6[0], lan6[1], 10); err != nil {
		t.Errorf("IPv6 in IPv6: %v", err)
	}
	if _, err := x.theirsLAN.Ping(x.ctx, lan6[1], lan6[0], 10); err != nil {
		t.Errorf("IPv6 in IPv6: %v", err)
	}
}

// dualLANs gives the LANs IPv6 too, and returns the addresses of the hosts there.
func (x *pair) dualLANs() (hosts [2]netip.Addr) {
	x.t.Helper()
	for i, side := range []struct{ gateway, lan *lab.Namespace }{{x.ours, x.oursLAN}, {x.theirs, x.theirsLAN}} {
		prefix := func(format string) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(format, i+1)) }
		hosts[i] = prefix("2001:db8:%d::2/64").Addr()
		x.must(side.gateway.Address("lan0", prefix("2001:db8:%d::1/64")))
		x.must(side.lan.Address("eth0", prefix("2001:db8:%d::2/64")))
		x.must(side.lan.Route(netip.MustParsePrefix("::/0"), prefix("2001:db8:%d::1/64").Addr()))
	}
	return hosts
}
