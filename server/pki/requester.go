package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// A Signer is an external authority that can be asked online to sign networks' authorities,
// which are subordinate to it then.
type Signer interface {
	// Sign has a request (PKCS #10, DER) signed as that of an authority; it returns the
	// certificate, then what it chains to, in PEM. Nothing of that is believed before it is
	// checked. It ends when ctx does. The error says what the external authority answered and
	// what to do, and holds no secret.
	Sign(ctx context.Context, request []byte) (chainPEM []byte, err error)
	// Roots are what the chain has to end in.
	Roots() *x509.CertPool
}

const (
	// signTimeout bounds how long an external authority may take to sign.
	signTimeout = 30 * time.Second
	// maxChainOctets bounds what it may answer.
	maxChainOctets = 64 << 10
	// An external authority that did not sign is asked again after firstRetry, then after
	// twice as long each time, up to lastRetry.
	firstRetry = 5 * time.Second
	lastRetry  = 15 * time.Minute
	// maxReason bounds what is kept of an external authority's own words, in octets.
	maxReason = 500
)

// renewTime is when the replacement of an authority that an external one signed begins by
// itself: the last third of its life, 30 days at least, is for an external one that does not
// answer, and for edges that are away.
func renewTime(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// A Requester has external authorities sign the replacements that wait for them, and begins
// the replacement of what they signed before it ends. One replica runs it.
//
// What it needs to know is in the authority's record: a leader that takes over asks with the
// same request, at the time at which the one before would have.
type Requester struct {
	Keeper *Keeper
	// Signers are the external authorities, by name.
	Signers map[string]Signer
	// Audit makes the event that tells of a change.
	Audit func(network model.NetworkName, action, message string) *swanherdv1.Event
	// Failed is told of what went wrong in the controller; it is tried again. What external
	// authorities did wrong is in the records of the authorities.
	Failed func(error)
}

// Run asks until ctx ends. Those who wait for one external authority do not wait for another
// one that is slow.
func (r *Requester) Run(ctx context.Context) {
	var all sync.WaitGroup
	for name := range r.Signers {
		all.Go(func() { r.follow(ctx, func(n string) bool { return n == name }) })
	}
	all.Go(func() { r.follow(ctx, func(n string) bool { return r.Signers[n] == nil }) })
	all.Wait()
}

// follow does what is to be done with the external authorities whose names are meant, after
// each change of the store and when it is due, until ctx ends.
func (r *Requester) follow(ctx context.Context, meant func(name string) bool) {
	sub := r.Keeper.store.Subscribe()
	defer sub.Close()
	for {
		now := time.Now()
		next, err := r.step(ctx, meant, now)
		if err != nil && ctx.Err() == nil {
			r.Failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-sub.Changed():
		case <-time.After(next.Sub(now)):
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rotatorPause):
		}
	}
}

// step does what is due now, and says when it is to be called again though nothing changes.
func (r *Requester) step(ctx context.Context, meant func(name string) bool, now time.Time) (next time.Time, _ error) {
	next = now.Add(rotatorLook)
	var errs []error
	for seen := range r.Keeper.store.Snapshot().Authorities.All() {
		name, do := external(seen.Value)
		network, ok := strings.CutPrefix(seen.Name, model.NetworkAuthorities)
		if name == "" || !ok || !meant(name) {
			continue
		}
		row, err := r.Keeper.store.Authorities.Get(ctx, seen.Name) // the snapshot may be of before the last step
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if name, do = external(row.Value); name == "" || !meant(name) {
			continue
		}
		if at := dueTime(row.Value); at.After(now) {
			if at.Before(next) {
				next = at
			}
			continue
		}
		err = do(r, ctx, model.NetworkName{Network: network}, row, now)
		if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, ErrRotation) {
			errs = append(errs, fmt.Errorf("replace %s: %w", seen.Name, err))
		}
	}
	return next, errors.Join(errs...)
}

// external is what an authority wants of an external one, and which that is; empty: nothing.
func external(a *storev1.CertificateAuthority) (name string, do func(*Requester, context.Context, model.NetworkName, model.Row[*storev1.CertificateAuthority], time.Time) error) {
	switch {
	case a.GetRotation().GetPhase() == swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE:
		return a.GetRotation().GetExternalAuthority(), (*Requester).ask
	case a.GetRotation() == nil:
		return a.GetExternalAuthority(), (*Requester).begin
	}
	return "", nil
}

// dueTime is when an external authority is to be asked, or a replacement begins.
func dueTime(a *storev1.CertificateAuthority) time.Time {
	if a.GetRotation() != nil {
		return a.GetRotation().GetSigningFailure().GetRetryTime().AsTime() // 1970 if it was not asked yet
	}
	c, err := x509.ParseCertificate(a.GetCertificate())
	if err != nil {
		return time.Time{} // it is of no use to anybody
	}
	return renewTime(c)
}

// begin begins to replace an authority by the next one of the same external authority.
func (r *Requester) begin(ctx context.Context, network model.NetworkName, row model.Row[*storev1.CertificateAuthority], now time.Time) error {
	edges, _ := Progress(r.Keeper.store.Snapshot(), network, row, now)
	name, t := row.Value.GetExternalAuthority(), r.Keeper.store.Txn()
	if _, err := r.Keeper.RotateIn(t, row, network, RotateOptions{ExternalAuthority: name, Actor: "system", Edges: edges}, now); err != nil {
		return err
	}
	r.Keeper.store.AppendEventIn(t, network, r.Audit(network, "certificateAuthority.rotate", "two thirds of its life are over; "+name+" is to sign the new one"))
	_, err := t.Commit(ctx)
	return err
}

// ask has the external authority sign the request of a replacement, and goes on with that, or
// notes why not.
func (r *Requester) ask(ctx context.Context, network model.NetworkName, row model.Row[*storev1.CertificateAuthority], now time.Time) error {
	name, began := row.Value.GetRotation().GetExternalAuthority(), time.Now()
	chain, roots, err := r.sign(ctx, row.Value.GetRotation())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now = now.Add(time.Since(began)) // what was signed meanwhile may be good only from then
	t, issuer := r.Keeper.store.Txn(), ""
	if err == nil {
		var next *storev1.CertificateAuthority
		if next, issuer, err = r.Keeper.ImportIn(t, row, network, chain, roots, now); err == nil {
			err = young(next.GetRotation(), now)
		}
	}
	if err != nil {
		return r.note(ctx, network, row, err, now)
	}
	r.Keeper.store.AppendEventIn(t, network, r.Audit(network, "certificateAuthority.import", fmt.Sprintf("signed by %s: %s", name, issuer)))
	_, err = t.Commit(ctx)
	return err
}

// young refuses a certificate whose replacement would begin before every edge has renewed
// under it: one would follow the other for ever.
func young(rotation *storev1.AuthorityRotation, now time.Time) error {
	c, err := x509.ParseCertificate(rotation.GetOtherCertificate())
	if err == nil && renewTime(c).Before(now.Add(RenewAfter)) {
		err = fmt.Errorf("%w: two thirds of its life, from %s to %s, are over too soon; have it signed from now on",
			ErrChain, c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
	}
	return err
}

func (r *Requester) sign(ctx context.Context, rotation *storev1.AuthorityRotation) ([]byte, *x509.CertPool, error) {
	name := rotation.GetExternalAuthority()
	signer := r.Signers[name]
	if signer == nil {
		return nil, nil, fmt.Errorf("the configuration of this controller has no external authority %s; name it in the file of --external-authorities, at every replica", name)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, signTimeout, fmt.Errorf("it did not sign within %s", signTimeout))
	defer cancel()
	chain, err := signer.Sign(ctx, rotation.GetCertificateRequest())
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case err == nil && len(chain) > maxChainOctets:
		return nil, nil, fmt.Errorf("%w: it has more than %d octets", ErrChain, maxChainOctets)
	}
	return chain, signer.Roots(), err
}

// note writes down that the external authority did not sign, or signed what is of no use. The
// event log tells of the first time; alerts and the authority's status of all.
func (r *Requester) note(ctx context.Context, network model.NetworkName, row model.Row[*storev1.CertificateAuthority], why error, now time.Time) error {
	changed := proto.CloneOf(row.Value)
	failure := changed.Rotation.SigningFailure
	if failure == nil {
		failure = &storev1.SigningFailure{SinceTime: timestamppb.New(now)}
		changed.Rotation.SigningFailure = failure
	}
	failure.RetryTime = timestamppb.New(now.Add(retryAfter(failure.Attempts)))
	failure.Attempts++
	failure.Reason = clip(why.Error())
	t := r.Keeper.store.Txn()
	r.Keeper.store.Authorities.UpdateIn(t, row.Name, changed, row.Revision)
	if failure.Attempts == 1 {
		r.Keeper.store.AppendEventIn(t, network, &swanherdv1.Event{
			Time: timestamppb.New(now), Kind: swanherdv1.Event_KIND_TRANSITION, Actor: "system", Resource: network.AuthorityResource(),
			Action: "certificateAuthority.unsigned", Message: changed.Rotation.ExternalAuthority + " does not sign the new authority: " + failure.Reason,
		})
	}
	_, err := t.Commit(ctx)
	return err
}

// retryAfter is how long to wait after an attempt, when so many before it failed.
func retryAfter(before int32) time.Duration {
	wait := firstRetry
	for range min(before, 10) {
		wait *= 2
	}
	return min(wait, lastRetry)
}

// clip bounds what somebody else said, and makes it text.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "") + "..."
}
