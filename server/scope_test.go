package server_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// limitedTo is a connection of somebody with the role in one network, for what carries
// the labels.
func (c *controller) limitedTo(role swanherdv1.Role, network, key, value string) *grpc.ClientConn {
	c.t.Helper()
	token, err := c.access().CreateApiToken(c.t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
		Role: role, Networks: []string{network}, MatchLabels: map[string]string{key: value},
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.dial(token.GetSecret())
}

// reading are the methods that change nothing; all others have to refuse.
var reading = regexp.MustCompile(`^(Get|List|Watch|Query|Explain|Verify|WhoAmI)`)

// Whose role is limited to labels that nothing carries sees nothing of a network and
// changes nothing of it, by any method: a new one without a check fails.
func TestLabelsLimitEveryMethod(t *testing.T) {
	c := startController(t)
	s := c.populated("networks/alpha")
	conn := c.limitedTo(swanherdv1.Role_ROLE_ADMIN, s.network, "region", "apac")
	own := []string{"CreateLoginLink", "ResumeEdges"} // of nothing but the caller's
	inside := regexp.MustCompile(`berlin|oslo|rome|meshes/|profiles/|` + s.ids["device"] + `|` + s.ids["enrollment_token"] + `|` + s.ids["change_set"])
	for _, m := range publicMethods(t) {
		if m.Parent().Name() == "EnrollmentService" || m.Name() == "RedeemLoginLink" || m.Name() == "GetIdentityProvider" {
			continue // nobody is signed in there
		}
		t.Run(string(m.Parent().Name())+"/"+string(m.Name()), func(t *testing.T) {
			req := s.request(t, m)
			resp, err := call(t.Context(), t, conn, m, req)
			switch code := status.Code(err); {
			case code == codes.PermissionDenied:
			case code != codes.OK:
				t.Errorf("%v", err)
			case !reading.MatchString(string(m.Name())) && !slices.Contains(own, string(m.Name())):
				t.Error("it is done; give the method a check")
			case inside.MatchString(prototext.Format(resp)):
				t.Errorf("it shows what carries other labels: %v", resp)
			}
			nothing := proto.Clone(req)
			elsewhere := regexp.MustCompile(`^(networks/alpha/[a-zA-Z]+)/.*$`)
			renamedFields(nothing.ProtoReflect(), func(text string) string { return elsewhere.ReplaceAllString(text, "$1/nothing") })
			if proto.Equal(req, nothing) {
				return
			}
			_, none := call(t.Context(), t, conn, m, nothing)
			text := func(err error) string {
				return regexp.MustCompile(`networks/alpha/[\w/-]+`).ReplaceAllString(told(err), "THING")
			}
			if a, b := text(err), text(none); a != b {
				t.Errorf("what is there and what is not are told apart:\n%s\n%s", a, b)
			}
		})
	}
	events, err := c.fleet().ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/-", PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	who, err := swanherdv1.NewAccessServiceClient(conn).WhoAmI(t.Context(), &swanherdv1.WhoAmIRequest{})
	if err != nil || len(who.GetGrants()) != 1 || who.GetGrants()[0].GetMatchLabels()["region"] != "apac" {
		t.Fatalf("who am I: %v, %v", who, err)
	}
	for _, e := range events.GetEvents() {
		if e.GetActor() == who.GetActor() && e.GetAction() != "loginLink.create" {
			t.Errorf("it did %s to %s", e.GetAction(), e.GetResource())
		}
	}
}

// outOfScope holds an answer to be the refusal of what labels keep from the caller.
func outOfScope(t testing.TB, what string, err error) {
	t.Helper()
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "OUT_OF_SCOPE" && st.Code() == codes.PermissionDenied {
			return
		}
	}
	t.Errorf("%s: %v, want PERMISSION_DENIED as OUT_OF_SCOPE", what, err)
}

func labelled(id, region string) *swanherdv1.Site {
	s := &swanherdv1.Site{Name: "networks/demo/sites/" + id, Prefixes: []string{map[string]string{
		"berlin": "10.1.0.0/16", "oslo": "10.2.0.0/16", "rome": "10.3.0.0/16", "wien": "10.4.0.0/16",
	}[id]}}
	if region != "" {
		s.Labels = map[string]string{"region": region}
	}
	return s
}

// regions is a controller with a network of two regions, each of its sites with an edge.
func regions(t *testing.T) *controller {
	c := startController(t)
	m := manifest()
	m.Sites = []*swanherdv1.Site{labelled("berlin", "emea"), labelled("oslo", "emea"), labelled("rome", "apac")}
	if _, err := c.topology().Apply(t.Context(), &swanherdv1.ApplyRequest{Manifest: m}); err != nil {
		t.Fatal(err)
	}
	for _, site := range []string{"berlin", "oslo", "rome"} {
		c.enrolled(site)
	}
	deadline, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	stream, err := c.fleet().WatchTunnels(deadline, &swanherdv1.WatchTunnelsRequest{Parent: "networks/demo"})
	for n := 0; err == nil && n < 3; {
		var resp *swanherdv1.WatchTunnelsResponse
		if resp, err = stream.Recv(); resp.GetKind() == swanherdv1.WatchTunnelsResponse_KIND_UPSERTED {
			n++
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What labels limit: what is seen, and what changes, before and after.
func TestLabelScope(t *testing.T) {
	c := regions(t)
	conn := c.limitedTo(swanherdv1.Role_ROLE_OPERATOR, "networks/demo", "region", "emea")
	topology, ctx := swanherdv1.NewTopologyServiceClient(conn), t.Context()
	apply := func(prune bool, only map[string]string, sites ...*swanherdv1.Site) error {
		_, err := topology.Apply(ctx, &swanherdv1.ApplyRequest{Manifest: &swanherdv1.Manifest{Sites: sites}, Prune: prune, PruneLabels: only})
		return err
	}
	relabel := func(name, region string) error {
		_, err := topology.UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{
			Site: labelled(name, region), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
		})
		return err
	}
	create := func(id, region string) error {
		_, err := topology.CreateSite(ctx, &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: id, Site: labelled(id, region)})
		return err
	}
	move := func(edge, site string) error {
		_, err := topology.UpdateEdge(ctx, &swanherdv1.UpdateEdgeRequest{
			Edge:       &swanherdv1.Edge{Name: "networks/demo/edges/" + edge, Site: "networks/demo/sites/" + site},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"site"}},
		})
		return err
	}
	explain := func(source, destination string) error {
		_, err := topology.Explain(ctx, &swanherdv1.ExplainRequest{Parent: "networks/demo", Source: source, Destination: destination})
		return err
	}
	token := func(x *swanherdv1.EnrollmentToken) error {
		_, err := swanherdv1.NewAccessServiceClient(conn).CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{Parent: "networks/demo", EnrollmentToken: x})
		return err
	}
	rekey := func(tunnel string) error {
		_, err := swanherdv1.NewFleetServiceClient(conn).RekeyTunnel(ctx, &swanherdv1.RekeyTunnelRequest{Name: "networks/demo/tunnels/" + tunnel})
		return err
	}
	outOfScope(t, "a site moves out", relabel("berlin", "apac"))
	outOfScope(t, "a site moves in", relabel("rome", "emea"))
	outOfScope(t, "a site loses its labels", relabel("berlin", ""))
	outOfScope(t, "a site moves out by a manifest", apply(false, nil, labelled("berlin", "apac")))
	outOfScope(t, "a site moves in by a manifest", apply(false, nil, labelled("rome", "emea")))
	outOfScope(t, "a wrong etag outside", apply(false, nil, func() *swanherdv1.Site { s := labelled("rome", "apac"); s.DisplayName, s.Etag = "x", `"1"`; return s }()))
	outOfScope(t, "what a manifest leaves out", apply(true, nil, labelled("berlin", "emea")))
	outOfScope(t, "a new site without the labels", create("wien", ""))
	outOfScope(t, "an edge moves out", move("berlin", "rome"))
	outOfScope(t, "an edge moves in", move("rome", "berlin"))
	outOfScope(t, "between others", explain("10.3.0.1", "10.3.0.2"))
	outOfScope(t, "a token for others", token(&swanherdv1.EnrollmentToken{Site: "networks/demo/sites/rome"}))
	outOfScope(t, "a token for any site", token(&swanherdv1.EnrollmentToken{CreateSite: true, SiteLabels: map[string]string{"region": "emea"}}))
	outOfScope(t, "a tunnel to others", rekey("berlin--rome"))
	if err := rekey("berlin--oslo"); status.Code(err) != codes.FailedPrecondition { // no edge has a session
		t.Errorf("a tunnel between own edges: %v", err)
	}
	for _, x := range []struct {
		what string
		try  func() error
	}{
		{"a new site", func() error { return create("wien", "emea") }},
		{"an edge moves", func() error { return move("oslo", "wien") }},
		{"and back", func() error { return move("oslo", "oslo") }},
		{"to others", func() error { return explain("10.1.0.1", "10.3.0.1") }},
		{"a token", func() error { return token(&swanherdv1.EnrollmentToken{Site: "networks/demo/sites/oslo"}) }},
		{"prune what carries them", func() error {
			return apply(true, map[string]string{"region": "emea"}, labelled("berlin", "emea"), labelled("oslo", "emea"))
		}},
	} {
		if err := x.try(); err != nil {
			t.Errorf("%s: %v", x.what, err)
		}
	}
	c.listed(conn)
	c.changedByPart(conn)
	c.conflicts(conn)
}

// listed holds lists to what carries region=emea.
func (c *controller) listed(conn *grpc.ClientConn) {
	c.t.Helper()
	ctx, t := c.t.Context(), c.t
	topology, fleet := swanherdv1.NewTopologyServiceClient(conn), swanherdv1.NewFleetServiceClient(conn)
	sites, err := topology.ListSites(ctx, &swanherdv1.ListSitesRequest{Parent: "networks/demo"})
	if got := namesOf(sites.GetSites()); err != nil || got != "[berlin oslo]" {
		t.Errorf("sites %s, %v", got, err)
	}
	edges, err := topology.ListEdges(ctx, &swanherdv1.ListEdgesRequest{Parent: "networks/-"})
	if got := namesOf(edges.GetEdges()); err != nil || got != "[berlin oslo]" {
		t.Errorf("edges %s, %v", got, err)
	}
	tunnels, err := fleet.ListTunnels(ctx, &swanherdv1.ListTunnelsRequest{Parent: "networks/demo"})
	if got := namesOf(tunnels.GetTunnels()); err != nil || got != "[berlin--oslo berlin--rome oslo--rome]" {
		t.Errorf("tunnels %s, %v", got, err)
	}
	other := swanherdv1.NewFleetServiceClient(c.limitedTo(swanherdv1.Role_ROLE_VIEWER, "networks/demo", "region", "apac"))
	tunnels, err = other.ListTunnels(ctx, &swanherdv1.ListTunnelsRequest{Parent: "networks/-"})
	if got := namesOf(tunnels.GetTunnels()); err != nil || got != "[berlin--rome oslo--rome]" {
		t.Errorf("tunnels of the other region %s, %v", got, err)
	}
	events, err := fleet.ListEvents(ctx, &swanherdv1.ListEventsRequest{Parent: "networks/-", PageSize: 1000})
	if err != nil || len(events.GetEvents()) == 0 {
		t.Errorf("events: %v", err)
	}
	for _, e := range events.GetEvents() {
		if r := e.GetResource(); strings.HasSuffix(r, "/rome") || !strings.HasPrefix(r, "networks/demo") {
			t.Errorf("event about %s", r)
		}
	}
}

// changedByPart makes change sets of the own part and of others, and rolls one out.
func (c *controller) changedByPart(conn *grpc.ClientConn) {
	c.t.Helper()
	ctx, t := c.t.Context(), c.t
	own := swanherdv1.NewRolloutServiceClient(conn)
	set := func(client swanherdv1.RolloutServiceClient, id string, m *swanherdv1.Manifest) error {
		_, err := client.CreateChangeSet(ctx, &swanherdv1.CreateChangeSetRequest{
			Parent: "networks/demo", ChangeSetId: id, ChangeSet: &swanherdv1.ChangeSet{Manifest: m},
		})
		return err
	}
	sites := func(id, region, prefix string) *swanherdv1.Manifest {
		s := labelled(id, region)
		s.Prefixes = append(s.Prefixes, prefix)
		return &swanherdv1.Manifest{Sites: []*swanherdv1.Site{s}}
	}
	outOfScope(t, "a change set of others", set(own, "theirs", sites("rome", "apac", "10.30.0.0/16")))
	withNetwork := sites("berlin", "emea", "10.10.0.0/16")
	withNetwork.Networks = []*swanherdv1.Network{{Name: "networks/demo"}}
	outOfScope(t, "a change set with the network", set(own, "all", withNetwork))
	if err := set(own, "ours", sites("berlin", "emea", "10.10.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if err := set(c.rollouts(), "theirs", sites("rome", "apac", "10.30.0.0/16")); err != nil {
		t.Fatal(err)
	}
	list, err := own.ListChangeSets(ctx, &swanherdv1.ListChangeSetsRequest{Parent: "networks/demo"})
	if got := namesOf(list.GetChangeSets()); err != nil || got != "[ours]" {
		t.Errorf("change sets %s, %v", got, err)
	}
	_, err = own.ApproveChangeSet(ctx, &swanherdv1.ApproveChangeSetRequest{Name: "networks/demo/changeSets/theirs"})
	outOfScope(t, "approve", err)
	got, err := own.GetChangeSet(ctx, &swanherdv1.GetChangeSetRequest{Name: "networks/demo/changeSets/ours"})
	if err != nil || got.GetPlan().GetEdgesTouched() != 3 || len(got.GetPlan().GetEdges()) != 2 {
		t.Errorf("the plan names %d of %d edges, %v", len(got.GetPlan().GetEdges()), got.GetPlan().GetEdgesTouched(), err)
	}
	begin := func(client swanherdv1.RolloutServiceClient, of string) (*swanherdv1.Rollout, error) {
		return client.CreateRollout(ctx, &swanherdv1.CreateRolloutRequest{Parent: "networks/demo", RolloutId: "r-" + of, Rollout: &swanherdv1.Rollout{ChangeSet: "networks/demo/changeSets/" + of}})
	}
	_, err = begin(own, "theirs")
	outOfScope(t, "roll others out", err)
	_, err = begin(own, "nothing")
	outOfScope(t, "roll nothing out", err)
	if _, err := begin(c.rollouts(), "theirs"); err != nil {
		t.Fatal(err)
	}
	_, err = own.AbortRollout(ctx, &swanherdv1.AbortRolloutRequest{Name: "networks/demo/rollouts/r-theirs"})
	outOfScope(t, "abort others'", err)
	change := &swanherdv1.UpdateSiteRequest{Site: &swanherdv1.Site{Name: "networks/demo/sites/oslo", DisplayName: "Oslo"}}
	_, err = swanherdv1.NewTopologyServiceClient(conn).UpdateSite(ctx, change)
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a change while others roll out: %v", err)
	}
	namesNothingNew(t, "a change while others roll out", change, err)
	if _, err := c.rollouts().AbortRollout(ctx, &swanherdv1.AbortRolloutRequest{Name: "networks/demo/rollouts/r-theirs"}); err != nil {
		t.Fatal(err)
	}
}

// Streams follow labels: what comes into scope is told, what leaves it is taken back.
func TestStreamsFollowLabels(t *testing.T) {
	c := regions(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn := c.limitedTo(swanherdv1.Role_ROLE_VIEWER, "networks/demo", "region", "emea")
	watch, err := swanherdv1.NewTopologyServiceClient(conn).Watch(ctx, &swanherdv1.WatchRequest{Parent: "networks/-"})
	if err != nil {
		t.Fatal(err)
	}
	// told are the next messages of the watch, up to one that says what.
	told := func(until string) (all []string) {
		t.Helper()
		for {
			m, err := watch.Recv()
			if err != nil {
				t.Fatalf("%v after %v", err, all)
			}
			name := m.GetNetwork().GetName() + m.GetSite().GetName() + m.GetEdge().GetName() + m.GetMesh().GetName() + m.GetProfile().GetName()
			all = append(all, strings.TrimPrefix(m.GetKind().String(), "KIND_")+" "+strings.TrimPrefix(name, "networks/demo/"))
			if all[len(all)-1] == until {
				return all
			}
		}
	}
	want := "[UPSERTED networks/demo UPSERTED sites/berlin UPSERTED sites/oslo UPSERTED edges/berlin UPSERTED edges/oslo SYNCED ]"
	if got := fmt.Sprint(told("SYNCED ")); got != want {
		t.Errorf("watch begins with %s, want %s", got, want)
	}
	frames, err := swanherdv1.NewFleetServiceClient(conn).WatchFleet(ctx, &swanherdv1.WatchFleetRequest{Parent: "networks/demo"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := frames.Recv()
	if n := first.GetCounts(); err != nil || n.GetSites() != 2 || n.GetEdges() != 2 || len(first.GetEdges()) != 2 || len(first.GetTunnels()) != 3 {
		t.Errorf("the first frame: %v, %v", first, err)
	}
	relabel := func(name, region string) {
		t.Helper()
		if _, err := c.topology().UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{
			Site: labelled(name, region), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	relabel("berlin", "apac")
	if got := fmt.Sprint(told("REMOVED edges/berlin")); got != "[REMOVED sites/berlin REMOVED edges/berlin]" {
		t.Errorf("a site leaves: %s", got)
	}
	for err == nil {
		_, err = frames.Recv()
	}
	if status.Code(err) != codes.Aborted {
		t.Errorf("the fleet's stream ends with %v, want ABORTED", err)
	}
	relabel("rome", "emea")
	if got := fmt.Sprint(told("UPSERTED edges/rome")); got != "[UPSERTED sites/rome UPSERTED edges/rome]" {
		t.Errorf("a site comes: %s", got)
	}
}

func namesOf[T interface{ GetName() string }](list []T) string {
	var out []string
	for _, x := range list {
		out = append(out, x.GetName()[strings.LastIndexByte(x.GetName(), '/')+1:])
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}
