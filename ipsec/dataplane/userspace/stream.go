package userspace

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// ESP in TCP (RFC 9329) is for networks that block UDP: the connections are
// somebody else's, there is no segmentation offload, and each packet is copied. DSCP
// and ECN stay with the inner packets (Sections 9.3 and 9.5).

// streamPath is the connection that the packets at hand come from.
type streamPath struct {
	local, remote netip.AddrPort
	set           bool
}

// JoinStreams implements dataplane.StreamPlane.
func (p *Plane) JoinStreams(send dataplane.StreamSend) (dataplane.StreamReceive, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, dataplane.ErrClosed
	}
	if !p.streams.CompareAndSwap(nil, &send) {
		return nil, errors.New("join streams: the data plane has joined some")
	}
	return p.streamed.receive, nil
}

// streamReceiver is the receiver for packets of all streams.
type streamReceiver struct {
	mu       sync.Mutex
	closed   bool
	receiver *receiver
}

// sendStream sends the packets of a group one by one.
func (t *transmitter) sendStream(e *endpoint, g *group) {
	send := *t.plane.streams.Load()
	for rest := g.buf; len(rest) > 0; {
		n := min(g.size, len(rest))
		if send(e.local, e.remote, rest[:n]) != nil {
			t.plane.stats.sendErrors.Add(1)
		}
		rest = rest[n:]
	}
}

// receive takes packets of a connection.
func (s *streamReceiver) receive(local, remote netip.AddrPort, packets [][]byte) (known, forged int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return len(packets), 0
	}
	r := s.receiver
	r.now, r.class, r.forged = time.Now(), 0, 0
	r.stream = streamPath{
		local:  netip.AddrPortFrom(local.Addr().Unmap(), local.Port()),
		remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()),
		set:    true,
	}
	for _, b := range packets {
		if len(b) < minESP {
			r.plane.stats.malformed.Add(1)
			continue
		}
		if r.protected(binary.BigEndian.Uint32(b), b[:len(b):len(b)]) {
			known++
		}
	}
	r.finish()
	r.stream.set = false
	return known, r.forged
}

// close waits for packets of streams that are being handled; later ones are
// dropped.
func (s *streamReceiver) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}
