package edge

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
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
// why it is that one.
func chooseDataPlane(wanted DataPlane) (name DataPlane, reason string, err error) {
	switch DataPlane(strings.ToLower(string(wanted))) {
	case DataPlaneAuto, "":
		return DataPlaneUserspace, "this build of the agent has no kernel data plane", nil
	case DataPlaneUserspace:
		return DataPlaneUserspace, "as configured", nil
	case DataPlaneKernel:
		return "", "", fmt.Errorf("data plane %q: this build of the agent has no kernel data plane; use --data-plane userspace or auto", wanted)
	}
	return "", "", fmt.Errorf("data plane %q is unknown; use auto or userspace", wanted)
}

// openDataPlane starts the userspace data plane on all addresses.
func openDataPlane(c Config, logger *slog.Logger) (*userspace.Plane, error) {
	return userspace.New(userspace.Config{
		Interface: c.Interface,
		Listen:    netip.AddrPortFrom(netip.Addr{}, DefaultNATPort),
		Logger:    logger,
	})
}
