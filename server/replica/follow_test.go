package replica

import "testing"

// A replica that the store does not answer takes others for better off when one says so, or
// when it reaches none; not when all are as lost as it is, nor when it is alone.
func TestGoesOnElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		peers []followee
		want  bool
	}{
		"alone":                        {nil, false},
		"one has the store":            {[]followee{{reached: true, stale: true}, {reached: true}}, true},
		"none has the store":           {[]followee{{reached: true, stale: true}, {reached: true, stale: true}}, false},
		"none is reached":              {[]followee{{}, {}}, true},
		"what is reached is no better": {[]followee{{}, {reached: true, stale: true}}, false},
	} {
		f := &Follower{}
		for i, p := range c.peers {
			f.note(string(rune('a'+i)), p)
		}
		if got := f.GoesOnElsewhere(); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
		for i := range c.peers {
			f.forget(string(rune('a' + i)))
		}
		if f.GoesOnElsewhere() {
			t.Errorf("%s: somebody is left", name)
		}
	}
}
