package pki

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// The controller's own authority issues to the controller alone: its servers' certificates
// and those by which its replicas know one another. Edges trust it by their intent, tokens
// and command lines by its pin. It is replaced in the phases of rotation.go; while REISSUING
// the controller shows the new authority's certificate also as the old one signed it, so
// whoever trusts or pins the old one still gets in.

// DefaultOverlap is how long the authority before stays good, if nobody said otherwise.
const DefaultOverlap = 30 * day

// controllerTemplate is an authority that may sign the one which takes its place.
func controllerTemplate(now time.Time) *x509.Certificate {
	template := authorityTemplate("Swanherd controller", now)
	template.MaxPathLen, template.MaxPathLenZero = 1, false
	return template
}

// Controller returns the controller's authority, as the store has it at this moment; the
// first call on a new store makes it.
func (k *Keeper) Controller(ctx context.Context, now time.Time) (*Authority, error) {
	row, err := k.store.Authorities.Get(ctx, model.ControllerAuthority)
	if errors.Is(err, store.ErrNotFound) {
		if err = k.makeController(ctx, now); err == nil {
			row, err = k.store.Authorities.Get(ctx, model.ControllerAuthority)
		}
	}
	if err != nil {
		return nil, err
	}
	a, err := k.opened(row)
	if err == nil && a.certificate.MaxPathLenZero && row.Value.GetRotation() == nil {
		a, err = k.recertify(ctx, row, a, now)
	}
	if err == nil {
		k.serve(a)
	}
	return a, err
}

func (k *Keeper) makeController(ctx context.Context, now time.Time) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	a, err := newAuthority(controllerTemplate(now), key)
	if err != nil {
		return err
	}
	t := k.store.Txn()
	if err := k.createIn(t, model.ControllerAuthority, a); err != nil {
		return err
	}
	// Another replica may have been faster: what is stored counts.
	if _, err := t.Commit(ctx); err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("store the controller's authority: %w", err)
	}
	return nil
}

// recertify gives an authority that may sign no other one, as those of earlier versions, a
// certificate by which it may: for the same key, so it changes nothing for those who trust
// it or pin it.
func (k *Keeper) recertify(ctx context.Context, row model.Row[*storev1.CertificateAuthority], a *Authority, now time.Time) (*Authority, error) {
	fresh, err := newAuthority(controllerTemplate(now), a.key)
	if err != nil {
		return nil, err
	}
	changed := proto.CloneOf(row.Value)
	changed.Certificate = fresh.certificate.Raw
	t := k.store.Txn()
	k.store.Authorities.UpdateIn(t, row.Name, changed, row.Revision)
	if _, err := t.Commit(ctx); err != nil && !errors.Is(err, store.ErrConflict) {
		return nil, fmt.Errorf("store the controller's authority: %w", err)
	}
	return k.get(ctx, row.Name)
}

// Serving returns the controller's authority as this replica knows it, without asking the
// store; Controller was called before. With an error it is the last one that could be
// opened.
func (k *Keeper) Serving() (*Authority, error) {
	last := k.serving.Load()
	row, ok := k.store.Snapshot().Authorities.Get(model.ControllerAuthority)
	if !ok || row.Revision <= last.revision {
		return last, nil
	}
	a, err := k.opened(row)
	if err != nil {
		return last, err
	}
	return k.serve(a), nil
}

// serve has a be what Serving returns unless that is newer.
func (k *Keeper) serve(a *Authority) *Authority {
	for {
		last := k.serving.Load()
		if last != nil && last.revision >= a.revision {
			return last
		}
		if k.serving.CompareAndSwap(last, a) {
			return a
		}
	}
}

// cross is the certificate of the authority that takes a's place, signed by a; DER. It is
// good for as long as both are.
func (a *Authority) cross(next *Authority, now time.Time) ([]byte, error) {
	template := authorityTemplate(next.certificate.Subject.CommonName, now)
	template.SubjectKeyId = next.certificate.SubjectKeyId
	if a.certificate.NotAfter.Before(template.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, next.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority that takes the place of %s: %w", a.certificate.Subject, err)
	}
	return der, nil
}

// bridge is what leads from the authority before to a stored one that took its place.
func bridge(stored *storev1.CertificateAuthority) [][]byte {
	rotation := stored.GetRotation()
	if rotation.GetPhase() != swanherdv1.CertificateAuthority_PHASE_REISSUING || len(rotation.GetCrossCertificate()) == 0 {
		return nil
	}
	return [][]byte{rotation.GetCrossCertificate(), rotation.GetOtherCertificate()}
}

// trustedPool returns a pool of the authorities that are trusted.
func (a *Authority) trustedPool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, der := range a.trusted {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse an authority that is trusted beside %s: %w", a.certificate.Subject, err)
		}
		pool.AddCert(c)
	}
	return pool, nil
}

// OverlapEnd is until when the controller's authority before stays good in any case; the
// zero time when none is there or its end is not known yet.
func OverlapEnd(a *storev1.CertificateAuthority) time.Time {
	rotation := a.GetRotation()
	if a.GetName() != model.ControllerAuthority || rotation.GetPhase() != swanherdv1.CertificateAuthority_PHASE_REISSUING {
		return time.Time{}
	}
	return rotation.GetPhaseTime().AsTime().Add(rotation.GetOverlap().AsDuration())
}
