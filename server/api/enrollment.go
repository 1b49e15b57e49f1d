package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
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

// enrollAttempts bounds how often an enrolment starts over because another
// replica used the same token at the same moment.
const enrollAttempts = 20

// Enrollment implements EnrollmentService.
type Enrollment struct {
	swanherdv1.UnimplementedEnrollmentServiceServer

	store     *store.Store
	pki       *pki.Keeper
	keeper    *access.Keeper
	endpoints []string

	// mu lets one enrolment through at a time: many edges that share a token
	// would otherwise make one another's transactions fail.
	mu sync.Mutex
}

// NewEnrollment returns the service; endpoints, `host:port`, is where edges are
// told to open their sessions.
func NewEnrollment(s *store.Store, keeper *pki.Keeper, tokens *access.Keeper, endpoints []string) *Enrollment {
	return &Enrollment{store: s, pki: keeper, keeper: tokens, endpoints: endpoints}
}

// errEnrollmentToken is the answer to every token that is not good, whatever
// is wrong with it.
var errEnrollmentToken = status.Error(codes.PermissionDenied, "enrollment token is not valid")

// requests are the two certificate requests of an edge.
type requests struct{ control, ike *x509.CertificateRequest }

func parseRequests(control, ike []byte) (requests, error) {
	var r requests
	var violations []access.Violation
	var err error
	if r.control, err = pki.ParseRequest(control); err != nil {
		violations = append(violations, access.Violation{Field: "control_csr", Message: err.Error()})
	}
	if r.ike, err = pki.ParseRequest(ike); err != nil {
		violations = append(violations, access.Violation{Field: "ike_csr", Message: err.Error()})
	}
	if len(violations) > 0 {
		return r, access.InvalidAll(violations)
	}
	return r, nil
}

// controlKey identifies the key of the control channel.
func (r requests) controlKey() []byte {
	sum := sha256.Sum256(r.control.RawSubjectPublicKeyInfo)
	return sum[:]
}

// Enroll implements EnrollmentService. Use of the token, the edge, and what has
// to be remembered of its certificates are one transaction; nothing after it
// can fail the call.
func (s *Enrollment) Enroll(ctx context.Context, req *swanherdv1.EnrollRequest) (*swanherdv1.EnrollResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range enrollAttempts {
		resp, err := s.enroll(ctx, req)
		if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound) {
			continue
		}
		return resp, err
	}
	return nil, status.Error(codes.Aborted, "others used the same token at the same moment; try again")
}

// enroll is one attempt. Errors of the store about conditions that did not hold
// are returned as they are.
func (s *Enrollment) enroll(ctx context.Context, req *swanherdv1.EnrollRequest) (*swanherdv1.EnrollResponse, error) {
	token, ok, err := s.keeper.CheckEnrollmentToken(ctx, req.GetToken())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errEnrollmentToken
	}
	site, err := model.ParseSiteName(token.Value.GetToken().GetSite())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "site of the enrollment token: %v", err)
	}
	name := model.EdgeName{Network: site.Network, Edge: req.GetEdgeId()}
	if name.Edge == "" {
		name.Edge = site.Site
	}
	identity, err := s.store.EdgeIdentities.Get(ctx, name.String())
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, access.StoreError(err)
	}
	exists := err == nil
	csrs, csrErr := parseRequests(req.GetControlCsr(), req.GetIkeCsr())
	repeated := exists && csrErr == nil && identity.Value.GetEnrollmentToken() == token.Name &&
		bytes.Equal(identity.Value.GetControlKeySha256(), csrs.controlKey())
	switch {
	case !repeated && token.Value.GetToken().GetUses() >= token.Value.GetToken().GetMaxUses():
		return nil, errEnrollmentToken
	case csrErr != nil:
		return nil, csrErr
	case exists && !repeated:
		return nil, status.Errorf(codes.AlreadyExists,
			"%s has enrolled already with another key; delete it first, or enrol under another id", name)
	}
	return s.admit(ctx, name, site, token, identity, csrs)
}

// admit issues the certificates and stores what has to be remembered. identity
// is zero for a new edge.
func (s *Enrollment) admit(ctx context.Context, name model.EdgeName, site model.SiteName, token model.Row[*storev1.EnrollmentToken],
	identity model.Row[*storev1.EdgeIdentity], csrs requests,
) (*swanherdv1.EnrollResponse, error) {
	now := time.Now()
	certificates, control, ike, err := s.issue(ctx, name, csrs, now)
	if err != nil {
		return nil, err
	}
	t := s.store.Txn()
	if identity.Revision == 0 {
		used := proto.Clone(token.Value).(*storev1.EnrollmentToken)
		used.Token.Uses++
		s.store.Sites.RequireIn(t, site.String(), store.AnyRevision)
		s.store.EnrollmentTokens.UpdateIn(t, token.Name, used, token.Revision)
		s.store.Edges.CreateIn(t, name.String(), &swanherdv1.Edge{
			Name:       name.String(),
			Site:       site.String(),
			Uid:        strings.ToLower(ulid.Make().String()),
			CreateTime: timestamppb.New(now),
			UpdateTime: timestamppb.New(now),
		})
		remembered := &storev1.EdgeIdentity{Edge: name.String(), EnrollmentToken: token.Name, ControlKeySha256: csrs.controlKey()}
		pki.Remember(remembered, control, ike, now)
		s.store.EdgeIdentities.CreateIn(t, name.String(), remembered)
		s.store.AppendEventIn(t, model.NetworkName{Network: name.Network},
			access.Audit("enrollmentToken:"+lastSegment(token.Name), name.String(), "edge.enroll", "serves "+site.String()))
	} else {
		remembered := proto.Clone(identity.Value).(*storev1.EdgeIdentity)
		pki.Remember(remembered, control, ike, now)
		s.store.EdgeIdentities.UpdateIn(t, name.String(), remembered, identity.Revision)
	}
	if err := s.commit(ctx, t); err != nil {
		return nil, err
	}
	return &swanherdv1.EnrollResponse{Edge: name.String(), Certificates: certificates, SessionEndpoints: s.endpoints}, nil
}

// commit stores t and waits for the cache, so that the session that follows
// finds the edge. Failed conditions come back as the store's errors.
func (s *Enrollment) commit(ctx context.Context, t *store.Txn) error {
	revision, err := t.Commit(ctx)
	var condition *store.ConditionError
	if errors.As(err, &condition) {
		return condition
	}
	if err != nil {
		return access.StoreError(err)
	}
	// The edge is stored; that this replica's cache lags must not fail the call.
	_, _ = s.store.WaitRevision(ctx, revision)
	return nil
}

// issue makes both certificates of an edge.
func (s *Enrollment) issue(ctx context.Context, name model.EdgeName, csrs requests, now time.Time) (_ *swanherdv1.EdgeCertificates, control, ike *pki.Certificate, _ error) {
	authority, err := s.pki.Network(ctx, model.NetworkName{Network: name.Network})
	if err != nil {
		return nil, nil, nil, access.StoreError(err)
	}
	controller, err := s.pki.Controller(ctx, now)
	if err != nil {
		return nil, nil, nil, access.StoreError(err)
	}
	if control, err = authority.IssueControl(csrs.control, name, now); err != nil {
		return nil, nil, nil, status.Errorf(codes.Internal, "issue control certificate: %v", err)
	}
	if ike, err = authority.IssueIKE(csrs.ike, name, now); err != nil {
		return nil, nil, nil, status.Errorf(codes.Internal, "issue IKE certificate: %v", err)
	}
	return &swanherdv1.EdgeCertificates{
		ControlChain:    control.Chain,
		IkeChain:        ike.Chain,
		ControllerRoots: [][]byte{controller.Certificate().Raw},
		NetworkRoots:    [][]byte{authority.Certificate().Raw},
		RenewTime:       timestamppb.New(now.Add(pki.RenewAfter)),
	}, control, ike, nil
}

// RenewCertificate implements EnrollmentService.
func (s *Enrollment) RenewCertificate(ctx context.Context, req *swanherdv1.RenewCertificateRequest) (*swanherdv1.RenewCertificateResponse, error) {
	caller, err := access.EdgeFrom(ctx)
	if err != nil {
		return nil, err
	}
	name, err := model.ParseEdgeName(caller.Edge)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	csrs, err := parseRequests(req.GetControlCsr(), req.GetIkeCsr())
	if err != nil {
		return nil, err
	}
	for range enrollAttempts {
		certificates, err := s.renew(ctx, name, csrs)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, access.StoreError(err)
		}
		return &swanherdv1.RenewCertificateResponse{Certificates: certificates}, nil
	}
	return nil, status.Error(codes.Aborted, "the edge's identity changes all the time; try again")
}

func (s *Enrollment) renew(ctx context.Context, name model.EdgeName, csrs requests) (*swanherdv1.EdgeCertificates, error) {
	now := time.Now()
	row, err := s.store.EdgeIdentities.Get(ctx, name.String())
	if err != nil {
		return nil, err
	}
	certificates, control, ike, err := s.issue(ctx, name, csrs, now)
	if err != nil {
		return nil, err
	}
	remembered := proto.Clone(row.Value).(*storev1.EdgeIdentity)
	remembered.ControlKeySha256 = csrs.controlKey()
	pki.Remember(remembered, control, ike, now)
	t := s.store.Txn()
	s.store.EdgeIdentities.UpdateIn(t, name.String(), remembered, row.Revision)
	s.store.AppendEventIn(t, model.NetworkName{Network: name.Network},
		access.Audit("edge:"+name.String(), name.String(), "edge.renew", "control certificate "+control.Serial))
	if err := s.commit(ctx, t); err != nil {
		return nil, err
	}
	return certificates, nil
}
