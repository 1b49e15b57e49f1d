package session

import (
	"context"
	"net"
	"time"
)

// connectTimeout bounds the wait for a connection. When many come at a time the controller's
// kernel drops some, and ours repeats at a growing distance, up to half a minute; a try of
// our own is sooner.
const connectTimeout = 5 * time.Second

// Connect makes the TCP connection of a session.
func Connect(ctx context.Context, endpoint string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout}
	return d.DialContext(ctx, "tcp", endpoint)
}
