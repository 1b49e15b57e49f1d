package server_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/cli"
)

const controllerAuthority = "certificateAuthorities/controller"

// ownAuthority is the controller's own authority, as the API shows it.
func (c *controller) ownAuthority() *swanherdv1.CertificateAuthority {
	c.t.Helper()
	a, err := c.certificates().GetCertificateAuthority(c.t.Context(), &swanherdv1.GetCertificateAuthorityRequest{Name: controllerAuthority})
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// force ends a phase of the replacement of the controller's own authority.
func (c *controller) force(phase swanherdv1.CertificateAuthority_Phase) {
	c.t.Helper()
	if _, err := c.certificates().ForceCertificateAuthority(c.t.Context(), &swanherdv1.ForceCertificateAuthorityRequest{Name: controllerAuthority, Phase: phase}); err != nil {
		c.t.Fatal(err)
	}
}

// reopen starts the controller again, on what it stored.
func (c *controller) reopen() {
	c.t.Helper()
	if err := c.s.Close(); err != nil {
		c.t.Error(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 60*time.Second)
	defer cancel()
	var err error
	if c.s, err = server.Start(ctx, c.cfg); err != nil {
		c.t.Fatal(err)
	}
}

// enrollPinned enrols as an edge does that knows nothing but its token.
func (e *testEdge) enrollPinned(token, pin string) error {
	conn, err := grpc.NewClient(e.c.s.Info().EdgeEndpoints[0], grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, // verified below, by the pin
		VerifyConnection: func(s tls.ConnectionState) error {
			roots, middle := x509.NewCertPool(), x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				if sum := sha256.Sum256(c.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) == pin {
					roots.AddCert(c)
				} else {
					middle.AddCert(c)
				}
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle})
			return err
		},
	})))
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := swanherdv1.NewEnrollmentServiceClient(conn).Enroll(e.t.Context(), &swanherdv1.EnrollRequest{
		Token: token, ControlCsr: e.csr(e.control), IkeCsr: e.csr(e.ike),
	})
	if err != nil {
		return err
	}
	e.take(resp)
	roots := x509.NewCertPool()
	for _, der := range resp.GetCertificates().GetControllerRoots() {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		roots.AddCert(root)
	}
	c := *e.c
	c.roots = roots // from now on it trusts those alone
	e.c = &c
	return nil
}

// trusts waits until the edge runs an intent with so many anchors of the controller.
func (e *testEdge) trusts(anchors int) {
	e.t.Helper()
	e.wait("the controller's trust anchors", func() bool {
		return len(e.applied["trust"].GetTrust().GetControllerAnchors()) == anchors
	})
}

// The controller's own authority is replaced while edges are offline and replicas restart.
// Nobody who knows only the old one is locked out before it is dropped, and then it is.
func TestControllerAuthorityIsReplaced(t *testing.T) {
	r := startReplicas(t)
	r[0].apply()
	online, offline := r[0].enrolled("berlin"), r[0].enrolled("oslo")
	for _, e := range []*testEdge{online, offline} {
		e.at(r[1])
		e.until("berlin--oslo")
		e.trusts(1)
	}
	token, oldPin := r[0].tokenFor("rome", 2), r[0].ownAuthority().GetPin()
	used, unused := r[2].terminal(), r[2].terminal()
	if err := offline.hangUp(); err != nil {
		t.Fatal(err)
	}
	r[0].eventually("the edge to be seen offline", func() bool { return !connected(r[0], offline) })

	used.says(0, "", "ca rotate --controller --overlap 1h", controllerAuthority, "edges learn to trust")
	used.says(3, "", "ca rotate --controller", "being replaced already")
	online.trusts(2)
	r[0].eventually("the gate to wait for the edge that is offline alone", func() bool {
		w := r[0].ownAuthority().GetRotation().GetWaiting()
		return len(w) == 1 && w[0].GetEdge() == offline.name && w[0].GetReason() == "is not connected" && w[0].GetSinceTime() != nil
	})
	if p := r[0].ownAuthority().GetRotation().GetPhase(); p != swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING {
		t.Fatalf("phase is %s though an edge knows nothing of it", p)
	}
	r[2].reopen()
	r[1].force(swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING)
	r[0].eventually("every replica to issue by the new one", func() bool {
		return r[0].ownAuthority().GetPin() != oldPin && r[2].ownAuthority().GetPin() != oldPin
	})
	a := r[0].ownAuthority()
	if rotation := a.GetRotation(); rotation.GetOtherPin() != oldPin || rotation.GetEnrollmentTokens() != 1 ||
		time.Until(rotation.GetOverlapEndTime().AsTime()) < 50*time.Minute || rotation.GetDone() != 1 {
		t.Fatalf("authority is %v", a)
	}
	// Who knows only the old one gets in, at whatever replica, and learns of the new one.
	offline.at(r[2])
	offline.trusts(2)
	r[0].eventually("the edge that was offline to be through", func() bool { return r[0].ownAuthority().GetRotation().GetDone() == 2 })
	late := r[1].newEdge()
	if err := late.enrollPinned(token, oldPin); err != nil {
		t.Fatalf("an edge with a token from before: %v", err)
	}
	late.open()
	late.trusts(2)
	used.at(r[2]).says(0, "", "ca show --controller", "gets in until", "pins sha256:"+a.GetPin()+" from now on")
	used.says(0, "", "ca show --controller", a.GetPin(), "!from now on")
	r[0].eventually("replicas to follow each other", func() bool { return connected(r[0], online) && connected(r[0], offline) })

	r[0].force(swanherdv1.CertificateAuthority_PHASE_REISSUING)
	for _, e := range []*testEdge{online, offline, late} {
		e.trusts(1)
		e.at(r[0])
	}
	for _, c := range r {
		c.roots = pinnedRoots(t, c.s.Info().OperatorAddr.String(), a.GetPin())
		c.eventually("replicas to follow each other", func() bool { return connected(c, online) && connected(c, offline) && connected(c, late) })
	}
	if err := r[1].newEdge().enrollPinned(token, oldPin); status.Code(err) != codes.Unavailable {
		t.Errorf("a token that pins the authority that was dropped: %v", err)
	}
	used.says(0, "", "ca show --controller", a.GetPin(), "!being replaced")
	unused.at(r[2]).says(1, "", "ca show --controller", "is not the pinned one")
	audit := r[0].auditedOf(controllerAuthority)
	for _, part := range []string{"certificateAuthority.rotate", "certificateAuthority.reissue forced: 1 of 2", "left behind: " + offline.name, "certificateAuthority.retire"} {
		if !strings.Contains(audit, part) {
			t.Errorf("the audit log does not say %q:\n%s", part, audit)
		}
	}
}

// connected is whether the replica knows of a session of the edge.
func connected(c *controller, e *testEdge) bool {
	c.t.Helper()
	edge, err := c.topology().GetEdge(c.t.Context(), &swanherdv1.GetEdgeRequest{Name: e.name})
	if err != nil {
		c.t.Fatal(err)
	}
	return edge.GetStatus().GetConnected()
}

// auditedOf is what the audit log has about a resource of no network.
func (c *controller) auditedOf(resource string) string {
	c.t.Helper()
	events, err := c.fleet().ListEvents(c.t.Context(), &swanherdv1.ListEventsRequest{Parent: "networks/-", PageSize: 1000})
	if err != nil {
		c.t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range events.GetEvents() {
		if e.GetResource() == resource {
			out.WriteString(e.GetAction() + " " + e.GetMessage() + "\n")
		}
	}
	return out.String()
}

// at has the operator's context name the replica's address, as it is after a restart.
func (x *terminal) at(c *controller) *terminal {
	x.c.t.Helper()
	b, err := os.ReadFile(x.config)
	if err != nil {
		x.c.t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if i := strings.Index(line, "server: "); i >= 0 {
			line = line[:i] + "server: " + c.s.Info().OperatorAddr.String() + "\n"
		}
		lines = append(lines, line)
	}
	if err := os.WriteFile(x.config, []byte(strings.Join(lines, "")), 0o600); err != nil {
		x.c.t.Fatal(err)
	}
	return x
}

// Only who is bound to no network sees and replaces the controller's own authority, and what
// is for networks' is refused. The administrator's credential follows.
func TestControllerAuthorityIsTheAdministrators(t *testing.T) {
	c := startController(t)
	c.apply()
	for name, token := range map[string]*swanherdv1.ApiToken{
		"the administrator of a network": {Role: swanherdv1.Role_ROLE_ADMIN, Networks: []string{"networks/demo"}},
		"a global operator":              {Role: swanherdv1.Role_ROLE_OPERATOR},
	} {
		made, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: token})
		if err != nil {
			t.Fatal(err)
		}
		_, err = swanherdv1.NewCertificateServiceClient(c.dial(made.GetSecret())).RotateCertificateAuthority(t.Context(), &swanherdv1.RotateCertificateAuthorityRequest{Name: controllerAuthority})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []*swanherdv1.RotateCertificateAuthorityRequest{
		{Name: controllerAuthority, External: true},
		{Name: controllerAuthority, RenewWithin: durationpb.New(time.Second)},
		{Name: authorityName, Overlap: durationpb.New(0)},
		{Name: "certificateAuthorities/networks/demo"},
	} {
		if _, err := c.certificates().RotateCertificateAuthority(t.Context(), bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
	file := filepath.Join(c.cfg.DataDir, "admin-credential")
	before := credentialPin(t, file)
	x := c.terminal()
	x.says(0, "", "ca rotate --controller --overlap 0s") // with no edge in its way, it is through at once
	c.eventually("the replacement to be through", func() bool {
		c.roots = rootsNow(c) // it may be dropped between the two
		a, err := c.certificates().GetCertificateAuthority(t.Context(), &swanherdv1.GetCertificateAuthorityRequest{Name: controllerAuthority})
		return err == nil && a.GetRotation() == nil && "sha256:"+a.GetPin() != before && credentialPin(t, file) == "sha256:"+a.GetPin()
	})
}

// rootsNow is the authority that the controller shows now, whichever it is.
func rootsNow(c *controller) *x509.CertPool {
	c.t.Helper()
	conn, err := tls.Dial("tcp", c.s.Info().OperatorAddr.String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	pool := x509.NewCertPool()
	pool.AddCert(conn.ConnectionState().PeerCertificates[1])
	return pool
}

func credentialPin(t *testing.T, file string) string {
	t.Helper()
	x, err := cli.ReadCredential(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return x.CAPin
}
