package api

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/store"
)

// grant is what a token or a registered device lets an edge do. One of the two is
// set.
type grant struct {
	token  *model.Row[*storev1.EnrollmentToken]
	device *model.Row[*swanherdv1.Device]

	site model.SiteName
	edge model.EdgeName
	// approve: an operator has to.
	approve bool
	// replace: the edge may exist; its certificates are revoked then.
	replace bool
	// tpm is where the key was proved to be; nil: nothing was.
	tpm *swanherdv1.AttestedTpm
}

// ekFingerprint is the endorsement key of the TPM that it is for; empty: any, or none.
func (g *grant) ekFingerprint() string {
	if g.device == nil {
		return ""
	}
	return g.device.Value.GetEkFingerprint()
}

// source is the name of what the grant is from.
func (g *grant) source() string {
	if g.device != nil {
		return g.device.Name
	}
	return g.token.Name
}

// actor is how the audit log calls who enrols by the grant.
func (g *grant) actor() string {
	if g.device != nil {
		return "device:" + lastSegment(g.device.Name)
	}
	return "enrollmentToken:" + lastSegment(g.token.Name)
}

// usedUp says whether the grant is for nobody any more.
func (g *grant) usedUp() bool {
	if g.device != nil {
		return g.device.Value.GetEdge() != ""
	}
	return g.token.Value.GetToken().GetUses() >= g.token.Value.GetToken().GetMaxUses()
}

// useIn counts the use, as a part of t: two that use the same grant at once do not
// both commit.
func (g *grant) useIn(t *store.Txn, s *store.Store, now time.Time) {
	if g.device != nil {
		claimed := proto.CloneOf(g.device.Value)
		claimed.Edge, claimed.ClaimTime = g.edge.String(), timestamppb.New(now)
		s.Devices.UpdateIn(t, g.device.Name, claimed, g.device.Revision)
		return
	}
	used := proto.CloneOf(g.token.Value)
	used.Token.Uses++
	s.EnrollmentTokens.UpdateIn(t, g.token.Name, used, g.token.Revision)
}

// tokenGrant is what a token grants to an edge of that id.
func (s *Enrollment) tokenGrant(ctx context.Context, row model.Row[*storev1.EnrollmentToken], edgeID string) (*grant, error) {
	token := row.Value.GetToken()
	g := &grant{token: &row, approve: token.GetApprovalRequired()}
	network, err := model.NetworkOf(token.GetName())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "enrollment token: %v", err)
	}
	if token.GetEdge() != "" {
		if g.edge, err = model.ParseEdgeName(token.GetEdge()); err != nil {
			return nil, status.Errorf(codes.Internal, "edge of the enrollment token: %v", err)
		}
		if edgeID != "" && edgeID != g.edge.Edge {
			return nil, access.Invalid("edge_id", fmt.Sprintf("the token is for %s; leave the id out", g.edge.Edge))
		}
		g.replace = true
	}
	site, err := s.siteOf(ctx, network, token, g.edge, edgeID)
	if err != nil {
		return nil, err
	}
	g.site = site
	if !g.replace {
		g.edge = edgeName(site, edgeID)
	}
	return g, nil
}

// siteOf is the site that an edge by the token will serve: where the edge is that it
// replaces, else the token's, else, for a token that makes sites, one of its own.
func (s *Enrollment) siteOf(ctx context.Context, network model.NetworkName, token *swanherdv1.EnrollmentToken, edge model.EdgeName, edgeID string) (model.SiteName, error) {
	if edge.Edge != "" {
		row, err := s.store.Edges.Get(ctx, edge.String())
		if err == nil {
			return model.ParseSiteName(row.Value.GetSite())
		}
		if !errors.Is(err, store.ErrNotFound) {
			return model.SiteName{}, access.StoreError(err)
		}
		edgeID = edge.Edge
	}
	switch {
	case token.GetSite() != "":
		return model.ParseSiteName(token.GetSite())
	case !token.GetCreateSite():
		return model.SiteName{}, status.Errorf(codes.FailedPrecondition, "%s does not exist any more, and the token names no site", edge)
	case edgeID == "":
		return model.SiteName{}, access.Invalid("edge_id", "is needed: the token makes a site of that name")
	}
	return model.SiteName{Network: network.Network, Site: edgeID}, nil
}

// edgeName is the name of an edge that says it is id, and else is called as its site.
func edgeName(site model.SiteName, id string) model.EdgeName {
	if id == "" {
		id = site.Site
	}
	return model.EdgeName{Network: site.Network, Edge: id}
}

// checkToken returns the token if it is good and may be used from there.
func (s *Enrollment) checkToken(ctx context.Context, presented string) (model.Row[*storev1.EnrollmentToken], error) {
	row, ok, err := s.keeper.CheckEnrollmentToken(ctx, presented)
	if err != nil {
		return row, err
	}
	if !ok || !allowedFrom(row.Value.GetToken().GetAllowedCidrs(), access.PeerAddr(ctx)) {
		return row, errEnrollmentToken
	}
	return row, nil
}

// allowedFrom says whether one of the prefixes has the address; no prefixes have all.
func allowedFrom(cidrs []string, addr netip.Addr) bool {
	for _, text := range cidrs {
		if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Contains(addr.Unmap().WithZone("")) {
			return true
		}
	}
	return len(cidrs) == 0
}

// deviceGrant is what the registration of a serial number grants to who shows it and
// has the key. Serial numbers are no secret: without a key or a TPM that was registered,
// too, an operator has to approve.
func (s *Enrollment) deviceGrant(ctx context.Context, serial string, key []byte) (*grant, error) {
	known, err := s.store.DeviceSerials.Get(ctx, deviceSerialName(serial))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errEnrollmentToken
	}
	if err != nil {
		return nil, access.StoreError(err)
	}
	row, err := s.store.Devices.Get(ctx, known.Value.GetDevice())
	if errors.Is(err, store.ErrNotFound) {
		return nil, errEnrollmentToken
	}
	if err != nil {
		return nil, access.StoreError(err)
	}
	return s.grantOf(row, key)
}

func (s *Enrollment) grantOf(row model.Row[*swanherdv1.Device], key []byte) (*grant, error) {
	g := &grant{device: &row, approve: row.Value.GetKeyFingerprint() == "" && row.Value.GetEkFingerprint() == ""}
	want, err := hex.DecodeString(row.Value.GetKeyFingerprint())
	if err != nil || len(want) > 0 && subtle.ConstantTimeCompare(want, key) != 1 {
		return nil, errEnrollmentToken
	}
	if g.site, err = model.ParseSiteName(row.Value.GetSite()); err != nil {
		return nil, status.Errorf(codes.Internal, "site of %s: %v", row.Name, err)
	}
	g.edge = edgeName(g.site, row.Value.GetEdgeId())
	return g, nil
}

// repeated says whether the identity is of an edge that enrolled by the same grant
// with the same key.
func (g *grant) repeated(identity *storev1.EdgeIdentity, csrs requests) bool {
	return identity.GetEnrollmentToken() == g.source() &&
		subtle.ConstantTimeCompare(identity.GetControlKeySha256(), csrs.controlKey()) == 1
}

// admit issues the certificates and stores what has to be remembered, with the use of
// the grant, in one transaction. identity is zero for an edge without one.
func (s *Enrollment) admit(ctx context.Context, g *grant, identity model.Row[*storev1.EdgeIdentity], csrs requests) (*swanherdv1.EnrollResponse, error) {
	now := time.Now()
	certificates, err := s.issue(ctx, g.edge, csrs, now)
	if err != nil {
		return nil, err
	}
	t := s.store.Txn()
	s.pki.RequireIssuerIn(t, certificates.issuer)
	remembered := &storev1.EdgeIdentity{Edge: g.edge.String(), EnrollmentToken: g.source(), ControlKeySha256: csrs.controlKey()}
	switch {
	case identity.Revision == 0:
		if err := s.createIn(t, g, now); err != nil {
			return nil, err
		}
	case g.repeated(identity.Value, csrs):
		remembered = proto.CloneOf(identity.Value)
	default:
		s.replaceIn(t, g, identity.Value, now)
	}
	if g.tpm != nil {
		remembered.Tpm = g.tpm
	}
	pki.Remember(remembered, certificates.control, certificates.ike, now)
	if identity.Revision == 0 {
		s.store.EdgeIdentities.CreateIn(t, g.edge.String(), remembered)
	} else {
		s.store.EdgeIdentities.UpdateIn(t, g.edge.String(), remembered, identity.Revision)
	}
	if err := s.commit(ctx, t); err != nil {
		return nil, err
	}
	if identity.Revision == 0 && g.token != nil && g.token.Value.GetToken().GetCreateSite() {
		trimRevisions(ctx, s.store, model.NetworkName{Network: g.site.Network})
	}
	return &swanherdv1.EnrollResponse{Edge: g.edge.String(), Certificates: certificates.message(now), SessionEndpoints: s.endpoints}, nil
}

// createIn makes the edge, and its site if the token does that, as a part of t.
func (s *Enrollment) createIn(t *store.Txn, g *grant, now time.Time) error {
	g.useIn(t, s.store, now)
	_, exists := s.store.Snapshot().Sites.Get(g.site.String())
	if token := g.token; token != nil && token.Value.GetToken().GetCreateSite() && !exists {
		if err := s.createSiteIn(t, g, now); err != nil {
			return err
		}
	} else {
		s.store.Sites.RequireIn(t, g.site.String(), store.AnyRevision)
	}
	s.store.Edges.CreateIn(t, g.edge.String(), &swanherdv1.Edge{
		Name:       g.edge.String(),
		Site:       g.site.String(),
		Uid:        newUID(),
		CreateTime: timestamppb.New(now),
		UpdateTime: timestamppb.New(now),
	})
	s.auditIn(t, g, g.edge.String(), "edge.enroll", "serves "+g.site.String()+aboutTPM(g.tpm))
	return nil
}

// createSiteIn makes the site of an edge as a part of t: a change of the topology like
// any other, which can be seen and taken back among the network's revisions.
func (s *Enrollment) createSiteIn(t *store.Txn, g *grant, now time.Time) error {
	if network := (model.NetworkName{Network: g.site.Network}); demandsApproval(s.store.Snapshot(), network) {
		return access.NeedsApproval(network.String(), "")
	}
	s.store.Sites.CreateIn(t, g.site.String(), &swanherdv1.Site{
		Name:       g.site.String(),
		Labels:     g.token.Value.GetToken().GetSiteLabels(),
		Uid:        newUID(),
		CreateTime: timestamppb.New(now),
		UpdateTime: timestamppb.New(now),
	})
	s.auditIn(t, g, g.site.String(), "site.create", "")
	return s.store.RecordIn(t, model.NetworkName{Network: g.site.Network}, store.TopologyRevision{
		TopologyRevision: &storev1.TopologyRevision{Actor: g.actor(), Time: timestamppb.New(now)},
		Content: &storev1.RevisionContent{Changes: []*swanherdv1.ResourceChange{
			{Name: g.site.String(), Action: swanherdv1.ResourceChange_ACTION_CREATED},
		}},
	})
}

// replaceIn revokes what the edge had, as a part of t: another device takes its name
// and place.
func (s *Enrollment) replaceIn(t *store.Txn, g *grant, before *storev1.EdgeIdentity, now time.Time) {
	g.useIn(t, s.store, now)
	s.store.Edges.RequireIn(t, g.edge.String(), store.AnyRevision)
	serials := pki.RevokeIn(t, s.store, g.edge, before, "replaced by another device", now)
	s.auditIn(t, g, g.edge.String(), "edge.replace", fmt.Sprintf("another device takes its place; %d certificates of the one before are revoked", len(serials))+aboutTPM(g.tpm))
}

func (s *Enrollment) auditIn(t *store.Txn, g *grant, resource, action, message string) {
	s.store.AppendEventIn(t, model.NetworkName{Network: g.edge.Network}, access.Audit(g.actor(), resource, action, message))
}

func newUID() string { return strings.ToLower(ulid.Make().String()) }
