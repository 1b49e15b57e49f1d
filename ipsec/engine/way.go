package engine

import "net/netip"

// way is how a message comes or goes: between which ends, and whether in the TCP
// connection between them (RFC 9329).
type way struct {
	local, remote netip.AddrPort
	tcp           bool
}
