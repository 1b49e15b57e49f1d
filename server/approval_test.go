package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// with is a connection of a new token of the role, and its name.
func (c *controller) with(maker *grpc.ClientConn, role swanherdv1.Role) (*grpc.ClientConn, string) {
	c.t.Helper()
	token, err := swanherdv1.NewAccessServiceClient(maker).CreateApiToken(c.t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{Role: role}})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.dial(token.GetSecret()), token.GetName()
}

// demanding is a controller whose network demands approval of changes.
func demanding(t *testing.T) *controller {
	c := startController(t)
	c.apply()
	c.demandApproval()
	return c
}

func (c *controller) demandApproval() {
	c.t.Helper()
	if _, err := c.topology().UpdateNetwork(c.t.Context(), &swanherdv1.UpdateNetworkRequest{
		Network:    &swanherdv1.Network{Name: "networks/demo", ApprovalRequired: true},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"approval_required"}},
	}); err != nil {
		c.t.Fatal(err)
	}
}

// No way leads around the approval that a network demands, but the one that is broken
// open, by an administrator and into the audit log.
func TestChangesNeedApproval(t *testing.T) {
	c := demanding(t)
	ctx := t.Context()
	revisions, err := c.topology().ListRevisions(ctx, &swanherdv1.ListRevisionsRequest{Parent: "networks/demo"})
	if err != nil || len(revisions.GetRevisions()) != 2 {
		t.Fatalf("revisions: %v, %v", revisions, err)
	}
	changed := manifest()
	changed.Networks[0].ApprovalRequired = true
	changed.Sites[0].DisplayName = "Berlin"
	for what, try := range map[string]func() error{
		"apply": func() error {
			_, err := c.topology().Apply(ctx, &swanherdv1.ApplyRequest{Manifest: changed})
			return err
		},
		"create": func() error {
			_, err := c.topology().CreateSite(ctx, &swanherdv1.CreateSiteRequest{Parent: "networks/demo", SiteId: "wien"})
			return err
		},
		"update": func() error {
			_, err := c.topology().UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{Site: &swanherdv1.Site{Name: "networks/demo/sites/rome", DisplayName: "Roma"}})
			return err
		},
		"delete": func() error {
			_, err := c.topology().DeleteMesh(ctx, &swanherdv1.DeleteMeshRequest{Name: "networks/demo/meshes/all"})
			return err
		},
		"restore": func() error {
			_, err := c.topology().RestoreRevision(ctx, &swanherdv1.RestoreRevisionRequest{Name: revisions.GetRevisions()[1].GetName()})
			return err
		},
		"end it": func() error {
			_, err := c.topology().UpdateNetwork(ctx, &swanherdv1.UpdateNetworkRequest{Network: &swanherdv1.Network{Name: "networks/demo"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"approval_required"}}})
			return err
		},
		"a site by enrolling": func() error {
			token, err := c.access().CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{Parent: "networks/demo", EnrollmentToken: &swanherdv1.EnrollmentToken{CreateSite: true}})
			if err != nil {
				return err
			}
			_, err = c.newEdge().tryEnroll(token.GetSecret(), "wien")
			return err
		},
	} {
		if err := try(); status.Code(err) != codes.FailedPrecondition || reason(err) != "APPROVAL_REQUIRED" || !strings.Contains(err.Error(), "changeset") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.topology().Apply(ctx, &swanherdv1.ApplyRequest{Manifest: changed, ValidateOnly: true}); err != nil {
		t.Errorf("a plan of a change: %v", err)
	}
	if _, err := c.topology().Apply(ctx, &swanherdv1.ApplyRequest{Manifest: func() *swanherdv1.Manifest { m := manifest(); m.Networks = nil; return m }()}); err != nil {
		t.Errorf("what changes nothing: %v", err)
	}
	broken := metadata.AppendToOutgoingContext(ctx, "swanherd-break-glass", "the storm in Rome")
	conn, _ := c.with(c.dial(c.token), operator)
	if _, err := swanherdv1.NewTopologyServiceClient(conn).Apply(broken, &swanherdv1.ApplyRequest{Manifest: changed}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an operator breaks the glass: %v", err)
	}
	if _, err := c.topology().Apply(broken, &swanherdv1.ApplyRequest{Manifest: changed}); err != nil {
		t.Errorf("an administrator breaks the glass: %v", err)
	}
	resp, text := c.restWith(http.MethodDelete, "/v1/networks/demo/sites/oslo", "", http.Header{"Authorization": {"Bearer " + c.token}, "Swanherd-Break-Glass": {"the flood"}})
	if resp.StatusCode != http.StatusOK {
		t.Errorf("by REST: %d %s", resp.StatusCode, text)
	}
	x := c.terminal()
	x.says(3, "", "delete site rome", "make a change set (swanherd changeset create), have somebody else approve it")
	x.says(0, "", "delete site rome --break-glass fire", "rome deleted")
	x.says(0, "", "events --filter action=network.breakGlass", "the storm in Rome", "the flood", "fire", "token:admin")
}

// Whoever made a change does not approve it, nor by another token of the same hand.
func TestFourEyes(t *testing.T) {
	c := demanding(t)
	ctx := t.Context()
	root := c.dial(c.token)
	author, _ := c.with(root, admin)
	second, _ := c.with(author, operator) // by the author
	other, _ := c.with(root, operator)
	link, err := swanherdv1.NewAccessServiceClient(author).CreateLoginLink(ctx, &swanherdv1.CreateLoginLinkRequest{Role: admin})
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(link.GetUrl(), "/#login=")
	browser, err := c.access().RedeemLoginLink(ctx, &swanherdv1.RedeemLoginLinkRequest{Code: code})
	if err != nil {
		t.Fatal(err)
	}
	m := manifest()
	m.Networks, m.Sites = nil, m.Sites[:1]
	m.Sites[0].Prefixes = append(m.Sites[0].Prefixes, "10.99.0.0/16")
	set, err := swanherdv1.NewRolloutServiceClient(author).CreateChangeSet(ctx, &swanherdv1.CreateChangeSetRequest{
		Parent: "networks/demo", ChangeSetId: "more", ChangeSet: &swanherdv1.ChangeSet{Manifest: m},
	})
	if err != nil {
		t.Fatal(err)
	}
	begin := func() error {
		_, err := swanherdv1.NewRolloutServiceClient(author).CreateRollout(ctx, &swanherdv1.CreateRolloutRequest{Parent: "networks/demo", Rollout: &swanherdv1.Rollout{ChangeSet: set.GetName()}})
		return err
	}
	if err := begin(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "is not approved") {
		t.Errorf("without approval: %v", err)
	}
	for what, conn := range map[string]*grpc.ClientConn{"the author": author, "its other token": second, "its browser": c.dial(browser.GetSecret()), "who made its token": root} {
		if _, err := swanherdv1.NewRolloutServiceClient(conn).ApproveChangeSet(ctx, &swanherdv1.ApproveChangeSetRequest{Name: set.GetName()}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s approves: %v", what, err)
		}
	}
	if _, err := swanherdv1.NewRolloutServiceClient(other).ApproveChangeSet(ctx, &swanherdv1.ApproveChangeSetRequest{Name: set.GetName()}); err != nil {
		t.Fatal(err)
	}
	c.eventually("the rollout to begin", func() bool { return begin() == nil })
	c.eventually("the change to be the network", func() bool {
		site, err := c.topology().GetSite(ctx, &swanherdv1.GetSiteRequest{Name: "networks/demo/sites/berlin"})
		return err == nil && len(site.GetPrefixes()) == 2
	})
}

// The secret of a key is in no change set. What a gateway authenticates with is changed by
// having it use another key, which is one.
func TestSecretsInUseNeedApproval(t *testing.T) {
	c := startController(t)
	c.apply()
	c.gateway("networks/demo", c.enrolled("berlin").name)
	c.demandApproval()
	ctx := t.Context()
	update := func(ctx context.Context, key *swanherdv1.PreSharedKey) error {
		key.Name = "networks/demo/preSharedKeys/" + key.GetName()
		_, err := c.topology().UpdatePreSharedKey(ctx, &swanherdv1.UpdatePreSharedKeyRequest{PreSharedKey: key})
		return err
	}
	err := update(ctx, &swanherdv1.PreSharedKey{Name: "partner", Secret: "another secret of it"})
	if reason(err) != "APPROVAL_REQUIRED" || !strings.Contains(err.Error(), "make another key") {
		t.Errorf("another secret of a key in use: %v", err)
	}
	if err := update(ctx, &swanherdv1.PreSharedKey{Name: "partner", DisplayName: "The partner"}); err != nil {
		t.Errorf("another display name: %v", err)
	}
	if _, err := c.topology().CreatePreSharedKey(ctx, &swanherdv1.CreatePreSharedKeyRequest{
		Parent: "networks/demo", PreSharedKeyId: "next", PreSharedKey: &swanherdv1.PreSharedKey{Secret: "the next secret"},
	}); err != nil {
		t.Errorf("another key: %v", err)
	}
	if err := update(ctx, &swanherdv1.PreSharedKey{Name: "next", Secret: "the one after it"}); err != nil {
		t.Errorf("another secret of a key that nothing uses: %v", err)
	}
	broken := metadata.AppendToOutgoingContext(ctx, "swanherd-break-glass", "the secret is known")
	if err := update(broken, &swanherdv1.PreSharedKey{Name: "partner", Secret: "another secret of it"}); err != nil {
		t.Errorf("an administrator breaks the glass: %v", err)
	}
}
