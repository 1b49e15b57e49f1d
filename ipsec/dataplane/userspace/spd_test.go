package userspace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// drawAddr draws from a small space, so that prefixes nest and collide.
func drawAddr(t *rapid.T, v6 bool) netip.Addr {
	b := rapid.SliceOfN(rapid.Uint8Range(0, 3), 4, 4).Draw(t, "octets")
	if v6 {
		return netip.AddrFrom16([16]byte{0xfd, b[0] << 6, 14: b[1] << 6, 15: b[2] << 6})
	}
	return netip.AddrFrom4([4]byte{10, b[1] << 6, b[2] << 6, b[3] << 6})
}

func drawSelector(t *rapid.T, v6 bool) ts.Selector {
	addr := drawAddr(t, v6)
	s := ts.FromPrefix(netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked())
	if rapid.Bool().Draw(t, "range") {
		other := drawAddr(t, v6)
		if other.Less(addr) {
			addr, other = other, addr
		}
		s = ts.FromRange(addr, other)
	}
	switch rapid.IntRange(0, 5).Draw(t, "ports") {
	case 0:
		s.Protocol = protoTCP
	case 1:
		s.Protocol, s.StartPort, s.EndPort = protoTCP, 80, 443
	case 2:
		s.Protocol, s.StartPort, s.EndPort = protoUDP, 65535, 0
	}
	return s
}

func drawFlow(t *rapid.T, v6 bool) (flow, ts.Packet) {
	src, dst := drawAddr(t, v6), drawAddr(t, v6)
	f := flow{
		src: addressOf(src), dst: addressOf(dst),
		protocol: rapid.SampledFrom([]uint8{protoTCP, protoUDP, 50}).Draw(t, "protocol"),
		hasPorts: rapid.Bool().Draw(t, "has ports"),
	}
	if f.hasPorts {
		f.srcPort = rapid.SampledFrom([]uint16{0, 79, 80, 443, 444, 65535}).Draw(t, "source port")
		f.dstPort = rapid.SampledFrom([]uint16{0, 79, 80, 443, 444, 65535}).Draw(t, "destination port")
	}
	return f, ts.Packet{
		Source: src, Destination: dst, Protocol: f.protocol,
		SourcePort: f.srcPort, DestinationPort: f.dstPort, NoPorts: !f.hasPorts,
	}
}

// modelPolicy is a policy as its owner described it.
type modelPolicy struct {
	policy        *policy
	local, remote []ts.Selector
}

// longest returns the length of the longest remote prefix that holds dst.
func (m *modelPolicy) longest(dst netip.Addr) int {
	best := -1
	for _, s := range m.remote {
		for _, p := range ts.Prefixes(s) {
			if p.Contains(dst) {
				best = max(best, p.Bits())
			}
		}
	}
	return best
}

func TestPolicyLookupMatchesModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "IPv6")
		var root *spdNode
		var model []*modelPolicy
		ranking := drawRanking(t)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if len(model) > 0 && rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
				i := rapid.IntRange(0, len(model)-1).Draw(t, "which")
				for _, x := range remotePrefixes(model[i].remote) {
					root = root.remove(x.prefix, x.bits, model[i].policy)
				}
				model = slices.Delete(model, i, i+1)
			} else {
				m := &modelPolicy{
					local:  []ts.Selector{drawSelector(t, v6), drawSelector(t, v6)},
					remote: []ts.Selector{drawSelector(t, v6), drawSelector(t, !v6)},
				}
				m.policy = &policy{
					child:     &child{tunnel: fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "tunnel"))},
					priority:  rapid.Uint32Range(0, 1).Draw(t, "priority"),
					selectors: selectors{local: compileSelectors(m.local), remote: compileSelectors(m.remote)},
				}
				if rapid.Bool().Draw(t, "has an SA") {
					m.policy.child.carriers.Store(&[]*outboundSA{{}})
				}
				for _, x := range remotePrefixes(m.remote) {
					root = root.insert(x.prefix, x.bits, m.policy)
				}
				model = append(model, m)
			}
			f, packet := drawFlow(t, v6)
			dscp := rapid.Uint8Range(0, 3).Draw(t, "DSCP")
			got := (&database{root, compileRanking(ranking)}).lookup(&f, dscp)
			if got == nil {
				for _, m := range model {
					if ts.Match(m.local, m.remote, packet) {
						t.Fatalf("no policy for %+v, but %v to %v matches", packet, m.local, m.remote)
					}
				}
				continue
			}
			checkChoice(t, model, got, packet, dscp, &ranking)
		}
		for _, m := range model {
			for _, x := range remotePrefixes(m.remote) {
				root = root.remove(x.prefix, x.bits, m.policy)
			}
		}
		if root != nil {
			t.Fatal("nodes are left after all policies were removed")
		}
	})
}

// drawRanking has one class, by a port or a code point.
func drawRanking(t *rapid.T) dataplane.Ranking {
	r := dataplane.Ranking{Ranks: map[string][]uint8{}}
	c := dataplane.TrafficClass{DSCP: rapid.SliceOfN(rapid.Uint8Range(0, 2), 0, 2).Draw(t, "code points")}
	if rapid.Bool().Draw(t, "by selector") {
		c.RemoteTS = []ts.Selector{drawSelector(t, false), drawSelector(t, true)}
	}
	r.Classes = append(r.Classes, c)
	for i := range rapid.IntRange(0, 3).Draw(t, "ranked tunnels") {
		r.Ranks[fmt.Sprint(i)] = rapid.SliceOfN(rapid.Uint8Range(0, 2), 2, 2).Draw(t, "ranks")
	}
	return r
}

// checkChoice: the chosen policy matches, and no other that does has a better priority,
// or the same and a longer prefix, or that too and an SA where the chosen one has none, or
// is like it in all that and of a lower rank, or of none and was set before it.
func checkChoice(t *rapid.T, model []*modelPolicy, got *policy, packet ts.Packet, dscp uint8, ranking *dataplane.Ranking) {
	i := slices.IndexFunc(model, func(m *modelPolicy) bool { return m.policy == got })
	if i < 0 {
		t.Fatal("lookup found a removed policy")
	}
	if !ts.Match(model[i].local, model[i].remote, packet) {
		t.Fatalf("policy %v to %v does not match %+v", model[i].local, model[i].remote, packet)
	}
	for k, m := range model {
		if !ts.Match(m.local, m.remote, packet) {
			continue
		}
		if m.policy.priority < got.priority {
			t.Fatalf("priority %d chosen, %d matches too", got.priority, m.policy.priority)
		}
		longer := m.longest(packet.Destination) - model[i].longest(packet.Destination)
		if m.policy.priority == got.priority && longer > 0 {
			t.Fatal("a policy with a longer remote prefix matches too")
		}
		if m.policy.priority != got.priority || longer < 0 {
			continue
		}
		if m.policy.child.carries() && !got.child.carries() {
			t.Fatal("a policy with an SA matches as well")
		}
		if m.policy.child.carries() != got.child.carries() {
			continue
		}
		class := ranking.Class(packet, dscp)
		rank, chosen := ranking.Rank(m.policy.child.tunnel, class), ranking.Rank(got.child.tunnel, class)
		if rank < chosen {
			t.Fatalf("a policy of rank %d matches as well, that of %d was chosen", rank, chosen)
		}
		if k < i && rank == chosen && (rank == dataplane.Unranked || m.policy.child.tunnel == got.child.tunnel) {
			t.Fatal("a policy that was set before matches as well")
		}
	}
}

func TestPolicyCacheFollowsTheDatabase(t *testing.T) {
	var cache spdCache
	f := flow{src: address{1, 1}, dst: address{2, 2}}
	if cache.lookup(&database{}, &f, 0) != nil {
		t.Fatal("found a policy in an empty database")
	}
	everything := []selector{{last: address{^uint64(0), ^uint64(0)}, anyPort: true}} // IPv6
	p := &policy{child: &child{}, selectors: selectors{local: everything, remote: everything}}
	root := (*spdNode)(nil).insert(address{}, 0, p)
	there := &database{root: root}
	for range 2 {
		if got := cache.lookup(there, &f, 0); got != p {
			t.Fatalf("got %v, want the policy that was set", got)
		}
	}
	if cache.lookup(&database{root: root.remove(address{}, 0, p)}, &f, 0) != nil {
		t.Fatal("found a removed policy")
	}
}

func BenchmarkPolicyLookup(b *testing.B) {
	local := compileSelectors([]ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.0.0.0/8"))})
	ranks := map[string][]uint8{}
	var children []*child
	databaseOf := func(tunnels int) *database {
		d := &database{}
		for i := range 10000 * tunnels {
			remote := []ts.Selector{ts.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i / tunnels >> 8), byte(i / tunnels), 0}), 24))}
			c := &child{tunnel: fmt.Sprintf("networks/prod/tunnels/a--b%d.wan%d.wan1", i/tunnels, i%tunnels)}
			c.carriers.Store(&[]*outboundSA{{}})
			ranks[c.tunnel] = []uint8{0, 1}
			children = append(children, c)
			p := &policy{child: c, selectors: selectors{local: local, remote: compileSelectors(remote)}}
			for _, x := range remotePrefixes(remote) {
				d.root = d.root.insert(x.prefix, x.bits, p)
			}
		}
		return d
	}
	flows := make([]flow, 4096)
	for i := range flows {
		flows[i] = flow{
			src: addressFrom4([]byte{10, 0, 0, 1}), dst: addressFrom4([]byte{11, byte(i >> 8), byte(i), 9}),
			protocol: protoUDP, hasPorts: true, srcPort: uint16(i), dstPort: 53,
		}
	}
	one, four := databaseOf(1), databaseOf(4)
	ranked := &database{root: four.root, ranking: compileRanking(dataplane.Ranking{Classes: []dataplane.TrafficClass{{DSCP: []uint8{46}}}, Ranks: ranks})}
	for _, c := range children {
		c.ranked.Store(ranked.ranking.find(c.tunnel))
	}
	for _, of := range []struct {
		name     string
		database *database
	}{{"one tunnel", one}, {"four", four}, {"four ranked", ranked}} {
		b.Run(of.name+"/trie", func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				if of.database.lookup(&flows[i%len(flows)], 46) == nil {
					b.Fatal("no policy")
				}
			}
		})
		b.Run(of.name+"/cached", func(b *testing.B) {
			var cache spdCache
			i := 0
			for b.Loop() {
				i++
				if cache.lookup(of.database, &flows[i%64], 46) == nil {
					b.Fatal("no policy")
				}
			}
		})
	}
}

// TestInnerFragments: fragments after the first have no ports. They pass where
// the selectors take any, or name just them (OPAQUE); else they are discarded, and
// with them the packet (RFC 4301, Section 7, and 4.4.1.2).
func TestInnerFragments(t *testing.T) {
	packet := func(fragment uint16) *flow {
		b := append(ipv4Packet(0), 0x03, 0xe8, 0x03, 0xe8, 0, 8, 0, 0) // both ports 1,000
		b[3] += udpHeaderLen
		binary.BigEndian.PutUint16(b[6:], fragment)
		var in inner
		if !in.parse(b) {
			t.Fatal("does not parse")
		}
		return &in.flow
	}
	whole, first, later := packet(0), packet(0x2000), packet(1)
	for _, tt := range []struct {
		name                string
		start, end          uint16
		whole, first, later bool
	}{
		{"any port", 0, 65535, true, true, true},
		{"a port", 1000, 1000, true, true, false},
		{"another port", 1001, 1001, false, false, false},
		{"opaque", 65535, 0, false, false, true},
	} {
		s := ts.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))
		s.Protocol, s.StartPort, s.EndPort = protoUDP, tt.start, tt.end
		set := selectors{local: compileSelectors([]ts.Selector{s}), remote: compileSelectors([]ts.Selector{s})}
		for _, x := range []struct {
			name string
			f    *flow
			want bool
		}{{"whole", whole, tt.whole}, {"first", first, tt.first}, {"later", later, tt.later}} {
			if in, out := set.inbound(x.f), set.outbound(x.f); in != x.want || out != x.want {
				t.Errorf("%s, %s: inbound %v, outbound %v, want %v", tt.name, x.name, in, out, x.want)
			}
		}
	}
}
