package cli

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A kind is a type of resource that get, describe and delete know.
type kind struct {
	plural   string
	singular string
	// segment is the collection's segment in resource names.
	segment string
	// root kinds are of the controller, not of a network.
	root bool
	// of is the segment of the collection of which each has such a collection.
	of string
	// fleetWide kinds are also of the fleet as a whole, `networks/-`.
	fleetWide bool
	header    []string
	row       func(proto.Message, time.Time) []string
	list      func(ctx context.Context, c *client, want listing) (proto.Message, error)
	get       func(ctx context.Context, c *client, name string) (proto.Message, error)
	remove    func(ctx context.Context, c *client, want removal) error // nil: cannot be deleted
}

// listing is which page of a list is wanted.
type listing struct{ token, filter, orderBy string }

// removal is which resource is to be deleted, and how.
type removal struct {
	name            string
	missing, dryRun bool
}

func kinds() []kind {
	return []kind{
		networkKind(), siteKind(), edgeKind(), meshKind(), profileKind(), segmentKind(), gatewayKind(), assertionKind(), pskKind(), tunnelKind(), jobKind(), alertRuleKind(), webhookKind(),
		alertKind(), changeSetKind(), rolloutKind(), deviceKind(), tokenKind(), requestKind(), certificateKind(), userKind(), bindingKind(), apiTokenKind(),
	}
}

func findKind(word string) (kind, error) {
	word = strings.ToLower(word)
	all := kinds()
	i := slices.IndexFunc(all, func(k kind) bool { return word == k.plural || word == k.singular })
	if i >= 0 {
		return all[i], nil
	}
	names := make([]string, len(all))
	for i, k := range all {
		names[i] = k.plural
	}
	return kind{}, usagef("no kind %q; there are %s", word, strings.Join(names, ", "))
}

// name returns the full resource name of id, which may be one already.
func (k kind) name(c *client, id string) (string, error) {
	switch {
	case strings.HasPrefix(id, "networks/"), k.root && strings.HasPrefix(id, k.segment+"/"):
		return id, nil
	case k.root:
		return k.segment + "/" + id, nil
	case c.parent == "networks/-" && !k.fleetWide:
		return "", usagef("%s %q: name one network with --network, or give the full name", k.singular, id)
	}
	if k.of != "" {
		of, own, found := strings.Cut(id, "/")
		if !found {
			return "", usagef("%s %q: name it with what it is of, or give the full name: %s/%s/NAME/%s/%s", k.singular, id, c.parent, k.of, k.segment, id)
		}
		return fmt.Sprintf("%s/%s/%s/%s/%s", c.parent, k.of, of, k.segment, own), nil
	}
	return fmt.Sprintf("%s/%s/%s", c.parent, k.segment, id), nil
}

const pageSize = 1000

func networkKind() kind {
	return kind{
		plural: "networks", singular: "network", segment: "networks", root: true,
		header: []string{"NAME", "DISPLAY NAME", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			n := m.(*swanherdv1.Network)
			return []string{base(n.GetName()), n.GetDisplayName(), age(n.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListNetworks(ctx, &swanherdv1.ListNetworksRequest{PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetNetwork(ctx, &swanherdv1.GetNetworkRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteNetwork(ctx, &swanherdv1.DeleteNetworkRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

func siteKind() kind {
	return kind{
		plural: "sites", singular: "site", segment: "sites",
		header: []string{"NAME", "PREFIXES", "LABELS", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			x := m.(*swanherdv1.Site)
			prefixes := slices.Clone(x.GetPrefixes())
			for _, in := range x.GetSegments() {
				for _, prefix := range in.GetPrefixes() {
					prefixes = append(prefixes, base(in.GetSegment())+":"+prefix)
				}
			}
			return []string{base(x.GetName()), strings.Join(prefixes, ","), labels(x.GetLabels()), age(x.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListSites(ctx, &swanherdv1.ListSitesRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetSite(ctx, &swanherdv1.GetSiteRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

// natWords says how an uplink looks from outside, where that is not as it looks from
// inside: "(203.0.113.7:31022 endpoint-independent NAT)".
func natWords(nats []*swanherdv1.UplinkNat) (words string) {
	for _, n := range nats {
		seen := n.GetMappedAddress()
		if n.GetMappedPort() != 0 {
			seen = net.JoinHostPort(seen, strconv.Itoa(int(n.GetMappedPort())))
		}
		if n.GetCarrierGrade() {
			seen += " carrier's"
		}
		switch n.GetMapping() {
		case swanherdv1.NatMapping_NAT_MAPPING_NONE:
			continue
		case swanherdv1.NatMapping_NAT_MAPPING_ENDPOINT_INDEPENDENT:
			seen += " endpoint-independent"
		case swanherdv1.NatMapping_NAT_MAPPING_ADDRESS_DEPENDENT:
			seen += " address-dependent"
		}
		words += "(" + seen + " NAT)"
	}
	return words
}

func edgeKind() kind {
	return kind{
		plural: "edges", singular: "edge", segment: "edges",
		header: []string{"NAME", "SITE", "CONNECTED", "INTENT", "UPLINKS", "DATA PLANE", "VERSION", "SEEN"},
		row: func(m proto.Message, now time.Time) []string {
			e := m.(*swanherdv1.Edge)
			st := e.GetStatus()
			var uplinks []string
			for _, u := range e.GetUplinks() {
				uplinks = append(uplinks, u.GetName()+"="+strings.Join(u.GetAddresses(), "/")+natWords(u.GetNats()))
			}
			connected := "no"
			if st.GetConnected() {
				connected = "yes"
			}
			return []string{
				base(e.GetName()), base(e.GetSite()), connected, intentWord(st), strings.Join(uplinks, ","),
				st.GetDataPlane(), st.GetAgentVersion(), age(st.GetLastSeenTime(), now),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListEdges(ctx, &swanherdv1.ListEdgesRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetEdge(ctx, &swanherdv1.GetEdgeRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteEdge(ctx, &swanherdv1.DeleteEdgeRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

func meshKind() kind {
	return kind{
		plural: "meshes", singular: "mesh", segment: "meshes",
		header: []string{"NAME", "TOPOLOGY", "PROFILE", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			x := m.(*swanherdv1.Mesh)
			topology := ""
			switch x.GetTopology().(type) {
			case *swanherdv1.Mesh_FullMesh:
				topology = "full mesh"
			case *swanherdv1.Mesh_HubAndSpoke:
				topology = "hub and spoke"
			case *swanherdv1.Mesh_ExplicitLinks:
				topology = "explicit links"
			case *swanherdv1.Mesh_Regional:
				topology = "regional"
			}
			return []string{base(x.GetName()), topology, base(x.GetProfile()), age(x.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListMeshes(ctx, &swanherdv1.ListMeshesRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetMesh(ctx, &swanherdv1.GetMeshRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteMesh(ctx, &swanherdv1.DeleteMeshRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

func profileKind() kind {
	return kind{
		plural: "profiles", singular: "profile", segment: "profiles",
		header: []string{"NAME", "IKE", "ESP", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			p := m.(*swanherdv1.Profile)
			return []string{
				base(p.GetName()), strings.Join(p.GetIkeProposals(), ","), strings.Join(p.GetEspProposals(), ","), age(p.GetCreateTime(), now),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListProfiles(ctx, &swanherdv1.ListProfilesRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetProfile(ctx, &swanherdv1.GetProfileRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteProfile(ctx, &swanherdv1.DeleteProfileRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

func segmentKind() kind {
	return kind{
		plural: "segments", singular: "segment", segment: "segments",
		header: []string{"NAME", "DISPLAY NAME", "LABELS", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			s := m.(*swanherdv1.Segment)
			return []string{base(s.GetName()), s.GetDisplayName(), labels(s.GetLabels()), age(s.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListSegments(ctx, &swanherdv1.ListSegmentsRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetSegment(ctx, &swanherdv1.GetSegmentRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteSegment(ctx, &swanherdv1.DeleteSegmentRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

func tunnelKind() kind {
	return kind{
		plural: "tunnels", singular: "tunnel", segment: "tunnels",
		header: []string{"NAME", "STATUS", "SINCE", "A", "B", "PATH", "IKE SUITE", "CHILD SAS", "IN", "OUT", "REASON"},
		row:    tunnelRow,
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.fleet.ListTunnels(ctx, &swanherdv1.ListTunnelsRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.fleet.GetTunnel(ctx, &swanherdv1.GetTunnelRequest{Name: name})
		},
	}
}

func tunnelRow(m proto.Message, now time.Time) []string {
	t := m.(*swanherdv1.Tunnel)
	report := t.GetA().GetReport()
	var in, out uint64
	for _, c := range report.GetChildSas() {
		in += c.GetCounters().GetOctetsIn()
		out += c.GetCounters().GetOctetsOut()
	}
	return []string{
		base(t.GetName()), enumWord(t.GetStatus()), age(t.GetStatusTime(), now),
		t.GetA().GetEndpoint(), t.GetB().GetEndpoint(), tunnelPath(t), report.GetIkeSa().GetSuite(),
		fmt.Sprint(len(report.GetChildSas())), octets(in), octets(out), t.GetReason(),
	}
}

// tunnelPath is over which uplinks a tunnel goes, and of what class that is where there are
// others.
func tunnelPath(t *swanherdv1.Tunnel) string {
	words := []string{cmp.Or(t.GetA().GetUplink(), "?") + " > " + cmp.Or(t.GetB().GetUplink(), "?")}
	if t.GetB().GetGateway() != "" {
		words[0] = t.GetA().GetUplink()
	}
	if p := t.GetPath(); p != nil {
		words = append(words, pathClass(p.GetClass(), p.GetMetered()))
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// octets renders a volume with a binary unit.
func octets(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

func labels(m map[string]string) string {
	pairs := make([]string, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
