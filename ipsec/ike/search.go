package ike

import (
	"slices"
	"time"
)

// pathSearch finds out how long IP datagrams to the peer may be, by what becomes of
// probes of chosen sizes: the state machine of RFC 8899, Section 5.2. It differs from
// that in where it begins: as long as nothing speaks against what the host knows of
// the path, that holds, and is what the first probe tries. So only a path that is
// narrower than the host knows is ever treated in another way than without a search.
//
// All sizes are octets of an IP datagram with its header.
type pathSearch struct {
	phase searchPhase
	// least are the sizes to begin from where what the host knows does not hold, the
	// better one first (BASE_PLPMTU).
	least []int
	most  int // that the host would send there whole (MAX_PLPMTU)
	size  int // the longest of those tried that passed (PLPMTU), 0 for none
	exact int // how long it was: a cipher may leave no probe of just that size
	over  int // the shortest that did not pass, 0 for none
	try   int // what is tried, or was last (PROBED_SIZE)
	lost  int // how often in vain (PROBE_COUNT)
	// limit is the longest that ESP may make, 0: the host knows.
	limit   int
	raiseAt time.Time // when more than size is tried again
}

// searchPhase is one of the states of RFC 8899, Section 5.2.
type searchPhase uint8

const (
	searchOff      searchPhase = iota // DISABLED: nothing was tried on this path
	searchBase                        // what the host knows does not hold: what does?
	searching                         // size passes: does more?
	searchComplete                    // size holds, or what the host knows
	searchError                       // not even the least passes, as far as one can see
)

var phaseNames = [...]string{"", "base", "searching", "complete", "error"}

func (p searchPhase) String() string { return phaseNames[p] }

const (
	// maxProbes is how often a size is tried before it counts as too long (RFC 8899,
	// Section 5.1.2).
	maxProbes = 3
	// confirmations is how often the present size is tried again in the time after
	// which more is tried (RFC 8899, Section 5.1.1).
	confirmations = 5
	// longestProbe bounds what is tried: beyond usual jumbo frames the next octet
	// gains nothing.
	longestProbe = 9216
)

// likelySizes are the MTUs that paths have, from the host's down to the least that is
// begun from: a search among them takes few probes (RFC 8899, Section 5.3.2).
var likelySizes = []int{
	576, 1006, 1200, 1280,
	1300, 1320, 1340, 1358, 1380, 1400, 1412, 1420, 1430, 1440, 1450, 1454, 1460, 1472, 1476, 1480, 1488, 1492, 1500,
	1600, 2000, 4000, 4352, 4470, 8500, 8896, 8950, 9000,
}

// begin decides what to try, when it is time to look at the path: most is what the
// host knows. It returns 0 if that is nothing.
func (s *pathSearch) begin(most int, now time.Time) int {
	s.most, s.lost = min(most, longestProbe), 0
	s.size = min(s.size, s.most)
	raise := !now.Before(s.raiseAt)
	switch {
	case s.most < s.least[len(s.least)-1]:
		return 0
	case s.phase == searchBase || s.phase == searching: // interrupted
		s.try = min(s.try, s.most)
	case s.phase == searchError:
		if !raise {
			return 0
		}
		s.phase, s.try = searchBase, s.base()
	case s.limit == 0:
		s.phase, s.try = searchComplete, s.most
	case raise:
		s.over = 0
		s.try = s.above(s.size)
	default:
		s.try = s.size
	}
	return s.try
}

// passed takes that the size tried arrived, as a datagram of exact octets. It returns
// what to try next, 0 for nothing more.
func (s *pathSearch) passed(exact int, now time.Time, raise time.Duration) int {
	s.size, s.exact, s.lost = s.try, exact, 0
	if next := s.next(); next != 0 {
		s.phase, s.try, s.limit = searching, next, exact
		return next
	}
	s.complete(now, raise)
	return 0
}

// failed takes that it did not arrive; for sure says that it cannot. It returns what
// to try next.
func (s *pathSearch) failed(sure bool, now time.Time, raise time.Duration) int {
	if s.lost++; s.lost < maxProbes && !sure {
		return s.try
	}
	s.lost, s.over = 0, s.try
	switch {
	case s.phase == searchComplete && s.try > s.size && s.limit != 0, s.phase == searching:
		// More than what passes does not.
		if next := s.next(); next != 0 {
			s.phase, s.try = searching, next
			return next
		}
		s.complete(now, raise)
		return 0
	case s.phase == searchComplete: // a black hole (RFC 8899, Section 4.3)
		s.phase, s.size, s.raiseAt = searchBase, 0, time.Time{}
		s.limit = s.base()
	}
	if s.try = s.base(); s.try == 0 {
		s.phase, s.size, s.over, s.limit, s.raiseAt = searchError, 0, 0, 0, now.Add(raise)
	}
	s.limit = min(s.limit, s.try)
	return s.try
}

// base is the best size to begin from that did not fail, 0 if there is none.
func (s *pathSearch) base() int {
	for _, size := range s.least {
		if size <= s.most && (s.over == 0 || size < s.over) {
			return size
		}
	}
	return 0
}

func (s *pathSearch) complete(now time.Time, raise time.Duration) {
	s.phase, s.limit = searchComplete, s.exact
	if s.exact >= s.most {
		s.limit = 0
	}
	if !now.Before(s.raiseAt) { // not a confirmation
		s.raiseAt = now.Add(raise)
	}
}

// next chooses a size between what passes and what does not, 0 if there is none: the
// most at first, then the middle one of those that are likely.
func (s *pathSearch) next() int {
	if s.size >= s.most {
		return 0
	}
	if s.over == 0 || s.over > s.most {
		return s.most // it was not tried
	}
	between := slices.DeleteFunc(slices.Clone(likelySizes), func(n int) bool { return n <= s.size || n >= s.over })
	if len(between) == 0 {
		return 0
	}
	return between[len(between)/2]
}

// above is the next likely size.
func (s *pathSearch) above(size int) int {
	for _, n := range likelySizes {
		if n > size && n < s.most {
			return n
		}
	}
	return s.most
}
