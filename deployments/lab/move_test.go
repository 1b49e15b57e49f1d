package lab_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestEdgesMove has the addresses of two agents change under traffic. The tunnel
// moves with all its SAs (RFC 4555): when the address of the end that began is
// replaced, when that of the other one is, and when the path between the addresses
// in use fails and the intent names another one.
func TestEdgesMove(t *testing.T) {
	lab.Require(t, "ip", "nft")
	p := newEdgePair(t, "psk", "--uplink", "name=wan1,interface=wan1")
	p.further = [2]string{"", "192.0.2.3"}
	m := &mover{p}
	for i := range p.edges {
		m.must(keepSecondaries(p.edges[i]))
	}
	m.add(1, "192.0.2.3")
	p.start(0)
	p.start(1)
	p.check("at first")
	before := m.state(0)

	flow, err := startFlow([2]flowHost{{p.oursLAN, p.oursHost, p.theirsHost}, {p.theirsLAN, p.theirsHost, p.oursHost}})
	p.must(err)
	m.add(0, "192.0.2.11")
	m.remove(0, "192.0.2.1")
	m.await("the other edge to follow", func() bool { return m.state(1).Remote == "192.0.2.11" })

	m.remove(1, "192.0.2.2")
	m.await("the edge that began to follow", func() bool { return m.state(0).Remote == "192.0.2.3" })
	there, back := flow.end(3 * time.Second)
	t.Logf("there: %v; back: %v", there, back)
	// Each time it takes a moment until the host's news has settled.
	if limit := int(3 * time.Second / flowInterval); there.lost > limit || back.lost > limit {
		t.Errorf("there: %v; back: %v; at most %d may be lost", there, back, limit)
	}

	// What the edge that began sends no longer arrives; what it hears does.
	m.add(1, "192.0.2.2")
	m.ip(1, "nft", "table inet path { chain in { type filter hook input priority 0; ip daddr 192.0.2.3 drop; }; }")
	m.await("the edge that began to take the other path", func() bool { return m.state(0).Remote == "192.0.2.2" })
	p.awaitPing("the tunnel to take the other path", p.agents[0], p.agents[1])
	p.ping("after the moves")
	if after := m.state(0); after.SPIs != before.SPIs {
		t.Errorf("SPIs after the moves: %s, before them %s", after.SPIs, before.SPIs)
	}
}

// mover changes the addresses of edges.
type mover struct{ *edgePair }

func (m *mover) ip(i int, argv ...string) {
	m.t.Helper()
	_, err := m.edges[i].Run(m.ctx, argv...)
	m.must(err)
}

func (m *mover) add(i int, address string) {
	m.t.Helper()
	m.must(m.edges[i].Address("wan1", netip.MustParsePrefix(address+"/24")))
}

func (m *mover) remove(i int, address string) {
	m.t.Helper()
	m.ip(i, "ip", "addr", "del", address+"/24", "dev", "wan1")
}

// moveState is where the tunnel is and what must not change when it moves.
type moveState struct{ Remote, SPIs string }

func (m *mover) state(i int) (out moveState) {
	m.t.Helper()
	var s struct {
		Tunnels []struct {
			Remote string `json:"remote_endpoint"`
			IkeSa  struct {
				Initiator string `json:"initiator_spi"`
				Responder string `json:"responder_spi"`
			} `json:"ike_sa"`
			ChildSAs []struct {
				In  string `json:"spi_in"`
				Out string `json:"spi_out"`
			} `json:"child_sas"`
		}
	}
	text, err := exec.CommandContext(m.ctx, m.agent, "status", "--state-dir", m.stateDir(i), "-o", "json").Output()
	if err != nil {
		return out
	}
	if err := json.Unmarshal(text, &s); err != nil {
		m.t.Fatalf("status of edge %d: %v\n%s", i, err, text)
	}
	for _, tunnel := range s.Tunnels {
		if at, err := netip.ParseAddrPort(tunnel.Remote); err == nil {
			out.Remote = at.Addr().String()
		}
		out.SPIs = fmt.Sprint(tunnel.IkeSa, tunnel.ChildSAs)
	}
	return out
}

func (m *mover) await(what string, is func() bool) {
	m.t.Helper()
	for !is() {
		if m.ctx.Err() != nil {
			m.t.Fatalf("waited in vain for %s: %+v and %+v", what, m.state(0), m.state(1))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
