package xfrm

import (
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestLookingIsBounded looks after 5,000 SAs that receive nothing for two minutes: what
// it costs sinks, each is still looked at, and a new one does not wait for them.
func TestLookingIsBounded(t *testing.T) {
	const sas = 5000
	p := &Plane{watched: newWatched()}
	add := func(spi uint32) *association {
		a := &association{SA: dataplane.SA{Direction: dataplane.Inbound, SPI: spi}}
		p.watch(a)
		return a
	}
	for i := range sas {
		add(uint32(dataplane.MinSPI + i))
	}
	now := time.Unix(1e9, 0)
	last := map[*association]time.Time{}
	looks := 0
	round := func() (due []*association) {
		now = now.Add(watchInterval)
		due = p.due(now)
		if len(due) > lookRound {
			t.Fatalf("%d SAs are looked at in one round, at most %d may be", len(due), lookRound)
		}
		for _, a := range due {
			last[a] = now
			looks++
		}
		return due
	}
	for range 20 * time.Second / watchInterval {
		round()
	}
	fresh := add(1)
	if !slices.Contains(round(), fresh) {
		t.Error("a new SA waits for those that are idle")
	}
	p.unwatch(fresh)
	delete(last, fresh)
	for range 70 * time.Second / watchInterval {
		round()
	}
	looks = 0
	const span = 30 * time.Second
	for range span / watchInterval {
		round()
	}
	if most := sas * int(span/lastLook) * 11 / 10; looks > most {
		t.Errorf("%d looks in %v, at most %d are due", looks, span, most)
	}
	for a := range p.unused {
		if ago := now.Sub(last[a]); ago > 3*lastLook/2 {
			t.Fatalf("SA %d was looked at %v ago", a.SPI, ago)
		}
	}
}
