package server

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
)

// A handshake of an edge costs a millisecond of a processor, and a fleet may come back all
// at once. Those that are begun are few enough to be done before their edges give up, also
// when processors are scarce; the others wait, which costs next to nothing, and who waited
// for long comes again later.
const (
	// maxHandshakes bounds the handshakes at a time, those of a second over long ways.
	maxHandshakes    = 256
	handshakeTimeout = 5 * time.Second
	// maxWaiting bounds the connections that wait for theirs, and handshakeWait how long.
	maxWaiting    = 16384
	handshakeWait = 10 * time.Second
)

var errHandshakes = errors.New("too many handshakes at a time")

// boundedHandshakes has connections wait while too many are in their handshake.
type boundedHandshakes struct {
	credentials.TransportCredentials
	*handshakes
}

// handshakes is what clones of boundedHandshakes share.
type handshakes struct {
	slots   chan struct{} // holds one for each handshake
	wait    time.Duration
	waiting atomic.Int64
}

func boundHandshakes(c credentials.TransportCredentials, most int, wait time.Duration) credentials.TransportCredentials {
	return boundedHandshakes{c, &handshakes{slots: make(chan struct{}, most), wait: wait}}
}

// ServerHandshake implements credentials.TransportCredentials.
func (b boundedHandshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := b.enter(); err != nil {
		return nil, nil, err
	}
	defer func() { <-b.slots }()
	if err := raw.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, nil, err
	}
	return b.TransportCredentials.ServerHandshake(raw)
}

// enter waits for a slot.
func (h *handshakes) enter() error {
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > maxWaiting {
		return errHandshakes
	}
	timer := time.NewTimer(h.wait)
	defer timer.Stop()
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return errHandshakes
	}
}

// Clone implements credentials.TransportCredentials; clones share the bound.
func (b boundedHandshakes) Clone() credentials.TransportCredentials {
	return boundedHandshakes{b.TransportCredentials.Clone(), b.handshakes}
}
