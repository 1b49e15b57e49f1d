package ike

import (
	"math"
	"testing"
	"time"
)

// TestLifetimesVary holds that SAs made together are not all replaced together,
// whatever limits them, that the limit is never overstepped unless replacing
// fails, and that the end that made an SA goes first (RFC 7296, Section 2.8).
func TestLifetimesVary(t *testing.T) {
	const life, over, rounds = time.Hour, 6 * time.Minute, 200
	w := pair(1, func(a, _ *Config) { a.Timing.Jitter = 0.25 })
	tunnel := w.a.t
	cfg := &ChildConfig{RekeyBytes: 1 << 30, RekeyPackets: 1 << 20}
	seen := map[string]map[uint64]bool{"time": {}, "octets": {}, "packets": {}}
	within := func(what string, n, least, most uint64) {
		t.Helper()
		if n < least || n > most {
			t.Errorf("%s: %d is not between %d and %d", what, n, least, most)
		}
		if seen[what] != nil {
			seen[what][n] = true
		}
	}
	for range rounds {
		rekey, expire := tunnel.lifetime(life, true)
		within("time", uint64(rekey.Sub(tunnel.now)), uint64(life)*3/4, uint64(life))
		within("end", uint64(expire.Sub(tunnel.now)), uint64(life+over), uint64(life+over))
		rekey, _ = tunnel.lifetime(life, false)
		within("time of the other end", uint64(rekey.Sub(tunnel.now)), uint64(life+over/2), uint64(life+over/2))
		l := tunnel.limits(cfg)
		within("octets", l.SoftBytes, 3<<28, 1<<30)
		within("end by octets", l.HardBytes, 1<<30+1<<30/10, 1<<30+1<<30/10)
		within("packets", l.SoftPackets, 3<<18, 1<<20)
		within("end by packets", l.HardPackets, 1<<20+1<<20/10, 1<<20+1<<20/10)
	}
	for what, values := range seen {
		if len(values) < rounds*9/10 {
			t.Errorf("%s: %d values in %d SAs", what, len(values), rounds)
		}
	}
}

func TestLimitsOfVolume(t *testing.T) {
	tunnel := pair(1, nil).a.t
	for _, c := range []struct{ limit, hard uint64 }{
		{0, 0}, // none
		{1, 1},
		{10, 11},
		{1 << 40, 1<<40 + 1<<40/10},
		{math.MaxUint64 / 11 * 10, math.MaxUint64/11*10 + math.MaxUint64/11},
		{math.MaxUint64 - 5, math.MaxUint64},
		{math.MaxUint64, math.MaxUint64},
	} {
		l := tunnel.limits(&ChildConfig{RekeyBytes: c.limit, RekeyPackets: c.limit})
		if l.HardBytes != c.hard || l.HardPackets != c.hard {
			t.Errorf("limit %d: ends at %d and %d, want %d", c.limit, l.HardBytes, l.HardPackets, c.hard)
		}
		if l.SoftBytes > c.limit || l.SoftPackets > c.limit || c.limit > 0 && (l.SoftBytes == 0 || l.SoftPackets == 0) {
			t.Errorf("limit %d: replaced at %d and %d", c.limit, l.SoftBytes, l.SoftPackets)
		}
	}
}
