package ike

import (
	"math/rand/v2"
	"testing"
	"time"
)

// searched runs a search over a path that takes datagrams of up to mtu octets and loses a
// part of the others, until nothing is to be tried. It returns how many probes went.
func searched(t *testing.T, s *pathSearch, host, mtu int, loss func() bool, now time.Time) (probes int) {
	t.Helper()
	for try := s.begin(host, now); try != 0; probes++ {
		if try > s.most || try < leastDatagram {
			t.Fatalf("path of %d, host knows %d: tries %d", mtu, host, try)
		}
		if probes > 100 {
			t.Fatalf("path of %d, host knows %d: more than 100 probes: %+v", mtu, host, s)
		}
		if try <= mtu && !loss() {
			try = s.passed(try, now, time.Hour)
		} else {
			try = s.failed(false, now, time.Hour)
		}
	}
	return probes
}

// foundOn is what is to be found: what the host knows if that passes, else the longest
// likely size.
func foundOn(mtu, host int) (found int) {
	host = min(host, longestProbe)
	if mtu >= host {
		return host
	}
	for _, n := range likelySizes {
		if n <= mtu && n < host {
			found = n
		}
	}
	return found
}

func never() bool { return false }

func newSearch() *pathSearch { return &pathSearch{least: []int{DefaultDatagram, leastDatagram}} }

// TestSearchFinds: for every MTU of a path, what is found passes and is the longest
// likely one that does, or less than the host knows by none.
func TestSearchFinds(t *testing.T) {
	most := 0
	for _, host := range []int{1280, 1400, 1500, 9000, 65535} {
		for mtu := leastDatagram; mtu <= min(host, longestProbe)+1; mtu++ {
			s := newSearch()
			most = max(most, searched(t, s, host, mtu, never, epoch))
			want := foundOn(mtu, host)
			if s.size != want || s.phase != searchComplete {
				t.Fatalf("path of %d, host knows %d: found %d (%s), want %d", mtu, host, s.size, s.phase, want)
			}
			if limited := s.limit != 0; limited != (s.size < min(host, longestProbe)) || limited && s.limit != s.size {
				t.Fatalf("path of %d, host knows %d: limit %d with %d found", mtu, host, s.limit, s.size)
			}
		}
	}
	if most > 28 {
		t.Errorf("up to %d probes", most)
	}
	t.Logf("at most %d probes", most)
}

// TestSearchFollows: the path changes and loses probes; once it loses none for a while,
// what is believed is right.
func TestSearchFollows(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		s, now := newSearch(), epoch
		for range 10 {
			host, mtu := 576+rng.IntN(1000), 576+rng.IntN(1000)
			loss := rng.Float64() / 2
			for range 5 {
				now = now.Add(10 * time.Minute)
				searched(t, s, host, mtu, func() bool { return rng.Float64() < loss }, now)
			}
			for range 8 {
				now = now.Add(10 * time.Minute)
				searched(t, s, host, mtu, never, now)
			}
			believed := host
			if s.limit != 0 {
				believed = min(believed, s.limit)
			}
			if believed > mtu {
				t.Fatalf("path of %d, host knows %d: %d is believed: %+v", mtu, host, believed, s)
			}
			if want := foundOn(mtu, host); believed < want {
				t.Fatalf("path of %d, host knows %d: %d is believed, %d passes: %+v", mtu, host, believed, want, s)
			}
		}
	}
}

// TestSearchGivesUp: if nothing passes, what the host knows holds, and it takes until the
// next time for more before anything is tried again.
func TestSearchGivesUp(t *testing.T) {
	s := newSearch()
	if n := searched(t, s, 1500, 100, never, epoch); n != 3*maxProbes || s.phase != searchError || s.limit != 0 {
		t.Errorf("%d probes, %s, limit %d", n, s.phase, s.limit)
	}
	if n := searched(t, s, 1500, 100, never, epoch.Add(time.Minute)); n != 0 {
		t.Errorf("%d probes after a minute", n)
	}
	if n := searched(t, s, 1500, 100, never, epoch.Add(time.Hour)); n != 2*maxProbes || s.limit != 0 {
		t.Errorf("%d probes after an hour, limit %d", n, s.limit)
	}
	if searched(t, s, 1500, 1400, never, epoch.Add(2*time.Hour)); s.limit != 1400 {
		t.Errorf("limit %d after the path was mended, want 1400", s.limit)
	}
	if n := searched(t, newSearch(), 500, 500, never, epoch); n != 0 {
		t.Errorf("%d probes on a link of 500 octets", n)
	}
}
