package session

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// connectTimeout bounds the wait for a connection. When many come at a time the controller's
// kernel drops some, and ours repeats at a growing distance, up to half a minute; a try of
// our own is sooner.
const connectTimeout = 5 * time.Second

// Connect makes the TCP connection of a session.
func Connect(ctx context.Context, endpoint string) (net.Conn, error) {
	return ConnectFrom(ctx, netip.Addr{}, endpoint)
}

// ConnectFrom makes it from an address of this host or, with the zero Addr, from that which
// routing chooses.
func ConnectFrom(ctx context.Context, from netip.Addr, endpoint string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	return d.DialContext(ctx, "tcp", endpoint)
}
