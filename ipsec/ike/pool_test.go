package ike

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustPool(t rapid.TB, prefixes ...string) *Pool {
	t.Helper()
	var ps []netip.Prefix
	for _, p := range prefixes {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	pool, err := NewPool(ps...)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestPoolPrefixes(t *testing.T) {
	for _, bad := range [][]string{
		{},
		{"10.0.0.0/7"},
		{"127.0.0.0/24"},
		{"224.0.0.0/24"},
		{"fe80::/64"},
		{"ff02::/64"},
		{"2001::/16"},
		{"::ffff:10.0.0.0/120"},
		{"10.0.0.0/24", "10.0.0.128/25"},
		{"2001:db8::/64", "2001:db8::/32"},
	} {
		var ps []netip.Prefix
		for _, p := range bad {
			ps = append(ps, netip.MustParsePrefix(p))
		}
		if _, err := NewPool(ps...); err == nil {
			t.Errorf("%v makes a pool", bad)
		}
	}
	if _, err := NewPool(netip.Prefix{}); err == nil {
		t.Error("the zero prefix makes a pool")
	}
}

// What is lent of each prefix, until nothing is left, and what a request gets
// then.
func TestPoolSizes(t *testing.T) {
	for prefix, want := range map[string][]netip.Addr{
		"10.0.0.0/29":       addrs("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"),
		"10.0.0.5/31":       addrs("10.0.0.4", "10.0.0.5"),
		"10.0.0.5/32":       addrs("10.0.0.5"),
		"2001:db8::/126":    addrs("2001:db8::1", "2001:db8::2", "2001:db8::3"),
		"2001:db8::4/127":   addrs("2001:db8::4", "2001:db8::5"),
		"2001:db8::4/128":   addrs("2001:db8::4"),
		"10.0.0.252/30":     addrs("10.0.0.253", "10.0.0.254"),
		"2001:db8::ff/128":  addrs("2001:db8::ff"),
		"192.168.0.255/32":  addrs("192.168.0.255"),
		"2001:db8::100/126": addrs("2001:db8::101", "2001:db8::102", "2001:db8::103"),
	} {
		p := mustPool(t, prefix)
		whichever := netip.IPv4Unspecified()
		if want[0].Is6() {
			whichever = netip.IPv6Unspecified()
		}
		var got []netip.Addr
		for i := range len(want) + 3 {
			got = append(got, p.Lease(fmt.Sprint(i), []netip.Addr{whichever})...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: lent %v, want %v", prefix, got, want)
		}
		p.Release("0", want[0])
		if got := p.Lease("again", []netip.Addr{whichever}); !slices.Equal(got, want[:1]) {
			t.Errorf("%s: after a release %v, want %v", prefix, got, want[:1])
		}
	}
}

// RFC 7296, Sections 3.15.1 and 3.15.3.
func TestPoolPreferences(t *testing.T) {
	p := mustPool(t, "10.9.0.0/24", "2001:db8:1::/64", "2001:db8:2::/64")
	for _, step := range []struct {
		holder     string
		wanted, is []netip.Addr
	}{
		{"a", addrs("0.0.0.0"), addrs("10.9.0.1")},
		{"a", addrs("10.9.0.7"), addrs("10.9.0.1")}, // what it has goes first
		{"a", addrs("10.9.0.7", "10.9.0.1"), addrs("10.9.0.7", "10.9.0.1")},
		{"a", addrs("10.9.0.1", "10.9.0.7"), addrs("10.9.0.1", "10.9.0.7")},
		{"b", addrs("10.9.0.7"), addrs("10.9.0.2")}, // that is taken
		{"b", addrs("10.8.0.7", "10.9.0.255"), addrs("10.9.0.2", "10.9.0.3")},
		{"c", addrs("::5:6:7:8"), addrs("2001:db8:1::5:6:7:8")}, // by its identifier
		{"d", addrs("2001:db8:9::5:6:7:8"), addrs("2001:db8:2:0:5:6:7:8")},
		{"e", addrs("2001:db8:9::5:6:7:8"), addrs("2001:db8:1::1")}, // or any
		{"f", addrs("2001:db8:2::77"), addrs("2001:db8:2::77")},
		{"g", addrs("::", "0.0.0.0"), addrs("2001:db8:1::2", "10.9.0.4")},
		{"h", []netip.Addr{{}}, nil},
	} {
		if got := p.Lease(step.holder, step.wanted); !slices.Equal(got, step.is) {
			t.Errorf("%s wants %v and gets %v, want %v", step.holder, step.wanted, got, step.is)
		}
	}
	p.Release("b", netip.MustParseAddr("10.9.0.1")) // of somebody else
	p.Release("nobody", netip.MustParseAddr("10.9.0.1"))
	if got := p.Lease("i", addrs("10.9.0.1")); !slices.Equal(got, addrs("10.9.0.5")) {
		t.Errorf("somebody else's address was released: %v", got)
	}
}

// An address rests before somebody else has it.
func TestPoolRests(t *testing.T) {
	p := mustPool(t, "10.9.0.0/29")
	var got []string
	for i := range 8 {
		a := p.Lease(fmt.Sprint(i), addrs("0.0.0.0"))
		got = append(got, a[0].String())
		p.Release(fmt.Sprint(i), a[0])
	}
	if want := "10.9.0.1 10.9.0.2 10.9.0.3 10.9.0.4 10.9.0.5 10.9.0.6 10.9.0.1 10.9.0.2"; strings.Join(got, " ") != want {
		t.Errorf("lent %v, want %s", got, want)
	}
}

// No address has two holders, all are of the pool, nobody has more than it asked
// for at once, a pool with room lends, and the same calls give the same.
func TestPoolModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefixes := []string{"10.9.0.0/30", "10.9.1.4/31", "2001:db8::/126", "2001:db8:1::8/128"}
		p, twin := mustPool(t, prefixes...), mustPool(t, prefixes...)
		all := addrs("10.9.0.1", "10.9.0.2", "10.9.1.4", "10.9.1.5", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:1::8")
		wishes := append(addrs("0.0.0.0", "::", "10.9.0.0", "10.9.0.3", "192.0.2.1", "2001:db8::"), all...)
		model, most := map[netip.Addr]string{}, map[string]int{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			holder := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "holder")
			if rapid.Bool().Draw(t, "release") {
				a := rapid.SampledFrom(all).Draw(t, "address")
				p.Release(holder, a)
				twin.Release(holder, a)
				if model[a] == holder {
					delete(model, a)
				}
				continue
			}
			wanted := rapid.SliceOfN(rapid.SampledFrom(wishes), 1, 4).Draw(t, "wanted")
			got := p.Lease(holder, wanted)
			if again := twin.Lease(holder, wanted); !slices.Equal(got, again) {
				t.Fatalf("%v and %v from the same calls", got, again)
			}
			for i, a := range got {
				if !slices.Contains(all, a) || model[a] != "" && model[a] != holder || slices.Contains(got[:i], a) {
					t.Fatalf("%s gets %v; lent are %v", holder, got, model)
				}
				model[a] = holder
			}
			most[holder] = max(most[holder], len(wanted))
			checkRoom(t, model, all, holder, wanted, got)
		}
		var lent []string
		for _, l := range p.Leases() {
			lent = append(lent, l.Address.String())
			if model[l.Address] != l.Holder {
				t.Fatalf("%s is %q's, the model says %q", l.Address, l.Holder, model[l.Address])
			}
		}
		if len(lent) != len(model) {
			t.Fatalf("lent are %v, the model says %v", lent, model)
		}
	})
}

// checkRoom wants as many addresses of each family as were wanted, or all that
// are the holder's or free.
func checkRoom(t *rapid.T, model map[netip.Addr]string, all []netip.Addr, holder string, wanted, got []netip.Addr) {
	count := func(list []netip.Addr, v6 bool, of func(netip.Addr) bool) int {
		n := 0
		for _, a := range list {
			if a.Is6() == v6 && of(a) {
				n++
			}
		}
		return n
	}
	every := func(netip.Addr) bool { return true }
	for _, v6 := range []bool{false, true} {
		n := count(got, v6, every)
		possible := count(all, v6, func(a netip.Addr) bool { return model[a] == "" || model[a] == holder })
		if n != min(count(wanted, v6, every), possible) {
			t.Fatalf("%s wants %v and gets %v; lent are %v", holder, wanted, got, model)
		}
	}
}

func TestPoolLargePrefixes(t *testing.T) {
	p := mustPool(t, "2001:db8::/32", "2001:db9::/32", "2001:dba::/32", "2001:dbb::/32", "2001:dbc::/32", "10.0.0.0/8")
	if got := p.Lease("a", addrs("::", "::", "10.255.255.254", "10.255.255.255")); !slices.Equal(got, addrs("2001:db8::1", "2001:db8::2", "10.255.255.254", "10.0.0.1")) {
		t.Errorf("lent %v", got)
	}
}
