package lab_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestEdgesOverTCP has a network that drops UDP between two of our agents (RFC
// 9329): the tunnel comes up over TCP, is rekeyed there, outlives a reset of its
// connection, and goes back to UDP when that passes.
func TestEdgesOverTCP(t *testing.T) {
	lab.Require(t, "nft")
	t.Parallel()
	testEdgesOverTCP(t, "userspace", "userspace")
}

// TestEdgesOverTCPOnKernel does so with the ESP in TCP of a kernel at both ends, of which one
// opens the connections and the other takes them. It loses what it decrypts of merged
// segments.
func TestEdgesOverTCPOnKernel(t *testing.T) {
	if !inGuest() {
		runInGuestWith(t, func() []string { return []string{buildAgent(t)} }, lab.KernelUbuntuDir, lab.TreeStrongSwan)
		return
	}
	t.Run("kernel to kernel", func(t *testing.T) { testEdgesOverTCP(t, "kernel", "kernel") })
}

func testEdgesOverTCP(t *testing.T, planes ...string) {
	x := &tcpEdges{pair: newPair(t, 4*time.Minute), agent: buildAgent(t), planes: planes, ikeRekeyTime: "10s", childRekeyTime: "3s"}
	if inGuest() {
		// An emulated processor needs longer until the first one, and may need more than
		// what is left of an SA's life then, a tenth.
		x.ikeRekeyTime, x.childRekeyTime = "20s", "8s"
	}
	x.write("psk", psk)
	unblock := x.firewall("meta l4proto { udp, esp } drop")
	for i := range x.agents {
		x.start(i)
	}

	first := x.await("the tunnel over TCP", func(s ikeState) bool { return s.TCP && s.Children > 0 })
	x.awaitPing("traffic over TCP", x.agents[0], x.agents[1])
	x.passes("over TCP")
	second := x.await("the IKE SA to be rekeyed", func(s ikeState) bool { return s.TCP && s.SPI != first.SPI })
	x.passes("after a rekey")

	// The next rekey is far off now: what follows is about one IKE SA.
	open := x.firewall("tcp dport 4500 reject with tcp reset")
	if _, err := x.oursLAN.Ping(x.ctx, x.oursHost, x.theirsHost, 1); err == nil {
		t.Error("a packet came through while the connection is reset")
	}
	open()
	x.awaitPing("another connection", x.agents[0], x.agents[1])
	if now := x.state(); now.SPI != second.SPI || !now.TCP {
		t.Errorf("after a reset the tunnel is %+v, want that of before: %+v", now, second)
	}

	x.await("the IKE SA to be rekeyed again", func(s ikeState) bool { return s.TCP && s.SPI != second.SPI })
	x.passes("after another rekey")

	unblock()
	x.await("the tunnel to go back to UDP", func(s ikeState) bool { return s.SPI != "" && !s.TCP && s.Children > 0 })
	x.ping("over UDP again")
}

// tcpEdges is two agents, of which the first begins.
type tcpEdges struct {
	*pair
	agent  string
	planes []string
	// ikeRekeyTime and childRekeyTime are those of both.
	ikeRekeyTime, childRekeyTime string
	agents                       [2]*lab.Program
	rules                        int
}

func (x *tcpEdges) start(i int) {
	x.t.Helper()
	own, peer := i+1, 2-i
	intent := x.write(fmt.Sprintf("edge%d.yaml", i), fmt.Sprintf(`settings: {localPrefixes: [10.%[1]d.0.0/24]}
tunnels:
  - name: tcp
    role: TUNNEL_ROLE_%[3]s
    remoteEndpoints: [{address: 192.0.2.%[2]d, port: 4500}]
    authentication: {localId: edge%[1]d.example, remoteId: edge%[2]d.example, psk: {file: psk}}
    ikeRekeyTime: %[4]s
    children:
      - name: net
        rekeyTime: %[5]s
        localTs: [10.%[1]d.0.0/24]
        remoteTs: [10.%[2]d.0.0/24]
`, own, peer, [2]string{"INITIATOR", "RESPONDER"}[i], x.ikeRekeyTime, x.childRekeyTime))
	p, err := [2]*lab.Namespace{x.ours, x.theirs}[i].Start(nil, nil, x.agent, "run", "--intent", intent, "--state-dir", x.stateDir(i), "--data-plane", x.planes[i])
	x.must(err)
	x.agents[i] = p
	x.t.Cleanup(func() {
		if x.t.Failed() {
			transcript, _ := exec.Command(x.agent, "transcript", "tcp", "--state-dir", x.stateDir(i)).CombinedOutput()
			x.t.Logf("edge %d:\n%s\n%s", i, p.Output(), transcript)
		}
		_ = p.Stop(10 * time.Second)
	})
}

// passes wants that no packet is lost, or if a kernel has ESP in TCP that one passes each way.
func (x *tcpEdges) passes(when string) {
	x.t.Helper()
	if !slices.Contains(x.planes, "kernel") {
		x.ping(when)
		return
	}
	for i, from := range []*lab.Namespace{x.oursLAN, x.theirsLAN} {
		ends := [2]netip.Addr{x.oursHost, x.theirsHost}
		for {
			_, err := from.Ping(x.ctx, ends[i], ends[1-i], 1)
			if err == nil {
				break
			}
			if x.ctx.Err() != nil {
				x.t.Fatalf("%s: %v", when, err)
			}
		}
	}
}

func (x *tcpEdges) stateDir(i int) string { return filepath.Join(x.dir, fmt.Sprintf("state%d", i)) }

// firewall has the second gateway filter what comes to it, until the function that
// it returns is called.
func (x *tcpEdges) firewall(rule string) (remove func()) {
	x.t.Helper()
	x.rules++
	table := fmt.Sprintf("block%d", x.rules)
	_, err := x.theirs.Run(x.ctx, "nft", fmt.Sprintf("table inet %s { chain in { type filter hook input priority 0; %s; }; }", table, rule))
	x.must(err)
	return func() {
		_, err := x.theirs.Run(x.ctx, "nft", "delete table inet "+table)
		x.must(err)
	}
}

// ikeState is what the first agent says of its IKE SA; nothing if it has none.
type ikeState struct {
	SPI      string
	TCP      bool
	Children int
}

func (x *tcpEdges) state() ikeState {
	x.t.Helper()
	var s struct {
		Tunnels []struct {
			State string
			IkeSa struct {
				InitiatorSPI string `json:"initiator_spi"`
				TCP          bool   `json:"tcp_encapsulated"`
			} `json:"ike_sa"`
			ChildSAs []struct{} `json:"child_sas"`
		}
	}
	out, err := exec.CommandContext(x.ctx, x.agent, "status", "--state-dir", x.stateDir(0), "-o", "json").Output()
	if err != nil {
		return ikeState{}
	}
	if err := json.Unmarshal(out, &s); err != nil {
		x.t.Fatalf("status: %v\n%s", err, out)
	}
	if len(s.Tunnels) != 1 || s.Tunnels[0].State != "TUNNEL_STATE_ESTABLISHED" {
		return ikeState{}
	}
	tunnel := s.Tunnels[0]
	return ikeState{tunnel.IkeSa.InitiatorSPI, tunnel.IkeSa.TCP, len(tunnel.ChildSAs)}
}

func (x *tcpEdges) await(what string, is func(ikeState) bool) ikeState {
	x.t.Helper()
	for {
		s := x.state()
		if is(s) {
			return s
		}
		if x.ctx.Err() != nil {
			x.t.Fatalf("waited in vain for %s: %+v", what, s)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
