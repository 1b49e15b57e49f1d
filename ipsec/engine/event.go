package engine

import (
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
)

// Event is something that happened to a tunnel.
type Event struct {
	Time   time.Time
	Tunnel string
	// What is one of ike.IKEUp, ike.IKEDown, ike.IKESuspect, ike.IKEMoved, ike.IKERekeyed, ike.PathMTU, ike.ChildUp,
	// ike.ChildDown, ike.ChildRekeyed, ike.Configured, ike.Failed and ike.Closed, or Panicked.
	What any
	// Replaced counts the earlier events of this tunnel that this reader was
	// too slow for.
	Replaced int
}

// Panicked says that the tunnel's machine panicked: a defect. Its SAs are
// gone, its policies stay and drop what they protect; Apply starts it anew.
type Panicked struct{ Value string }

// TunnelStatus is what a tunnel was when it last changed.
type TunnelStatus struct {
	ike.Status
	// Refused is why the latest attempt from the peer's configured address was
	// refused before it proved who it is, nil once the tunnel is up. Anybody
	// who can send from that address can cause it: it explains and decides
	// nothing.
	Refused *ike.Error
	// Panicked is what its machine panicked with, empty while it runs.
	Panicked string
}
