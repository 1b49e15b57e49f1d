package access

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A token is recorded once; too many at once are recorded when they come again, and what
// has expired is forgotten when memory is short.
func TestSignInsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, expire := newSignIns(), time.Now().Add(time.Hour)
		if !s.first("a", expire, time.Now()) || s.first("a", expire, time.Now()) {
			t.Error("a token is not recorded once")
		}
		recorded := 0
		for i := range 100 {
			if s.first(fmt.Sprint(i), expire, time.Now()) {
				recorded++
			}
		}
		if recorded != 29 {
			t.Errorf("of a hundred at once %d are recorded", recorded)
		}
		time.Sleep(time.Minute)
		if !s.first("99", expire, time.Now()) {
			t.Error("what was left out is not recorded when it comes again")
		}
		for i := 0; len(s.seen) < maxSignIns; i++ {
			s.seen[[32]byte{byte(i), byte(i >> 8), 1}] = expire
		}
		if s.first("b", expire, time.Now()) {
			t.Error("more are remembered than may be")
		}
		time.Sleep(time.Hour)
		if !s.first("b", time.Now().Add(time.Hour), time.Now()) || len(s.seen) != 1 {
			t.Errorf("%d are remembered after all have expired", len(s.seen))
		}
	})
}
