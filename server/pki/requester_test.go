package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

const awaiting, distributing = swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE, swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING

// online is an organisation that signs when it is asked.
type online struct {
	*organisation
	t *testing.T
	// does is what it does with a request.
	does     func(ctx context.Context, request []byte) ([]byte, error)
	requests [][]byte
}

func newOnline(t *testing.T) *online {
	o := &online{organisation: newOrganisation(t), t: t}
	o.does = o.honest
	return o
}

func (o *online) honest(_ context.Context, request []byte) ([]byte, error) {
	return append(o.sign(o.t, request, func(*x509.Certificate) {}), EncodePEM(o.cert.Raw)...), nil
}

// otherwise has it sign what change changes.
func (o *online) otherwise(change func(*x509.Certificate)) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, request []byte) ([]byte, error) { return o.sign(o.t, request, change), nil }
}

func (o *online) Sign(ctx context.Context, request []byte) ([]byte, error) {
	o.requests = append(o.requests, request)
	return o.does(ctx, request)
}

func (o *online) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(o.cert)
	return pool
}

func (w *world) requester(signers map[string]Signer) *Requester {
	return &Requester{Keeper: w.keeper, Signers: signers, Audit: w.rotator.Audit, Failed: w.rotator.Failed}
}

// at has the requester look at a moment, and returns when it wants to look again.
func (w *world) at(r *Requester, at time.Time) time.Time {
	w.Helper()
	next, err := r.step(w.Context(), func(string) bool { return true }, at)
	if err != nil {
		w.Fatal(err)
	}
	w.commitNothing()
	return next
}

// commitNothing returns when what was committed is in the snapshot.
func (w *world) commitNothing() {
	t := w.store.Txn()
	w.store.EdgeStatuses.PutIn(t, "networks/demo/edges/nobody", &storev1.EdgeStatus{})
	w.commit(t)
}

func (w *world) rotate(o RotateOptions) {
	w.Helper()
	t := w.store.Txn()
	if _, err := w.keeper.RotateIn(t, w.authority(), demo, o, now); err != nil {
		w.Fatal(err)
	}
	w.commit(t)
}

// An external authority that is asked online signs, and the replacement goes on by itself.
// When two thirds of the life of what it signed are over, the next replacement begins.
func TestExternalAuthoritySignsOnline(t *testing.T) {
	w, corp := newWorld(t, "berlin"), newOnline(t)
	r := w.requester(map[string]Signer{"corp": corp})
	w.at(r, now)
	if len(corp.requests) != 0 {
		t.Fatal("it was asked for an authority that is not subordinate to it")
	}
	w.rotate(RotateOptions{ExternalAuthority: "corp", Edges: 1})
	w.at(r, now)
	if w.phase() != distributing || len(corp.requests) != 1 {
		t.Fatalf("phase is %s after %d requests: %s", w.phase(), len(corp.requests), w.authority().Value.GetRotation().GetSigningFailure())
	}
	if len(w.actions) != 1 || !strings.HasPrefix(w.actions[0], "certificateAuthority.import: signed by corp: CN=Example Corp Root") {
		t.Errorf("audited %q", w.actions)
	}
	ends := func() { // every edge is through
		w.says("berlin", confirmed, w.authority().Revision, "")
		w.step()
		w.says("berlin", confirmed, w.authority().Revision, w.issue("berlin").Serial)
		w.step()
	}
	ends()
	shown, err := Describe(w.authority().Value)
	if err != nil || shown.GetRotation() != nil || shown.GetExternalAuthority() != "corp" {
		t.Fatalf("shown as %v, %v", shown, err)
	}
	// It is from an hour ago and for five years.
	life := 5*365*day + time.Hour
	due := now.Add(-time.Hour).Add(life * 2 / 3)
	if got := shown.GetRenewTime().AsTime(); got.Sub(due).Abs() > time.Second {
		t.Errorf("is to be replaced from %s, want %s", got, due)
	}
	if next := w.at(r, due.Add(-10*time.Second)); next.Sub(due).Abs() > time.Second || w.authority().Value.GetRotation() != nil {
		t.Errorf("next look at %s, rotation %v", next, w.authority().Value.GetRotation())
	}
	w.at(r, due.Add(time.Second))
	rotation := w.authority().Value.GetRotation()
	if rotation.GetPhase() != awaiting || rotation.GetExternalAuthority() != "corp" || rotation.GetActor() != "system" {
		t.Fatalf("two thirds through its life: %v", rotation)
	}
	if last := w.actions[len(w.actions)-1]; !strings.HasPrefix(last, "certificateAuthority.rotate: two thirds of its life are over") {
		t.Errorf("audited %q", last)
	}
	corp.does = corp.otherwise(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = due, due.Add(life) })
	w.at(r, due.Add(2*time.Second))
	if w.phase() != distributing {
		t.Errorf("phase is %s: %s", w.phase(), w.authority().Value.GetRotation().GetSigningFailure())
	}
	ends()
	// Who replaces it otherwise leaves the external authority.
	w.rotate(RotateOptions{Edges: 1})
	ends()
	if shown, err := Describe(w.authority().Value); err != nil || shown.GetExternalAuthority() != "" || shown.GetRenewTime() != nil {
		t.Errorf("replaced by one that signs itself: %v, %v", shown, err)
	}
}

// What an external authority answers in place of a certificate that is good is said in the
// authority's status, and tried again, ever more seldom, with the same request.
func TestExternalAuthorityAnswersBadly(t *testing.T) {
	w, corp := newWorld(t, "berlin"), newOnline(t)
	r := w.requester(map[string]Signer{"corp": corp})
	w.rotate(RotateOptions{ExternalAuthority: "corp", Edges: 1})
	other, err := (&Authority{certificate: corp.cert, key: ecdsaKey(t, elliptic.P256()).(*ecdsa.PrivateKey)}).request()
	if err != nil {
		t.Fatal(err)
	}
	says := func(b []byte) func(context.Context, []byte) ([]byte, error) {
		return func(context.Context, []byte) ([]byte, error) { return b, nil }
	}
	at := now
	for i, c := range []struct {
		what, want string
		does       func(context.Context, []byte) ([]byte, error)
	}{
		{"is down", "reach it: connection refused", func(context.Context, []byte) ([]byte, error) { return nil, errors.New("reach it: connection refused") }},
		{"says no text", "bad ? octets", func(context.Context, []byte) ([]byte, error) { return nil, errors.New("bad \xff octets") }},
		{"says too much", strings.Repeat("x", maxReason) + "...", func(context.Context, []byte) ([]byte, error) { return nil, errors.New(strings.Repeat("x", 100_000)) }},
		{"says nothing", "no certificate", says(nil)},
		{"is giant", "octets", says(make([]byte, maxChainOctets+1))},
		{"signed for another key", "not for the key", says(corp.sign(t, other, func(*x509.Certificate) {}))},
		{"made no authority", "not for signing", corp.otherwise(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false })},
		{"gave it a short life", "has to outlast", corp.otherwise(func(c *x509.Certificate) { c.NotAfter = now.Add(IKELifetime - day) })},
		{"gave it an old one", "over too soon", corp.otherwise(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-1000*day), now.Add(100*day) })},
		{"is another one", "would not verify", newOnline(t).honest},
		{"may have nothing below what it signs", "would not verify", corp.below(t, 0)},
	} {
		corp.does = c.does
		w.at(r, at)
		if len(corp.requests) != i+1 {
			t.Fatalf("%s: asked %d times", c.what, len(corp.requests))
		}
		shown, err := Describe(w.authority().Value)
		if err != nil {
			t.Fatal(err)
		}
		failure := shown.GetRotation().GetSigningFailure()
		if w.phase() != awaiting || !strings.Contains(failure.GetReason(), c.want) || int(failure.GetAttempts()) != i+1 || failure.GetSinceTime().AsTime().Sub(now) > time.Minute {
			t.Errorf("%s: %s, %v", c.what, w.phase(), failure)
		}
		retry, want := failure.GetRetryTime().AsTime(), min(firstRetry<<i, lastRetry)
		if wait := retry.Sub(at); wait < want || wait > want+time.Minute {
			t.Errorf("%s: asked again after %s, want %s", c.what, wait, want)
		}
		if next := w.at(r, retry.Add(-time.Second)); len(corp.requests) != i+1 || want < time.Minute && !next.Equal(retry) {
			t.Errorf("%s: asked before the time, or looks again at %s, not %s", c.what, next, retry)
		}
		at = retry
	}
	if same := slices.CompactFunc(corp.requests, func(a, b []byte) bool { return string(a) == string(b) }); len(same) != 1 {
		t.Errorf("%d different requests", len(same))
	}
	told := w.events("certificateAuthority.unsigned")
	if len(told) != 1 || told[0] != "corp does not sign the new authority: reach it: connection refused" {
		t.Errorf("the event log tells %q", told)
	}
	// Another leader goes on at the time at which this one would have.
	corp.does = corp.below(t, 1)
	r = w.requester(map[string]Signer{"corp": corp})
	w.at(r, at.Add(-time.Second))
	if w.phase() != awaiting {
		t.Error("another leader asked before the time")
	}
	w.at(r, at)
	if rotation := w.authority().Value.GetRotation(); rotation.GetPhase() != distributing || rotation.GetSigningFailure() != nil || len(rotation.GetOtherChain()) != 1 {
		t.Errorf("at last: %s, %v, chain of %d", rotation.GetPhase(), rotation.GetSigningFailure(), len(rotation.GetOtherChain()))
	}
}

// below has an authority below the organisation sign, which may have so many below itself.
func (o *organisation) below(t *testing.T, maxPath int) func(context.Context, []byte) ([]byte, error) {
	t.Helper()
	key := ecdsaKey(t, elliptic.P256()).(*ecdsa.PrivateKey)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: o.cert.Subject, IsCA: true, BasicConstraintsValid: true, MaxPathLen: maxPath, MaxPathLenZero: maxPath == 0,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: o.cert.NotBefore, NotAfter: o.cert.NotAfter,
	}
	template.Subject.CommonName = "Example Corp Issuing"
	der, err := x509.CreateCertificate(rand.Reader, template, o.cert, key.Public(), o.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return func(_ context.Context, request []byte) ([]byte, error) {
		return append((&organisation{key, c}).sign(t, request, func(*x509.Certificate) {}), EncodePEM(der)...), nil
	}
}

func (w *world) events(action string) (out []string) {
	w.Helper()
	all, err := w.store.ListEvents(w.Context(), store.EventQuery{Networks: []model.NetworkName{demo}, Limit: 100})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range all {
		if e.GetAction() == action {
			out = append(out, e.GetMessage())
		}
	}
	return out
}

// An external authority that is not configured is said to be none, at whichever replica leads.
func TestExternalAuthorityIsUnknown(t *testing.T) {
	w := newWorld(t, "berlin")
	w.rotate(RotateOptions{ExternalAuthority: "gone", Edges: 1})
	w.at(w.requester(map[string]Signer{"corp": newOnline(t)}), now)
	if why := w.authority().Value.GetRotation().GetSigningFailure().GetReason(); !strings.Contains(why, "no external authority gone") {
		t.Errorf("says %q", why)
	}
}

// An external authority that hangs is left after a time.
func TestExternalAuthorityHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		corp := newOnline(t)
		corp.does = func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		_, _, err := (&Requester{Signers: map[string]Signer{"corp": corp}}).sign(t.Context(), &storev1.AuthorityRotation{ExternalAuthority: "corp"})
		if took := time.Since(began); err == nil || err.Error() != "it did not sign within 30s" || took != signTimeout {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

// An external authority that hangs holds up nobody who waits for another one.
func TestExternalAuthorityHoldsUpNobody(t *testing.T) {
	w, corp, slow := newWorld(t, "berlin"), newOnline(t), newOnline(t)
	asked := make(chan struct{})
	slow.does = func(ctx context.Context, _ []byte) ([]byte, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	// The real time is long after now.
	corp.does = corp.otherwise(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(1000*day)
	})
	w.rotate(RotateOptions{ExternalAuthority: "slow", Edges: 1})
	r := w.requester(map[string]Signer{"corp": corp, "slow": slow})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); r.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-asked
	w.rotateTo("corp")
	w.awaitPhase(distributing)
}

// What was changed while an external authority signed is not overwritten by what it says in
// the end.
func TestExternalAuthorityAnswersLate(t *testing.T) {
	w, corp, slow := newWorld(t, "berlin"), newOnline(t), newOnline(t)
	r := w.requester(map[string]Signer{"corp": corp, "slow": slow})
	pin := ""
	slow.does = func(ctx context.Context, request []byte) ([]byte, error) {
		w.rotateTo("corp")
		if _, err := r.step(ctx, func(name string) bool { return name == "corp" }, now); err != nil {
			t.Error(err)
		}
		pin = w.authority().Value.GetRotation().GetIssuerPin()
		return slow.honest(ctx, request)
	}
	w.rotate(RotateOptions{ExternalAuthority: "slow", Edges: 1})
	w.at(r, now)
	got := w.authority().Value.GetRotation()
	if got.GetPhase() != distributing || got.GetIssuerPin() != pin || got.GetExternalAuthority() != "corp" || len(slow.requests) != 1 {
		t.Errorf("became %v", got)
	}
}

// rotateTo gives up the replacement that waits, and begins one by another external authority.
func (w *world) rotateTo(external string) {
	w.Helper()
	t := w.store.Txn()
	if _, err := w.keeper.CancelIn(t, w.authority()); err != nil {
		w.Fatal(err)
	}
	w.commit(t)
	w.rotate(RotateOptions{ExternalAuthority: external, Edges: 1})
}

func (w *world) awaitPhase(want swanherdv1.CertificateAuthority_Phase) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), time.Minute)
	defer cancel()
	sub := w.store.Subscribe()
	defer sub.Close()
	for w.phase() != want {
		select {
		case <-sub.Changed():
		case <-ctx.Done():
			w.Fatalf("phase is %s: %s", w.phase(), w.authority().Value.GetRotation().GetSigningFailure())
		}
	}
}
