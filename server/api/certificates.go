package api

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/store"
)

// maxWaiting is how many edges an answer names that something waits for.
const maxWaiting = 100

// Certificates implements CertificateService.
type Certificates struct {
	swanherdv1.UnimplementedCertificateServiceServer

	store *store.Store
	pki   *pki.Keeper
	// external are the names of the external authorities that may be asked online.
	external []string
}

// NewCertificates returns the service. External are the names of the external authorities
// that may be asked online.
func NewCertificates(s *store.Store, keeper *pki.Keeper, external []string) *Certificates {
	return &Certificates{store: s, pki: keeper, external: external}
}

// GetCertificate implements CertificateService.
func (s *Certificates) GetCertificate(_ context.Context, req *swanherdv1.GetCertificateRequest) (*swanherdv1.Certificate, error) {
	edge, serial, found := strings.Cut(req.GetName(), certificateSegment)
	if _, err := model.ParseEdgeName(edge); err != nil || !found {
		return nil, access.Invalid("name", "is not a name of the form networks/{network}/edges/{edge}/certificates/{serial}")
	}
	all := certificatesOf(s.store.Snapshot().EdgeIdentities.Value(edge), time.Now())
	i := slices.IndexFunc(all, func(c *swanherdv1.Certificate) bool { return c.GetSerial() == serial })
	if i < 0 {
		return nil, notThere(req.GetName())
	}
	return all[i], nil
}

// ListCertificates implements CertificateService.
func (s *Certificates) ListCertificates(ctx context.Context, req *swanherdv1.ListCertificatesRequest) (*swanherdv1.ListCertificatesResponse, error) {
	snap, now := s.store.Snapshot(), time.Now()
	if err := checkParent(&snap.Topology, req.GetParent()); err != nil {
		return nil, err
	}
	q, err := newQuery(ctx, req, (&swanherdv1.Certificate{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	if snap, err = q.snapshot(ctx, s.store, snap); err != nil {
		return nil, err
	}
	after, _, _ := strings.Cut(q.first(), certificateSegment)
	rows := rowsOf(snap.EdgeIdentities, req.GetParent(), "", scopeOf(ctx, snap))
	certificates, next := page(q, func(yield func(*swanherdv1.Certificate) bool) {
		for row := range rows {
			if row.Name < after {
				continue
			}
			for _, c := range certificatesOf(row.Value, now) {
				listed := row.Name == after && c.GetName() <= q.first()
				if !listed && (req.GetShowSuperseded() || !c.GetSuperseded()) && !yield(c) {
					return
				}
			}
		}
	})
	return &swanherdv1.ListCertificatesResponse{Certificates: certificates, NextPageToken: next}, nil
}

// certificateSegment is between the edge and the serial number in a certificate's name.
const certificateSegment = "/certificates/"

// certificatesOf are the certificates of an edge that have not expired, by name.
func certificatesOf(identity *storev1.EdgeIdentity, now time.Time) []*swanherdv1.Certificate {
	newest := map[storev1.IssuedCertificate_Purpose]string{}
	for _, c := range identity.GetCertificates() {
		newest[c.GetPurpose()] = c.GetSerial() // newest last
	}
	var out []*swanherdv1.Certificate
	for _, c := range identity.GetCertificates() {
		if !c.GetExpireTime().AsTime().After(now) {
			continue
		}
		out = append(out, &swanherdv1.Certificate{
			Name:       identity.GetEdge() + certificateSegment + c.GetSerial(),
			Edge:       identity.GetEdge(),
			Serial:     c.GetSerial(),
			Purpose:    swanherdv1.Certificate_Purpose(c.GetPurpose()),
			ExpireTime: c.GetExpireTime(),
			IssuerPin:  c.GetIssuerPin(),
			Superseded: newest[c.GetPurpose()] != c.GetSerial(),
		})
	}
	slices.SortFunc(out, func(a, b *swanherdv1.Certificate) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// RevokeEdge implements CertificateService.
func (s *Certificates) RevokeEdge(ctx context.Context, req *swanherdv1.RevokeEdgeRequest) (*swanherdv1.RevokeEdgeResponse, error) {
	name, err := model.ParseEdgeName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.RevokeEdgeResponse, *store.Txn, error) {
		row, err := s.store.EdgeIdentities.Get(ctx, name.String())
		if err != nil {
			return nil, nil, err
		}
		t := s.store.Txn()
		serials := pki.RevokeIn(t, s.store, name, row.Value, req.GetReason(), time.Now())
		s.store.EdgeIdentities.UpdateIn(t, name.String(), pki.Disown(row.Value), row.Revision)
		message := fmt.Sprintf("%d certificates", len(serials))
		if req.GetReason() != "" {
			message += ": " + req.GetReason()
		}
		s.store.AppendEventIn(t, model.NetworkName{Network: name.Network},
			access.Audit(access.PrincipalFrom(ctx).Actor, name.String(), "edge.revoke", message))
		return &swanherdv1.RevokeEdgeResponse{Serials: serials}, t, nil
	})
	return out, access.StoreError(err)
}

// ListRevocations implements CertificateService.
func (s *Certificates) ListRevocations(ctx context.Context, req *swanherdv1.ListRevocationsRequest) (*swanherdv1.ListRevocationsResponse, error) {
	out, next, err := listRows(ctx, s.store, req, func(snap *store.Snapshot) model.Table[*storev1.Revocation] { return snap.Revocations },
		func(snap *store.Snapshot, row model.Row[*storev1.Revocation]) *swanherdv1.Revocation {
			r := revocation(snap, row)
			r.Pending = slices.DeleteFunc(r.Pending, func(edge string) bool { return !scopeOf(ctx, snap).Sees(edge) })
			return r
		})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListRevocationsResponse{Revocations: out, NextPageToken: next}, nil
}

// revocation is a revocation with who knows of it: every edge of the network but the
// one that it is about.
func revocation(snap *store.Snapshot, row model.Row[*storev1.Revocation]) *swanherdv1.Revocation {
	r := &swanherdv1.Revocation{
		Name:       row.Name,
		Edge:       row.Value.GetEdge(),
		RevokeTime: row.Value.GetRevokeTime(),
		ExpireTime: row.Value.GetExpireTime(),
		Reason:     row.Value.GetReason(),
	}
	for edge := range snap.Edges.InNetwork(networkOf(row.Name)) {
		switch {
		case edge.Name == r.GetEdge():
			continue
		case pki.Knows(snap.EdgeStatuses.Value(edge.Name), row.Revision):
			r.Acknowledged++
		case len(r.GetPending()) < maxWaiting:
			r.Pending = append(r.Pending, edge.Name)
		}
		r.Edges++
	}
	return r
}

// GetCertificateAuthority implements CertificateService.
func (s *Certificates) GetCertificateAuthority(_ context.Context, req *swanherdv1.GetCertificateAuthorityRequest) (*swanherdv1.CertificateAuthority, error) {
	network, err := parseAuthority(req.GetName())
	if err != nil {
		return nil, err
	}
	snap := s.store.Snapshot()
	row, ok := snap.Authorities.Get(network.AuthorityName())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", network)
	}
	return authority(snap, network, row)
}

func parseAuthority(name string) (model.NetworkName, error) {
	network, err := model.ParseAuthorityName(name)
	if err != nil {
		return network, access.Invalid("name", err.Error())
	}
	return network, nil
}

// authority is an authority with how far its replacement is.
func authority(snap *store.Snapshot, network model.NetworkName, row model.Row[*storev1.CertificateAuthority]) (*swanherdv1.CertificateAuthority, error) {
	shown, err := pki.Describe(row.Value)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	shown.Name = network.AuthorityResource()
	if shown.Rotation == nil {
		return shown, nil
	}
	edges, waiting := pki.Progress(snap, network, row, time.Now())
	shown.Rotation.Edges, shown.Rotation.Done = int32(edges), int32(edges-len(waiting))
	for _, w := range waiting[:min(len(waiting), maxWaiting)] {
		shown.Rotation.Waiting = append(shown.Rotation.Waiting, waitingEdge(w))
	}
	if shown.Rotation.OverlapEndTime != nil {
		shown.Rotation.EnrollmentTokens = pinning(snap, shown.Rotation.PhaseTime.AsTime(), time.Now())
	}
	return shown, nil
}

func waitingEdge(w pki.Waiting) *swanherdv1.CertificateAuthority_Waiting {
	out := &swanherdv1.CertificateAuthority_Waiting{Edge: w.Edge, Reason: w.Reason}
	if !w.Since.IsZero() {
		out.SinceTime = timestamppb.New(w.Since)
	}
	return out
}

// pinning is how many enrolment tokens that may still be used were made before.
func pinning(snap *store.Snapshot, before, now time.Time) (tokens int32) {
	for row := range snap.EnrollmentTokens.All() {
		t := row.Value.GetToken()
		if t.GetCreateTime().AsTime().Before(before) && t.GetExpireTime().AsTime().After(now) && t.GetUses() < t.GetMaxUses() {
			tokens++
		}
	}
	return tokens
}

// authorityChange is what is to become of an authority, and what the audit log says of that.
type authorityChange struct {
	next            *storev1.CertificateAuthority
	action, message string
}

// RotateCertificateAuthority implements CertificateService.
func (s *Certificates) RotateCertificateAuthority(ctx context.Context, req *swanherdv1.RotateCertificateAuthorityRequest) (*swanherdv1.CertificateAuthority, error) {
	out, err := s.change(ctx, req, func(t *store.Txn, network model.NetworkName, row model.Row[*storev1.CertificateAuthority]) (c authorityChange, err error) {
		if err := s.rotatable(network, req); err != nil {
			return c, err
		}
		o := pki.RotateOptions{
			RenewWithin: req.GetRenewWithin().AsDuration(), External: req.GetExternal(), ExternalAuthority: req.GetExternalAuthority(),
			Actor: access.PrincipalFrom(ctx).Actor, Overlap: pki.DefaultOverlap,
		}
		if req.GetOverlap() != nil {
			o.Overlap = req.GetOverlap().AsDuration()
		}
		o.Edges = s.store.Snapshot().Edges.Len()
		if network != model.NoNetwork {
			o.Edges = len(inNetwork(s.store.Snapshot().Edges, network))
		}
		c.action, c.message = "certificateAuthority.rotate", fmt.Sprintf("%d edges are to trust the new authority", o.Edges)
		switch {
		case req.GetExternal():
			c.message = "an external authority is to sign the new one"
		case req.GetExternalAuthority() != "":
			c.message = req.GetExternalAuthority() + " is to sign the new one"
		}
		c.next, err = s.pki.RotateIn(t, row, network, o, time.Now())
		return c, err
	})
	if err == nil && req.GetValidateOnly() { // they are of a key that is gone again
		out.Rotation.OtherPin, out.Rotation.CertificateRequest = "", ""
	}
	return out, err
}

// rotatable refuses what is for networks' authorities of the controller's, and the other way
// round.
func (s *Certificates) rotatable(network model.NetworkName, req *swanherdv1.RotateCertificateAuthorityRequest) error {
	switch controller := network == model.NoNetwork; {
	case controller && req.GetExternal():
		return access.Invalid("external", "is for authorities of networks; the controller's own signs itself, leave it out")
	case controller && req.GetExternalAuthority() != "":
		return access.Invalid("external_authority", "is for authorities of networks; the controller's own signs itself, leave it out")
	case req.GetExternal() && req.GetExternalAuthority() != "":
		return access.Invalid("external", "is for an authority that the controller does not ask itself; give it or external_authority")
	case req.GetExternalAuthority() != "" && len(s.external) == 0:
		return access.Invalid("external_authority", "the controller is configured with none (--external-authorities); leave it out, or set external and bring the certificate")
	case req.GetExternalAuthority() != "" && !slices.Contains(s.external, req.GetExternalAuthority()):
		return access.Invalid("external_authority", "is none that the controller is configured with; these are "+strings.Join(s.external, ", "))
	case controller && req.GetRenewWithin() != nil:
		return access.Invalid("renew_within", "is for authorities of networks; edges have no certificates of the controller's, leave it out")
	case !controller && req.GetOverlap() != nil:
		return access.Invalid("overlap", "is for "+model.ControllerAuthority+"; leave it out")
	}
	return nil
}

// ImportCertificateAuthority implements CertificateService.
func (s *Certificates) ImportCertificateAuthority(ctx context.Context, req *swanherdv1.ImportCertificateAuthorityRequest) (*swanherdv1.CertificateAuthority, error) {
	return s.change(ctx, req, func(t *store.Txn, network model.NetworkName, row model.Row[*storev1.CertificateAuthority]) (authorityChange, error) {
		next, subject, err := s.pki.ImportIn(t, row, network, []byte(req.GetCertificateChain()), nil, time.Now())
		if errors.Is(err, pki.ErrChain) {
			err = access.Invalid("certificate_chain", err.Error())
		}
		return authorityChange{next, "certificateAuthority.import", "signed by " + subject}, err
	})
}

// ForceCertificateAuthority implements CertificateService.
func (s *Certificates) ForceCertificateAuthority(ctx context.Context, req *swanherdv1.ForceCertificateAuthorityRequest) (*swanherdv1.CertificateAuthority, error) {
	return s.change(ctx, req, func(t *store.Txn, network model.NetworkName, row model.Row[*storev1.CertificateAuthority]) (authorityChange, error) {
		now := time.Now()
		edges, waiting := pki.Progress(s.store.Snapshot(), network, row, now)
		next, err := s.pki.AdvanceIn(t, row, req.GetPhase(), now)
		action, message := pki.PhaseEnd(network, req.GetPhase(), edges, waiting)
		return authorityChange{next, action, "forced: " + message}, err
	})
}

// CancelCertificateAuthority implements CertificateService.
func (s *Certificates) CancelCertificateAuthority(ctx context.Context, req *swanherdv1.CancelCertificateAuthorityRequest) (*swanherdv1.CertificateAuthority, error) {
	return s.change(ctx, req, func(t *store.Txn, _ model.NetworkName, row model.Row[*storev1.CertificateAuthority]) (authorityChange, error) {
		next, err := s.pki.CancelIn(t, row)
		return authorityChange{next, "certificateAuthority.cancel", "the authority stays"}, err
	})
}

// change makes one audited change to the record of an authority, and returns that with what
// it will wait for.
func (s *Certificates) change(ctx context.Context, req namedChange,
	f func(*store.Txn, model.NetworkName, model.Row[*storev1.CertificateAuthority]) (authorityChange, error),
) (*swanherdv1.CertificateAuthority, error) {
	network, err := parseAuthority(req.GetName())
	if err != nil {
		return nil, err
	}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.CertificateAuthority, *store.Txn, error) {
		row, err := s.store.Authorities.Get(ctx, network.AuthorityName())
		if err != nil {
			return nil, nil, err
		}
		t := s.store.Txn()
		c, err := f(t, network, row)
		switch {
		case errors.Is(err, pki.ErrRotation):
			return nil, nil, status.Error(codes.FailedPrecondition, err.Error())
		case err != nil && status.Code(err) == codes.InvalidArgument:
			return nil, nil, err
		case err != nil:
			return nil, nil, status.Error(codes.Internal, err.Error())
		}
		s.store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, req.GetName(), c.action, c.message))
		// What it becomes is newer than all that any edge has confirmed.
		next := model.Row[*storev1.CertificateAuthority]{Name: row.Name, Value: c.next, Revision: math.MaxInt64}
		out, err := authority(s.store.Snapshot(), network, next)
		return out, t, err
	})
	return out, access.StoreError(err)
}
