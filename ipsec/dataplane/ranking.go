package dataplane

import (
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ts"
)

const (
	// MaxTrafficClasses is how many classes a Ranking may have.
	MaxTrafficClasses = 64
	// Unranked is the rank of a tunnel that a Ranking does not name.
	Unranked = 255
)

// Ranking says which of several tunnels a packet takes that policies of each match alike:
// policies of equal priority, and of remote prefixes of equal length, as those of tunnels
// have that lead to one place by different ways. One that has an SA goes before one that
// has none, and then the lower rank goes first. Tunnels of equal rank share the flows:
// each packet of a flow takes the same one, and a flow takes another one only when its own
// is no longer among the first, or a new one of these is to have its share. Those that are
// Unranked go last, the one first whose policy was set first.
//
// It moves only what is sent. What the peer sends is received on any SA.
type Ranking struct {
	// Classes of traffic: a packet is of the first that matches it, or of none.
	Classes []TrafficClass
	// Ranks of each tunnel, for packets of each of the classes, and behind these for
	// packets of none.
	Ranks map[string][]uint8
}

// TrafficClass matches packets by what they have inside of the tunnel.
type TrafficClass struct {
	// LocalTS and RemoteTS are matched with source and destination. Empty: any.
	LocalTS, RemoteTS []ts.Selector
	// DSCP lists code points (RFC 2474), below 64; empty: any.
	DSCP []uint8
}

// RankingPlane is a Plane that chooses by ranks. Without a Ranking all are Unranked.
type RankingPlane interface {
	Plane

	// SetRanking takes the place of the Ranking before. An invalid one is refused, and
	// changes nothing.
	SetRanking(Ranking) error

	// TakesClasses reports whether the plane tells packets of different classes, and
	// flows, apart. One that does not has all take the first way of those of no class.
	TakesClasses() bool
}

// Validate says what is wrong with r, nil if nothing is.
func (r *Ranking) Validate() error {
	if n := len(r.Classes); n > MaxTrafficClasses {
		return fmt.Errorf("ranking: %d classes of traffic, at most %d are possible", n, MaxTrafficClasses)
	}
	for i, c := range r.Classes {
		for _, s := range slices.Concat(c.LocalTS, c.RemoteTS) {
			if err := s.Validate(); err != nil {
				return fmt.Errorf("ranking: class %d: %w", i, err)
			}
		}
		for _, point := range c.DSCP {
			if point >= 64 {
				return fmt.Errorf("ranking: class %d: DSCP %d: a code point is below 64 (RFC 2474)", i, point)
			}
		}
	}
	for tunnel, ranks := range r.Ranks {
		if len(ranks) != len(r.Classes)+1 {
			return fmt.Errorf("ranking: tunnel %s has %d ranks for %d classes: give one for each and one for what is of none", tunnel, len(ranks), len(r.Classes))
		}
	}
	return nil
}

// Class returns the place in Classes of a packet with that code point, len(Classes) if it
// is of none.
func (r *Ranking) Class(p ts.Packet, dscp uint8) int {
	for i, c := range r.Classes {
		from, to := c.LocalTS, c.RemoteTS
		if len(from) == 0 {
			from = everything
		}
		if len(to) == 0 {
			to = everything
		}
		if (len(c.DSCP) == 0 || slices.Contains(c.DSCP, dscp)) && ts.Match(from, to, p) {
			return i
		}
	}
	return len(r.Classes)
}

// Rank of a tunnel for packets of a class.
func (r *Ranking) Rank(tunnel string, class int) uint8 {
	if ranks, ok := r.Ranks[tunnel]; ok {
		return ranks[class]
	}
	return Unranked
}

// everything matches any packet of either family.
var everything = func() []ts.Selector {
	var all []ts.Selector
	for _, text := range []string{"0.0.0.0/0", "::/0"} {
		s, err := ts.Parse(text)
		if err != nil {
			panic(err)
		}
		all = append(all, s)
	}
	return all
}()
