package pki

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// controller returns the controller's authority as it serves.
func (w *world) controller() *Authority {
	w.Helper()
	if _, err := w.keeper.Controller(w.Context(), now); err != nil {
		w.Fatal(err)
	}
	w.settle()
	a, err := w.keeper.Serving()
	if err != nil {
		w.Fatal(err)
	}
	return a
}

// settle waits until everything that was stored is in the snapshot.
func (w *world) settle() {
	w.Helper()
	row, err := w.store.Authorities.Get(w.Context(), model.ControllerAuthority)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.store.WaitRevision(w.Context(), row.Revision); err != nil {
		w.Fatal(err)
	}
}

// turn changes the record of the controller's authority.
func (w *world) turn(f func(*store.Txn) error) {
	w.Helper()
	w.controller()
	t := w.store.Txn()
	if err := f(t); err != nil {
		w.Fatal(err)
	}
	w.commit(t)
}

func (w *world) rotateController(overlap time.Duration) {
	w.Helper()
	w.turn(func(t *store.Txn) error {
		row, _ := w.store.Snapshot().Authorities.Get(model.ControllerAuthority)
		_, err := w.keeper.RotateIn(t, row, model.NoNetwork, RotateOptions{Overlap: overlap, Actor: "token:x"}, now)
		return err
	})
}

func (w *world) controllerPhase() swanherdv1.CertificateAuthority_Phase {
	w.Helper()
	row, err := w.store.Authorities.Get(w.Context(), model.ControllerAuthority)
	if err != nil {
		w.Fatal(err)
	}
	return row.Value.GetRotation().GetPhase()
}

func (w *world) stepAt(at time.Time) {
	w.Helper()
	if err := w.rotator.Step(w.Context(), at); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

// shown is the chain that a server of the controller shows.
func shown(t *testing.T, a *Authority) []*x509.Certificate {
	t.Helper()
	c, err := a.IssueServer(ed25519Key(t).Public(), []string{"controller.example"}, now)
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, der := range c.Chain {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, parsed)
	}
	return chain
}

// believes verifies the chain as who trusts the certificates does.
func believes(chain []*x509.Certificate, anchors ...*x509.Certificate) error {
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	for _, a := range anchors {
		roots.AddCert(a)
	}
	for _, c := range chain[1:] {
		middle.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: "controller.example", Roots: roots, Intermediates: middle, CurrentTime: now})
	return err
}

// pinned is the certificate in the chain that somebody with the pin takes for the authority.
func pinned(t *testing.T, chain []*x509.Certificate, pin string) *x509.Certificate {
	t.Helper()
	i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return Pin(c) == pin })
	if i < 1 {
		t.Fatalf("no authority with pin %s is shown", pin)
	}
	return chain[i]
}

// Whoever trusts or pins the controller's authority gets in at every step of its
// replacement, and nobody by the old one when it is over.
func TestControllerAuthorityIsReplaced(t *testing.T) {
	w := newWorld(t, "berlin", "oslo")
	old := w.controller()
	replica, err := old.IssueReplica(ed25519Key(t).Public(), "replicas/x", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := believes(shown(t, old), old.certificate); err != nil {
		t.Fatal(err)
	}

	w.rotateController(time.Hour)
	distributing := w.controller()
	if distributing.Pin() != old.Pin() || len(distributing.Trusted()) != 2 {
		t.Errorf("at first %s issues and %d are trusted", distributing.Pin(), len(distributing.Trusted()))
	}
	next, err := x509.ParseCertificate(distributing.Trusted()[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := believes(shown(t, distributing), next); err == nil {
		t.Error("who trusts only the authority to come gets in already")
	}
	row, _ := w.store.Snapshot().Authorities.Get(model.ControllerAuthority)
	w.says("berlin", confirmed, row.Revision, "")
	w.stepAt(now)
	if w.controllerPhase() != swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING {
		t.Fatal("the new authority issues before every edge trusts it")
	}
	w.says("oslo", confirmed, row.Revision, "")
	w.stepAt(now)
	reissuing := w.controller()
	if w.controllerPhase() != swanherdv1.CertificateAuthority_PHASE_REISSUING || reissuing.Pin() != Pin(next) {
		t.Fatalf("phase is %s and %s issues", w.controllerPhase(), reissuing.Pin())
	}
	chain := shown(t, reissuing)
	for what, anchor := range map[string]*x509.Certificate{
		"who trusts the old one": old.certificate,
		"who trusts the new one": next,
		"who pins the old one":   pinned(t, chain, old.Pin()),
		"who pins the new one":   pinned(t, chain, Pin(next)),
	} {
		if err := believes(chain, anchor); err != nil {
			t.Errorf("%s does not get in: %v", what, err)
		}
	}
	if _, err := reissuing.VerifyReplica(replica.Leaf, now); err != nil {
		t.Errorf("a replica that has not changed yet: %v", err)
	}
	w.stepAt(now.Add(59 * time.Minute))
	if w.controllerPhase() == swanherdv1.CertificateAuthority_PHASE_UNSPECIFIED {
		t.Fatal("the old authority is dropped before the overlap is over")
	}
	w.stepAt(now.Add(time.Hour))
	after := w.controller()
	if w.controllerPhase() != swanherdv1.CertificateAuthority_PHASE_UNSPECIFIED || after.Pin() != Pin(next) || len(after.Trusted()) != 1 {
		t.Fatalf("in the end the phase is %s and %d are trusted", w.controllerPhase(), len(after.Trusted()))
	}
	if chain = shown(t, after); len(chain) != 2 || believes(chain, next) != nil || believes(chain, old.certificate) == nil {
		t.Errorf("in the end %d certificates are shown", len(chain))
	}
	if _, err := after.VerifyReplica(replica.Leaf, now); err == nil {
		t.Error("a replica with a certificate of the authority that was dropped is taken")
	}
	if w.actions = w.actions[len(w.actions)-2:]; !strings.Contains(w.actions[0], "2 of 2 edges trust the new authority, which issues") || !strings.Contains(w.actions[1], "the old one is dropped") {
		t.Errorf("audited %q", w.actions)
	}
}

// An edge that was left behind holds the end up until it is back; the audit log names it.
func TestControllerAuthorityLeavesBehind(t *testing.T) {
	w := newWorld(t, "berlin", "oslo")
	w.rotateController(0)
	row, _ := w.store.Snapshot().Authorities.Get(model.ControllerAuthority)
	w.says("berlin", confirmed, row.Revision, "")
	edges, waiting := Progress(w.store.Snapshot(), model.NoNetwork, row, now)
	if edges != 2 || len(waiting) != 1 || waiting[0].Edge != "networks/demo/edges/oslo" || waiting[0].Reason != "has not been connected yet" {
		t.Fatalf("of %d edges it waits for %v", edges, waiting)
	}
	if _, message := PhaseEnd(model.NoNetwork, row.Value.GetRotation().GetPhase(), edges, waiting); !strings.HasPrefix(message, "1 of 2 ") || !strings.HasSuffix(message, "; left behind: networks/demo/edges/oslo") {
		t.Errorf("audited as %q", message)
	}
	w.turn(func(txn *store.Txn) error {
		_, err := w.keeper.AdvanceIn(txn, row, swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING, now)
		return err
	})
	w.stepAt(now.Add(time.Hour))
	if w.controllerPhase() != swanherdv1.CertificateAuthority_PHASE_REISSUING {
		t.Fatal("the old authority is dropped though an edge knows no other one")
	}
	w.says("oslo", confirmed, row.Revision-1, "")
	w.stepAt(now.Add(time.Hour))
	if w.controllerPhase() != swanherdv1.CertificateAuthority_PHASE_REISSUING {
		t.Fatal("the old authority is dropped though an edge keeps what was before")
	}
	w.says("oslo", confirmed, row.Revision+9, "")
	w.stepAt(now)
	if w.controllerPhase() != swanherdv1.CertificateAuthority_PHASE_UNSPECIFIED {
		t.Error("the old authority stays though every edge trusts the new one")
	}
}

// The authority of an earlier version cannot sign another one: it gets a certificate by
// which it can, and who has the certificate before believes it still.
func TestControllerAuthorityOfAnEarlierVersion(t *testing.T) {
	w := newWorld(t)
	before, err := NewAuthority("Swanherd controller", now)
	if err != nil {
		t.Fatal(err)
	}
	txn := w.store.Txn()
	if err := w.keeper.createIn(txn, model.ControllerAuthority, before); err != nil {
		t.Fatal(err)
	}
	w.commit(txn)
	a := w.controller()
	if a.Pin() != before.Pin() || a.certificate.MaxPathLen != 1 {
		t.Fatalf("authority has pin %s and path length %d", a.Pin(), a.certificate.MaxPathLen)
	}
	if err := believes(shown(t, a), before.certificate); err != nil {
		t.Error(err)
	}
	if again := w.controller(); again != a {
		t.Error("it is made anew at each start")
	}
}

// A replica that cannot open what another one stored goes on with what it has.
func TestControllerAuthorityThatCannotBeOpened(t *testing.T) {
	w := newWorld(t)
	a := w.controller()
	row, _ := w.store.Snapshot().Authorities.Get(model.ControllerAuthority)
	broken := proto.CloneOf(row.Value)
	broken.Key.Ciphertext = []byte("nothing")
	txn := w.store.Txn()
	w.store.Authorities.UpdateIn(txn, row.Name, broken, row.Revision)
	w.commit(txn)
	if last, err := w.keeper.Serving(); err == nil || last != a {
		t.Errorf("it serves %v, %v", last, err)
	}
}

// That the controller's own authority ends is told as that of a network's, with its own
// remedy.
func TestControllerAuthorityExpires(t *testing.T) {
	w := newWorld(t)
	end := w.controller().certificate.NotAfter
	watch := &ExpiryWatch{Store: w.store}
	for _, at := range []time.Time{now, end.Add(-29 * day), end.Add(-28 * day)} {
		if err := watch.Look(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	events, err := w.store.ListEvents(t.Context(), store.EventQuery{Networks: []model.NetworkName{store.NoNetwork}, Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 || events[0].GetResource() != model.ControllerAuthority || !strings.Contains(events[0].GetMessage(), "less than 30 days") ||
		!strings.Contains(events[0].GetMessage(), "`swanherd ca rotate --controller`") {
		t.Errorf("told %v", events)
	}
}
