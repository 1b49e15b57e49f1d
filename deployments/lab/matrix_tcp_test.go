package lab_test

import (
	"net/netip"
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// TestInteropTCP runs our engine against libreswan and a kernel with ESP in TCP
// (RFC 9329).
func TestInteropTCP(t *testing.T) {
	if inGuest() {
		runCases(t, tcpCases(), newLibreswanPeer)
		return
	}
	runInGuest(t, lab.KernelUbuntuDir, lab.TreeStrongSwan, lab.TreeLibreswan)
}

// tcpCases have each end connect. What their kernel decrypts of segments that were
// merged on arrival is dropped by the interface to their LAN, so these cases lose
// packets all the time.
func tcpCases() []interopCase {
	base := libreswanBase()
	base.options = "  listen-tcp=yes"
	base.conn = "  enable-tcp=yes\n  tcp-remoteport=4500"
	base.engine = func(c *engine.Config) { c.TCPAddr = netip.MustParseAddrPort("[::]:4500") }
	base.tunnel = func(c *engine.TunnelConfig) { c.TCP.Mode = ike.TCPOnly }
	base.steps = append([]step{byTCP()}, append(eachRekey(), byTCP())...)
	base.name = "tcp"
	cases := each(base)
	blocked := base
	blocked.name = "tcp/where UDP is blocked/ours"
	blocked.conn = "  enable-tcp=fallback\n  tcp-remoteport=4500"
	blocked.tunnel = func(c *engine.TunnelConfig) { c.TCP.Mode = ike.TCPFallback }
	blocked.before = []step{{"UDP is blocked", func(x *run) { x.block() }}}
	return append(cases, blocked)
}

// byTCP wants the IKE SA to be in a connection.
func byTCP() step {
	return step{"the IKE SA goes by TCP", func(x *run) {
		for _, sa := range x.gateway.tunnel().IKE {
			if !sa.TCP {
				x.t.Errorf("the IKE SA goes by UDP: %+v", sa)
			}
		}
	}}
}
