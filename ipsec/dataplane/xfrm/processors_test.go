package xfrm

import (
	"slices"
	"testing"
)

func TestParseCPUs(t *testing.T) {
	for text, want := range map[string][]uint32{
		"0": {0}, "0-3": {0, 1, 2, 3}, "0,2-3,8": {0, 2, 3, 8},
		"": nil, "a": nil, "1-": nil, "-1": nil, "0-70000": nil, "0;1": nil,
	} {
		got, err := parseCPUs(text)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
}

// TestQueuesBeyondCPUs has more queues than there are CPUs.
func TestQueuesBeyondCPUs(t *testing.T) {
	p := &Plane{cpus: []uint32{0, 2}, given: map[uint32]bool{}}
	c := &child{}
	for queue, want := range []uint32{anyCPU, 0, 2, 0, 2} {
		a := &association{cpu: anyCPU}
		a.Queue = queue
		if shares := p.joins(c, a); shares != (queue > 0) || a.cpu != want {
			t.Errorf("queue %d has CPU %d and shares: %v, want CPU %d", queue, int32(a.cpu), shares, int32(want))
		}
		c.outbound = append(c.outbound, a)
		if every := p.everyCPU(c); every != (queue >= 2) {
			t.Errorf("with queue %d every CPU has an SA: %v", queue, every)
		}
	}
}
