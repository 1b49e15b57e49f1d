package access

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// Scope says what of the fleet, as it was in a snapshot, a caller may see and change.
// Where labels limit a caller's role it is what carries them; what it does not know
// is outside.
type Scope struct {
	who  Principal
	snap *store.Snapshot
}

// Scope is the principal's scope in the snapshot.
func (p Principal) Scope(snap *store.Snapshot) Scope { return Scope{p, snap} }

// Limited says whether labels limit what the caller sees anywhere.
func (s Scope) Limited() bool { return s.who.limited() }

// Sees says whether the caller may see what has the name, such as
// `networks/{network}/sites/{site}`.
func (s Scope) Sees(name string) bool { return s.has(name, false) }

// Changes says whether the caller may change it, if its role is one that changes things.
func (s Scope) Changes(name string) bool { return s.has(name, true) }

// Denied is PERMISSION_DENIED for what is not in scope, whether it is there or not.
func (s Scope) Denied(name string) error {
	limits := s.who.limits(networkOf(name))
	return withDetails(codes.PermissionDenied,
		fmt.Sprintf("%s may not act on %s: its role is limited to what carries %s", s.who.Actor, name, limits),
		errorInfo(ReasonOutOfScope, map[string]string{"resource": name, "labels": limits}))
}

func (s Scope) has(name string, change bool) bool {
	network := networkOf(name)
	if s.who.SeesAll(network) || !s.who.limited() {
		return s.who.Sees(network)
	}
	if !s.who.Sees(network) {
		return false
	}
	parts := strings.Split(name, "/")
	if len(parts) == 2 {
		return !change
	}
	if len(parts) < 4 {
		return false
	}
	of := strings.Join(parts[:4], "/") // an edge, of the certificate of an edge
	switch parts[2] {
	case "sites":
		return s.site(of)
	case "edges":
		return s.edge(of)
	case "tunnels":
		return s.tunnel(of, change)
	case "meshes":
		mesh, ok := s.snap.Meshes.Get(of)
		return ok && !change && s.who.carried(network, mesh.Value.GetLabels())
	case "gateways":
		gateway, ok := s.snap.Gateways.Get(of)
		return ok && s.gateway(gateway.Value, change)
	case "segments":
		segment, ok := s.snap.Segments.Get(of)
		return ok && !change && (s.who.carried(network, segment.Value.GetLabels()) || s.inSegment(of))
	case "preSharedKeys":
		return s.key(of)
	case "events":
		return !change // by what each is about
	case "changeSets":
		c, ok := s.snap.ChangeSets.Get(of)
		return ok && s.HoldsAll(c.Value)
	case "rollouts":
		return s.has(s.snap.Rollouts.Value(of).GetRollout().GetChangeSet(), change)
	}
	return s.belongs(of, parts[2])
}

// belongs says whether what belongs to a site or an edge is in scope.
func (s Scope) belongs(name, collection string) bool {
	switch collection {
	case "devices":
		return s.site(s.snap.Devices.Value(name).GetSite())
	case "enrollmentTokens":
		token, ok := s.snap.EnrollmentTokens.Get(name)
		return ok && s.Admits(token.Value.GetToken())
	case "enrollmentRequests":
		r := s.snap.EnrollmentRequests.Value(name).GetRequest()
		_, exists := s.snap.Edges.Get(r.GetEdge())
		return s.site(r.GetSite()) && (!exists || s.edge(r.GetEdge()))
	case "jobs":
		return s.edge(s.snap.Jobs.Value(name).GetEdge())
	case "revocations":
		return s.edge(s.snap.Revocations.Value(name).GetEdge())
	case "alerts":
		return s.Sees(s.snap.Alerts.Value(name).GetResource())
	}
	return false
}

// Admits says whether an enrolment token is for nothing but what is in scope. One that
// makes sites may be used for any site.
func (s Scope) Admits(token *swanherdv1.EnrollmentToken) bool {
	if s.who.SeesAll(networkOf(token.GetName())) {
		return true
	}
	site, edge := token.GetSite(), token.GetEdge()
	return !token.GetCreateSite() && site+edge != "" && (site == "" || s.site(site)) && (edge == "" || s.edge(edge))
}

// HoldsAll says whether all that a change set holds and changes is in scope: sites that
// carry the labels, as they are and as they will be.
func (s Scope) HoldsAll(c *swanherdv1.ChangeSet) bool {
	network, m := networkOf(c.GetName()), c.GetManifest()
	if s.who.SeesAll(network) {
		return true
	}
	if len(m.GetNetworks())+len(m.GetProfiles())+len(m.GetMeshes())+len(m.GetSegments())+len(m.GetAssertions()) > 0 {
		return false
	}
	made := map[string]bool{}
	for _, gateway := range m.GetGateways() {
		old, exists := s.snap.Gateways.Get(gateway.GetName())
		if !s.gateway(gateway, true) || exists && !s.gateway(old.Value, true) {
			return false
		}
		made[gateway.GetName()] = true
	}
	for _, site := range m.GetSites() {
		_, exists := s.snap.Sites.Get(site.GetName())
		if !s.who.carried(network, site.GetLabels()) || exists && !s.site(site.GetName()) || s.Enters(site) != "" {
			return false
		}
		made[site.GetName()] = true
	}
	for _, change := range c.GetChanges() {
		if !made[change.GetName()] && !s.Changes(change.GetName()) {
			return false
		}
	}
	return true
}

// Carried says whether what carries the labels in the network is in scope.
func (s Scope) Carried(network string, labels map[string]string) bool {
	return s.who.SeesAll(network) || s.who.carried(network, labels)
}

// Enters is a segment that a site is not in yet and would be, and that the caller does not
// see; empty: none. Who makes segments says who else may come in.
func (s Scope) Enters(site *swanherdv1.Site) string {
	before := s.snap.Sites.Value(site.GetName()).GetSegments()
	for _, x := range site.GetSegments() {
		same := func(b *swanherdv1.SiteSegment) bool { return b.GetSegment() == x.GetSegment() }
		if !slices.ContainsFunc(before, same) && !s.Sees(x.GetSegment()) {
			return x.GetSegment()
		}
	}
	return ""
}

// inSegment says whether a site in scope is in the segment.
func (s Scope) inSegment(segment string) bool {
	for row := range s.snap.Sites.WithPrefix(networkOf(segment) + "/") {
		in := func(x *swanherdv1.SiteSegment) bool { return x.GetSegment() == segment }
		if slices.ContainsFunc(row.Value.GetSegments(), in) && s.site(row.Name) {
			return true
		}
	}
	return false
}

// key is in scope where it carries the labels.
func (s Scope) key(name string) bool {
	row, ok := s.snap.PreSharedKeys.Get(name)
	return ok && s.who.carried(networkOf(name), row.Value.GetKey().GetLabels())
}

// gateway is seen by its labels and from each edge that holds a tunnel with it. Who
// changes it has all of these edges, whatever sites there will be, and its key: with
// another address it would be used against whom its owner does not know.
func (s Scope) gateway(g *swanherdv1.Gateway, change bool) bool {
	network := networkOf(g.GetName())
	if s.who.SeesAll(network) || !change && s.who.carried(network, g.GetLabels()) {
		return true
	}
	within := func(a *swanherdv1.GatewayAttachment) bool {
		if a.GetSites() != nil {
			return s.who.carried(network, a.GetSites().GetMatchLabels())
		}
		return networkOf(a.GetEdge()) == network && s.edge(a.GetEdge())
	}
	if !change {
		return slices.ContainsFunc(g.GetAttachments(), within) || s.attached(g)
	}
	outside := func(a *swanherdv1.GatewayAttachment) bool { return !within(a) }
	if len(g.GetAttachments()) == 0 || slices.ContainsFunc(g.GetAttachments(), outside) {
		return false
	}
	return g.GetPreSharedKey() == nil || s.key(g.GetPreSharedKey().GetKey())
}

// attached says whether a gateway selects a site in scope.
func (s Scope) attached(g *swanherdv1.Gateway) bool {
	for row := range s.snap.Sites.WithPrefix(networkOf(g.GetName()) + "/") {
		if _, ok := model.Attaches(g, "", row.Value.GetLabels()); ok && s.site(row.Name) {
			return true
		}
	}
	return false
}

func (s Scope) site(name string) bool {
	row, ok := s.snap.Sites.Get(name)
	return ok && s.who.carried(networkOf(name), row.Value.GetLabels())
}

// edge is in scope where its site is.
func (s Scope) edge(name string) bool {
	row, ok := s.snap.Edges.Get(name)
	return ok && s.site(row.Value.GetSite())
}

// tunnel is seen from either end; what is done to it is done at both. Its name says which
// they are: who saw an alert about it is to be told of its end when the tunnel is gone.
func (s Scope) tunnel(name string, change bool) bool {
	n, err := model.ParseTunnelName(name)
	if err != nil {
		return false
	}
	a, b, gateway := n.Ends()
	return s.ends(a.String(), b.String(), gateway != model.GatewayName{}, change)
}

// Tunnel says whether a tunnel is in scope by its ends.
func (s Scope) Tunnel(t *swanherdv1.Tunnel, change bool) bool {
	if s.who.SeesAll(networkOf(t.GetName())) {
		return true
	}
	return s.ends(t.GetA().GetEdge(), t.GetB().GetEdge(), t.GetB().GetGateway() != "", change)
}

// ends says whether a tunnel between two edges is in scope, or one between an edge and a
// gateway.
func (s Scope) ends(a, b string, gateway, change bool) bool {
	if gateway || change {
		return s.edge(a) && (gateway || s.edge(b))
	}
	return s.edge(a) || s.edge(b)
}

// Moved says whether more or less may be in scope than in that of an older snapshot, besides
// what itself was changed since: sites, and what belongs to them, go by the labels of sites,
// and others by what they are about.
func (s Scope) Moved(before Scope) bool {
	if !s.Limited() {
		return false
	}
	was, is := before.snap, s.snap
	for c := range model.Diff(was.Sites, is.Sites) {
		if c.Old == nil || c.New == nil || !maps.Equal(c.Old.Value.GetLabels(), c.New.Value.GetLabels()) ||
			!slices.EqualFunc(c.Old.Value.GetSegments(), c.New.Value.GetSegments(), sameSegment) {
			return true
		}
	}
	for c := range model.Diff(was.Edges, is.Edges) {
		if c.Old == nil || c.New == nil || c.Old.Value.GetSite() != c.New.Value.GetSite() {
			return true
		}
	}
	return differ(was.Meshes, is.Meshes) || differ(was.Gateways, is.Gateways) || differ(was.Segments, is.Segments) ||
		differ(was.PreSharedKeys, is.PreSharedKeys) || differ(was.ChangeSets, is.ChangeSets)
}

func sameSegment(a, b *swanherdv1.SiteSegment) bool { return a.GetSegment() == b.GetSegment() }

func differ[T any](a, b model.Table[T]) bool {
	for range model.Diff(a, b) {
		return true
	}
	return false
}
