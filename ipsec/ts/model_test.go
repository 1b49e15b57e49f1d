package ts

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// point is one kind of packet as seen from one side.
type point struct {
	protocol uint8
	addr     netip.Addr
	port     int // -1: not known
}

var (
	modelPorts     = []uint16{0, 1, 2, 65534, 65535}
	modelProtocols = []uint8{AnyProtocol, 6, 17}
)

func modelAddr(v6 bool, i int) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
}

// modelPoints represent all packets as far as the generated selectors can tell
// them apart: protocol 99 stands for all that are not named, port 3 for those
// between 2 and 65534.
var modelPoints = func() []point {
	var points []point
	for _, protocol := range []uint8{6, 17, 99} {
		for _, port := range []int{-1, 0, 1, 2, 3, 65534, 65535} {
			for i := range 16 {
				points = append(points, point{protocol, modelAddr(false, i), port}, point{protocol, modelAddr(true, i), port})
			}
		}
	}
	return points
}()

// has is the definition of a selector, written as RFC 7296, Section 3.13.1,
// words it.
func has(s Selector, p point) bool {
	if s.Protocol != 0 && s.Protocol != p.protocol {
		return false
	}
	if p.addr.Is4() != s.First.Is4() || p.addr.Compare(s.First) < 0 || p.addr.Compare(s.Last) > 0 {
		return false
	}
	if s.StartPort == 0 && s.EndPort == 65535 { // ANY includes OPAQUE
		return true
	}
	if s.StartPort == 65535 && s.EndPort == 0 {
		return p.port == -1
	}
	return p.port >= int(s.StartPort) && p.port <= int(s.EndPort)
}

func anyHas(set []Selector, p point) bool {
	return slices.ContainsFunc(set, func(s Selector) bool { return has(s, p) })
}

// generateSelector makes valid selectors of the small world of modelPoints.
func generateSelector(t *rapid.T) Selector {
	v6 := rapid.IntRange(0, 3).Draw(t, "family") == 0
	first := rapid.IntRange(0, 15).Draw(t, "first")
	s := FromRange(modelAddr(v6, first), modelAddr(v6, rapid.IntRange(first, 15).Draw(t, "last")))
	s.Protocol = rapid.SampledFrom(modelProtocols).Draw(t, "protocol")
	if s.Protocol == AnyProtocol {
		return s
	}
	switch rapid.IntRange(0, 3).Draw(t, "ports") {
	case 0:
		s.StartPort, s.EndPort = math.MaxUint16, 0
	case 1, 2:
		i := rapid.IntRange(0, len(modelPorts)-1).Draw(t, "start port")
		j := rapid.IntRange(i, len(modelPorts)-1).Draw(t, "end port")
		s.StartPort, s.EndPort = modelPorts[i], modelPorts[j]
	}
	return s
}

func generateSet(t *rapid.T, name string) []Selector {
	return rapid.SliceOfN(rapid.Custom(generateSelector), 0, 8).Draw(t, name)
}

func TestIntersectModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := generateSelector(t), generateSelector(t)
		both, ok := a.Intersect(b)
		reverse, okReverse := b.Intersect(a)
		if ok != okReverse || both != reverse {
			t.Fatalf("%s and %s: %s, %t one way, %s, %t the other", a, b, both, ok, reverse, okReverse)
		}
		if ok && both.Validate() != nil {
			t.Fatalf("%s and %s: %v", a, b, both.Validate())
		}
		for _, p := range modelPoints {
			if want := has(a, p) && has(b, p); want != (ok && has(both, p)) {
				t.Fatalf("%s and %s give %s, %t: wrong for %+v", a, b, both, ok, p)
			}
		}
		if self, ok := a.Intersect(a); !ok || self != a {
			t.Fatalf("%s and itself give %s", a, self)
		}
		if got, want := a.Contains(b), modelCovers([]Selector{a}, []Selector{b}); got != want {
			t.Fatalf("%s contains %s: %t, want %t", a, b, got, want)
		}
	})
}

func modelCovers(set, sub []Selector) bool {
	return !slices.ContainsFunc(modelPoints, func(p point) bool { return anyHas(sub, p) && !anyHas(set, p) })
}

func TestCoversModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, sub := generateSet(t, "set"), generateSet(t, "sub")
		if got, want := Covers(set, sub), modelCovers(set, sub); got != want {
			t.Fatalf("%s covers %s: %t, want %t", set, sub, got, want)
		}
		if !Covers(set, set) {
			t.Fatalf("%s does not cover itself", set)
		}
	})
}

// Sets that are cut out of the one they have to cover: random ones seldom are.
func TestCoversPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := generateSelector(t)
		pieces := []Selector{whole}
		for range rapid.IntRange(0, 6).Draw(t, "cuts") {
			i := rapid.IntRange(0, len(pieces)-1).Draw(t, "piece")
			pieces = append(pieces, cut(t, &pieces[i])...)
		}
		pieces = rapid.Permutation(pieces).Draw(t, "order")
		if !Covers(pieces, []Selector{whole}) || !modelCovers(pieces, []Selector{whole}) {
			t.Fatalf("%s do not cover %s", pieces, whole)
		}
		i := rapid.IntRange(0, len(pieces)-1).Draw(t, "left out")
		less := slices.Delete(slices.Clone(pieces), i, i+1)
		if Covers(less, []Selector{whole}) {
			t.Fatalf("%s cover %s without %s", less, whole, pieces[i])
		}
	})
}

// cut divides a selector in two, or ANY ports in three, and returns the new
// pieces.
func cut(t *rapid.T, s *Selector) []Selector {
	if s.Protocol != AnyProtocol && s.AnyPort() && rapid.Bool().Draw(t, "cut ports") {
		low, unknown := *s, *s
		low.EndPort, s.StartPort = 1, 2
		unknown.StartPort, unknown.EndPort = math.MaxUint16, 0
		return []Selector{low, unknown}
	}
	if s.First == s.Last {
		return nil
	}
	low := *s
	low.Last = s.First
	s.First = s.First.Next()
	return []Selector{low}
}

func TestNarrowModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offer, policy := generateSet(t, "offer"), generateSet(t, "policy")
		got := Narrow(offer, policy)
		if !Covers(offer, got) || !Covers(policy, got) {
			t.Fatalf("%s narrowed by %s to the wider %s", offer, policy, got)
		}
		for _, p := range modelPoints {
			if want := anyHas(offer, p) && anyHas(policy, p); want != anyHas(got, p) {
				t.Fatalf("%s narrowed by %s to %s: wrong for %+v", offer, policy, got, p)
			}
		}
		for i, s := range got {
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			if anyContains(slices.Delete(slices.Clone(got), i, i+1), s) {
				t.Fatalf("%s: %s is inside another one", got, s)
			}
		}
		if again := Narrow(got, policy); !slices.Equal(again, got) {
			t.Fatalf("narrowed again %s, was %s", again, got)
		}
		if again := Narrow(got, offer); !slices.Equal(again, got) {
			t.Fatalf("narrowed by the offer %s, was %s", again, got)
		}
		if other := Narrow(policy, offer); !Covers(got, other) || !Covers(other, got) {
			t.Fatalf("%s and %s narrow to %s one way and to %s the other", offer, policy, got, other)
		}
		// A first choice that is acceptable is included (RFC 7296, Section 2.9).
		if len(offer) > 0 && Covers(policy, offer[:1]) && !Covers(got, offer[:1]) {
			t.Fatalf("%s narrowed to %s without the first choice", offer, got)
		}
	})
}

func TestMatchModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		source, destination := generateSet(t, "source"), generateSet(t, "destination")
		a := rapid.SampledFrom(modelPoints).Draw(t, "from")
		b := rapid.SampledFrom(modelPoints).Draw(t, "to")
		b.protocol = a.protocol
		if a.port == -1 || b.port == -1 {
			a.port, b.port = -1, -1
		}
		p := Packet{Source: a.addr, Destination: b.addr, Protocol: a.protocol, NoPorts: a.port == -1}
		if !p.NoPorts {
			p.SourcePort, p.DestinationPort = uint16(a.port), uint16(b.port)
		}
		want := anyHas(source, a) && anyHas(destination, b)
		if got := Match(source, destination, p); got != want {
			t.Fatalf("%s, %s match %+v: %t, want %t", source, destination, p, got, want)
		}
		if got := Match(destination, source, p.Reversed()); got != want {
			t.Fatalf("%s, %s match %+v reversed: %t, want %t", source, destination, p, got, want)
		}
	})
}
