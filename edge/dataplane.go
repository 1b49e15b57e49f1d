package edge

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
)

// DataPlane is how packets are to be moved.
type DataPlane string

// The choices of an operator.
const (
	DataPlaneAuto      DataPlane = "auto"
	DataPlaneUserspace DataPlane = "userspace"
	DataPlaneKernel    DataPlane = "kernel"
)

// chooseDataPlane returns the name of the data plane to use, and in one line
// why it is that one. The kernel's is taken if it can do all that is asked for;
// probe says why it cannot run, or not with ESP in TCP.
func chooseDataPlane(c Config, probe func(tcp bool) error) (name DataPlane, reason string, err error) {
	switch DataPlane(strings.ToLower(string(c.DataPlane))) {
	case DataPlaneAuto, "":
		if c.TCPPort != 0 {
			return DataPlaneUserspace, "the kernel's ESP in TCP, where it has it, loses what it forwards; with --tcp-port 0 it may be used", nil
		}
		if err := probe(false); err != nil {
			return DataPlaneUserspace, "not the kernel: " + err.Error(), nil
		}
		return DataPlaneKernel, "the kernel has what is needed", nil
	case DataPlaneUserspace:
		return DataPlaneUserspace, "as configured", nil
	case DataPlaneKernel:
		if err := probe(false); err != nil {
			return "", "", fmt.Errorf("data plane %q: %w; use --data-plane userspace or auto", c.DataPlane, err)
		}
		if c.TCPPort == 0 {
			return DataPlaneKernel, "as configured", nil
		}
		if err := probe(true); err != nil {
			return "", "", fmt.Errorf("data plane %q: %w; use it with --tcp-port 0, or --data-plane userspace", c.DataPlane, err)
		}
		return DataPlaneKernel, "as configured", nil
	}
	return "", "", fmt.Errorf("data plane %q is unknown; use auto, kernel or userspace", c.DataPlane)
}

// hostPlane is a data plane of this host: packets for it are routed into its
// interface.
type hostPlane interface {
	dataplane.Plane
	Interface() string
	// Workers is how many processors carry packets, each with SAs of its own.
	Workers() int
	// Failed gets an error when it can move packets no more.
	Failed() <-chan error
}

// mark is on what the agent sends outside, for a data plane to which the host's own
// packets are led by a rule.
func mark(name DataPlane) uint32 {
	if name == DataPlaneUserspace {
		return hostnet.Mark
	}
	return 0
}

// openDataPlane starts a data plane on all addresses.
func openDataPlane(name DataPlane, c Config, segments []*segmentPlace, logger *slog.Logger) (hostPlane, error) {
	listen := netip.AddrPortFrom(netip.Addr{}, DefaultNATPort)
	// A nil pointer must not become an interface that is not nil.
	if name == DataPlaneKernel {
		p, err := xfrm.New(xfrm.Config{Interface: c.Interface, Labels: labels(segments, c.Interface), Listen: listen, Workers: c.Workers, Offload: c.ESPOffload, Logger: logger})
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	if err := xfrm.Remove(c.Interface, labels(segments, c.Interface)...); err != nil {
		return nil, err
	}
	p, err := userspace.New(userspace.Config{Interface: c.Interface, Listen: listen, Workers: c.Workers, Mark: mark(name), Labels: labels(segments, c.Interface), Logger: logger})
	if err != nil {
		return nil, err
	}
	return p, nil
}
