package userspace

import "slices"

// policy is one entry of the security policy database. It never changes;
// setting a policy anew makes another.
type policy struct {
	child     *child
	selectors selectors
	priority  uint32
}

// spdNode is a node of the security policy database: a binary trie over the
// prefixes of remote selectors with one-way branches left out. Nodes never
// change: insert and remove copy the path to the root, so that the transmitter
// reads a root that it loaded once without any lock.
type spdNode struct {
	prefix   address
	bits     int
	policies []*policy // whose remote selectors hold this prefix
	branches [2]*spdNode
}

func (n *spdNode) insert(prefix address, bits int, p *policy) *spdNode {
	leaf := func() *spdNode { return &spdNode{prefix: prefix, bits: bits, policies: []*policy{p}} }
	if n == nil {
		return leaf()
	}
	common := min(n.prefix.commonBits(prefix), n.bits, bits)
	switch {
	case common == n.bits && common == bits:
		c := *n
		c.policies = append(slices.Clip(n.policies), p)
		return &c
	case common == n.bits:
		c := *n
		b := prefix.bit(common)
		c.branches[b] = n.branches[b].insert(prefix, bits, p)
		return &c
	case common == bits:
		c := leaf()
		c.branches[n.prefix.bit(common)] = n
		return c
	}
	fork := &spdNode{prefix: prefix.masked(common), bits: common}
	fork.branches[n.prefix.bit(common)] = n
	fork.branches[prefix.bit(common)] = leaf()
	return fork
}

func (n *spdNode) remove(prefix address, bits int, p *policy) *spdNode {
	if n == nil || n.bits > bits || n.prefix.commonBits(prefix) < n.bits {
		return n
	}
	c := *n
	if n.bits == bits {
		c.policies = slices.DeleteFunc(slices.Clone(n.policies), func(q *policy) bool { return q == p })
	} else {
		b := prefix.bit(n.bits)
		c.branches[b] = n.branches[b].remove(prefix, bits, p)
	}
	if len(c.policies) > 0 {
		return &c
	}
	if c.branches[0] == nil {
		return c.branches[1]
	}
	if c.branches[1] == nil {
		return c.branches[0]
	}
	return &c
}

// lookup finds the policy for an outbound packet with that code point: of all that match
// it the one with the lowest priority value, among equals the one with the longest remote
// prefix, among those one whose child has an SA, and of those the one that the ranking has
// go first, or that was set first. It returns nil if none matches.
func (d *database) lookup(f *flow, dscp uint8) *policy {
	x := contest{ranking: d.ranking, flow: f, dscp: dscp}
	var best *policy
	n := d.root
	for n != nil && n.prefix.commonBits(f.dst) >= n.bits {
		x.enter(nil)
		for _, p := range n.policies {
			if x.wins(p) && p.selectors.outbound(f) {
				x.enter(p)
			}
		}
		if here := x.first; here != nil && (best == nil || here.priority <= best.priority) {
			best = here
		}
		if n.bits == 128 {
			break
		}
		n = n.branches[f.dst.bit(n.bits)]
	}
	return best
}

// spdCache remembers the policy of recent flows (RFC 4301, Section 4.4.1). It
// belongs to the transmitter alone.
type spdCache struct {
	database *database // of which entries are true
	entries  [spdCacheSize]spdCacheEntry
}

const spdCacheSize = 1024 // a power of two

type spdCacheEntry struct {
	known  bool
	dscp   uint8 // 0 where no class asks for it
	flow   flow
	policy *policy
}

// lookup is d.lookup(f, dscp), remembered.
func (c *spdCache) lookup(d *database, f *flow, dscp uint8) *policy {
	if d != c.database {
		clear(c.entries[:])
		c.database = d
	}
	if d.ranking == nil || !d.ranking.byDSCP {
		dscp = 0
	}
	e := &c.entries[f.hash()>>32%spdCacheSize]
	if e.known && e.dscp == dscp && e.flow == *f {
		return e.policy
	}
	*e = spdCacheEntry{known: true, dscp: dscp, flow: *f, policy: d.lookup(f, dscp)}
	return e.policy
}
