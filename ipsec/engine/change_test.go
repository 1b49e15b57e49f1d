package engine

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files in testdata; review what changes")

const (
	changeLatency = 10 * time.Millisecond // one way
	never         = time.Duration(-1)     // the other end never follows
)

// changed are the two ends of a tunnel. The first one is to initiate, as a controller
// decides it.
type changed struct{ a, b TunnelConfig }

func (c *changed) both(f func(*TunnelConfig)) { f(&c.a); f(&c.b) }

// selectors sets what is on the side of a.
func (c *changed) selectors(of ...netip.Prefix) {
	var list []ts.Selector
	for _, p := range of {
		list = append(list, ts.FromPrefix(p))
	}
	c.a.Children[0].LocalTS, c.b.Children[0].RemoteTS = list, list
}

func (c *changed) certificates(from *changePKI) {
	c.a.Credentials, c.b.Credentials = from.issue("a.example"), from.issue("b.example")
	c.both(func(c *TunnelConfig) { c.Peer = ident.Remote{ID: c.Peer.ID, Roots: from.roots} })
}

// changePKI is an authority.
type changePKI struct {
	issue func(id string) ident.Local
	roots *ident.Roots
}

func newChangePKI(t *testing.T) *changePKI {
	issue, roots := certify(t)
	return &changePKI{issue, roots}
}

// change is something that a controller changes of a tunnel, at both ends. Before is
// what the tunnel has beside the usual until then. Packets go from lan(1, 0) to
// lan(2, 0) and back all the time.
type change struct {
	name   string
	brief  bool // the old is taken away before the new is there, and so packets may be lost
	before func(c *changed, old, fresh *changePKI)
	make   func(c *changed, old, fresh *changePKI)
}

// plain is a change of what both ends have alike.
func plain(name string, f func(*TunnelConfig)) change {
	return change{name: name, make: func(c *changed, _, _ *changePKI) { c.both(f) }}
}

func withOld(c *changed, old, _ *changePKI) { c.certificates(old) }

func trust(sets ...*ident.Roots) func(*TunnelConfig) {
	return func(c *TunnelConfig) { c.Peer.Roots = ident.UnionRoots(sets...) }
}

func child(name string, local, remote netip.Prefix) ike.ChildConfig {
	return ike.ChildConfig{Name: name, LocalTS: []ts.Selector{ts.FromPrefix(local)}, RemoteTS: []ts.Selector{ts.FromPrefix(remote)}}
}

var changes = []change{
	plain("lifetimes and liveness", func(c *TunnelConfig) {
		c.Timing.DPD, c.Timing.RekeyIKE, c.Children[0].RekeyTime, c.Children[0].RekeyBytes = 7*time.Second, 2*time.Hour, 50*time.Minute, 1<<40
	}),
	plain("IKE suite", func(c *TunnelConfig) {
		c.Proposals = []suite.IKEProposal{must(suite.ParseIKE("aes256ctr-sha512-ecp384"))}
	}),
	plain("ESP suite", func(c *TunnelConfig) {
		c.Children[0].Proposals = []suite.ESPProposal{must(suite.ParseESP("aes256gcm8-ecp384"))}
	}),
	plain("IKE and ESP suite", func(c *TunnelConfig) {
		c.Proposals = []suite.IKEProposal{must(suite.ParseIKE("aes256ctr-sha512-ecp384"))}
		c.Children[0].Proposals = []suite.ESPProposal{must(suite.ParseESP("aes256gcm8-ecp384"))}
	}),
	plain("replay window", func(c *TunnelConfig) { c.Children[0].ReplayWindow = 512 }),
	plain("outer header", func(c *TunnelConfig) { c.Children[0].Outer = dataplane.Outer{FixDSCP: true, DSCP: 46} }),
	plain("encapsulation", func(c *TunnelConfig) { c.ForceEncap = true }),
	{"child renamed", true, nil, func(c *changed, _, _ *changePKI) {
		c.both(func(c *TunnelConfig) { c.Children[0].Name = "renamed" })
	}},
	{"child added", false, nil, func(c *changed, _, _ *changePKI) {
		c.a.Children = append(c.a.Children, child("more", lan(1, 8), lan(2, 8)))
		c.b.Children = append(c.b.Children, child("more", lan(2, 8), lan(1, 8)))
	}},
	{"selector added", false, nil, func(c *changed, _, _ *changePKI) { c.selectors(lan(1, 0), lan(1, 7)) }},
	{
		"selector removed", false, func(c *changed, _, _ *changePKI) { c.selectors(lan(1, 0), lan(1, 7)) },
		func(c *changed, _, _ *changePKI) { c.selectors(lan(1, 0)) },
	},
	{
		"selector exchanged", false, func(c *changed, _, _ *changePKI) { c.selectors(lan(1, 0), lan(1, 7)) },
		func(c *changed, _, _ *changePKI) { c.selectors(lan(1, 0), lan(1, 8)) },
	},
	{"roles exchanged", false, nil, func(c *changed, _, _ *changePKI) { c.a.Role, c.b.Role = c.b.Role, c.a.Role }},
	plain("pre-shared key", func(c *TunnelConfig) {
		c.Credentials.PSK, c.Peer.PSK = ident.PSK("another pre-shared key"), ident.PSK("another pre-shared key")
	}),
	{"key to certificates", false, nil, withOld},
	{"initiator's identity", false, nil, func(c *changed, _, _ *changePKI) {
		c.a.Credentials.ID = must(ident.ParseID("a2.example"))
		c.b.Peer.ID = c.a.Credentials.ID
	}},
	{"responder's identity", false, nil, func(c *changed, _, _ *changePKI) {
		c.b.Credentials.ID = must(ident.ParseID("b2.example"))
		c.a.Peer.ID = c.b.Credentials.ID
	}},
	{"certificates renewed", false, withOld, withOld},
	{"authority added", false, withOld, func(c *changed, old, fresh *changePKI) { c.both(trust(old.roots, fresh.roots)) }},
	{
		"other authority removed", false, func(c *changed, old, fresh *changePKI) { c.certificates(old); c.both(trust(old.roots, fresh.roots)) },
		func(c *changed, old, _ *changePKI) { c.both(trust(old.roots)) },
	},
	// Not as a controller does it: who has no certificate of an authority that is trusted
	// is not let in for long.
	{"authority exchanged", false, withOld, func(c *changed, _, fresh *changePKI) { c.certificates(fresh) }},
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestChangesUnderTraffic changes each field at both ends, one after the other, and
// writes down what the packets notice of it.
func TestChangesUnderTraffic(t *testing.T) {
	var out strings.Builder
	out.WriteString("# What packets notice when a tunnel is changed at its initiator (a) and its responder (b), with so much time\n" +
		"# between, or at one end only: for how long they were lost, where 0 is that each of them arrived and \"brief\" that a\n" +
		"# few may have been lost. Then which SAs were replaced, or that the tunnel is not wholly up a minute later.\n")
	for _, c := range changes {
		fmt.Fprintf(&out, "\n%s\n", c.name)
		for _, gap := range []time.Duration{0, 50 * time.Millisecond, 500 * time.Millisecond, 5 * time.Second, 30 * time.Second, never} {
			if gap == 0 {
				fmt.Fprintf(&out, "%8s  %s\n", "at once", c.measure(t, true, gap))
				continue
			}
			what := "+" + gap.String()
			if gap == never {
				what = "only"
			}
			fmt.Fprintf(&out, "%8s  a first: %-16s b first: %s\n", what, c.measure(t, true, gap), c.measure(t, false, gap))
		}
	}
	golden(t, "testdata/changes.txt", out.String())
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run the test with -rewrite", err)
	}
	if got != string(want) {
		t.Errorf("it differs from %s; if it should, run the test with -rewrite and review:\n%s", path, got)
	}
}

// TestRefusedChangeUnderTraffic has one end alone keep each change for half a day, in
// which all SAs are replaced several times: that costs nothing. Then the other end has it
// too.
func TestRefusedChangeUnderTraffic(t *testing.T) {
	list := changes
	if testing.Short() {
		list = list[:4] // the suites
	}
	for _, c := range list {
		if c.brief || c.name == "authority exchanged" {
			continue
		}
		for _, aFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/a first %t", c.name, aFirst), func(t *testing.T) {
				if got := c.run(t, trial{aFirst: aFirst, gap: 12 * time.Hour, pace: 10 * time.Second}); !strings.HasPrefix(got, "0") || strings.HasSuffix(got, "down") {
					t.Error(got)
				}
			})
		}
	}
}

// trial is how a change is made: with gap between the ends, and a packet in each
// direction at the pace.
type trial struct {
	aFirst    bool
	gap, pace time.Duration
}

func (c *change) measure(t *testing.T, aFirst bool, gap time.Duration) string {
	return c.run(t, trial{aFirst, gap, 20 * time.Millisecond})
}

// run makes the change at one end, and after the gap at the other, and says what became
// of it.
func (c *change) run(t *testing.T, how trial) (result string) {
	aFirst, gap := how.aFirst, how.gap
	synctest.Test(t, func(t *testing.T) {
		old, fresh := newChangePKI(t), newChangePKI(t)
		sw := memory.NewSwitch()
		sw.SetFilter(memory.Latency(changeLatency))
		a, b := startNode(t, sw, "a.example", addrA), startNode(t, sw, "b.example", addrB)
		ends := &changed{
			a: asPlanned(a.tunnelConfig("tunnel", ike.RoleEither, b, lan(1, 0), lan(2, 0))),
			b: asPlanned(b.tunnelConfig("tunnel", ike.RoleResponder, a, lan(2, 0), lan(1, 0))),
		}
		if c.before != nil {
			c.before(ends, old, fresh)
		}
		b.apply([]TunnelConfig{ends.b}, Added)
		a.apply([]TunnelConfig{ends.a}, Added)
		a.waitState("tunnel", ike.StateUp, 10*time.Second)
		flow := newFlow(a, b, how.pace)
		flow.run(10 * time.Second) // as if it had been up for long
		before := a.status("tunnel")

		after := *ends
		after.both(func(c *TunnelConfig) { c.Children = append(c.Children[:0:0], c.Children...) })
		c.make(&after, old, fresh)
		steps := []func(){
			func() { a.apply([]TunnelConfig{after.a}, Changed) },
			func() { b.apply([]TunnelConfig{after.b}, Changed) },
		}
		if !aFirst {
			steps[0], steps[1] = steps[1], steps[0]
		}
		steps[0]()
		if gap != never {
			flow.run(gap)
			steps[1]()
		}
		flow.run(time.Minute)
		result = c.describe(flow.lost(), before, a.status("tunnel"), b.status("tunnel"))
	})
	return result
}

// describe says what became of the tunnel of an end that was before.
func (c *change) describe(lost time.Duration, before, now, peer TunnelStatus) string {
	result := lost.Round(time.Second).String()
	switch {
	case c.brief && lost <= 250*time.Millisecond:
		result = "brief"
	case lost == 0:
		result = "0"
	}
	if now.State != ike.StateUp || peer.State != ike.StateUp {
		return result + ", down"
	}
	if now.IKE[0].LocalSPI != before.IKE[0].LocalSPI {
		result += ", IKE"
	}
	if now.Children[0].InboundSPI != before.Children[0].InboundSPI {
		result += ", Child"
	}
	return result
}

// asPlanned gives a tunnel the intervals of an edge.
func asPlanned(c TunnelConfig) TunnelConfig {
	quick := ike.Schedule{Base: 500 * time.Millisecond, Backoff: 1.7, Tries: 5}
	c.Timing = ike.Timing{
		DPD: 10 * time.Second, RetransmitBase: quick.Base, RetransmitBackoff: quick.Backoff, RetransmitTries: quick.Tries,
		Handshake: quick, Probe: quick, ReconnectBase: 250 * time.Millisecond, Eager: 100 * time.Millisecond, TakeOver: 6 * time.Second,
	}
	return c
}

// flow is packets in both directions.
type flow struct {
	pace time.Duration
	ends [2]*node
	sent []time.Time
	seen [2]map[uint32]bool // by the end that received them
}

func newFlow(a, b *node, pace time.Duration) *flow {
	return &flow{pace: pace, ends: [2]*node{a, b}, seen: [2]map[uint32]bool{{}, {}}}
}

// run sends for a while.
func (f *flow) run(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(f.pace) {
		f.sent = append(f.sent, time.Now())
		for i, from := range []int{0, 1} {
			p := binary.BigEndian.AppendUint32(packetFor(lan(1+i, 0), lan(2-i, 0)), uint32(len(f.sent)))
			_ = f.ends[from].plane.Send(p) // what is not sent does not arrive
		}
		f.receive()
	}
}

func (f *flow) receive() {
	for i, n := range f.ends {
		for len(n.plane.Packets()) > 0 {
			p := <-n.plane.Packets()
			f.seen[i][binary.BigEndian.Uint32(p[len(p)-4:])] = true
		}
	}
}

// lost is how long packets were lost, in the worse direction.
func (f *flow) lost() time.Duration {
	time.Sleep(time.Second)
	f.receive()
	received := min(len(f.seen[0]), len(f.seen[1]))
	return time.Duration(len(f.sent)-received) * f.pace
}

// losses says which packets did not arrive.
func (f *flow) losses() (out []string) {
	for i, at := range f.sent {
		for end, seen := range f.seen {
			if !seen[uint32(i+1)] {
				out = append(out, fmt.Sprintf("%s not received by %s", at.Format("04:05.000"), f.ends[end].id))
			}
		}
	}
	return out
}
