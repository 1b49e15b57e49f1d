package ike

import (
	"net/netip"

	"github.com/cockroachdb/datadriven"
)

// configureMobility applies one key about addresses.
func configureMobility(m *Mobility, key string, values []string) {
	switch key {
	case "mobike":
		m.Disable = values[0] != "yes"
	case "trust":
		m.TrustPeer = true
	case "no-nat":
		m.ProhibitNAT = true
	case "within":
		m.Within = []netip.Prefix{netip.MustParsePrefix(values[0])}
	case "locals":
		m.Local = mustAddrs(values)
	case "remotes":
		m.Remote = mustAddrs(values)
	}
}

func mustAddrs(list []string) []netip.Addr {
	var out []netip.Addr
	for _, v := range list {
		out = append(out, netip.MustParseAddr(v))
	}
	return out
}

// address gives a host other addresses, the first one to be preferred.
func (s *story) address(d *datadriven.TestData, n *node) {
	if sa := n.t.primary(); sa == nil || !sa.mobike {
		s.w.uprooted = true
	}
	n.addrs = nil
	quiet := false
	for _, a := range d.CmdArgs[1:] {
		if quiet = quiet || a.Key == "quiet"; a.Key != "quiet" {
			n.addrs = append(n.addrs, netip.MustParseAddr(a.Key))
		}
	}
	if !quiet {
		n.tellAddresses()
	}
}

func (n *node) tellAddresses() {
	if len(n.addrs) > 0 {
		n.step(AddressChange{Local: n.addrs[0], Additional: n.addrs[1:]})
	}
}
