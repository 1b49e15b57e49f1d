package lab_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// What two edges say to each other themselves goes in transport mode, by ESP and by AH,
// and in clear only after an orderly end.
var transportCases = []struct{ name, child string }{
	{"esp", "mode: IPSEC_MODE_TRANSPORT"},
	{"ah", "mode: IPSEC_MODE_TRANSPORT, espProposals: [ah-sha256]"},
}

// TestEdgesInTransportMode runs two agents with the data plane in user space, into which
// a rule leads what is for the other.
func TestEdgesInTransportMode(t *testing.T) {
	lab.Require(t, "ip")
	for _, tt := range transportCases {
		t.Run(tt.name, func(t *testing.T) { testEdgesInTransportMode(t, tt.child, "userspace", "userspace") })
	}
}

// TestEdgesInTransportModeOnKernel does so with the kernel's data plane at one end or
// both.
func TestEdgesInTransportModeOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	for _, tt := range transportCases {
		t.Run(tt.name, func(t *testing.T) { testEdgesInTransportMode(t, tt.child, "kernel", "kernel") })
		t.Run(tt.name+", mixed", func(t *testing.T) { testEdgesInTransportMode(t, tt.child, "userspace", "kernel") })
	}
}

func testEdgesInTransportMode(t *testing.T, child string, planes ...string) {
	p := newEdgePair(t, "psk")
	p.port = 500
	for i, plane := range planes {
		p.child[i] = fmt.Sprintf("%s, localTs: [192.0.2.%d/32], remoteTs: [192.0.2.%d/32]", child, i+1, 2-i)
		p.options = []string{"--data-plane", plane, "--tcp-port", "0"}
		p.start(i)
	}
	p.established("at first")
	p.pingPeer("with the SAs")
	p.counted("with the SAs", p.pingPeer)

	p.agents[1].Kill()
	<-p.agents[1].Done()
	if planes[1] == "userspace" {
		if _, err := p.edges[1].Ping(p.ctx, planeOuter(1).Addr(), planeOuter(0).Addr(), 1); err == nil {
			t.Error("an edge whose agent was killed is answered in clear")
		}
	}
	p.start(1)
	p.established("after one end was killed")
	p.pingPeer("after one end was killed")

	for i := range p.agents {
		if err := p.agents[i].Stop(10 * time.Second); err != nil {
			t.Errorf("stop: %v", err)
		}
		if out, err := p.edges[i].Run(p.ctx, "ip", "rule"); err != nil || strings.Contains(out, "5357") {
			t.Errorf("rules of edge %d after the stop: %v\n%s", i, err, out)
		}
		if out, err := p.edges[i].Run(p.ctx, "ip", "route", "show", "table", "21335"); err == nil && strings.TrimSpace(out) != "" {
			t.Errorf("intercepted by edge %d after the stop:\n%s", i, out)
		}
	}
	p.pingPeer("after the stop")
}

// pingPeer has edge 0 ask edge 1 at its own address, until it answers every time.
func (p *edgePair) pingPeer(when string) {
	p.t.Helper()
	for {
		_, err := p.edges[0].Ping(p.ctx, planeOuter(0).Addr(), planeOuter(1).Addr(), 20)
		if err == nil {
			return
		}
		if p.ctx.Err() != nil {
			p.t.Fatalf("%s: %v", when, err)
		}
	}
}
