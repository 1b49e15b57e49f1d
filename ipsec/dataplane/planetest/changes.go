package planetest

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// wantIllegible fails if packets of the suite could be read on the wire: in clear ever,
// and in AH or ESP unless the case had them so.
func (h *harness) wantIllegible() {
	h.Helper()
	inClear, protected := h.Wire.Legible()
	if inClear > 0 {
		h.Errorf("%d packets were in clear on the wire", inClear)
	}
	if protected > 0 && !h.legible {
		h.Errorf("%d packets could be read in what should hide them", protected)
	}
}

// testNothingInClear changes all that can be changed while both hosts send without a
// pause (RFC 4301, Section 5.1: what is to be protected is protected or dropped).
func testNothingInClear(t *testing.T, h *harness) {
	c := &changes{harness: h}
	defer c.sendAlways()()
	h.apply(h.A, h.policyA())
	h.apply(h.B, h.policyB())
	h.event(h.A, dataplane.Acquire)
	for range 3 {
		c.rekey("rekey", dataplane.Limits{})
	}
	c.policies()
	h.apply(h.A, remove(c.now.outA))
	h.event(h.A, dataplane.Acquire)
	h.apply(h.A, remove(c.now.inA))
	h.apply(h.B, remove(c.now.outB), remove(c.now.inB))
	c.rekey("after the SAs were removed", dataplane.Limits{HardPackets: 20})
	h.event(h.A, dataplane.HardExpire)
	c.rekey("after a hard limit", dataplane.Limits{})
	if h.Rebind != nil {
		moved, err := h.Rebind()
		if err != nil {
			t.Fatalf("rebind: %v", err)
		}
		_, endB := h.ends()
		h.apply(h.B, dataplane.UpdateEndpoints{Tunnel: tunnel, Local: endB, Remote: moved})
		c.flows("after the address changed")
	}
	for _, side := range []Side{h.A, h.B} {
		h.apply(side, dataplane.RemovePolicy{Tunnel: tunnel, Child: child})
	}
	c.stays("without policies")
	h.apply(h.A, remove(c.now.outA), remove(c.now.inA))
	h.apply(h.B, remove(c.now.outB), remove(c.now.inB))
	if h.Wire.Sent() < 10 {
		t.Errorf("%d packets were seen on the wire: too few to judge by", h.Wire.Sent())
	}
}

// changes are those of one Child SA after another, while both hosts send.
type changes struct {
	*harness
	sends [2]atomic.Uint64
	n     byte
	now   pairOfSAs
}

// sendAlways has both hosts send until stop is called.
func (c *changes) sendAlways() (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	for n, of := range []struct {
		side    Side
		packets [][]byte
	}{
		{c.A, [][]byte{c.toB(), c.packet(hostA6, hostB6)}},
		{c.B, [][]byte{c.toA(), c.packet(hostB6, hostA6)}},
	} {
		running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-of.side.Received: // of the other
				default:
					_ = of.side.Send(of.packets[i%len(of.packets)])
					c.sends[n].Add(1)
				}
			}
		})
	}
	return func() {
		close(done)
		running.Wait()
	}
}

// rekey brings other SAs up and takes those before them away. With limits what they
// carry may be over before it is looked for.
func (c *changes) rekey(what string, limits dataplane.Limits) {
	c.Helper()
	c.n++
	before := c.now
	c.now = c.newSAs(c.n)
	c.now.outA.Limits = limits
	c.apply(c.A, dataplane.InstallSA{SA: c.now.inA})
	c.apply(c.B, dataplane.InstallSA{SA: c.now.inB}, dataplane.InstallSA{SA: c.now.outB})
	c.apply(c.A, dataplane.InstallSA{SA: c.now.outA})
	if limits == (dataplane.Limits{}) {
		c.flows(what)
	}
	if before.inA.SPI != 0 {
		c.apply(c.A, remove(before.outA), remove(before.inA))
		c.apply(c.B, remove(before.outB), remove(before.inB))
	}
}

// policies changes that of A: to another priority, to one that discards, and away.
func (c *changes) policies() {
	c.Helper()
	p := c.policyA()
	p.Policy.Priority = 7
	c.apply(c.A, p)
	c.flows("with another priority")
	p.Policy.Action = dataplane.Discard
	c.apply(c.A, p)
	c.stays("with a policy that discards")
	c.apply(c.A, c.policyA())
	c.flows("with the first policy")
	c.apply(c.A, dataplane.RemovePolicy{Tunnel: tunnel, Child: child})
	c.stays("without a policy")
	c.apply(c.A, c.policyA())
	c.flows("with a policy again")
}

// flows wants the SAs to receive both ways.
func (c *changes) flows(what string) {
	c.Helper()
	for _, of := range []struct {
		side Side
		sa   dataplane.SA
	}{{c.B, c.now.inB}, {c.A, c.now.inA}} {
		before := c.counters(of.side, of.sa).Packets
		c.eventually(of.side, of.sa, "packets "+what, func(now dataplane.Counters) bool { return now.Packets > before })
	}
}

// stays wants the SA of A to send nothing more, once what was under way has left.
func (c *changes) stays(what string) {
	c.Helper()
	c.sent(20)
	last := c.counters(c.A, c.now.outA).Packets
	c.sent(20)
	if n := c.counters(c.A, c.now.outA).Packets; n != last {
		c.Errorf("%d packets were sent %s", n-last, what)
	}
}

// sent waits until A's host has sent so many packets.
func (c *changes) sent(n uint64) {
	c.Helper()
	before := c.sends[0].Load()
	c.wait("packets of the host", func() bool { return c.sends[0].Load() >= before+n })
}
