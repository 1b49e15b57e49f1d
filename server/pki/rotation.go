package pki

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// An authority is replaced in phases, so that at no moment two edges meet of
// which one does not believe the other:
//
//	AWAITING_CERTIFICATE  only if an external authority has to sign the new one
//	DISTRIBUTING          the old one issues, every edge learns to trust both
//	REISSUING             the new one issues, every edge gets certificates of it
//
// and then the old one is dropped: the controller's own, which issues nothing to edges, only
// after an overlap (controller.go). A phase ends when every edge is through with it,
// by what the edge itself has said. All there is to know is in the authority's
// record and in what the store knows of the edges, and a phase ends by a
// transaction on the record's revision: so it does not matter who ends it, nor
// whether two try.

// ErrRotation is a step of a replacement that is not possible now.
var ErrRotation = errors.New("the authority is not at that step")

// minRenewWithin and renewalsPerSecond make the time over which edges spread their
// renewals, if nobody said otherwise.
const (
	minRenewWithin    = 10 * time.Second
	renewalsPerSecond = 10
)

// RotateOptions say how an authority is to be replaced.
type RotateOptions struct {
	// RenewWithin is the time over which edges spread their renewals; 0: as long as so
	// many Edges need.
	RenewWithin time.Duration
	Edges       int
	// External: the new authority's certificate is signed by an external one, and
	// ImportIn brings it. ExternalAuthority is its name if a Requester asks it.
	External          bool
	ExternalAuthority string
	// Overlap, of the controller's authority: how long the one before stays when the new one
	// issues.
	Overlap time.Duration
	// Actor as in Event.actor.
	Actor string
}

// RotateIn begins to replace the network's authority by a new one, or for NoNetwork the
// controller's, as a part of t; it returns the authority as it is then.
func (k *Keeper) RotateIn(t *store.Txn, row model.Row[*storev1.CertificateAuthority], network model.NetworkName, o RotateOptions, now time.Time) (*storev1.CertificateAuthority, error) {
	if row.Value.GetRotation() != nil {
		return nil, fmt.Errorf("%w: it is being replaced already, since %s", ErrRotation, row.Value.GetRotation().GetStartTime().AsTime().Format(time.RFC3339))
	}
	next, cross, err := k.successor(row.Value, network, now)
	if err != nil {
		return nil, err
	}
	key, err := k.store.Authorities.Key(row.Name)
	if err != nil {
		return nil, err
	}
	sealed, err := k.seal(key, next)
	if err != nil {
		return nil, err
	}
	changed := proto.CloneOf(row.Value)
	changed.Rotation = &storev1.AuthorityRotation{
		Phase:            swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING,
		OtherCertificate: next.certificate.Raw,
		OtherKey:         sealed,
		StartTime:        timestamppb.New(now),
		PhaseTime:        timestamppb.New(now),
		Actor:            o.Actor,
		IssuerPin:        next.Pin(),
		CrossCertificate: cross,
	}
	if network == model.NoNetwork {
		changed.Rotation.Overlap = durationpb.New(o.Overlap)
	} else {
		changed.Rotation.RenewWithin = durationpb.New(o.renewWithin())
	}
	if o.External || o.ExternalAuthority != "" {
		changed.Rotation.ExternalAuthority = o.ExternalAuthority
		changed.Rotation.Phase = swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE
		changed.Rotation.OtherCertificate = nil
		if changed.Rotation.CertificateRequest, err = next.request(); err != nil {
			return nil, err
		}
	}
	k.store.Authorities.UpdateIn(t, row.Name, changed, row.Revision)
	return changed, nil
}

func (o RotateOptions) renewWithin() time.Duration {
	if o.RenewWithin == 0 {
		return max(minRenewWithin, time.Duration(o.Edges)*time.Second/renewalsPerSecond)
	}
	return o.RenewWithin
}

// successor makes the authority that is to take the place of a stored one, and, of the
// controller's, its certificate as that one signs it.
func (k *Keeper) successor(stored *storev1.CertificateAuthority, network model.NetworkName, now time.Time) (next *Authority, cross []byte, err error) {
	if network != model.NoNetwork {
		next, err = NewAuthority("Swanherd network "+network.Network, now)
		return next, nil, err
	}
	before, err := k.decode(stored)
	if err != nil {
		return nil, nil, err
	}
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	if next, err = newAuthority(controllerTemplate(now), key); err != nil {
		return nil, nil, err
	}
	cross, err = before.cross(next, now)
	return next, cross, err
}

// CancelIn gives a replacement up, as a part of t; it returns the authority as it is then.
func (k *Keeper) CancelIn(t *store.Txn, row model.Row[*storev1.CertificateAuthority]) (*storev1.CertificateAuthority, error) {
	switch row.Value.GetRotation().GetPhase() {
	case swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING, swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE:
	default:
		return nil, fmt.Errorf("%w: a replacement can be given up only until the new authority issues", ErrRotation)
	}
	changed := proto.CloneOf(row.Value)
	changed.Rotation = nil
	k.store.Authorities.UpdateIn(t, row.Name, changed, row.Revision)
	return changed, nil
}

// AdvanceIn ends the phase, as a part of t, whether or not every edge is through
// with it; it returns the authority as it is then.
func (k *Keeper) AdvanceIn(t *store.Txn, row model.Row[*storev1.CertificateAuthority], phase swanherdv1.CertificateAuthority_Phase, now time.Time) (*storev1.CertificateAuthority, error) {
	rotation := row.Value.GetRotation()
	if rotation.GetPhase() != phase || phase == swanherdv1.CertificateAuthority_PHASE_UNSPECIFIED {
		return nil, fmt.Errorf("%w: it is at %s", ErrRotation, rotation.GetPhase())
	}
	changed := proto.CloneOf(row.Value)
	switch phase {
	case swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE:
		return nil, fmt.Errorf("%w: it waits for the external authority; import what that signed", ErrRotation)
	case swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING:
		changed.Certificate, changed.Key, changed.Chain = rotation.GetOtherCertificate(), rotation.GetOtherKey(), rotation.GetOtherChain()
		changed.ExternalAuthority = rotation.GetExternalAuthority()
		changed.Rotation.OtherCertificate, changed.Rotation.OtherKey, changed.Rotation.OtherChain = row.Value.GetCertificate(), nil, nil
		changed.Rotation.Phase = swanherdv1.CertificateAuthority_PHASE_REISSUING
		changed.Rotation.PhaseTime = timestamppb.New(now)
		if row.Name == model.ControllerAuthority { // this step changes nothing that edges have
			changed.Rotation.TrustedRevision = row.Revision
		}
	default:
		changed.Rotation = nil
	}
	k.store.Authorities.UpdateIn(t, row.Name, changed, row.Revision)
	return changed, nil
}

// A Waiting edge is one that a phase waits for, why, and since when; the zero time: it was
// never seen.
type Waiting struct {
	Edge, Reason string
	Since        time.Time
}

// Progress is how far the edges of a network, or for NoNetwork all edges, are with the phase
// of the authority's replacement: how many there are, and which are not through with it, by name.
// Edges that have no good certificate are left out: they have nothing to lose.
func Progress(snap *store.Snapshot, network model.NetworkName, row model.Row[*storev1.CertificateAuthority], now time.Time) (edges int, waiting []Waiting) {
	identities := snap.EdgeIdentities.All()
	if network != model.NoNetwork {
		identities = snap.EdgeIdentities.InNetwork(network)
	}
	rotation := row.Value.GetRotation()
	for identity := range identities {
		if !slices.ContainsFunc(identity.Value.GetCertificates(), func(c *storev1.IssuedCertificate) bool { return c.GetExpireTime().AsTime().After(now) }) {
			continue
		}
		edges++
		status := snap.EdgeStatuses.Value(identity.Name)
		reason := ""
		switch {
		case rotation.GetPhase() == swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING:
			reason = lacks(status, row.Revision)
		case rotation.GetPhase() == swanherdv1.CertificateAuthority_PHASE_REISSUING && network == model.NoNetwork:
			reason = lacks(status, rotation.GetTrustedRevision())
		case rotation.GetPhase() == swanherdv1.CertificateAuthority_PHASE_REISSUING:
			reason = outdated(status, identity.Value, rotation.GetIssuerPin(), now)
		}
		if reason != "" {
			waiting = append(waiting, Waiting{identity.Name, reason, waitingSince(status, rotation)})
		}
	}
	return edges, waiting
}

// waitingSince is when the edge was last seen, or of one that is connected, when the phase
// began.
func waitingSince(status *storev1.EdgeStatus, rotation *storev1.AuthorityRotation) time.Time {
	seen := status.GetStatus().GetLastSeenTime()
	switch {
	case status.GetStatus().GetConnected():
		return rotation.GetPhaseTime().AsTime()
	case seen == nil:
		return time.Time{}
	}
	return seen.AsTime()
}

// Knows says whether an edge has said that it runs and keeps an intent that was
// planned from the revision or a later one.
func Knows(status *storev1.EdgeStatus, revision int64) bool {
	return status.GetStatus().GetIntentState() == swanherdv1.IntentState_INTENT_STATE_CONFIRMED &&
		status.GetStatus().GetAppliedRevision() >= revision
}

// lacks says why an edge does not know of the revision, if it does not.
func lacks(status *storev1.EdgeStatus, revision int64) string {
	switch {
	case Knows(status, revision):
		return ""
	case status == nil:
		return "has not been connected yet"
	case !status.GetStatus().GetConnected():
		return "is not connected"
	default:
		return "has not confirmed the new trust anchors yet"
	}
}

// outdated says why an edge does not use a certificate of the issuer, if it does not.
// What it uses shows in its session: that a certificate was issued does not say that
// the answer arrived. Control and IKE certificate come into use together.
func outdated(status *storev1.EdgeStatus, identity *storev1.EdgeIdentity, issuer string, now time.Time) string {
	used, ok := Issued(identity, status.GetCertificateSerial(), now)
	switch {
	case ok && used.GetIssuerPin() == issuer:
		return ""
	case status == nil:
		return "has not been connected yet"
	case !status.GetStatus().GetConnected():
		return "is not connected, and its certificate is of the authority that goes"
	default:
		return "has not renewed its certificates yet"
	}
}

// A Rotator ends the phases of replacements when every edge is through with them.
type Rotator struct {
	Keeper *Keeper
	// Audit makes the event that tells of a phase's end.
	Audit func(network model.NetworkName, action, message string) *swanherdv1.Event
	// Failed is told of what went wrong; it is tried again.
	Failed func(error)
}

const (
	// rotatorPause is the least time between two looks: each is about every edge.
	rotatorPause = time.Second
	// rotatorLook is the longest: an overlap ends without a change of the store.
	rotatorLook = time.Minute
)

// Run looks after each change of the store, and at intervals, until ctx ends.
func (r *Rotator) Run(ctx context.Context) {
	sub := r.Keeper.store.Subscribe()
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sub.Changed():
		case <-time.After(rotatorLook):
		}
		if err := r.Step(ctx, time.Now()); err != nil && ctx.Err() == nil {
			r.Failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rotatorPause):
		}
	}
}

// Step ends every phase that every edge is through with.
func (r *Rotator) Step(ctx context.Context, now time.Time) error {
	snap := r.Keeper.store.Snapshot()
	networks := []model.NetworkName{model.NoNetwork}
	for row := range snap.Networks.All() {
		if network, err := model.ParseNetworkName(row.Name); err == nil { // others were refused before they were stored
			networks = append(networks, network)
		}
	}
	var errs []error
	for _, network := range networks {
		authority, ok := snap.Authorities.Get(network.AuthorityName())
		if !ok || !endsBySelf(authority.Value.GetRotation().GetPhase()) || now.Before(OverlapEnd(authority.Value)) {
			continue
		}
		edges, waiting := Progress(snap, network, authority, now)
		if len(waiting) > 0 {
			continue
		}
		if err := r.advance(ctx, network, authority, edges, now); err != nil && !errors.Is(err, store.ErrConflict) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// endsBySelf says whether a phase ends when every edge is through with it.
func endsBySelf(p swanherdv1.CertificateAuthority_Phase) bool {
	return p == swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING || p == swanherdv1.CertificateAuthority_PHASE_REISSUING
}

func (r *Rotator) advance(ctx context.Context, network model.NetworkName, row model.Row[*storev1.CertificateAuthority], edges int, now time.Time) error {
	phase := row.Value.GetRotation().GetPhase()
	t := r.Keeper.store.Txn()
	if _, err := r.Keeper.AdvanceIn(t, row, phase, now); err != nil {
		return err
	}
	action, message := PhaseEnd(network, phase, edges, nil)
	r.Keeper.store.AppendEventIn(t, network, r.Audit(network, action, message))
	if _, err := t.Commit(ctx); err != nil {
		return fmt.Errorf("replace %s: %w", network.AuthorityResource(), err)
	}
	return nil
}

// maxLeft is how many edges the audit log names that a phase went on without.
const maxLeft = 20

// PhaseEnd is how the audit log calls the end of a phase, and which edges it went on
// without.
func PhaseEnd(network model.NetworkName, phase swanherdv1.CertificateAuthority_Phase, edges int, waiting []Waiting) (action, message string) {
	action, what := "certificateAuthority.retire", "have certificates of the new authority; the old one is dropped"
	switch {
	case phase == swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING:
		action, what = "certificateAuthority.reissue", "trust the new authority, which issues from now on"
	case network == model.NoNetwork:
		what = "trust the new authority; the old one is dropped"
	}
	message = fmt.Sprintf("%d of %d edges %s", edges-len(waiting), edges, what)
	for i, w := range waiting[:min(len(waiting), maxLeft)] {
		message += []string{"; left behind: ", ", "}[min(i, 1)] + w.Edge
	}
	if more := len(waiting) - maxLeft; more > 0 {
		message += fmt.Sprintf(" and %d more", more)
	}
	return action, message
}

// Describe is an authority as the API shows it, but for its name and the edges.
func Describe(a *storev1.CertificateAuthority) (*swanherdv1.CertificateAuthority, error) {
	certificate, err := x509.ParseCertificate(a.GetCertificate())
	if err != nil {
		return nil, fmt.Errorf("parse certificate of %s: %w", a.GetName(), err)
	}
	shown := &swanherdv1.CertificateAuthority{
		Certificate: string(EncodePEM(certificate.Raw)),
		Pin:         Pin(certificate),
		ExpireTime:  timestamppb.New(certificate.NotAfter),
	}
	if shown.ExternalAuthority = a.GetExternalAuthority(); shown.ExternalAuthority != "" {
		shown.RenewTime = timestamppb.New(renewTime(certificate))
	}
	rotation := a.GetRotation()
	if rotation == nil {
		return shown, nil
	}
	shown.Rotation = &swanherdv1.CertificateAuthority_Rotation{
		Phase:     rotation.GetPhase(),
		StartTime: rotation.GetStartTime(),
		PhaseTime: rotation.GetPhaseTime(),
		OtherPin:  rotation.GetIssuerPin(),
		Actor:     rotation.GetActor(),

		ExternalAuthority: rotation.GetExternalAuthority(),
	}
	if f := rotation.GetSigningFailure(); f != nil {
		shown.Rotation.SigningFailure = &swanherdv1.CertificateAuthority_SigningFailure{
			Attempts: f.GetAttempts(), SinceTime: f.GetSinceTime(), Reason: f.GetReason(), RetryTime: f.GetRetryTime(),
		}
	}
	if csr := rotation.GetCertificateRequest(); len(csr) > 0 {
		shown.Rotation.CertificateRequest = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
	}
	if end := OverlapEnd(a); !end.IsZero() {
		shown.Rotation.OverlapEndTime = timestamppb.New(end)
	}
	if rotation.GetPhase() == swanherdv1.CertificateAuthority_PHASE_REISSUING {
		before, err := x509.ParseCertificate(rotation.GetOtherCertificate())
		if err != nil {
			return nil, fmt.Errorf("parse the certificate before of %s: %w", a.GetName(), err)
		}
		shown.Rotation.OtherPin = Pin(before)
	}
	return shown, nil
}
