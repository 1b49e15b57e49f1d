package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// edition is what a tunnel is to be at both ends: everything that a controller changes of
// one.
type edition struct {
	ike, esp string
	prefixes int
	issued   int // certificates: how often
	trusts   int // authorities beside the one in use
	name     int // of the initiator
	encap    bool
	swapped  bool // roles
	dpd      time.Duration
}

// next is another one.
func (e edition) next(r *rand.Rand) edition {
	switch r.IntN(9) {
	case 0:
		e.ike = []string{"aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-ecp384", "aes256ctr-sha512-ecp256"}[r.IntN(3)]
	case 1:
		e.esp = []string{"aes128gcm16", "aes256gcm16-x25519-esn", "aes256gcm8-ecp384"}[r.IntN(3)]
	case 2:
		e.prefixes = 1 + r.IntN(3)
	case 3:
		e.issued++
	case 4:
		e.trusts = 1 - e.trusts
	case 5:
		e.name++
	case 6:
		e.encap = !e.encap
	case 7:
		e.swapped = !e.swapped
	case 8:
		e.dpd = time.Duration(5+r.IntN(20)) * time.Second
	}
	return e
}

func (e edition) initiator() ident.ID { return must(ident.ParseID(fmt.Sprintf("a%d.example", e.name))) }

// continuity is two ends of a tunnel that are brought from one edition to the next, each
// in its own time.
type continuity struct {
	t          *testing.T
	r          *rand.Rand
	sw         *memory.Switch
	ends       [2]*node
	at         [2]edition // that each end has
	old, fresh *changePKI
	own        [2]ident.Local
	flow       *flow
	told       []string
}

func (c *continuity) config(end int) TunnelConfig {
	n, peer := c.ends[end], c.ends[1-end]
	e, roles := c.at[end], []ike.Role{ike.RoleEither, ike.RoleResponder}
	if e.swapped {
		slices.Reverse(roles)
	}
	config := asPlanned(n.tunnelConfig("tunnel", roles[end], peer, lan(1+end, 0), lan(2-end, 0)))
	config.ForceEncap = e.encap
	config.Proposals = []suite.IKEProposal{must(suite.ParseIKE(e.ike))}
	child := &config.Children[0]
	child.Proposals = []suite.ESPProposal{must(suite.ParseESP(e.esp))}
	for i := 1; i < e.prefixes; i++ {
		list := []*[]ts.Selector{&child.LocalTS, &child.RemoteTS}[end]
		*list = append(*list, ts.FromPrefix(lan(1, i)))
	}
	config.Credentials = c.own[end]
	config.Peer = ident.Remote{ID: config.Peer.ID, Roots: c.old.roots}
	if e.trusts > 0 {
		config.Peer.Roots = ident.UnionRoots(c.old.roots, c.fresh.roots)
	}
	if e.name > 0 && end == 1 {
		config.Peer.ID = e.initiator()
	}
	config.Timing.DPD = e.dpd
	return config
}

// apply brings an end to an edition.
func (c *continuity) apply(end int, e edition) {
	if at := c.at[end]; e.issued != at.issued || e.name != at.name || c.own[end].Signer == nil {
		id := c.ends[end].id
		if e.name > 0 && end == 0 {
			id = e.initiator().Data
		}
		c.own[end] = c.old.issue(id)
	}
	c.at[end] = e
	c.told = append(c.told, fmt.Sprintf("%s %s gets %+v", time.Now().Format("04:05.000"), c.ends[end].id, e))
	for _, r := range c.ends[end].Apply([]TunnelConfig{c.config(end)}) {
		if r.Err != nil {
			c.t.Fatal(r.Err)
		}
	}
}

// TestNoOrderInterrupts has a controller change a tunnel over and over. Each end gets each
// change in its own time, skips some, refuses some, and goes back on some, as an edge does
// with what cost it the controller. Not a packet is lost.
func TestNoOrderInterrupts(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newContinuity(t, seed)
				for range 12 {
					c.change()
				}
				if lost := c.flow.lost(); lost > 0 {
					t.Errorf("packets were lost for %s\n%s", lost, strings.Join(append(c.told, c.flow.losses()...), "\n"))
				}
			})
		})
	}
}

func newContinuity(t *testing.T, seed uint64) *continuity {
	c := &continuity{t: t, r: rand.New(rand.NewPCG(seed, 1)), sw: memory.NewSwitch(), old: newChangePKI(t), fresh: newChangePKI(t)}
	c.sw.SetFilter(memory.Latency(changeLatency))
	c.ends = [2]*node{startNode(t, c.sw, "a.example", addrA), startNode(t, c.sw, "b.example", addrB)}
	first := edition{ike: "aes128gcm16-prfsha256-x25519", esp: "aes128gcm16", prefixes: 1, dpd: 10 * time.Second}
	c.apply(1, first)
	c.apply(0, first)
	c.ends[0].waitState("tunnel", ike.StateUp, 10*time.Second)
	c.flow = newFlow(c.ends[0], c.ends[1], 50*time.Millisecond)
	c.flow.run(10 * time.Second)
	return c
}

// change is one change by the controller.
func (c *continuity) change() {
	before := c.at
	e := c.at[c.r.IntN(2)].next(c.r)
	first := c.r.IntN(2)
	c.apply(first, e)
	c.flow.run(c.pause())
	switch c.r.IntN(4) {
	case 0: // refused by the other end
	case 1: // and taken back by the first
		c.apply(first, before[first])
	default:
		c.apply(1-first, e)
	}
	c.flow.run(c.pause())
}

// pause is from nothing to a minute, short ones as often as long ones.
func (c *continuity) pause() time.Duration {
	return time.Duration(c.r.IntN(60)) * []time.Duration{time.Millisecond, 20 * time.Millisecond, time.Second}[c.r.IntN(3)]
}

// TestLossBetweenTwoEditions has the end that did not get a change yet lose everything.
// The other one takes it back as it was, whoever is to begin.
func TestLossBetweenTwoEditions(t *testing.T) {
	for _, changed := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			c := newContinuity(t, 1)
			before, lost := c.at[0], 1-changed
			e := before
			e.ike, e.esp = "aes256gcm16-prfsha384-ecp384", "aes256gcm8-ecp384"
			c.apply(changed, e)
			c.flow.run(20 * time.Second)
			c.sw.SetFilter(memory.Lose) // it dies without a word
			c.ends[lost].stop()
			c.sw.SetFilter(memory.Latency(changeLatency))
			c.ends[lost] = startNode(t, c.sw, c.ends[lost].id, c.ends[lost].addr)
			c.apply(lost, before)
			c.ends[lost].waitState("tunnel", ike.StateUp, time.Minute)
			if s := c.ends[lost].status("tunnel"); s.IKE[0].Suite.String() != before.ike {
				t.Errorf("up with %s, want %s as before", s.IKE[0].Suite, before.ike)
			}
			c.apply(lost, e)
			within(t, 30*time.Second, "the present algorithms at both ends", func() bool {
				s, o := c.ends[lost].status("tunnel"), c.ends[changed].status("tunnel")
				return s.IKE[0].Suite.String() == e.ike && o.IKE[len(o.IKE)-1].Suite.String() == e.ike &&
					strings.HasPrefix(s.Children[len(s.Children)-1].Suite.String(), "aes256gcm8")
			})
		})
	}
}
