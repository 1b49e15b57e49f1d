package plan

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

func checkSame(t *rapid.T, got, want *Plan) {
	intents := maps.Collect(byName(got.Intents))
	if got.Intents.Len() != want.Intents.Len() || got.Tunnels.Len() != want.Tunnels.Len() {
		t.Fatalf("%d intents and %d tunnels, the full plan has %d and %d",
			got.Intents.Len(), got.Tunnels.Len(), want.Intents.Len(), want.Tunnels.Len())
	}
	for row := range want.Intents.All() {
		have := intents[row.Name]
		if have == nil || !bytes.Equal(have.Resources.Digest(), row.Value.Resources.Digest()) {
			t.Fatalf("%s: %v, the full plan has %v", row.Name, have.Resources.Sorted(), row.Value.Resources.Sorted())
		}
		for r := range row.Value.Resources.All() {
			if !proto.Equal(have.Resources.Get(r.GetName()), r) {
				t.Fatalf("%s: %v, the full plan has %v", r.GetName(), have.Resources.Get(r.GetName()), r)
			}
		}
	}
	for row := range want.Tunnels.All() {
		have := proto.CloneOf(got.Tunnels.Value(row.Name))
		if r, _ := got.Tunnels.Get(row.Name); have.GetPlannedRevision() != r.Revision {
			t.Fatalf("%s: planned at %d, the row is of %d", row.Name, have.GetPlannedRevision(), r.Revision)
		}
		have.PlannedRevision = row.Value.GetPlannedRevision() // the full plan knows no earlier one
		if !proto.Equal(have, row.Value) {
			t.Fatalf("%s: %v, the full plan has %v", row.Name, have, row.Value)
		}
	}
}

func byName[T any](t model.Table[T]) func(func(string, T) bool) {
	return func(yield func(string, T) bool) {
		for row := range t.All() {
			if !yield(row.Name, row.Value) {
				return
			}
		}
	}
}

// checkChanges holds what Update told against what differs.
func checkChanges(t *rapid.T, before, after *Plan, got Changes) {
	var want Changes
	for c := range model.Diff(before.Intents, after.Intents) {
		switch {
		case c.New == nil:
			want.RemovedIntents = append(want.RemovedIntents, c.Name)
		case c.Old == nil || !bytes.Equal(c.Old.Value.Resources.Digest(), c.New.Value.Resources.Digest()):
			want.Intents = append(want.Intents, c.Name)
		}
	}
	for c := range model.Diff(before.Tunnels, after.Tunnels) {
		switch {
		case c.New == nil:
			want.RemovedTunnels = append(want.RemovedTunnels, c.Name)
		case c.Old == nil || !proto.Equal(c.Old.Value, c.New.Value):
			want.Tunnels = append(want.Tunnels, c.Name)
		}
	}
	if !slices.Equal(got.Intents, want.Intents) || !slices.Equal(got.RemovedIntents, want.RemovedIntents) ||
		!slices.Equal(got.Tunnels, want.Tunnels) || !slices.Equal(got.RemovedTunnels, want.RemovedTunnels) {
		t.Fatalf("changes are %+v, want %+v", got, want)
	}
}

// checkContinuity checks that what two ends had and still are to have is the same tunnel,
// with Child SAs of the same names from the first on: the engine changes these without giving
// anything up that it has. Where there is one tunnel in both plans that is it, over whichever
// uplinks; of several each keeps to its uplinks, so that none is closed for another's sake.
// Ends that get several in the place of one, or one in the place of several, have none in
// common; then the edges keep the former until one of the others is up.
func checkContinuity(t *rapid.T, before, after *Plan) {
	was := map[[3]string][]*swanherdv1.Tunnel{} // in each segment
	ends := func(u *swanherdv1.Tunnel) [3]string {
		return [3]string{u.GetSegment(), u.GetA().GetEdge(), place(u.GetB()) + u.GetB().GetEdge()}
	}
	for row := range before.Tunnels.All() {
		was[ends(row.Value)] = append(was[ends(row.Value)], row.Value)
	}
	for row := range after.Tunnels.All() {
		now := row.Value
		for _, old := range was[ends(now)] {
			byUplinks := len(overUplinks(old)) > 0 && len(overUplinks(now)) > 0
			same := overUplinks(old) == overUplinks(now)
			if same != (old.GetName() == now.GetName()) {
				t.Fatalf("the tunnel %s of two ends is %s now", old.GetName(), now.GetName())
			}
			if !same {
				continue
			}
			if byUplinks && (old.GetA().GetUplink() != now.GetA().GetUplink() || old.GetB().GetUplink() != now.GetB().GetUplink()) {
				t.Fatalf("%s goes over other uplinks", now.GetName())
			}
			checkChildNames(t, before, after, now)
		}
	}
}

// overUplinks are the uplinks in a tunnel's name; empty if it is the only one of its ends.
func overUplinks(u *swanherdv1.Tunnel) string {
	suffix := "." + u.GetA().GetUplink() + "." + u.GetB().GetUplink()
	if u.GetA().GetUplink() != "" && u.GetB().GetUplink() != "" && strings.HasSuffix(u.GetName(), suffix) {
		return suffix
	}
	return ""
}

func checkChildNames(t *rapid.T, before, after *Plan, u *swanherdv1.Tunnel) {
	a, name := u.GetA().GetEdge(), u.GetName()
	old, now := before.tunnelIntent(a, name).GetChildren(), after.tunnelIntent(a, name).GetChildren()
	for i := range min(len(old), len(now)) {
		if old[i].GetName() != now[i].GetName() {
			t.Fatalf("%s: Child SA %s is %s now", name, old[i].GetName(), now[i].GetName())
		}
	}
}

// checkEnds checks that the two ends of each tunnel are each other's mirror,
// and that no edge has a tunnel without an other end.
func checkEnds(t *rapid.T, p *Plan) {
	ends := 0
	for row := range p.Intents.All() {
		ends += row.Value.Resources.Len() - 2 // settings and trust
	}
	gateways := 0
	for row := range p.Tunnels.All() {
		tunnel := row.Value
		if tunnel.GetB().GetGateway() != "" {
			gateways++
			checkGatewayEnd(t, tunnel, p.tunnelIntent(tunnel.GetA().GetEdge(), row.Name))
			continue
		}
		a := p.Intents.Value(tunnel.GetA().GetEdge()).Resources.Get(row.Name).GetTunnel()
		b := p.Intents.Value(tunnel.GetB().GetEdge()).Resources.Get(row.Name).GetTunnel()
		if a == nil || b == nil {
			t.Fatalf("%s lacks an end", row.Name)
		}
		initiator := swanherdv1.TunnelRole_TUNNEL_ROLE_INITIATOR
		if a.GetRole() == initiator && b.GetRole() == initiator {
			t.Fatalf("%s: both ends are to initiate", row.Name)
		}
		checkPath(t, p, tunnel, a, b)
		known := len(a.GetRemoteEndpoints()) + len(b.GetRemoteEndpoints())
		if known > 0 && a.GetRole() != initiator && b.GetRole() != initiator {
			t.Fatalf("%s: an end knows where the other is, and none initiates", row.Name)
		}
		for _, e := range []*swanherdv1.TunnelIntent{a, b} {
			if e.GetRole() == initiator && len(e.GetRemoteEndpoints()) == 0 {
				t.Fatalf("%s: the initiator does not know where to", row.Name)
			}
		}
		if a.GetAuthentication().GetLocalId() != b.GetAuthentication().GetRemoteId() ||
			b.GetAuthentication().GetLocalId() != a.GetAuthentication().GetRemoteId() {
			t.Fatalf("%s: identities %v and %v", row.Name, a.GetAuthentication(), b.GetAuthentication())
		}
		if len(a.GetChildren()) == 0 || len(a.GetChildren()) != len(b.GetChildren()) {
			t.Fatalf("%s: children %v and %v", row.Name, a.GetChildren(), b.GetChildren())
		}
		for i, c := range a.GetChildren() {
			mirror := proto.CloneOf(b.GetChildren()[i])
			mirror.LocalTs, mirror.RemoteTs = mirror.GetRemoteTs(), mirror.GetLocalTs()
			if !proto.Equal(c, mirror) {
				t.Fatalf("%s: children %v and, mirrored, %v", row.Name, c, mirror)
			}
		}
	}
	if ends != 2*p.Tunnels.Len()-gateways {
		t.Fatalf("%d tunnels, %d with gateways, have %d ends", p.Tunnels.Len(), gateways, ends)
	}
}

// ofHubs says whether a path is one of those from a spoke to several hubs.
func ofHubs(p *swanherdv1.TunnelPath) bool { return strings.Contains(p.GetGroup(), "/meshes/") }

// pathsAgree says whether the ends of a tunnel know the same of its path, or one as a spoke
// has several hubs, which is what is shown.
func pathsAgree(shown, a, b *swanherdv1.TunnelPath) bool {
	switch {
	case ofHubs(a):
		return !ofHubs(b) && proto.Equal(shown, a)
	case ofHubs(b):
		return proto.Equal(shown, b)
	}
	return proto.Equal(a, b) && proto.Equal(shown, a)
}

// checkPath checks what the ends of a tunnel know of its alternatives: they agree, all of a
// group are between the same two edges in the same segment, carry the same, and differ in their
// uplinks and in the addresses of their probes. Of a spoke with several hubs it is the hub's
// end that is looked at.
func checkPath(t *rapid.T, p *Plan, tunnel *swanherdv1.Tunnel, a, b *swanherdv1.TunnelIntent) {
	if !pathsAgree(tunnel.GetPath(), a.GetPath(), b.GetPath()) {
		t.Fatalf("%s: paths %v, %v and %v", tunnel.GetName(), tunnel.GetPath(), a.GetPath(), b.GetPath())
	}
	here, there := tunnel.GetA().GetEdge(), tunnel.GetB().GetEdge()
	if ofHubs(a.GetPath()) {
		a, here, there = b, there, here
	}
	others := 0
	for r := range p.Intents.Value(here).Resources.All() {
		o := r.GetTunnel()
		if o == nil || o.GetName() == tunnel.GetName() || o.GetPeerEdge() != there || o.GetSegment() != a.GetSegment() {
			if o.GetPath() != nil && o.GetName() != tunnel.GetName() && o.GetPath().GetGroup() == a.GetPath().GetGroup() {
				t.Fatalf("%s and %s are of one group", o.GetName(), tunnel.GetName())
			}
			continue
		}
		others++
		if a.GetPath() == nil || o.GetPath().GetGroup() != a.GetPath().GetGroup() {
			t.Fatalf("%s and %s are of different groups", o.GetName(), tunnel.GetName())
		}
		if !slices.EqualFunc(o.GetChildren(), a.GetChildren(), func(x, y *swanherdv1.ChildIntent) bool { return proto.Equal(x, y) }) {
			t.Fatalf("%s and %s carry different things", o.GetName(), tunnel.GetName())
		}
		same := p.Tunnels.Value(o.GetName())
		if same.GetA().GetUplink() == tunnel.GetA().GetUplink() && same.GetB().GetUplink() == tunnel.GetB().GetUplink() {
			t.Fatalf("%s and %s go over the same uplinks", o.GetName(), tunnel.GetName())
		}
		if x := o.GetProbe(); x != nil && x.GetRemoteAddress() == a.GetProbe().GetRemoteAddress() {
			t.Fatalf("%s and %s are probed at the same addresses", o.GetName(), tunnel.GetName())
		}
	}
	if (others > 0) != (a.GetPath() != nil) {
		t.Fatalf("%s: %d others, and the path is %v", tunnel.GetName(), others, a.GetPath())
	}
}

// checkGatewayEnd checks the one end of a tunnel with a gateway.
func checkGatewayEnd(t *rapid.T, tunnel *swanherdv1.Tunnel, i *swanherdv1.TunnelIntent) {
	if len(i.GetChildren()) == 0 || i.GetAuthentication().GetRemoteId() != "partner.example" {
		t.Fatalf("%s: %v", tunnel.GetName(), i)
	}
	if tunnel.GetA().GetInitiator() == tunnel.GetB().GetInitiator() || tunnel.GetA().GetInitiator() != (len(i.GetRemoteEndpoints()) > 0) {
		t.Fatalf("%s: who initiates? %v", tunnel.GetName(), tunnel)
	}
	for _, c := range i.GetChildren() {
		_, remote := protected(c)
		for _, p := range parsePrefixes(remote) {
			if !covers(parsePrefixes(tunnel.GetB().GetPrefixes()), p) {
				t.Fatalf("%s sends %s to a gateway that has %v", tunnel.GetName(), p, tunnel.GetB().GetPrefixes())
			}
		}
	}
}
