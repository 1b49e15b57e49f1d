package ike

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// setMTU changes what passes, in one direction or both, and what a host knows of that.
func (s *story) setMTU(d *datadriven.TestData) {
	nodes := s.w.nodes()
	for _, a := range d.CmdArgs[1:] {
		for _, n := range s.w.nodes() {
			if a.Key == n.name {
				nodes = []*node{n}
			}
		}
	}
	for _, n := range nodes {
		if v, err := strconv.Atoi(d.CmdArgs[0].Key); err == nil {
			s.w.mtu[n] = v
		}
		if v := s.number(d, "host"); v != 0 {
			n.hostMTU = v
		}
		if v := s.number(d, "wire"); v != 0 {
			n.wireMTU = v
		}
	}
}

func (n *node) setPathMTU(mtu int) {
	for _, m := range []map[uint32]dataplane.SA{n.in, n.out} {
		for spi, sa := range m {
			sa.PathMTU = mtu
			m[spi] = sa
		}
	}
}

// mistakenPath returns what is wrong with what n believes of its path at rest.
func (n *node) mistakenPath() string {
	p := &n.t.pathMTU
	if !n.t.searches(n.t.primary()) || p.unended > 0 {
		return ""
	}
	for _, spi := range slices.Sorted(maps.Keys(n.out)) {
		if told := n.out[spi].PathMTU; told != p.told {
			return fmt.Sprintf("believes in a path of %d octets, SA %x in one of %d", p.told, spi, told)
		}
	}
	passes, believed := n.w.mtu[n], n.hostMTU
	if p.told != 0 {
		believed = min(believed, p.told)
	}
	if passes == 0 || passes > n.wireMTU {
		passes = n.wireMTU
	}
	// Ciphers of blocks have no probe of some sizes.
	if least := foundOn(passes, n.hostMTU) - 15; believed > passes || believed < least {
		return fmt.Sprintf("believes in a path of %d octets where %d pass: %+v", believed, passes, p.pathSearch)
	}
	return ""
}

// path says what the ends know of the path, and what their data planes were told.
func (s *story) path() {
	for _, n := range s.w.nodes() {
		p := n.t.Status().Path
		plane := 0
		for _, sa := range n.out {
			plane = sa.PathMTU
		}
		s.w.note("%s: %d octets, search %s, limited %v; data plane %d\n", n.name, p.MTU, p.Search, p.Limited, plane)
	}
}
