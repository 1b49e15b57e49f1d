package edge

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// enrolledIn gives the state directory an identity, and returns a certificate.
func enrolledIn(t *testing.T, dir *state.Dir) *x509.Certificate {
	t.Helper()
	keys, err := dir.CandidateKeys()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(public, private any) []*x509.Certificate {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{c}
	}
	control, ike := sign(keys.Control.Public(), keys.Control), sign(keys.IKE.Public(), keys.IKE)
	if err := dir.Promote(&state.Identity{
		Keys: *keys, Edge: "networks/n/edges/a", SessionEndpoints: []string{"c:7444"}, RenewTime: time.Now(),
		ControlChain: control, IKEChain: ike, ControllerRoots: control, NetworkRoots: ike,
	}); err != nil {
		t.Fatal(err)
	}
	return ike[0]
}

func anchored(anchor *x509.Certificate) *state.Intent {
	return &state.Intent{Epoch: "e", SourceRevision: 7, Resources: digest.NewSet([]*swanherdv1.IntentResource{
		digest.Resource(&swanherdv1.TrustBundle{ControllerAnchors: []string{
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: anchor.Raw})),
		}}),
	})}
}

// What the edge confirms of whom it takes for the controller outlives the agent and the
// intent's file; until then a restart begins with what was before.
func TestAnchorsAreKeptBeforeConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := &machine{}, filepath.Join(t.TempDir(), "state")
		r, dir := m.start(t, path)
		next := enrolledIn(t, dir)
		told := make(chan *swanherdv1.TrustBundle, 8)
		r.trusted = func(b *swanherdv1.TrustBundle) { told <- b }
		stored := func() *x509.Certificate {
			id, err := dir.LoadIdentity()
			if err != nil {
				t.Fatal(err)
			}
			return id.ControllerRoots[0]
		}
		i := anchored(next)
		if err := r.Apply(t.Context(), i, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if b := <-told; len(told) != 0 || len(b.GetControllerAnchors()) != 1 || stored().Equal(next) {
			t.Fatalf("on trial: it was told %v, and %d more", b, len(told))
		}
		time.Sleep(time.Minute)
		if b := <-told; len(told) != 0 || b != nil {
			t.Fatalf("taken back: it was told %v, and %d more", b, len(told))
		}
		if err := r.Apply(t.Context(), i, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if !r.Confirm(i.Digest()) || !stored().Equal(next) {
			t.Fatal("confirmed, and not stored")
		}
		dir.Close()
		if err := os.WriteFile(filepath.Join(path, "intent.binpb"), []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, dir = m.start(t, path); r.Running() != nil || !stored().Equal(next) {
			t.Error("without the intent it does not know the controller")
		}
	})
}

// Anchors that cannot be stored are not confirmed, and taken back.
func TestAnchorsThatCannotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := &machine{}, filepath.Join(t.TempDir(), "state")
		r, dir := m.start(t, path)
		i := anchored(enrolledIn(t, dir))
		if err := os.RemoveAll(filepath.Join(path, "identity")); err != nil {
			t.Fatal(err)
		}
		if err := r.Apply(t.Context(), i, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if r.Confirm(i.Digest()) || !r.Unconfirmed() {
			t.Error("it was confirmed")
		}
		time.Sleep(time.Minute)
		if r.Running() != nil || r.Reverted().GetReason() != notConfirmed {
			t.Errorf("%+v", m.state(r))
		}
	})
}
