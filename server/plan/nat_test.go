package plan

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// behind is an uplink that a NAT shows as something else; port 0: to each peer as another
// one.
func behind(inside, outside string, port uint32) *swanherdv1.Uplink {
	u := uplink("wan1", inside)
	u.Port = 4500
	mapping := swanherdv1.NatMapping_NAT_MAPPING_ENDPOINT_INDEPENDENT
	switch {
	case port == 0:
		mapping = swanherdv1.NatMapping_NAT_MAPPING_ADDRESS_DEPENDENT
	case inside == outside:
		mapping = swanherdv1.NatMapping_NAT_MAPPING_NONE
	}
	u.Nats = []*swanherdv1.UplinkNat{{Address: inside, Mapping: mapping, MappedAddress: outside, MappedPort: port}}
	return u
}

// The table of deployments/docs/nat.md: who begins, where, and who opens its NAT meanwhile.
func TestNATs(t *testing.T) {
	plain := func(a string) *swanherdv1.Uplink { return uplink("wan1", a) }
	none := func(a string) *swanherdv1.Uplink { return behind(a, a, 4500) }
	onePort := func(inside, outside string) *swanherdv1.Uplink { return behind(inside, outside, 31022) }
	symmetric := func(inside, outside string) *swanherdv1.Uplink { return behind(inside, outside, 0) }
	mpls := func(u *swanherdv1.Uplink) *swanherdv1.Uplink {
		u.TransportClass = swanherdv1.TransportClass_TRANSPORT_CLASS_MPLS
		return u
	}
	oneAnswer := onePort("10.0.2.2", "203.0.113.2")
	oneAnswer.Nats[0].Mapping = swanherdv1.NatMapping_NAT_MAPPING_UNSPECIFIED
	twoAddresses := onePort("10.0.2.2", "203.0.113.2")
	twoAddresses.Addresses = append(twoAddresses.Addresses, "2001:db8::2")
	for name, test := range map[string]struct {
		a, b     *swanherdv1.Uplink
		begins   string // who does
		to       string // where to, in order
		opens    string // who does, and where to
		obstacle string
	}{
		"nobody knows":                   {plain("192.0.2.1"), plain("192.0.2.2"), "a", "192.0.2.2:4500", "", ""},
		"none and none":                  {none("192.0.2.1"), none("192.0.2.2"), "a", "192.0.2.2:4500", "", ""},
		"one port and none":              {onePort("10.0.1.2", "203.0.113.1"), none("192.0.2.2"), "a", "192.0.2.2:4500", "", ""},
		"none and one port":              {none("192.0.2.1"), onePort("10.0.2.2", "203.0.113.2"), "b", "192.0.2.1:4500", "", ""},
		"symmetric and none":             {symmetric("10.0.1.2", "203.0.113.1"), none("192.0.2.2"), "a", "192.0.2.2:4500", "", ""},
		"none and symmetric":             {none("192.0.2.1"), symmetric("10.0.2.2", "203.0.113.2"), "b", "192.0.2.1:4500", "", ""},
		"one port and one port":          {onePort("10.0.1.2", "203.0.113.1"), onePort("10.0.2.2", "203.0.113.2"), "a", "203.0.113.2:31022 10.0.2.2:4500", "b 203.0.113.1:31022 10.0.1.2:4500", ""},
		"one answer is enough to try":    {onePort("10.0.1.2", "203.0.113.1"), oneAnswer, "a", "203.0.113.2:31022 10.0.2.2:4500", "b 203.0.113.1:31022 10.0.1.2:4500", ""},
		"symmetric and one port":         {symmetric("10.0.1.2", "203.0.113.1"), onePort("10.0.2.2", "203.0.113.2"), "a", "203.0.113.2:31022 10.0.2.2:4500", "b 203.0.113.1:4500 10.0.1.2:4500", "the NAT of a has another port for each destination, and the NAT of b lets it in only if"},
		"one port and symmetric":         {onePort("10.0.1.2", "203.0.113.1"), symmetric("10.0.2.2", "203.0.113.2"), "b", "203.0.113.1:31022 10.0.1.2:4500", "a 203.0.113.2:4500 10.0.2.2:4500", "the NAT of b has another port for each destination, and the NAT of a lets it in only if"},
		"symmetric and symmetric":        {symmetric("10.0.1.2", "203.0.113.1"), symmetric("10.0.2.2", "203.0.113.2"), "a", "203.0.113.2:4500 10.0.2.2:4500", "b 203.0.113.1:4500 10.0.1.2:4500", "a and b are both behind NATs that have another port for each destination"},
		"behind the same NAT":            {onePort("10.0.1.2", "203.0.113.1"), behind("10.0.1.3", "203.0.113.1", 4501), "a", "10.0.1.3:4500 203.0.113.1:4501", "b 10.0.1.2:4500 203.0.113.1:31022", ""},
		"behind the same symmetric one":  {symmetric("10.0.1.2", "203.0.113.1"), symmetric("10.0.1.3", "203.0.113.1"), "a", "10.0.1.3:4500 203.0.113.1:4500", "b 10.0.1.2:4500 203.0.113.1:4500", ""},
		"in the same MPLS":               {mpls(onePort("10.0.1.2", "203.0.113.1")), mpls(symmetric("10.0.2.2", "203.0.113.2")), "a", "10.0.2.2:4500 203.0.113.2:4500", "b 10.0.1.2:4500 203.0.113.1:31022", ""},
		"IPv6 without a NAT":             {plain("2001:db8::1"), twoAddresses, "a", "[2001:db8::2]:4500", "", ""},
		"a place that nobody can be at":  {onePort("10.0.1.2", "203.0.113.1"), onePort("10.0.2.2", "0.0.0.0"), "a", "10.0.2.2:4500", "", ""},
		"one that is the peer itself":    {onePort("10.0.1.2", "203.0.113.1"), onePort("10.0.2.2", "127.0.0.1"), "a", "10.0.2.2:4500", "", ""},
		"one of another family":          {onePort("10.0.1.2", "203.0.113.1"), onePort("10.0.2.2", "2001:db8::9"), "a", "10.0.2.2:4500", "", ""},
		"an address in another notation": {onePort("10.0.1.2", "203.0.113.1"), onePort("10.0.2.2", "::ffff:203.0.113.2"), "a", "203.0.113.2:31022 10.0.2.2:4500", "b 203.0.113.1:31022 10.0.1.2:4500", ""},
		"one does not know its address":  {plain("none"), onePort("10.0.2.2", "203.0.113.2"), "a", "203.0.113.2:31022 10.0.2.2:4500", "b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuilder()
			b.mesh("all", fullMesh(&swanherdv1.SiteSelector{All: true}))
			for id, u := range map[string]*swanherdv1.Uplink{"a": test.a, "b": test.b} {
				b.site(id, nil, map[string]string{"a": "10.1.0.0/16", "b": "10.2.0.0/16"}[id])
				if slices.Contains(u.GetAddresses(), "none") {
					u.Addresses = nil
				}
				b.edge(id, id, u)
			}
			p := Make(b.snapshot())
			tunnel := p.Tunnels.Value("networks/demo/tunnels/a--b")
			got := map[string]string{}
			for _, id := range []string{"a", "b"} {
				i := p.Intents.Value("networks/demo/edges/" + id).Resources.Get(tunnel.GetName()).GetTunnel()
				words := []string{id}
				for _, e := range i.GetRemoteEndpoints() {
					words = append(words, net.JoinHostPort(e.GetAddress(), strconv.Itoa(int(e.GetPort()))))
				}
				if i.GetRole() == swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR {
					got["begins"] += strings.Join(words, " ")
				}
				if i.GetOpenNat() {
					got["opens"] += strings.Join(words, " ")
				}
			}
			if want := test.begins + " " + test.to; got["begins"] != want {
				t.Errorf("begins: %s, want %s", got["begins"], want)
			}
			if got["opens"] != test.opens {
				t.Errorf("opens: %q, want %q", got["opens"], test.opens)
			}
			if o := tunnel.GetObstacle(); (o == "") != (test.obstacle == "") || !strings.HasPrefix(o, test.obstacle) {
				t.Errorf("obstacle %q, want %q", o, test.obstacle)
			}
			if out := explained(b, "a", "b"); !out.GetReachable() || strings.Contains(out.GetReason(), "it may not come up: "+test.obstacle) != (test.obstacle != "") {
				t.Errorf("explained by %q", out.GetReason())
			}
		})
	}
}
