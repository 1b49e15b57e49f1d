package ike

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/wire"
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

// movable reports whether no end may believe where the packet comes from. Of
// IKE_SA_INIT and IKE_AUTH it has to (RFC 4555, Section 3.3).
func (p *packet) movable() bool {
	if p.tcp || p.esp != 0 {
		return !p.tcp
	}
	h, err := wire.ParseHeader(p.data)
	return err == nil && !isFirst(h.Exchange) && h.Exchange != wire.ExchangeIKEAuth && h.Exchange != wire.ExchangeIKEIntermediate
}

// readdress delivers a packet as somebody on the path can: from another source.
func (s *story) readdress(d *datadriven.TestData) {
	i := s.find(direction(d), s.number(d, "at"))
	if i < 0 {
		s.w.note("nothing in flight\n")
		return
	}
	p := *s.w.flight[i]
	s.w.flight = slices.Delete(s.w.flight, i, i+1)
	p.src = netip.MustParseAddrPort(d.CmdArgs[len(d.CmdArgs)-1].Key)
	s.w.note("%s arrives from %s\n", &p, p.src)
	s.w.deliver(&p)
}

// where says between which addresses the IKE SA in charge is and the data plane has
// its Child SAs, and what other addresses the peer has announced.
func (n *node) where() string {
	sa := n.t.primary()
	if sa == nil {
		return n.name + ": nowhere"
	}
	out := fmt.Sprintf("%s: IKE %s -> %s", n.name, sa.local, sa.remote)
	at := map[string]bool{}
	for _, o := range []map[uint32]dataplane.SA{n.in, n.out} {
		for _, c := range o {
			at[fmt.Sprintf(", ESP %s -> %s", c.Local, c.Remote)] = true
		}
	}
	out += strings.Join(slices.Sorted(maps.Keys(at)), "")
	if len(n.t.peerAddresses) > 0 {
		out += fmt.Sprintf(", peer also %v", n.t.peerAddresses)
	}
	return out
}
