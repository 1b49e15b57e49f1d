package enroll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// The wall clock may be set while the edge waits for a renewal that is
	// weeks away, so it is read again at least this often.
	renewLook = time.Hour
	// Between tries that fail, with jitter; doubled up to the maximum.
	renewRetryMin = time.Minute
	renewRetryMax = time.Hour
	// Between tries to enroll, with full jitter.
	enrollRetryMin = time.Second
	enrollRetryMax = time.Minute
)

// Renewer replaces the edge's certificates when it is time.
type Renewer struct {
	Dir    *state.Dir
	Logger *slog.Logger
	// Renewed is called with each new identity, after it was stored.
	Renewed func(*state.Identity)
	// Endpoints are the controller's by now; nil: the identity's.
	Endpoints func() []string

	trust atomic.Pointer[swanherdv1.TrustBundle] // nil: there is no intent
	wake  chan struct{}                          // gets one when trust changes
}

// NewRenewer returns a Renewer that does not run yet.
func NewRenewer(dir *state.Dir, logger *slog.Logger, renewed func(*state.Identity)) *Renewer {
	return &Renewer{Dir: dir, Logger: logger, Renewed: renewed, wake: make(chan struct{}, 1)}
}

// Trust tells whose certificates the controller wants edges to have, and by which anchors
// they know it; nil for no intent. It may be called from any goroutine, also before Run.
func (r *Renewer) Trust(t *swanherdv1.TrustBundle) {
	r.trust.Store(t)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// TLS authenticates the controller at endpoint by the trust anchors of the running intent,
// or without any in it by those that the identity came with, and the edge by its control
// certificate. It may be called from any goroutine.
func (r *Renewer) TLS(id *state.Identity, endpoint string) credentials.TransportCredentials {
	anchors := id.ControllerRoots
	if texts := r.trust.Load().GetControllerAnchors(); len(texts) > 0 {
		parsed, err := state.ParseCertificates("controller_anchors", []byte(strings.Join(texts, "")))
		if err == nil {
			anchors = parsed
		} else { // a running intent was checked: this agent is another version
			r.Logger.Error("cannot read the controller's trust anchors; going on with those that the certificates came with", "error", err)
		}
	}
	return IdentityTLS(id, anchors, endpoint)
}

// due is when the identity is to be renewed: at its time, or if the controller wants
// certificates of another authority, at a moment that spreads a fleet's renewals.
// A moment that was chosen for that authority before stays.
func (r *Renewer) due(id *state.Identity, before early) (time.Time, early) {
	t := r.trust.Load()
	if t.GetIssuerPin() == "" || id.IssuedBy(t.GetIssuerPin()) {
		return id.RenewTime, early{}
	}
	if before.pin != t.GetIssuerPin() {
		before = early{t.GetIssuerPin(), time.Now().Add(rand.N(max(t.GetRenewWithin().AsDuration(), 1)))}
		r.Logger.Info("the network's authority is replaced: certificates will be renewed", "at", before.at)
	}
	if before.at.Before(id.RenewTime) {
		return before.at, before
	}
	return id.RenewTime, before
}

// early is a renewal before its time, for certificates of the authority with that pin.
type early struct {
	pin string
	at  time.Time
}

// await waits until the identity is to be renewed; false if ctx ended first.
func (r *Renewer) await(ctx context.Context, id *state.Identity) bool {
	var chosen early
	for {
		var at time.Time
		at, chosen = r.due(id, chosen)
		left := time.Until(at.Round(0))
		if left <= 0 {
			return ctx.Err() == nil
		}
		// The wall clock may be set while the edge waits.
		timer := time.NewTimer(min(left, renewLook))
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// Run renews id and its successors until ctx ends. The identity in use stays
// until the new one was checked and stored.
func (r *Renewer) Run(ctx context.Context, id *state.Identity) {
	retry := renewRetryMin
	for {
		if !r.await(ctx, id) {
			return
		}
		next, err := r.renew(ctx, id)
		if err == nil {
			r.Logger.Info("renewed certificates", "edge", next.Edge, "renew_time", next.RenewTime)
			r.Renewed(next)
			id = next
			if err = r.settled(id); err == nil {
				retry = renewRetryMin
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		wait := retry/2 + rand.N(retry/2)
		r.Logger.Warn("certificates are not renewed yet", "error", err, "retry_in", wait,
			"control_certificate_ends", id.ControlChain[0].NotAfter, "ike_certificate_ends", id.IKEChain[0].NotAfter)
		retry = min(2*retry, renewRetryMax)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// settled is an error if the identity, though it is new, is to be renewed at once: what
// the controller gives and what it wants do not fit, and asking all the time does
// not mend that.
func (r *Renewer) settled(id *state.Identity) error {
	if time.Until(id.RenewTime) <= 0 {
		return errors.New("controller set a renew_time that has passed already")
	}
	if pin := r.trust.Load().GetIssuerPin(); pin != "" && !id.IssuedBy(pin) {
		return errors.New("controller gave certificates of another authority than the one that it wants them to be from")
	}
	return nil
}

// renew asks the controller's endpoints in turn for certificates for new keys.
func (r *Renewer) renew(ctx context.Context, id *state.Identity) (*state.Identity, error) {
	keys, err := r.Dir.CandidateKeys()
	if err != nil {
		return nil, err
	}
	req := &swanherdv1.RenewCertificateRequest{}
	if req.ControlCsr, req.IkeCsr, err = requests(keys); err != nil {
		return nil, err
	}
	endpoints := id.SessionEndpoints
	if r.Endpoints != nil {
		endpoints = r.Endpoints()
	}
	var failures []error
	for _, endpoint := range endpoints {
		var resp *swanherdv1.RenewCertificateResponse
		err := call(ctx, endpoint, r.TLS(id, endpoint), func(ctx context.Context, s swanherdv1.EnrollmentServiceClient) (err error) {
			resp, err = s.RenewCertificate(ctx, req)
			return err
		})
		if err != nil {
			failures = append(failures, err)
			continue
		}
		next, err := newIdentity(keys, id.Edge, id.SessionEndpoints, resp.GetCertificates())
		if err != nil {
			return nil, fmt.Errorf("check certificates from %s: %w", endpoint, err)
		}
		return next, r.Dir.Promote(next)
	}
	return nil, errors.Join(failures...)
}

// UntilAnswered repeats Enroll until the controller gives an identity or
// refuses, or ctx ends.
func UntilAnswered(ctx context.Context, c Config) (*state.Identity, error) {
	bound := enrollRetryMin
	for {
		id, err := Enroll(ctx, c)
		if err == nil || errors.Is(err, ErrRefused) || ctx.Err() != nil {
			return id, err
		}
		wait := rand.N(bound)
		c.Logger.Warn("not enrolled yet", "error", err, "retry_in", wait.Round(time.Millisecond))
		bound = min(2*bound, enrollRetryMax)
		if !sleep(ctx, wait) {
			return nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
