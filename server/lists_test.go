package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// fleetOf makes a network of many sites, of which every third is in amer.
func (c *controller) fleetOf(sites int) {
	c.t.Helper()
	m := manifest()
	m.Sites = nil
	for i := range sites {
		region := "emea"
		if i%3 == 0 {
			region = "amer"
		}
		m.Sites = append(m.Sites, &swanherdv1.Site{
			Name: fmt.Sprintf("networks/demo/sites/s%02d", i), Labels: map[string]string{"region": region},
			Prefixes: []string{fmt.Sprintf("10.%d.0.0/16", i)}, DisplayName: fmt.Sprintf("Site %02d", sites-i),
		})
	}
	if _, err := c.topology().Apply(c.t.Context(), &swanherdv1.ApplyRequest{Manifest: m}); err != nil {
		c.t.Fatal(err)
	}
}

// pages reads a list to its end, and calls between after each page but the last.
func (c *controller) pages(req *swanherdv1.ListSitesRequest, between func()) []string {
	c.t.Helper()
	var names []string
	for {
		page, err := c.topology().ListSites(c.t.Context(), req)
		if err != nil {
			c.t.Fatal(err)
		}
		if len(page.GetSites()) > int(req.GetPageSize()) {
			c.t.Errorf("a page has %d sites, %d were asked for", len(page.GetSites()), req.GetPageSize())
		}
		for _, s := range page.GetSites() {
			names = append(names, strings.TrimPrefix(s.GetName(), "networks/demo/sites/"))
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return names
		}
		between()
	}
}

// A list is of one revision, whatever happens between its pages and wherever they
// are read.
func TestPagesAreOfOneRevision(t *testing.T) {
	c := startController(t)
	c.fleetOf(12)
	changes := 0
	change := func() {
		changes++
		for _, id := range []string{"s00", "s11"} { // of a page that was read, and of one that was not
			if _, err := c.topology().UpdateSite(t.Context(), &swanherdv1.UpdateSiteRequest{
				Site: &swanherdv1.Site{Name: "networks/demo/sites/" + id, Labels: map[string]string{"region": fmt.Sprint("moved", changes)}, DisplayName: "!"},
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.topology().DeleteSite(t.Context(), &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/s09", AllowMissing: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.topology().CreateSite(t.Context(), &swanherdv1.CreateSiteRequest{
			Parent: "networks/demo", SiteId: fmt.Sprintf("s10-%d", changes), Site: &swanherdv1.Site{Labels: map[string]string{"region": "amer"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	got := c.pages(&swanherdv1.ListSitesRequest{Parent: "networks/demo", PageSize: 2, Filter: `labels.region = amer`, OrderBy: "display_name desc"}, change)
	if want := []string{"s00", "s03", "s06", "s09"}; !slices.Equal(got, want) {
		t.Errorf("ordered: %v, want %v", got, want)
	}
	c.fleetOf(12) // as it was
	got = c.pages(&swanherdv1.ListSitesRequest{Parent: "networks/demo", PageSize: 3, Filter: `labels.region = emea OR name:s09`}, func() {
		change()
		c.restart() // so that it is read from the store
	})
	if want := []string{"s01", "s02", "s04", "s05", "s07", "s08", "s09", "s10", "s11"}; !slices.Equal(got, want) {
		t.Errorf("over restarts: %v, want %v", got, want)
	}
}

// A token is good for the request that it came from, and no other.
func TestPageTokenIsOfItsRequest(t *testing.T) {
	c := startController(t)
	c.fleetOf(6)
	ask := func(req *swanherdv1.ListSitesRequest) (*swanherdv1.ListSitesResponse, error) {
		return c.topology().ListSites(t.Context(), req)
	}
	first, err := ask(&swanherdv1.ListSitesRequest{Parent: "networks/demo", PageSize: 2, Filter: "labels.region:emea"})
	if err != nil || first.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", first, err)
	}
	token := first.GetNextPageToken()
	if _, err := ask(&swanherdv1.ListSitesRequest{Parent: "networks/demo", PageSize: 1, Filter: "labels.region:emea", PageToken: token}); err != nil {
		t.Errorf("another page size: %v", err)
	}
	for what, req := range map[string]*swanherdv1.ListSitesRequest{
		"another filter":  {Parent: "networks/demo", PageSize: 2, PageToken: token},
		"another order":   {Parent: "networks/demo", PageSize: 2, PageToken: token, Filter: "labels.region:emea", OrderBy: "name desc"},
		"another network": {Parent: "networks/-", PageSize: 2, PageToken: token, Filter: "labels.region:emea"},
		"nonsense":        {Parent: "networks/demo", PageToken: "bm9uc2Vuc2U"},
		"a part":          {Parent: "networks/demo", PageToken: token[:len(token)-3], Filter: "labels.region:emea"},
	} {
		if _, err := ask(req); status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"page_token"}) {
			t.Errorf("%s: %v about %q", what, err, violated(err))
		}
	}
	if _, err := c.topology().ListMeshes(t.Context(), &swanherdv1.ListMeshesRequest{Parent: "networks/demo", PageToken: token, Filter: "labels.region:emea"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another method: %v", err)
	}
	_, err = ask(&swanherdv1.ListSitesRequest{Parent: "networks/demo", Filter: "labels.region = ", OrderBy: "nothing"})
	if status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"filter", "order_by"}) {
		t.Errorf("a bad filter and a bad order: %v about %q", err, violated(err))
	}
}

func TestListsOfWhatIsLive(t *testing.T) {
	c := startController(t)
	c.apply()
	berlin, oslo := c.enrolled("berlin"), c.enrolled("oslo")
	berlin.open()
	berlin.until("berlin--oslo")
	oslo.open()
	oslo.until("berlin--oslo")
	c.enrolled("rome")
	edges, err := c.topology().ListEdges(t.Context(), &swanherdv1.ListEdgesRequest{Parent: "networks/demo", Filter: "status.connected = true", OrderBy: "name desc"})
	if err != nil || len(edges.GetEdges()) != 2 || edges.GetEdges()[0].GetName() != oslo.name {
		t.Errorf("connected edges: %v, %v", edges, err)
	}
	c.planned("networks/demo")
	tunnels, err := c.fleet().ListTunnels(t.Context(), &swanherdv1.ListTunnelsRequest{Parent: "networks/-", Filter: `a.site:"*/berlin" AND status != UP`})
	if err != nil || len(tunnels.GetTunnels()) == 0 {
		t.Errorf("tunnels of berlin: %v, %v", tunnels, err)
	}
	none, err := c.fleet().ListTunnels(t.Context(), &swanherdv1.ListTunnelsRequest{Parent: "networks/-", Filter: `status = UP`})
	if err != nil || len(none.GetTunnels()) != 0 {
		t.Errorf("tunnels that are up: %v, %v", none, err)
	}
	var actions []string
	for req := (&swanherdv1.ListEventsRequest{Parent: "networks/demo", PageSize: 2, Filter: `action = "enroll*" OR action = "edge.enroll"`}); ; {
		page, err := c.fleet().ListEvents(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.GetEvents() {
			actions = append(actions, e.GetAction())
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if len(actions) != 6 {
		t.Errorf("three tokens and three edges are told by %v", actions)
	}
}

const (
	requestA = "6f1ed002-ab5a-4bd5-9d2e-0a3f0a3c7c11"
	requestB = "0d3c1f4e-5b6a-4c7d-8e9f-a0b1c2d3e4f5"
)

// A request with an id is carried out once, whichever replica gets it again.
func TestRequestIsCarriedOutOnce(t *testing.T) {
	replicas := startReplicas(t)
	c, other := replicas[0], replicas[1]
	c.apply()
	create := &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: "wien", Site: &swanherdv1.Site{Prefixes: []string{"10.9.0.0/16"}}, RequestId: requestA}
	first, err := c.topology().CreateSite(t.Context(), create)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []*controller{c, other} {
		again, err := at.topology().CreateSite(t.Context(), create)
		if err != nil || !slices.Equal([]string{again.GetUid(), again.GetEtag()}, []string{first.GetUid(), first.GetEtag()}) || again.String() == "" {
			t.Errorf("again: %v, %v; want %v", again, err, first)
		}
	}
	create.Site.DisplayName = "Wien"
	if _, err := other.topology().CreateSite(t.Context(), create); status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"request_id"}) {
		t.Errorf("another request with the same id: %v", err)
	}
	if _, err := c.topology().DeleteSite(t.Context(), &swanherdv1.DeleteSiteRequest{Name: first.GetName(), RequestId: requestA}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another method with the same id: %v", err)
	}
	remove := &swanherdv1.DeleteSiteRequest{Name: first.GetName(), RequestId: requestB}
	for _, at := range []*controller{c, other, c} {
		if _, err := at.topology().DeleteSite(t.Context(), remove); err != nil {
			t.Errorf("delete again: %v", err)
		}
	}
	// It stays answered when what it made is no more, and is not made anew.
	create.Site.DisplayName = ""
	if again, err := other.topology().CreateSite(t.Context(), create); err != nil || again.GetUid() != first.GetUid() {
		t.Errorf("after the deletion: %v, %v", again, err)
	}
	if _, err := c.topology().GetSite(t.Context(), &swanherdv1.GetSiteRequest{Name: first.GetName()}); status.Code(err) != codes.NotFound {
		t.Errorf("the site is there again: %v", err)
	}
	apply := &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{Sites: []*swanherdv1.Site{{Name: "networks/demo/sites/graz"}}}, RequestId: "11111111-2222-4333-8444-555555555555"}
	a, err := c.topology().Apply(t.Context(), apply)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := other.topology().Apply(t.Context(), apply); err != nil || b.GetRevision() != a.GetRevision() || b.GetChanges()[0].GetAction() != swanherdv1.ResourceChange_ACTION_CREATED {
		t.Errorf("applied again: %v, %v; want %v", b, err, a)
	}
	if _, err := c.topology().CreateSite(t.Context(), &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: "x", RequestId: "1"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an id that is no UUID: %v", err)
	}
}

// An id belongs to who made the request.
func TestRequestIDsOfOthers(t *testing.T) {
	c := startController(t)
	c.apply()
	made, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: swanherdv1.Role_ROLE_OPERATOR}})
	if err != nil {
		t.Fatal(err)
	}
	req := &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: "wien", RequestId: requestA}
	if _, err := c.topology().CreateSite(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	_, err = swanherdv1.NewTopologyServiceClient(c.dial(made.GetSecret())).CreateSite(t.Context(), req)
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("somebody else's id: %v", err)
	}
}

func TestDeletion(t *testing.T) {
	c := startController(t)
	m := manifest()
	m.Meshes = append(m.Meshes, &swanherdv1.Mesh{
		Name: "networks/demo/meshes/pair", Profile: "networks/demo/profiles/default",
		Topology: &swanherdv1.Mesh_ExplicitLinks{ExplicitLinks: &swanherdv1.ExplicitLinks{Links: []*swanherdv1.Link{
			{SiteA: "networks/demo/sites/berlin", SiteB: "networks/demo/sites/oslo"},
		}}},
	})
	corp := "networks/demo/segments/corp"
	m.Segments = []*swanherdv1.Segment{{Name: corp}}
	m.Sites[0].Segments = []*swanherdv1.SiteSegment{{Segment: corp, Prefixes: m.Sites[0].GetPrefixes()}}
	m.Meshes[1].Segments = []string{corp}
	topology, ctx := c.topology(), t.Context()
	if _, err := topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: m}); err != nil {
		t.Fatal(err)
	}
	_, err := topology.DeleteSegment(ctx, &swanherdv1.DeleteSegmentRequest{Name: corp})
	if got := obstacles(err); status.Code(err) != codes.FailedPrecondition || !slices.Equal(got, []string{m.Sites[0].GetName(), "networks/demo/meshes/pair"}) {
		t.Errorf("a segment in use: %v about %v", err, got)
	}
	_, err = topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/berlin"})
	if got := obstacles(err); status.Code(err) != codes.FailedPrecondition || !slices.Equal(got, []string{"networks/demo/meshes/pair"}) {
		t.Errorf("a site that a mesh names: %v about %v", err, got)
	}
	_, err = topology.DeleteProfile(ctx, &swanherdv1.DeleteProfileRequest{Name: "networks/demo/profiles/default"})
	if got := obstacles(err); !slices.Equal(got, []string{"networks/demo/meshes/all", "networks/demo/meshes/pair"}) {
		t.Errorf("a profile in use: %v about %v", err, got)
	}
	_, err = topology.DeleteNetwork(ctx, &swanherdv1.DeleteNetworkRequest{Name: "networks/demo"})
	if got := obstacles(err); len(got) != 7 {
		t.Errorf("a network that is not empty: %v about %v", err, got)
	}
	// What the rules of a mesh want of the rest is in the way too.
	if _, err = topology.DeleteMesh(ctx, &swanherdv1.DeleteMeshRequest{Name: "networks/demo/meshes/pair", ValidateOnly: true}); err != nil {
		t.Errorf("a deletion that is only checked: %v", err)
	}
	if _, err = topology.DeleteMesh(ctx, &swanherdv1.DeleteMeshRequest{Name: "networks/demo/meshes/pair"}); err != nil {
		t.Errorf("the mesh was deleted by a check: %v", err)
	}
	for _, id := range []string{"berlin", "oslo"} {
		if _, err = topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/" + id}); err != nil {
			t.Error(err)
		}
	}
	_, err = topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/rome"})
	if got := obstacles(err); status.Code(err) != codes.FailedPrecondition || !slices.Equal(got, []string{"networks/demo/meshes/all"}) {
		t.Errorf("the last site of a mesh: %v about %v", err, got)
	}
	if _, err = topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/berlin"}); status.Code(err) != codes.NotFound {
		t.Errorf("what is not there: %v", err)
	}
	if _, err = topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/berlin", AllowMissing: true}); err != nil {
		t.Errorf("what may be missing: %v", err)
	}
	resp, body := c.rest("DELETE", "/v1/networks/demo/sites/rome", c.token, "")
	if resp.StatusCode != 409 || !strings.Contains(body, `"reason":"IN_USE"`) || !strings.Contains(body, `"resource":"networks/demo/meshes/all"`) {
		t.Errorf("by REST: %d %s", resp.StatusCode, body)
	}
	made, err := topology.UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{
		Site: &swanherdv1.Site{Name: "networks/demo/sites/bonn", DisplayName: "Bonn", Labels: map[string]string{"a": "b"}}, AllowMissing: true,
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	if err != nil || made.GetUid() == "" || made.GetLabels()["a"] != "b" {
		t.Errorf("update of what may be missing: %v, %v", made, err)
	}
}
