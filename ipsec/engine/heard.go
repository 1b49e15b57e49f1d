package engine

import (
	"net/netip"
	"sync"
	"time"
)

// heardTime is how long it is at least remembered that a peer was heard: longer than a
// request is repeated.
const heardTime = time.Minute

// heard is from where authentic messages came by UDP, and when, for all tunnels: a peer
// that answers one of them can be reached by UDP, and is busy if it does not answer
// another.
type heard struct {
	mu sync.Mutex
	// recent is what came since turned, former what came before that.
	recent, former map[udpPath]time.Time
	turned         time.Time
}

// udpPath is between which ends datagrams go.
type udpPath struct {
	local  netip.Addr
	remote netip.AddrPort
}

func pathOf(local netip.Addr, remote netip.AddrPort) udpPath {
	return udpPath{local.Unmap(), netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}
}

func (h *heard) note(p udpPath, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.recent == nil || now.Sub(h.turned) > heardTime {
		h.recent, h.former, h.turned = map[udpPath]time.Time{}, h.recent, now
	}
	h.recent[p] = now
}

// since says how long ago the other end was heard, false if nobody remembers.
func (h *heard) since(local netip.Addr, remote netip.AddrPort) (time.Duration, bool) {
	p := pathOf(local, remote)
	h.mu.Lock()
	defer h.mu.Unlock()
	at, ok := h.recent[p]
	if !ok {
		at, ok = h.former[p]
	}
	return time.Since(at), ok
}
