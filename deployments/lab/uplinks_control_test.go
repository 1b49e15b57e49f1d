package lab_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// TestUplinksOfController: an edge with two uplinks reaches its controller by the second when
// the first has no carrier, though the main table holds on to that, and tells it when the
// address of that one changes.
func TestUplinksOfController(t *testing.T) {
	lab.Require(t, "ip", "nft")
	t.Parallel()
	m := newMultihomed(t)
	programs := buildPrograms(t)
	c := &gatewayCase{programs: programs, control: m.core, interop: &interop{pair: &pair{t: t, ctx: m.ctx, dir: m.dir}}}
	c.runController("203.0.113.1:7444")
	c.swanherd("apply", "-f", c.write("fleet.yaml", gatewayFleet))
	token := strings.TrimSpace(c.swanherd("token", "create", "--site", "berlin"))
	m.run(0, "--edge-id", "berlin", "--token", token[strings.LastIndexByte(token, '\n')+1:])
	told := func(uplinks ...string) func() bool {
		return func() bool {
			out := c.swanherd("get", "edges")
			for _, u := range uplinks {
				if !strings.Contains(out, u) {
					return false
				}
			}
			return true
		}
	}
	m.await("the controller to know the uplinks", told("wan1="+ispNets[0].edge4, "wan2="+ispNets[1].edge4))
	first := m.session()
	if !first.Connected {
		t.Fatalf("session at first: %+v", first)
	}

	must(t, m.isps[0].Down("customer"))
	if out := m.do(m.edge, "ip", "route", "get", "203.0.113.1"); !strings.Contains(out, "eth0") {
		t.Errorf("the main table has left the uplink without carrier by itself: %s", out)
	}
	again := func(before sessionState) func() bool {
		return func() bool { s := m.session(); return s.Connected && s.Since.After(before.Since) }
	}
	took := m.await("a session by the other uplink", again(first))
	t.Logf("the first uplink has no carrier: session by the second after %v", took.Round(time.Millisecond))

	second := m.session()
	m.renumber()
	took = m.await("a session from the other address", again(second))
	t.Logf("the second uplink has another address: session from there after %v", took.Round(time.Millisecond))
	m.await("the controller to know the address", told("wan1="+ispNets[0].edge4, "wan2="+leased))
}

// sessionState is what an agent says of its session with the controller.
type sessionState struct {
	Connected bool
	Since     time.Time
}

func (m *multihomed) session() sessionState {
	m.t.Helper()
	var s struct{ Session sessionState }
	text, err := exec.CommandContext(m.ctx, m.agent, "status", "--state-dir", m.stateDir(0), "-o", "json").Output()
	if err != nil {
		return sessionState{}
	}
	must(m.t, json.Unmarshal(text, &s))
	return s.Session
}
