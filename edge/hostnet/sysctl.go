package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Forwarding is what the host is to forward.
type Forwarding struct {
	IPv4, IPv6 bool
	// Tunnel is the tunnel interface, Uplinks are the interfaces to the WAN.
	Tunnel  string
	Uplinks []string
}

// EnableForwarding makes the kernel settings that the package comment lists. It
// goes on after an error and returns all of them.
func (h *Host) EnableForwarding(f Forwarding) error {
	if h.within != nil {
		return h.within(func() error { return h.enableForwarding(f) })
	}
	return h.enableForwarding(f)
}

func (h *Host) enableForwarding(f Forwarding) error {
	var errs []error
	set := func(value string, path ...string) {
		if err := h.sysctl(value, path...); err != nil {
			errs = append(errs, err)
		}
	}
	if f.IPv4 {
		set("2", "ipv4", "conf", f.Tunnel, "rp_filter")
		set("1", "ipv4", "ip_forward")
	}
	if f.IPv6 {
		for _, uplink := range f.Uplinks {
			// 0 is the operator's will and stays.
			if b, err := os.ReadFile(sysctlPath("ipv6", "conf", uplink, "accept_ra")); err == nil && bytes.Equal(bytes.TrimSpace(b), []byte("1")) {
				set("2", "ipv6", "conf", uplink, "accept_ra")
			}
		}
		set("1", "ipv6", "conf", "all", "forwarding")
	}
	return errors.Join(errs...)
}

// sysctl sets net.PATH unless it has the value.
func (h *Host) sysctl(value string, path ...string) error {
	file := sysctlPath(path...)
	before, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read kernel setting: %w", err)
	}
	before = bytes.TrimSpace(before)
	if string(before) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("change kernel setting from %s to %s: %w; set it yourself: echo %s > %s", before, value, err, value, file)
	}
	h.logger.Info("changed kernel setting", "file", file, "before", string(before), "after", value)
	return nil
}

func sysctlPath(path ...string) string {
	return filepath.Join(append([]string{"/proc/sys/net"}, path...)...)
}
