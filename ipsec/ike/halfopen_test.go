package ike

import (
	"runtime"
	"testing"
)

// maxHalfOpen is what a half-open responder may take, in octets. The default limit
// of 1,024 of them is then 8 MiB.
const maxHalfOpen = 8 << 10

// TestHalfOpenMemory measures what an initiator that does IKE_SA_INIT and nothing
// more makes a responder keep.
func TestHalfOpenMemory(t *testing.T) {
	for name, change := range map[string]func(a, b *Config){"PSK": nil, "certificates": withCertificates(newAuthority("CA", newEd25519))} {
		t.Run(name, func(t *testing.T) {
			w := pair(1, change)
			w.b.step(Connect{})
			w.a.step(Connect{})
			request := w.take(0).data
			const count = 1000
			kept := make([]*HalfOpen, 0, count)
			before := heap()
			for i := range count {
				data := append([]byte(nil), request...)
				data[1], data[2], data[3] = 1, byte(i), byte(i>>8)
				h, err := NewHalfOpen(w.now, HalfOpenConfig{
					Proposals: w.b.cfg.Proposals, Roots: w.b.cfg.Peer.Roots, Methods: w.b.cfg.Peer.Methods(), Runtime: w.b.cfg.Runtime,
				}, Datagram{Local: w.b.cfg.Local, Remote: w.a.cfg.Local, Data: data})
				if err != nil {
					t.Fatal(err)
				}
				for {
					e, ok := h.Next()
					if !ok {
						break
					}
					if job, ok := e.(StartJob); ok {
						h.Step(w.now, JobDone{job.Token, job.Run()})
					}
				}
				if h.Done() {
					t.Fatal("not half open")
				}
				kept = append(kept, h)
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

// heap is how many octets are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
