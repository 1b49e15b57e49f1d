package hostnet

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaceDir is where `ip netns` keeps named network namespaces.
const namespaceDir = "/run/netns"

// A Namespace is a network namespace of this host beside the agent's own: where the LANs
// of a segment are, and no uplink. What is in it has interfaces, addresses, routes and
// neighbours of its own, so that they may be the same as elsewhere.
type Namespace struct {
	name string
	fd   netns.NsHandle
}

// OpenNamespace opens a network namespace by its name below /run/netns, or its path. It is
// an error if it is the agent's own.
func OpenNamespace(name string) (*Namespace, error) {
	path := name
	if !strings.Contains(name, "/") {
		path = filepath.Join(namespaceDir, name)
	}
	fd, err := netns.GetFromPath(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("network namespace %s does not exist; make it and move the segment's LAN interfaces into it: ip netns add %[1]s; ip link set INTERFACE netns %[1]s", name)
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", name, err)
	}
	n := &Namespace{name: name, fd: fd}
	own, err := netns.Get()
	if err == nil {
		defer own.Close()
		if own.Equal(fd) {
			err = errors.New("it is the agent's own, which has the uplinks")
		} else {
			err = n.Do(func() error { return nil }) // whether it is one at all
		}
	}
	if err != nil {
		fd.Close()
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	return n, nil
}

// Equal reports whether both are the same one.
func (n *Namespace) Equal(other *Namespace) bool { return n.fd.Equal(other.fd) }

// Close lets it go; it stays.
func (n *Namespace) Close() { n.fd.Close() }

// Do runs f on a thread that is in the namespace. What f opens belongs to it.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := netns.Set(n.fd); err != nil {
			done <- privileged(err)
			return
		}
		done <- f()
	}()
	return <-done
}

// OpenIn opens a channel to the kernel for a namespace.
func OpenIn(n *Namespace, logger *slog.Logger) (*Host, error) {
	nl, err := netlink.NewHandleAt(n.fd, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink in network namespace %s: %w", n.name, err)
	}
	lister, err := netlink.NewHandleAt(n.fd, unix.NETLINK_ROUTE)
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("open netlink in network namespace %s: %w", n.name, err)
	}
	_ = lister.SetStrictCheck(true) // as in Open
	return &Host{nl: nl, lister: lister, logger: logger.With("namespace", n.name), within: n.Do}, nil
}
