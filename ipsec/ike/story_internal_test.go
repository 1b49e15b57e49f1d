package ike

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// configureInternal applies the keys of a pair that are about internal addresses:
//
//	request=(ADDR...)   asks for these, 0.0.0.0 and :: for whichever
//	ask=(dns,subnets,required)
//	pool=(PREFIX...)    gives addresses of these
//	dns=(ADDR...) subnets=(PREFIX...) require=yes
func configureInternal(t testing.TB, c *Config, key string, vals []string) {
	t.Helper()
	request, offer := InternalRequest{}, InternalOffer{}
	if c.InternalRequest != nil {
		request = *c.InternalRequest
	}
	if c.InternalOffer != nil {
		offer = *c.InternalOffer
	}
	switch key {
	case "request":
		request.Addresses = parseEach(t, vals, netip.ParseAddr)
	case "ask":
		request.DNS, request.Subnets, request.Required = slices.Contains(vals, "dns"), slices.Contains(vals, "subnets"), slices.Contains(vals, "required")
	case "pool":
		pool, err := NewPool(parseEach(t, vals, netip.ParsePrefix)...)
		if err != nil {
			t.Fatal(err)
		}
		offer.Pool = pool
	case "dns":
		offer.DNS = parseEach(t, vals, netip.ParseAddr)
	case "subnets":
		offer.Subnets = parseEach(t, vals, netip.ParsePrefix)
	case "require":
		offer.Required = vals[0] == "yes"
	}
	if key == "request" || key == "ask" {
		c.InternalRequest = &request
	} else {
		c.InternalOffer = &offer
	}
}

func parseEach[T any](t testing.TB, vals []string, parse func(string) (T, error)) []T {
	t.Helper()
	var all []T
	for _, v := range vals {
		x, err := parse(v)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x)
	}
	return all
}

// internal prints what each IKE SA of both ends has, the selectors of the Child
// SAs that send, and what is lent.
func (w *world) internal() string {
	var b strings.Builder
	for _, n := range w.nodes() {
		s := n.t.Status()
		for _, sa := range s.IKE {
			if sa.Internal != nil && sa.State != stateLingering.String() {
				fmt.Fprintf(&b, "%s: %s %s: %s\n", n.name, short(sa), sa.State, sa.Internal)
			}
		}
		for _, c := range s.Children {
			if c.Outbound {
				fmt.Fprintf(&b, "%s: %s %x: %s\n", n.name, c.Name, c.InboundSPI, selectorText(c.LocalTS, c.RemoteTS))
			}
		}
		if o := n.t.cfg.InternalOffer; o != nil {
			for _, l := range o.Pool.Leases() {
				fmt.Fprintf(&b, "%s: lent %s to %q\n", n.name, l.Address, l.Holder)
			}
		}
	}
	return b.String()
}

// findStrayLease: an internal address is lent if and only if an IKE SA has it.
func (w *world) findStrayLease() string {
	return w.each(func(n *node) string {
		o := n.t.cfg.InternalOffer
		if o == nil {
			return ""
		}
		has := map[netip.Addr]bool{}
		for _, sa := range n.t.sas {
			if sa.state.in(stateUsable) && sa.internal != nil {
				for _, a := range sa.internal.Addresses {
					has[a] = true
				}
			}
		}
		for _, l := range o.Pool.Leases() {
			if l.Holder != "another" && !has[l.Address] {
				return fmt.Sprintf("has lent %s to %q, which has no IKE SA with it", l.Address, l.Holder)
			}
			delete(has, l.Address)
		}
		if len(has) > 0 {
			return fmt.Sprintf("has not lent what an IKE SA has: %v", has)
		}
		return ""
	})
}

// renewPool gives a node that restarts an empty pool: what was lent is not kept.
func (n *node) renewPool() {
	if n.cfg.InternalOffer == nil {
		return
	}
	offer := *n.cfg.InternalOffer
	offer.Pool, _ = NewPool(append(slices.Clone(offer.Pool.families[0].prefixes), offer.Pool.families[1].prefixes...)...)
	n.cfg.InternalOffer = &offer
}

// occupy has somebody else hold an address of a node's pool, or nobody any more.
func (s *story) occupy(d *datadriven.TestData, n *node) {
	for _, a := range d.CmdArgs[1:] {
		addr, err := netip.ParseAddr(a.Key)
		if err != nil {
			s.t.Fatal(err)
		}
		if pool := n.t.cfg.InternalOffer.Pool; d.Cmd == "occupy" {
			pool.Lease("another", []netip.Addr{addr})
		} else {
			pool.Release("another", addr)
		}
	}
}
