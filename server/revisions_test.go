package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/google/go-cmp/cmp"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func (c *controller) revisions() []*swanherdv1.Revision {
	c.t.Helper()
	resp, err := c.topology().ListRevisions(c.t.Context(), &swanherdv1.ListRevisionsRequest{Parent: "networks/demo"})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetRevisions()
}

func (c *controller) revision(name string) *swanherdv1.Manifest {
	c.t.Helper()
	r, err := c.topology().GetRevision(c.t.Context(), &swanherdv1.GetRevisionRequest{Name: name})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.GetManifest()
}

// Every change is kept, what the network was after each can be seen, also at a
// controller that was started anew, and made again.
func TestRevisions(t *testing.T) {
	c := startController(t)
	c.apply()
	ctx, topology := t.Context(), c.topology()
	first := c.revision(c.revisions()[0].GetName())
	if diff := cmp.Diff(manifest(), first, protocmp.Transform()); diff != "" {
		t.Errorf("after the first change (-applied +kept):\n%s", diff)
	}
	c.setSite("oslo", "Oslo")
	c.setSite("wien", "Wien") // is made
	if _, err := topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/rome"}); err != nil {
		t.Fatal(err)
	}
	c.setSite("oslo", "Christiania")
	c.restart()
	topology = c.topology()
	all := c.revisions()
	var said []string
	for _, r := range all {
		said = append(said, strings.ReplaceAll(r.GetSummary(), "networks/demo/sites/", ""))
		if r.GetActor() != "token:admin" || r.GetCreateTime() == nil || !strings.HasSuffix(r.GetName(), fmt.Sprint("/", r.GetRevision())) || r.GetManifest() != nil {
			t.Errorf("revision %v", r)
		}
	}
	want := []string{"site.update oslo", "site.delete rome", "site.create wien", "site.update oslo", "network.create 1, profile.create 1, site.create 3, mesh.create 1"}
	if !slices.Equal(said, want) {
		t.Errorf("changes are\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	if !proto.Equal(c.revision(all[4].GetName()), first) {
		t.Error("the first revision is not what it was")
	}
	names := func(m *swanherdv1.Manifest) (out string) {
		for _, s := range m.GetSites() {
			out += s.GetName()[len("networks/demo/sites/"):] + "=" + s.GetDisplayName() + " "
		}
		return out
	}
	for i, want := range []string{"berlin= oslo=Christiania wien=Wien ", "berlin= oslo=Oslo wien=Wien ", "berlin= oslo=Oslo rome= wien=Wien ", "berlin= oslo=Oslo rome= ", "berlin= oslo= rome= "} {
		if got := names(c.revision(all[i].GetName())); got != want {
			t.Errorf("%s: %q, want %q", all[i].GetSummary(), got, want)
		}
	}

	dry, err := topology.RestoreRevision(ctx, &swanherdv1.RestoreRevisionRequest{Name: all[4].GetName(), ValidateOnly: true})
	if err != nil || len(c.revisions()) != 5 {
		t.Errorf("a restore that is only checked: %v, %v", dry, err)
	}
	restored, err := topology.RestoreRevision(ctx, &swanherdv1.RestoreRevisionRequest{Name: all[4].GetName()})
	if err != nil {
		t.Fatal(err)
	}
	now := c.revisions()
	if len(now) != 6 || now[0].GetRevision() != restored.GetRevision() || !proto.Equal(c.revision(now[0].GetName()), first) {
		t.Errorf("restored: %v; the newest is %v", restored, now[0])
	}
	filtered, err := topology.ListRevisions(ctx, &swanherdv1.ListRevisionsRequest{Parent: "networks/demo", Filter: `summary:"delete*rome" OR summary:wien`, PageSize: 1})
	if err != nil || len(filtered.GetRevisions()) != 1 || filtered.GetNextPageToken() == "" {
		t.Errorf("filtered: %v, %v", filtered, err)
	}
	for _, name := range []string{"networks/demo/revisions/1", "networks/demo/revisions/99999"} {
		if _, err := topology.GetRevision(ctx, &swanherdv1.GetRevisionRequest{Name: name}); status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	x := c.terminal()
	number := func(r *swanherdv1.Revision) string { return fmt.Sprint(r.GetRevision()) }
	x.says(0, "", "revision list", "site.delete networks/demo/sites/rome")
	x.says(0, "", "revision show "+number(all[0]), "Christiania", "by token:admin")
	x.says(2, "", "revision diff "+number(all[1])+" "+number(all[0]), "-      displayName: Oslo", "+      displayName: Christiania")
	x.says(0, "", "revision diff "+number(all[4])+" "+number(now[0]), "!---")
	x.says(0, "", "revision restore "+number(all[0]), "networks/demo/sites/wien created", "applied at revision")
	x.says(4, "", "revision restore 1", "does not exist")
}

// The oldest changes are forgotten, and what is kept stays right.
func TestOldRevisionsAreForgotten(t *testing.T) {
	c := startController(t)
	c.apply()
	for i := range 205 {
		c.setSite("oslo", fmt.Sprint("Oslo ", i))
	}
	resp, err := c.topology().ListRevisions(t.Context(), &swanherdv1.ListRevisionsRequest{Parent: "networks/demo", PageSize: 1000})
	if err != nil || len(resp.GetRevisions()) != 200 {
		t.Fatalf("%d revisions are kept, %v", len(resp.GetRevisions()), err)
	}
	oldest := c.revision(resp.GetRevisions()[199].GetName())
	if got := oldest.GetSites()[1].GetDisplayName(); got != "Oslo 5" {
		t.Errorf("the oldest has %q", got)
	}
}

// A site that an edge made by enrolling is a change like any other: the revisions
// before it are without it, and those after it with it.
func TestSitesOfEnrolmentAreInRevisions(t *testing.T) {
	c := startController(t)
	c.apply()
	token := c.makeToken(&swanherdv1.EnrollmentToken{CreateSite: true, MaxUses: 5, SiteLabels: map[string]string{"region": "emea"}})
	for _, id := range []string{"depot", "kiosk"} {
		if _, err := c.newEdge().tryEnroll(token.GetSecret(), id); err != nil {
			t.Fatal(err)
		}
	}
	c.enrolled("berlin") // whose site is there
	c.setSite("depot", "Depot")
	all := c.revisions()
	var said []string
	for _, r := range all {
		said = append(said, strings.ReplaceAll(r.GetSummary(), "networks/demo/sites/", "")+" by "+strings.TrimPrefix(r.GetActor(), "enrollmentToken:"+token.GetName()[len("networks/demo/enrollmentTokens/"):]))
	}
	want := []string{"site.update depot by token:admin", "site.create kiosk by ", "site.create depot by ", "network.create 1, profile.create 1, site.create 3, mesh.create 1 by token:admin"}
	if !slices.Equal(said, want) {
		t.Fatalf("changes are\n%s\nwant\n%s", strings.Join(said, "\n"), strings.Join(want, "\n"))
	}
	for i, sites := range []int{5, 5, 4, 3} {
		if got := len(c.revision(all[i].GetName()).GetSites()); got != sites {
			t.Errorf("%s: %d sites, want %d", all[i].GetSummary(), got, sites)
		}
	}
	if _, err := c.topology().RestoreRevision(t.Context(), &swanherdv1.RestoreRevisionRequest{Name: all[2].GetName()}); err != nil {
		t.Fatal(err)
	}
	now := c.revision(c.revisions()[0].GetName())
	if diff := cmp.Diff(c.revision(all[2].GetName()), now, protocmp.Transform()); diff != "" {
		t.Errorf("restored (-kept +now):\n%s", diff)
	}
}
