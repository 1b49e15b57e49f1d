package nat

import (
	"net/netip"

	"github.com/pion/stun/v3"
)

// room makes a request at least as long as its answer, which servers of the controller insist
// on: 4 octets of attribute header and an XOR-MAPPED-ADDRESS of IPv6 (RFC 8489, Section 14.2).
const room = "swanherd-edge (RFC 8489)"

// requestOf is a Binding request of a transaction.
func requestOf(transaction [stun.TransactionIDSize]byte) []byte {
	return stun.MustBuild(stun.NewTransactionIDSetter(transaction), stun.BindingRequest, stun.NewSoftware(room)).Raw
}

// mappedIn is where a request came from, as its answer says; ok is false if it says nothing
// that could be true.
func mappedIn(answer []byte) (mapped netip.AddrPort, ok bool) {
	var m stun.Message
	var attr stun.XORMappedAddress
	if stun.Decode(answer, &m) != nil || m.Type != stun.BindingSuccess || attr.GetFrom(&m) != nil {
		return netip.AddrPort{}, false
	}
	addr, valid := netip.AddrFromSlice(attr.IP)
	addr = addr.Unmap()
	if !valid || addr.IsUnspecified() || addr.IsMulticast() || attr.Port <= 0 || attr.Port > 65535 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, uint16(attr.Port)), true
}
