package xfrm

import (
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// paths are the tunnels of whose path is known that less arrives than the kernel would
// send. The kernel takes the MTU of a path from its routes alone: that to the peer is not
// ours, those into the interface are the caller's.
type paths struct {
	limits  map[string]int // octets of an outer datagram, by tunnel
	changed chan struct{}  // holds one
}

func newPaths() paths {
	return paths{limits: map[string]int{}, changed: make(chan struct{}, 1)}
}

// set takes what is known of the path of a tunnel, 0 for nothing.
func (x *paths) set(tunnel string, mtu int) {
	if x.limits[tunnel] == mtu {
		return
	}
	if mtu == 0 {
		delete(x.limits, tunnel)
	} else {
		x.limits[tunnel] = mtu
	}
	x.tell()
}

// tell has the caller look at the routes.
func (x *paths) tell() {
	select {
	case x.changed <- struct{}{}:
	default:
	}
}

// InnerMTUs implements dataplane.RoutedPlane.
func (p *Plane) InnerMTUs() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]int, len(p.paths.limits))
	if len(p.paths.limits) == 0 {
		return out
	}
	for _, a := range p.sas {
		limit := p.paths.limits[a.Tunnel]
		if limit == 0 || a.Direction != dataplane.Outbound || a.Mode != dataplane.Tunnel {
			continue
		}
		inner := a.InnerMTU(limit)
		if least, there := out[a.Tunnel]; inner > 0 && (!there || inner < least) {
			out[a.Tunnel] = inner
		}
	}
	for tunnel := range p.paths.limits {
		if _, there := out[tunnel]; !there {
			delete(p.paths.limits, tunnel) // it has no SAs any more
		}
	}
	return out
}

// InnerMTUsChanged implements dataplane.RoutedPlane.
func (p *Plane) InnerMTUsChanged() <-chan struct{} { return p.paths.changed }
