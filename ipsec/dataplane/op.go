package dataplane

import "net/netip"

// Op is one change of the data plane: [InstallSA], [RemoveSA], [SetPolicy],
// [RemovePolicy], [UpdateEndpoints] or [SetPathMTU].
type Op interface {
	// Owner is the name of the tunnel that the change is for.
	Owner() string
	op()
}

// RemoveSA removes an SA, or releases an inbound SPI that was only reserved.
type RemoveSA struct {
	Tunnel    string
	SPI       uint32
	Direction Direction
}

// RemovePolicy removes a policy. SAs stay.
type RemovePolicy struct{ Tunnel, Child string }

// UpdateEndpoints moves every SA of a tunnel, in both directions and as one
// change, to other outer addresses and ports (RFC 7296, Section 2.23; RFC
// 4555, Section 3.5). Counters, windows and sequence numbers go on; what was known of
// the path by SetPathMTU does not.
type UpdateEndpoints struct {
	Tunnel        string
	Local, Remote netip.AddrPort
	TCP           bool // as in SA
}

// SetPathMTU says of every SA of a tunnel what SA.PathMTU says, because something was
// found out about the path (RFC 8899).
type SetPathMTU struct {
	Tunnel string
	MTU    int
}

// Owner implements Op.
func (o RemoveSA) Owner() string { return o.Tunnel }

// Owner implements Op.
func (o RemovePolicy) Owner() string { return o.Tunnel }

// Owner implements Op.
func (o UpdateEndpoints) Owner() string { return o.Tunnel }

// Owner implements Op.
func (o SetPathMTU) Owner() string { return o.Tunnel }

func (RemoveSA) op()        {}
func (RemovePolicy) op()    {}
func (UpdateEndpoints) op() {}
func (SetPathMTU) op()      {}
