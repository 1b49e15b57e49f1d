package ike

import (
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Several Child SAs with the same selectors can share the traffic, each the work of
// another processor (RFC 9611). Here they are Child SAs with a name of their own, which
// are wanted as soon as the first one is there and the peer has said that it does so
// too; in the data plane they belong to the first one's child.

// withQueues adds the further ones to the children that have some.
func withQueues(children []ChildConfig) []ChildConfig {
	for _, ch := range slices.Clone(children) {
		for queue := 1; queue < ch.Queues; queue++ {
			further := ch
			further.Name, further.first = fmt.Sprintf("%s#%d", ch.Name, queue), ch.Name
			further.Queues, further.queue = 0, queue
			if !slices.ContainsFunc(children, func(o ChildConfig) bool { return o.Name == further.Name }) {
				children = append(children, further)
			}
		}
	}
	return children
}

// shares reports whether the Child SAs of c are several, or one of several.
func (c *ChildConfig) shares() bool { return c.Queues > 1 || c.queue > 0 }

// resourceInfo is the notification that goes with such a Child SA. Which resource a
// further one is for is this host's own affair; that there is one is not.
func resourceInfo(cfg *ChildConfig) []wire.Payload {
	if !cfg.shares() {
		return nil
	}
	n := &wire.Notify{Kind: wire.NotifySAResourceInfo}
	if cfg.queue > 0 {
		n.Data = put32(uint32(cfg.queue))
	}
	return []wire.Payload{n}
}

// resourceInfo is that of an answer.
func (s *childSpec) resourceInfo() []wire.Payload {
	if !s.shared {
		return nil
	}
	return resourceInfo(s.cfg)
}

func sharesResource(m *message) bool { return m.notify(wire.NotifySAResourceInfo) != nil }

// mayBe reports whether a request for a new Child SA may be for that of cfg: a further
// one if it is for a certain resource of the peer, the first if not. In IKE_AUTH there
// are no further ones.
func mayBe(m *message, cfg *ChildConfig) bool {
	n := m.notify(wire.NotifySAResourceInfo)
	further := n != nil && len(n.Data) > 0 && m.Exchange == wire.ExchangeCreateChildSA
	return !cfg.shares() || further == (cfg.queue > 0)
}

// wantsFurther reports whether this end is to ask for a further Child SA of cfg on sa.
// Only the end that began the first IKE SA does, so that no two requests cross which
// each end takes for different queues; that of the end with fewer queues decides anyway.
func (sa *ikeSA) wantsFurther(cfg *ChildConfig) bool {
	first := sa.t.liveChild(cfg.first)
	return sa.decides() && first != nil && first.ike == sa && first.shared && (!first.full || sa.furtherOf(cfg.first) < first.most)
}

// further is the live Child SA of that name on sa.
func (sa *ikeSA) further(name string) *childSA {
	for _, c := range sa.t.children {
		if c.name == name && c.ike == sa && c.live() {
			return c
		}
	}
	return nil
}

// furtherOf is how many further ones there are on sa beside the first.
func (sa *ikeSA) furtherOf(first string) (n int) {
	for _, c := range sa.t.children {
		if c.first == first && c.queue > 0 && c.ike == sa && c.live() {
			n++
		}
	}
	return n
}

// enough notes that the peer wants no more Child SAs than there are for the selectors
// of cfg, and reports whether err says so (RFC 9611, Section 5.2). It is asked again
// when the first one was rekeyed.
func (sa *ikeSA) enough(cfg *ChildConfig, err *Error) bool {
	if cfg.queue == 0 || !err.Remote || err.Notify != wire.NotifyTSMaxQueue && err.Notify != wire.NotifyNoAdditionalSAs {
		return false
	}
	if first := sa.t.liveChild(cfg.first); first != nil {
		first.full, first.most = true, sa.furtherOf(cfg.first)
	}
	return true
}
