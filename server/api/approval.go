package api

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

const (
	// requestLife is how long a request waits for an operator, and is remembered
	// after it was decided.
	requestLife = 7 * 24 * time.Hour
	// pollInterval is how often an edge asks what became of its request.
	pollInterval = 5 * time.Second
	// maxPending bounds what edges that nobody approved of make a network store, and
	// maxPendingOfDevice what callers do who show one serial number, which is no
	// secret, with ever other keys.
	maxPending         = 500
	maxPendingOfDevice = 8
	// requestIDSize is how many octets of the key's hash name a request.
	requestIDSize = 16
)

// errEnrollmentRequest is the answer to every request that leads nowhere.
var errEnrollmentRequest = status.Error(codes.PermissionDenied, "the enrollment request was denied, has expired, or is not of this key")

// requestName names the request of a key.
func requestName(network string, key []byte) model.EnrollmentRequestName {
	return model.EnrollmentRequestName{Network: network, Request: "k" + hex.EncodeToString(key[:requestIDSize])}
}

// ask files a request for approval, or tells what became of the one that the same
// key filed before.
func (s *Enrollment) ask(ctx context.Context, req *swanherdv1.EnrollRequest, g *grant, csrs requests) (*swanherdv1.EnrollResponse, error) {
	name, now := requestName(g.edge.Network, csrs.controlKey()), time.Now()
	row, err := s.store.EnrollmentRequests.Get(ctx, name.String())
	if err == nil {
		return s.decided(ctx, row, csrs, now)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, access.StoreError(err)
	}
	if s.queueFull(g) {
		return nil, status.Error(codes.ResourceExhausted, "too many enrollment requests wait already; an operator has to decide them first")
	}
	request := &storev1.EnrollmentRequest{
		Request: &swanherdv1.EnrollmentRequest{
			Name:           name.String(),
			State:          swanherdv1.EnrollmentRequest_STATE_PENDING,
			Edge:           g.edge.String(),
			Site:           g.site.String(),
			KeyFingerprint: hex.EncodeToString(csrs.controlKey()),
			SourceAddress:  access.PeerAddr(ctx).String(),
			AgentVersion:   req.GetAgentVersion(),
			SerialNumber:   req.GetSerialNumber(),
			Credential:     g.source(),
			Tpm:            g.tpm,
			CreateTime:     timestamppb.New(now),
			ExpireTime:     timestamppb.New(now.Add(requestLife)),
		},
		ControlCsr: req.GetControlCsr(),
		IkeCsr:     req.GetIkeCsr(),
	}
	t := s.store.Txn()
	s.store.EnrollmentRequests.CreateIn(t, name.String(), request)
	s.auditIn(t, g, name.String(), "enrollment.request", fmt.Sprintf("%s from %s, key %s%s", g.edge, request.Request.SourceAddress, request.Request.KeyFingerprint, aboutTPM(g.tpm)))
	if err := s.commit(ctx, t); err != nil {
		return nil, err
	}
	return pending(request.GetRequest()), nil
}

// queueFull says whether so many requests wait that another one is refused.
func (s *Enrollment) queueFull(g *grant) bool {
	all, ofDevice := 0, 0
	for row := range s.store.Snapshot().EnrollmentRequests.InNetwork(model.NetworkName{Network: g.edge.Network}) {
		r := row.Value.GetRequest()
		if r.GetState() != swanherdv1.EnrollmentRequest_STATE_PENDING {
			continue
		}
		all++
		if g.device != nil && r.GetCredential() == g.device.Name {
			ofDevice++
		}
	}
	return all >= maxPending || ofDevice >= maxPendingOfDevice
}

func pending(r *swanherdv1.EnrollmentRequest) *swanherdv1.EnrollResponse {
	return &swanherdv1.EnrollResponse{Pending: &swanherdv1.PendingEnrollment{
		EnrollmentRequest: r.GetName(),
		KeyFingerprint:    r.GetKeyFingerprint(),
		PollInterval:      durationpb.New(pollInterval),
		ExpireTime:        r.GetExpireTime(),
	}}
}

// PollEnrollment implements EnrollmentService.
func (s *Enrollment) PollEnrollment(ctx context.Context, req *swanherdv1.PollEnrollmentRequest) (*swanherdv1.EnrollResponse, error) {
	csrs, err := parseRequests(req.GetControlCsr(), req.GetIkeCsr())
	if err != nil {
		return nil, err
	}
	if _, err := model.ParseEnrollmentRequestName(req.GetEnrollmentRequest()); err != nil {
		return nil, errEnrollmentRequest
	}
	return s.attempt(func() (*swanherdv1.EnrollResponse, error) {
		row, err := s.store.EnrollmentRequests.Get(ctx, req.GetEnrollmentRequest())
		if errors.Is(err, store.ErrNotFound) {
			return nil, errEnrollmentRequest
		}
		if err != nil {
			return nil, access.StoreError(err)
		}
		return s.decided(ctx, row, csrs, time.Now())
	})
}

// decided tells the owner of the key what became of the request, and admits the edge
// if it was approved.
func (s *Enrollment) decided(ctx context.Context, row model.Row[*storev1.EnrollmentRequest], csrs requests, now time.Time) (*swanherdv1.EnrollResponse, error) {
	r := row.Value.GetRequest()
	key, err := hex.DecodeString(r.GetKeyFingerprint())
	if err != nil || subtle.ConstantTimeCompare(key, csrs.controlKey()) != 1 || !now.Before(r.GetExpireTime().AsTime()) {
		return nil, errEnrollmentRequest
	}
	switch r.GetState() {
	case swanherdv1.EnrollmentRequest_STATE_PENDING:
		return pending(r), nil
	case swanherdv1.EnrollmentRequest_STATE_APPROVED:
		return s.approved(ctx, row.Value, csrs)
	default:
		return nil, errEnrollmentRequest
	}
}

// approved admits the edge as the operator saw it. The token or device that it came
// by has to be there still, with a use left; that it expired meanwhile does not count.
func (s *Enrollment) approved(ctx context.Context, request *storev1.EnrollmentRequest, csrs requests) (*swanherdv1.EnrollResponse, error) {
	g, err := s.grantBefore(ctx, request.GetRequest(), csrs)
	if err != nil {
		return nil, err
	}
	// What was attested then is of this key. What is demanded now may be more.
	if err := s.attested(g, request.GetRequest().GetTpm()); err != nil {
		return nil, err
	}
	identity, err := s.identityOf(ctx, g.edge)
	if err != nil {
		return nil, err
	}
	switch repeated := g.repeated(identity.Value, csrs); {
	case repeated:
	case g.usedUp():
		return nil, errEnrollmentRequest
	case identity.Revision != 0 && !g.replace:
		return nil, errEnrolled(g.edge)
	}
	return s.admit(ctx, g, identity, csrs)
}

func (s *Enrollment) grantBefore(ctx context.Context, r *swanherdv1.EnrollmentRequest, csrs requests) (*grant, error) {
	edge, err := model.ParseEdgeName(r.GetEdge())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "edge of %s: %v", r.GetName(), err)
	}
	if _, err := model.ParseDeviceName(r.GetCredential()); err == nil {
		device, err := s.store.Devices.Get(ctx, r.GetCredential())
		if errors.Is(err, store.ErrNotFound) {
			return nil, errEnrollmentRequest
		}
		if err != nil {
			return nil, access.StoreError(err)
		}
		return s.grantOf(device, csrs.controlKey())
	}
	token, err := s.store.EnrollmentTokens.Get(ctx, r.GetCredential())
	if errors.Is(err, store.ErrNotFound) {
		return nil, errEnrollmentRequest
	}
	if err != nil {
		return nil, access.StoreError(err)
	}
	return s.tokenGrant(ctx, token, edge.Edge)
}

// decide writes an operator's decision.
func (s *Devices) decide(ctx context.Context, req namedChange, state swanherdv1.EnrollmentRequest_State, action string) (*swanherdv1.EnrollmentRequest, error) {
	name := req.GetName()
	n, err := model.ParseEnrollmentRequestName(name)
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.EnrollmentRequest, *store.Txn, error) {
		row, err := s.store.EnrollmentRequests.Get(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if r := row.Value.GetRequest(); r.GetState() != swanherdv1.EnrollmentRequest_STATE_PENDING {
			return nil, nil, status.Errorf(codes.FailedPrecondition, "%s was decided by %s already: %s", name, r.GetDecidedBy(), r.GetState())
		}
		actor := access.PrincipalFrom(ctx).Actor
		changed := proto.CloneOf(row.Value)
		changed.Request.State, changed.Request.DecidedBy = state, actor
		t := s.store.Txn()
		s.store.EnrollmentRequests.UpdateIn(t, name, changed, row.Revision)
		message := fmt.Sprintf("%s from %s, key %s%s", changed.Request.GetEdge(), changed.Request.GetSourceAddress(), changed.Request.GetKeyFingerprint(), aboutTPM(changed.Request.GetTpm()))
		s.store.AppendEventIn(t, model.NetworkName{Network: n.Network}, access.Audit(actor, name, action, message))
		return changed.GetRequest(), t, nil
	})
	return out, access.StoreError(err)
}

// DropExpiredRequestsIn forgets requests that have expired, as a part of t, at most
// limit of them; it returns how many.
func DropExpiredRequestsIn(t *store.Txn, s *store.Store, snap *store.Snapshot, now time.Time, limit int) int {
	dropped := 0
	for row := range snap.EnrollmentRequests.All() {
		if dropped < limit && !now.Before(row.Value.GetRequest().GetExpireTime().AsTime()) {
			s.EnrollmentRequests.DropIn(t, row.Name)
			dropped++
		}
	}
	return dropped
}
