//go:build tpm

package tpm_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/enroll"
	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TestAttestation has edges enrol at one controller, with keys in TPMs and without.
func TestAttestation(t *testing.T) {
	by := newMaker(t)
	ecc, unknown := start(t, by, false), start(t, nil, false)
	c := startController(t, by)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a certified TPM is admitted, and keeps its key", func(t *testing.T) { c.admitted(t, ecc) }},
		{"a certified TPM with RSA is admitted", func(t *testing.T) { c.rsaAdmitted(t, start(t, by, true)) }},
		{"without a TPM", c.withoutTPM},
		{"a TPM that nobody vouches for waits", func(t *testing.T) { c.unknownWaits(t, unknown) }},
		{"a registered TPM", func(t *testing.T) { c.registered(t, unknown, ecc) }},
		{"answers are for nothing else", func(t *testing.T) { c.replayed(t, ecc, unknown) }},
		{"the file of makers is read again", c.makersChange},
	} {
		t.Run(step.name, step.run)
	}
}

func (c *controller) admitted(t *testing.T, e *emulator) {
	x := newEdge(t, "ecc", c.token(t, true), e)
	id := x.enroll(t)
	fingerprint, err := e.EKFingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if ev := c.event(t, "edge.enroll"); !strings.Contains(ev.GetMessage(), "in a TPM of CN=Maker of TPMs, endorsement key "+fingerprint) {
		t.Errorf("the audit log says %q", ev.GetMessage())
	}
	if again := x.enroll(t); again.Edge != id.Edge {
		t.Errorf("enrolled again as %s", again.Edge)
	}
	if id, err = x.Dir.LoadIdentity(); err != nil {
		t.Fatal(err)
	}

	// The key stays when the certificates are renewed; that of IKE does not.
	id.RenewTime = time.Now()
	renewed := make(chan *state.Identity, 1)
	r := enroll.NewRenewer(x.Dir, x.Logger, func(next *state.Identity) { renewed <- next })
	done := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() { defer close(done); r.Run(ctx, id) }()
	next := <-renewed
	stop()
	<-done
	if !sameKey(next.Control, id.Control) || next.IKE.Equal(id.IKE) || next.ControlChain[0].Equal(id.ControlChain[0]) {
		t.Errorf("the renewal has another control key, or nothing new")
	}
	if id, err = x.Dir.LoadIdentity(); err != nil || !sameKey(next.Control, id.Control) {
		t.Fatalf("stored identity: %v", err)
	}

	// Whoever has the certificate may not leave the TPM.
	soft := newEdge(t, "", "", nil)
	keys, err := soft.Dir.CandidateKeys()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(id.SessionEndpoints[0], grpc.WithTransportCredentials(enroll.IdentityTLS(id, id.ControllerRoots, id.SessionEndpoints[0])))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = swanherdv1.NewEnrollmentServiceClient(conn).RenewCertificate(t.Context(), &swanherdv1.RenewCertificateRequest{ControlCsr: csr(t, keys.Control), IkeCsr: csr(t, keys.IKE)})
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "renew with that key") {
		t.Errorf("a renewal with a key outside of the TPM: %v", err)
	}
}

func (c *controller) rsaAdmitted(t *testing.T, e *emulator) {
	if id := newEdge(t, "rsa", c.token(t, true), e).enroll(t); id.Edge != network+"/edges/rsa" {
		t.Errorf("enrolled as %s", id.Edge)
	}
}

// makersChange has a TPM of a maker that is believed only while the file says so, or after
// that, what it is not to be read as.
func (c *controller) makersChange(t *testing.T) {
	other := newMaker(t)
	e := start(t, other, false)
	both := append(c.by.pem(), other.pem()...)
	for i, step := range []struct {
		file     []byte
		believed bool
	}{{c.by.pem(), false}, {both, true}, {[]byte("half a fi"), true}, {c.by.pem(), false}} {
		if err := os.WriteFile(c.ca, step.file, 0o600); err != nil {
			t.Fatal(err)
		}
		newEdge(t, fmt.Sprint("maker-", i), c.token(t, false), e).enroll(t)
		want := map[bool]string{true: "in a TPM of CN=Maker of TPMs", false: "in a TPM that nobody vouches for"}[step.believed]
		if ev := c.event(t, "edge.enroll"); !strings.Contains(ev.GetMessage(), want) {
			t.Errorf("step %d: the audit log says %q, not %q", i, ev.GetMessage(), want)
		}
	}
}

func (c *controller) withoutTPM(t *testing.T) {
	demanded, open := c.token(t, true), c.token(t, false)
	for _, token := range []string{demanded, open} {
		c.demand(t, token == open)
		if _, err := enroll.Enroll(t.Context(), newEdge(t, "soft", token, nil).Config); !errors.Is(err, enroll.ErrRefused) || !strings.Contains(err.Error(), "has to be in a TPM") {
			t.Errorf("where attestation is demanded: %v", err)
		}
	}
	c.demand(t, false)
	newEdge(t, "soft", open, nil).enroll(t)
}

func (c *controller) unknownWaits(t *testing.T, e *emulator) {
	x := newEdge(t, "unknown", c.token(t, true), e)
	fingerprint, err := e.EKFingerprint()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	gone := make(chan error, 1)
	go func() {
		_, err := enroll.Enroll(ctx, x.Config)
		gone <- err
	}()
	var waiting *swanherdv1.EnrollmentRequest
	eventually(t, "the edge to wait", func() bool {
		list, err := c.devices().ListEnrollmentRequests(t.Context(), &swanherdv1.ListEnrollmentRequestsRequest{Parent: network, Filter: "edge:unknown"})
		if err == nil && len(list.GetEnrollmentRequests()) == 1 {
			waiting = list.GetEnrollmentRequests()[0]
		}
		return waiting != nil
	})
	if tpm := waiting.GetTpm(); tpm.GetEkFingerprint() != fingerprint || tpm.GetIssuer()+tpm.GetManufacturer()+tpm.GetModel() != "" {
		t.Errorf("the operator sees %v", tpm)
	}
	if _, err := c.devices().ApproveEnrollmentRequest(t.Context(), &swanherdv1.ApproveEnrollmentRequestRequest{Name: waiting.GetName()}); err != nil {
		t.Fatal(err)
	}
	stop() // it would ask in seconds
	if err := <-gone; err == nil {
		t.Error("the edge was admitted before it asked again")
	}
	if id := x.enroll(t); id.Edge != network+"/edges/unknown" {
		t.Errorf("enrolled as %s", id.Edge)
	}
}

func (c *controller) registered(t *testing.T, e, other *emulator) {
	fingerprint, err := e.EKFingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.devices().CreateDevice(t.Context(), &swanherdv1.CreateDeviceRequest{Parent: network, Device: &swanherdv1.Device{
		SerialNumber: "SN-1", Site: network + "/sites/berlin", EdgeId: "registered", EkFingerprint: fingerprint,
	}}); err != nil {
		t.Fatal(err)
	}
	device := func(e *emulator) *edge {
		x := newEdge(t, "", "", e)
		x.SerialNumber = "SN-1"
		if x.Token, err = enroll.Controllers([]string{c.s.Info().EdgeAddr.String()}, "sha256:"+c.s.Info().CAPin); err != nil {
			t.Fatal(err)
		}
		return x
	}
	for what, x := range map[string]*edge{"another TPM": device(other), "no TPM": device(nil)} {
		if _, err := enroll.Enroll(t.Context(), x.Config); !errors.Is(err, enroll.ErrRefused) || !strings.Contains(err.Error(), "enrollment token is not valid") {
			t.Errorf("the serial number with %s: %v", what, err)
		}
	}
	if id := device(e).enroll(t); id.Edge != network+"/edges/registered" {
		t.Errorf("enrolled as %s", id.Edge)
	}
}

// replayed shows that an answer is good for the key, the TPM and the token that it was made
// for, and for nothing else.
func (c *controller) replayed(t *testing.T, e, other *emulator) {
	token := c.token(t, true)
	x := newEdge(t, "replayed", token, e)
	keys, err := x.Dir.CandidateKeys()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(c.s.Info().EdgeAddr.String(), grpc.WithTransportCredentials(enroll.PinnedTLS(x.Token, c.s.Info().EdgeAddr.String())))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	service := swanherdv1.NewEnrollmentServiceClient(conn)
	req := &swanherdv1.EnrollRequest{Token: token, EdgeId: "replayed", ControlCsr: csr(t, keys.Control), IkeCsr: csr(t, keys.IKE)}
	if req.Attestation, err = e.Attest(keys.Control); err != nil {
		t.Fatal(err)
	}
	resp, err := service.Enroll(t.Context(), req)
	if err != nil || resp.GetChallenge() == nil || resp.GetEdge() != "" || resp.GetCertificates() != nil {
		t.Fatalf("before the challenge was answered: %v, %v", resp, err)
	}
	if secret, err := other.Answer(resp.GetChallenge()); err == nil {
		t.Errorf("another TPM found %x in the challenge", secret)
	}
	req.Attestation.Ticket = resp.GetChallenge().GetTicket()
	if req.Attestation.Secret, err = e.Answer(resp.GetChallenge()); err != nil {
		t.Fatal(err)
	}
	changed := func(change func(*swanherdv1.EnrollRequest)) *swanherdv1.EnrollRequest {
		r := proto.CloneOf(req)
		change(r)
		return r
	}
	soft, err := newEdge(t, "", "", nil).Dir.CandidateKeys()
	if err != nil {
		t.Fatal(err)
	}
	second, err := newEdge(t, "", "", e).Dir.CandidateKeys()
	if err != nil {
		t.Fatal(err)
	}
	ofSecond, err := e.Attest(second.Control)
	if err != nil {
		t.Fatal(err)
	}
	ofSecond.Ticket, ofSecond.Secret = req.Attestation.GetTicket(), req.Attestation.GetSecret()
	for what, tc := range map[string]struct {
		req  *swanherdv1.EnrollRequest
		want codes.Code
	}{
		"no secret":                {changed(func(r *swanherdv1.EnrollRequest) { r.Attestation.Secret = nil }), codes.PermissionDenied},
		"another token":            {changed(func(r *swanherdv1.EnrollRequest) { r.Token = c.token(t, true) }), codes.PermissionDenied},
		"a key that is not in it":  {changed(func(r *swanherdv1.EnrollRequest) { r.ControlCsr = csr(t, soft.Control) }), codes.InvalidArgument},
		"another key of the TPM":   {changed(func(r *swanherdv1.EnrollRequest) { r.ControlCsr, r.Attestation = csr(t, second.Control), ofSecond }), codes.PermissionDenied},
		"a ticket that was edited": {changed(func(r *swanherdv1.EnrollRequest) { r.Attestation.Ticket[7]++ }), codes.PermissionDenied},
	} {
		if resp, err := service.Enroll(t.Context(), tc.req); status.Code(err) != tc.want {
			t.Errorf("%s: %v, %v, want %v", what, resp, err, tc.want)
		}
	}
	for range 2 {
		if resp, err := service.Enroll(t.Context(), req); err != nil || resp.GetEdge() != network+"/edges/replayed" {
			t.Errorf("the answer: %v, %v", resp, err)
		}
	}
	if _, err := e.Attest(soft.Control); err == nil {
		t.Error("a key that is not in the TPM was attested")
	}
}

func csr(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func sameKey(a, b crypto.Signer) bool {
	return a.Public().(*ecdsa.PublicKey).Equal(b.Public())
}
