package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"sync"
	"time"

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

	attestation Attestation

	// mu lets one enrolment through at a time: many edges that share a token
	// would otherwise make one another's transactions fail.
	mu sync.Mutex
}

// NewEnrollment returns the service; endpoints, `host:port`, is where edges are
// told to open their sessions.
func NewEnrollment(s *store.Store, keeper *pki.Keeper, tokens *access.Keeper, endpoints []string, a Attestation) *Enrollment {
	return &Enrollment{store: s, pki: keeper, keeper: tokens, endpoints: endpoints, attestation: a}
}

// errEnrollmentToken is the answer to every token or serial number that is not good,
// whatever is wrong with it.
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

// controlKey identifies the key of the control channel; nil when the request was
// not good.
func (r requests) controlKey() []byte {
	if r.control == nil {
		return nil
	}
	sum := sha256.Sum256(r.control.RawSubjectPublicKeyInfo)
	return sum[:]
}

// Enroll implements EnrollmentService. Use of the token, the edge, and what has
// to be remembered of its certificates are one transaction; nothing after it
// can fail the call.
func (s *Enrollment) Enroll(ctx context.Context, req *swanherdv1.EnrollRequest) (*swanherdv1.EnrollResponse, error) {
	return s.attempt(func() (*swanherdv1.EnrollResponse, error) { return s.enroll(ctx, req) })
}

// attempt repeats f while others change what it depends on.
func (s *Enrollment) attempt(f func() (*swanherdv1.EnrollResponse, error)) (*swanherdv1.EnrollResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range enrollAttempts {
		resp, err := f()
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
	csrs, csrErr := parseRequests(req.GetControlCsr(), req.GetIkeCsr())
	g, err := s.grant(ctx, req, csrs)
	if err != nil {
		return nil, err
	}
	identity, err := s.identityOf(ctx, g.edge)
	if err != nil {
		return nil, err
	}
	repeated := csrErr == nil && g.repeated(identity.Value, csrs)
	switch {
	case !repeated && g.usedUp():
		return nil, errEnrollmentToken
	case csrErr != nil: // told to those only who may enrol
		return nil, csrErr
	}
	challenge, err := s.attest(req.GetAttestation(), g, csrs)
	if err != nil {
		return nil, err
	}
	if challenge != nil {
		return &swanherdv1.EnrollResponse{Challenge: challenge}, nil
	}
	switch {
	case repeated:
		return s.admit(ctx, g, identity, csrs)
	case identity.Revision != 0 && !g.replace:
		return nil, errEnrolled(g.edge)
	case g.approve:
		return s.ask(ctx, req, g, csrs)
	}
	return s.admit(ctx, g, identity, csrs)
}

func errEnrolled(edge model.EdgeName) error {
	return status.Errorf(codes.AlreadyExists,
		"%s has enrolled already with another key; delete it first, make a token that replaces it, or enrol under another id", edge)
}

// grant is what the request's token or serial number grants.
func (s *Enrollment) grant(ctx context.Context, req *swanherdv1.EnrollRequest, csrs requests) (*grant, error) {
	if req.GetToken() == "" && req.GetSerialNumber() == "" {
		return nil, access.Invalid("token", "is needed, or else the serial number of a registered device")
	}
	if req.GetToken() == "" {
		return s.deviceGrant(ctx, req.GetSerialNumber(), csrs.controlKey())
	}
	token, err := s.checkToken(ctx, req.GetToken())
	if err != nil {
		return nil, err
	}
	return s.tokenGrant(ctx, token, req.GetEdgeId())
}

// identityOf is the identity of an edge; zero when it has none.
func (s *Enrollment) identityOf(ctx context.Context, edge model.EdgeName) (model.Row[*storev1.EdgeIdentity], error) {
	row, err := s.store.EdgeIdentities.Get(ctx, edge.String())
	if errors.Is(err, store.ErrNotFound) {
		return model.Row[*storev1.EdgeIdentity]{}, nil
	}
	return row, access.StoreError(err)
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

// issued are both certificates of an edge, and whom it is to trust.
type issued struct {
	control, ike *pki.Certificate
	issuer       *pki.Authority
	controller   *pki.Authority
}

func (i *issued) message(now time.Time) *swanherdv1.EdgeCertificates {
	return &swanherdv1.EdgeCertificates{
		ControlChain:    i.control.Chain,
		IkeChain:        i.ike.Chain,
		ControllerRoots: i.controller.Trusted(),
		NetworkRoots:    i.issuer.Trusted(),
		RenewTime:       timestamppb.New(now.Add(pki.RenewAfter)),
	}
}

// issue makes both certificates of an edge.
func (s *Enrollment) issue(ctx context.Context, name model.EdgeName, csrs requests, now time.Time) (*issued, error) {
	i := &issued{}
	var err error
	if i.issuer, err = s.pki.Network(ctx, model.NetworkName{Network: name.Network}); err != nil {
		return nil, access.StoreError(err)
	}
	if i.controller, err = s.pki.Controller(ctx, now); err != nil {
		return nil, access.StoreError(err)
	}
	if i.control, err = i.issuer.IssueControl(csrs.control, name, now); err != nil {
		return nil, status.Errorf(codes.Internal, "issue control certificate: %v", err)
	}
	if i.ike, err = i.issuer.IssueIKE(csrs.ike, name, now); err != nil {
		return nil, status.Errorf(codes.Internal, "issue IKE certificate: %v", err)
	}
	return i, nil
}

// errOtherKey is the answer to an edge that wants to leave the TPM that it was attested in.
var errOtherKey = status.Error(codes.PermissionDenied, "the control key was proved to be in a TPM, and another one was not; renew with that key, or enrol anew")

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
		certificates, err := s.renew(ctx, name, caller.Serial(), csrs)
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

// renew is one attempt. serial is that of the certificate which the edge showed: it
// may have been revoked since the connection was made.
func (s *Enrollment) renew(ctx context.Context, name model.EdgeName, serial string, csrs requests) (*swanherdv1.EdgeCertificates, error) {
	now := time.Now()
	row, err := s.store.EdgeIdentities.Get(ctx, name.String())
	if err != nil {
		return nil, err
	}
	if _, good := pki.Issued(row.Value, serial, now); !good {
		return nil, status.Error(codes.PermissionDenied, pki.ErrRevoked.Error())
	}
	if row.Value.GetTpm() != nil && subtle.ConstantTimeCompare(row.Value.GetControlKeySha256(), csrs.controlKey()) != 1 {
		return nil, errOtherKey
	}
	fresh, err := s.issue(ctx, name, csrs, now)
	if err != nil {
		return nil, err
	}
	remembered := proto.CloneOf(row.Value)
	remembered.ControlKeySha256 = csrs.controlKey()
	pki.Remember(remembered, fresh.control, fresh.ike, now)
	t := s.store.Txn()
	s.pki.RequireIssuerIn(t, fresh.issuer)
	s.store.EdgeIdentities.UpdateIn(t, name.String(), remembered, row.Revision)
	s.store.AppendEventIn(t, model.NetworkName{Network: name.Network},
		access.Audit("edge:"+name.String(), name.String(), "edge.renew", "control certificate "+fresh.control.Serial))
	if err := s.commit(ctx, t); err != nil {
		return nil, err
	}
	return fresh.message(now), nil
}
