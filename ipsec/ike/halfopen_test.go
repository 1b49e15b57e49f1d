package ike

import (
	"runtime"
	"testing"
)

// maxHalfOpen is what a half-open responder may take, in octets. The default limit
// of 4,096 of them is then 24 MiB.
const maxHalfOpen = 6 << 10

// strangers makes half-open responders out of one request of w.a.
type strangers struct {
	w       *world
	config  *HalfOpenConfig
	request []byte
	made    uint32
}

func newStrangers(change func(a, b *Config)) *strangers {
	w := pair(1, change)
	w.b.step(Connect{})
	w.a.step(Connect{})
	cfg := w.b.t.cfg
	return &strangers{w: w, request: w.take(0).data, config: &HalfOpenConfig{
		Proposals: cfg.Proposals, Roots: cfg.Peer.Roots, Methods: cfg.Peer.Methods(), Runtime: w.b.cfg.Runtime,
	}}
}

// next returns a responder that has answered IKE_SA_INIT.
func (s *strangers) next(tb testing.TB) *HalfOpen {
	s.made++
	data := append([]byte(nil), s.request...)
	data[1], data[2], data[3] = 1, byte(s.made), byte(s.made>>8)
	h, err := NewHalfOpen(s.w.now, s.config, Datagram{Local: s.w.b.cfg.Local, Remote: s.w.a.cfg.Local, Data: data})
	if err != nil {
		tb.Fatal(err)
	}
	for {
		e, ok := h.Next()
		if !ok {
			break
		}
		if job, ok := e.(StartJob); ok {
			h.Step(s.w.now, JobDone{job.Token, job.Run()})
		}
	}
	if h.Done() {
		tb.Fatal("not half open")
	}
	return h
}

// TestHalfOpenMemory measures what an initiator that does IKE_SA_INIT and nothing
// more makes a responder keep.
func TestHalfOpenMemory(t *testing.T) {
	certificates := withCertificates(newAuthority("CA", newEd25519))
	for name, change := range map[string]func(a, b *Config){"PSK": nil, "certificates": certificates, "defaults": withDefaultsAndCertificates()} {
		t.Run(name, func(t *testing.T) {
			s := newStrangers(change)
			const count = 1000
			kept := make([]*HalfOpen, 0, count)
			before := heap()
			for range count {
				kept = append(kept, s.next(t))
			}
			each := (heap() - before) / count
			runtime.KeepAlive(kept)
			t.Logf("%d octets", each)
			if each > maxHalfOpen {
				t.Errorf("a half-open responder takes %d octets, at most %d are allowed", each, maxHalfOpen)
			}
		})
	}
}

// BenchmarkHalfOpen makes half-open responders: the time and the allocations of
// IKE_SA_INIT, and what they keep.
func BenchmarkHalfOpen(b *testing.B) {
	s := newStrangers(withDefaultsAndCertificates())
	var kept []*HalfOpen
	before := heap()
	b.ReportAllocs()
	for b.Loop() {
		kept = append(kept, s.next(b))
	}
	b.ReportMetric(float64(heap()-before)/float64(len(kept)), "B/half-open")
	runtime.KeepAlive(kept)
}

// heap is how many octets are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
