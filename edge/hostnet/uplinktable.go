package hostnet

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// uplinkTables is the first routing table of uplinks, of two for each: one of what is
	// near, and behind it one of the way out.
	uplinkTables = 0x5359
	// maxApart is how many uplinks have tables of their own, as many as an edge can have.
	maxApart = 16

	// The rules of an address of an uplink, after those of tunnels and before the main
	// table's: what is near by this uplink, what else the main table has apart from its
	// default route, and everything else by this uplink or not at all.
	nearPriority = 5359
	mainPriority = 5360
	outPriority  = 5361
)

// uplinksApart keeps what leaves from an address of one uplink to that uplink, where a host
// has several: an Internet provider drops what has the address of another one (BCP 38), and
// a tunnel is measured by what goes by its uplink. It belongs to one goroutine.
type uplinksApart struct {
	host *Host
	// slots are the pairs of tables, by interface. They stay with it while it is an uplink.
	slots map[string]int
	// routed are the interfaces that had a router behind them, by family: without it for the
	// moment, what has its address leaves by no other.
	routed map[int]map[string]bool
	looked bool            // into all tables, for what an agent before left
	warned map[string]bool // what was said
}

func newUplinksApart(h *Host) *uplinksApart {
	return &uplinksApart{host: h, slots: map[string]int{}, warned: map[string]bool{},
		routed: map[int]map[string]bool{unix.AF_INET: {}, unix.AF_INET6: {}}}
}

// set routes what leaves from the addresses of uplinks, each by its own; none and one need
// nothing, and what was before goes. It goes on after an error and returns all of them.
func (u *uplinksApart) set(uplinks []*swanherdv1.Uplink) error {
	links, addresses := u.present(uplinks)
	if len(links) < 2 {
		clear(links)
	}
	released := u.assign(links)
	var errs []error
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		errs = append(errs, u.setFamily(f, links, addresses, released))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the next time looks into all tables again
	}
	u.looked = true
	return nil
}

// present returns the interfaces of uplinks that there are, by name, and their addresses.
func (u *uplinksApart) present(uplinks []*swanherdv1.Uplink) (links map[string]int, addresses map[string][]netip.Addr) {
	links, addresses = map[string]int{}, map[string][]netip.Addr{}
	for _, up := range uplinks {
		link, err := u.host.nl.LinkByName(up.GetInterface())
		if err != nil {
			continue
		}
		name := link.Attrs().Name
		if _, known := links[name]; !known && len(links) == maxApart {
			u.warn(fmt.Sprintf("more than %d uplinks: what leaves from %s goes by the main table", maxApart, up.GetName()))
			continue
		}
		links[name] = link.Attrs().Index
		for _, text := range up.GetAddresses() {
			if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(addresses[name], a) {
				addresses[name] = append(addresses[name], a)
			}
		}
	}
	return links, addresses
}

// assign gives each interface its tables, and returns those that have none any more.
func (u *uplinksApart) assign(links map[string]int) (released []int) {
	used := make([]bool, maxApart)
	for name, slot := range u.slots {
		if _, ok := links[name]; !ok {
			delete(u.slots, name)
			for _, routed := range u.routed {
				delete(routed, name)
			}
			released = append(released, slot)
			continue
		}
		used[slot] = true
	}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		if _, ok := u.slots[name]; ok {
			continue
		}
		slot := slices.Index(used, false)
		u.slots[name], used[slot] = slot, true
	}
	if !u.looked {
		released = nil
		for slot := range used {
			if !used[slot] {
				released = append(released, slot)
			}
		}
	}
	return released
}

// setFamily does so for one family: rules that are wanted no more go before routes change,
// and new ones come after the routes that they need.
func (u *uplinksApart) setFamily(fam int, links map[string]int, addresses map[string][]netip.Addr, released []int) error {
	rules, err := u.host.nl.RuleList(fam)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // a host without IPv6
	}
	if err != nil {
		return fmt.Errorf("list routing rules: %w", err)
	}
	tables := map[int][]*netlink.Route{} // wanted
	for _, slot := range released {
		tables[uplinkTables+2*slot], tables[uplinkTables+2*slot+1] = nil, nil
	}
	var want []netlink.Rule
	if len(links) > 0 {
		if want, err = u.exits(fam, links, addresses, rules, tables); err != nil {
			return err
		}
	}
	errs := []error{u.removeRules(rules, want)}
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		errs = append(errs, u.host.setTable(fam, table, tables[table]))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return u.addRules(rules, want)
}

// exits puts the routes of each interface into tables and returns the rules that lead there.
func (u *uplinksApart) exits(fam int, links map[string]int, addresses map[string][]netip.Addr, rules []netlink.Rule, tables map[int][]*netlink.Route) (want []netlink.Rule, err error) {
	indexes := map[int]bool{}
	for _, index := range links {
		indexes[index] = true
	}
	main, err := u.host.mainRoutes(fam, indexes)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for name, index := range links {
		near := uplinkTables + 2*u.slots[name]
		e := exitBy(index, main, allOf[fam])
		if e.routed {
			u.routed[fam][name] = true
		}
		if e.tooMany {
			u.warn(fmt.Sprintf("the main table has more than %d routes by uplinks: what leaves from %s follows them, also by another uplink", maxNear, name))
		}
		tables[near], tables[near+1] = nil, nil
		if !u.routed[fam][name] {
			continue
		}
		tables[near], tables[near+1] = e.near, e.out
		for _, a := range addresses[name] {
			if a.Is4() != (fam == unix.AF_INET) {
				continue
			}
			if other, theirs := ruledByOthers(rules, a); theirs {
				u.warn(fmt.Sprintf("what leaves from %s, of %s, goes by a rule of this host, priority %d", a, name, other.Priority))
				u.warnStrict(name)
				continue
			}
			want = append(want, rulesOf(a, near)...)
		}
	}
	return want, nil
}

// rulesOf are the rules of one address.
func rulesOf(a netip.Addr, near int) []netlink.Rule {
	rule := func(priority, table int) netlink.Rule {
		r := netlink.NewRule()
		r.Family, r.Protocol, r.Src = family(netip.PrefixFrom(a, 0)), RouteProtocol, hostPrefix(a)
		r.Priority, r.Table = priority, table
		return *r
	}
	rest := rule(mainPriority, unix.RT_TABLE_MAIN)
	rest.SuppressPrefixlen = 0
	return []netlink.Rule{rest, rule(nearPriority, near), rule(outPriority, near+1)}
}

// ours reports whether a rule is one of an uplink's address, also of an earlier run.
func ours(r netlink.Rule) bool {
	return r.Protocol == RouteProtocol && r.Priority >= nearPriority && r.Priority <= outPriority
}

func sameRule(a, b netlink.Rule) bool {
	return a.Priority == b.Priority && a.Table == b.Table && a.SuppressPrefixlen == b.SuppressPrefixlen && a.Src.String() == b.Src.String()
}

// ruledByOthers finds a rule by which somebody else says where what leaves from a goes.
func ruledByOthers(rules []netlink.Rule, a netip.Addr) (netlink.Rule, bool) {
	i := slices.IndexFunc(rules, func(r netlink.Rule) bool {
		if r.Src == nil || r.Protocol == RouteProtocol || r.Invert || r.Table == unix.RT_TABLE_LOCAL {
			return false
		}
		from, ok := prefixOf(r.Src, r.Family)
		return ok && from.Bits() > 0 && from.Contains(a)
	})
	if i < 0 {
		return netlink.Rule{}, false
	}
	return rules[i], true
}

func (u *uplinksApart) removeRules(have, want []netlink.Rule) error {
	var errs []error
	for _, r := range slices.Backward(have) { // out before near
		if !ours(r) || slices.ContainsFunc(want, func(w netlink.Rule) bool { return sameRule(r, w) }) {
			continue
		}
		if err := u.host.nl.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove the rule for what leaves from %s, priority %d: %w", r.Src, r.Priority, privileged(err)))
		}
	}
	return errors.Join(errs...)
}

func (u *uplinksApart) addRules(have, want []netlink.Rule) error {
	var errs []error
	for _, w := range want {
		if slices.ContainsFunc(have, func(r netlink.Rule) bool { return ours(r) && sameRule(r, w) }) {
			continue
		}
		if err := u.host.nl.RuleAdd(&w); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("add the rule for what leaves from %s, priority %d: %w", w.Src, w.Priority, privileged(err)))
		}
	}
	return errors.Join(errs...)
}

// exitKey identifies a route of an uplink's table.
type exitKey struct {
	prefix   netip.Prefix
	priority int
}

// setTable makes want the edge's routes of a table of a family.
func (h *Host) setTable(fam, table int, want []*netlink.Route) error {
	have := map[exitKey][]netlink.Route{}
	err := h.eachRoute(fam, netlink.Route{Protocol: RouteProtocol, Table: table}, func(r *netlink.Route) {
		if prefix, ok := prefixOf(r.Dst, fam); ok {
			k := exitKey{prefix, r.Priority}
			have[k] = append(have[k], *r)
		}
	})
	if err != nil {
		return fmt.Errorf("list table %d: %w", table, err)
	}
	var errs []error
	for _, r := range want {
		r.Table = table
		if fam == unix.AF_INET6 && r.Priority == 0 {
			r.Priority = priority6 // zero is the kernel's default of 1024
		}
		prefix, _ := prefixOf(r.Dst, fam)
		k := exitKey{prefix, r.Priority}
		same := len(have[k]) == 1 && sameExit(&have[k][0], r)
		delete(have, k)
		if same {
			continue
		}
		if err := h.nl.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("set route %s of table %d: %w", prefix, table, privileged(err)))
		}
	}
	for _, list := range have {
		for _, r := range list {
			if err := h.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove route %s of table %d: %w", r.Dst, table, privileged(err)))
			}
		}
	}
	return errors.Join(errs...)
}

// warnStrict says that strict reverse path filtering (RFC 3704, Section 2.2) drops what comes
// in by an interface where the host's own rules do not lead back by it. The rules of this
// package do: the kernel asks them too.
func (u *uplinksApart) warnStrict(name string) {
	for _, of := range []string{"all", name} {
		if b, err := os.ReadFile(sysctlPath("ipv4", "conf", of, "rp_filter")); err == nil && strings.TrimSpace(string(b)) == "1" {
			u.warn(fmt.Sprintf("net.ipv4.conf.%s.rp_filter is 1: unless the host's rules lead back by %s, what its peers send is dropped; then set it to 2", of, name))
		}
	}
}

// warn says something once.
func (u *uplinksApart) warn(text string) {
	if !u.warned[text] {
		u.warned[text] = true
		u.host.logger.Warn(text)
	}
}

// ReleaseUplinks removes the tables and rules of uplinks, at the end.
func (h *Host) ReleaseUplinks() error { return newUplinksApart(h).set(nil) }
