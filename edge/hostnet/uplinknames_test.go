package hostnet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/edge/state"
)

// TestUplinksKeepTheirNames: an uplink has the name that it had, whatever the order in which
// interfaces appear and what they are called now.
func TestUplinksKeepTheirNames(t *testing.T) {
	day := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	parse := func(text string) (out []foundUplink) {
		for part := range strings.FieldsSeq(text) {
			name, address, _ := strings.Cut(part, "@")
			out = append(out, foundUplink{name, address})
		}
		return out
	}
	for _, tt := range []struct {
		name  string
		found []string // one after the other, each two days after the one before
		want  string   // of all that are known then
	}{
		{"at first by preference", []string{"eth1@b eth0@a"}, "wan1=eth1 wan2=eth0"},
		{"in another order", []string{"eth0@a eth1@b", "eth1@b eth0@a"}, "wan1=eth0 wan2=eth1"},
		{"numbered otherwise", []string{"eth0@a eth1@b", "eth0@b eth1@a"}, "wan1=eth1 wan2=eth0"},
		{"called otherwise", []string{"eth0@a eth1@b", "enp1@a enp2@b"}, "wan1=enp1 wan2=enp2"},
		{"a card replaced", []string{"eth0@a eth1@b", "eth0@c eth1@b"}, "wan1=eth0 wan2=eth1"},
		{"a card replaced and the other moved", []string{"eth0@a eth1@b", "eth0@b eth1@c"}, "wan1=eth0 wan2=eth0 wan3=eth1"},
		{"an address that is made up each time", []string{"veth0@a ppp0@", "ppp0@ veth0@x"}, "wan1=veth0 wan2=ppp0"},
		{"VLANs with one address", []string{"eth0.10@a eth0.20@a", "eth0.20@a eth0.10@a"}, "wan1=eth0.10 wan2=eth0.20"},
		{"VLANs called otherwise", []string{"eth0.10@a eth0.20@a", "eth0.30@a eth0.20@a"}, "wan1=eth0.10 wan2=eth0.20 wan3=eth0.30"},
		{"one is away", []string{"eth0@a eth1@b", "eth1@b"}, "wan1=eth0 wan2=eth1"},
		{"one comes back", []string{"eth0@a eth1@b", "eth1@b", "eth2@c eth1@b", "eth0@a eth1@b eth2@c"}, "wan1=eth0 wan2=eth1 wan3=eth2"},
		{"none is there", []string{"eth0@a", ""}, "wan1=eth0"},
		{"within a week it comes back", []string{"eth0@a eth1@b", "eth1@b", "eth1@b", "eth1@b eth7@d", "eth1@b eth0@a"}, "wan1=eth0 wan2=eth1 wan3=eth7"},
		{"a week later its name is free", append([]string{"eth0@a eth1@b"}, append(slices.Repeat([]string{"eth1@b"}, 4), "eth1@b eth7@d")...), "wan2=eth1 wan1=eth7"},
	} {
		var known []state.KnownUplink
		for i, found := range tt.found {
			known = nameUplinks(known, parse(found), day.Add(time.Duration(i)*48*time.Hour+5*time.Hour))
		}
		var got []string
		for _, k := range known {
			got = append(got, k.Name+"="+k.Interface)
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, text, tt.want)
		}
	}
}

// Of interfaces that come and go no more are known than an edge can have, and none that is
// there is forgotten.
func TestUplinksThatComeAndGo(t *testing.T) {
	day := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	known := nameUplinks(nil, []foundUplink{{"eth0", "a"}}, day)
	for i := range 3 * maxApart {
		now := day.Add(time.Duration(i) * time.Hour)
		known = nameUplinks(known, []foundUplink{{fmt.Sprintf("ppp%d", i), ""}, {"eth0", "a"}}, now)
		again := nameUplinks(known, []foundUplink{{"eth0", "a"}, {fmt.Sprintf("ppp%d", i), ""}}, now)
		if len(known) > maxApart || known[0].Interface != "eth0" || known[0].Name != "wan1" || !slices.Equal(again, known) {
			t.Fatalf("after %d: %v, and looked at again %v", i, known, again)
		}
	}
}
