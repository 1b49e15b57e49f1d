package server

import (
	"errors"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

// maxHandshakes bounds the connections of edges that have not proved yet who they are. A
// fleet that comes back all at once is more: who is turned away comes again soon, and those
// that are let in are done before they give up.
const maxHandshakes = 4096

// handshakeTimeout is how long one may take, the wait for a processor included.
const handshakeTimeout = 10 * time.Second

var errHandshakes = errors.New("too many handshakes at a time")

// boundedHandshakes turns connections away while too many are in their handshake.
type boundedHandshakes struct {
	credentials.TransportCredentials
	slots chan struct{} // holds one for each handshake
}

func boundHandshakes(c credentials.TransportCredentials, most int) credentials.TransportCredentials {
	return boundedHandshakes{c, make(chan struct{}, most)}
}

// ServerHandshake implements credentials.TransportCredentials.
func (b boundedHandshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
		return b.TransportCredentials.ServerHandshake(raw)
	default:
		return nil, nil, errHandshakes
	}
}

// Clone implements credentials.TransportCredentials; clones share the bound.
func (b boundedHandshakes) Clone() credentials.TransportCredentials {
	return boundedHandshakes{b.TransportCredentials.Clone(), b.slots}
}
