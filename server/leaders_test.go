package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

const (
	distributing = swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING
	reissuing    = swanherdv1.CertificateAuthority_PHASE_REISSUING
)

// loseLeaderIn ends the replica that leads while both replacements are in a phase, in which
// they are still when another one leads, and then starts it again. It returns that other one.
func loseLeaderIn(t *testing.T, phase swanherdv1.CertificateAuthority_Phase, replicas []*controller) *controller {
	t.Helper()
	leader := func(but *controller) (leads *controller) {
		replicas[0].eventually("a leader", func() bool {
			for _, c := range replicas {
				if c != but && c.leads() {
					leads = c
				}
			}
			return leads != nil
		})
		return leads
	}
	lost := leader(nil)
	if err := lost.s.Close(); err != nil {
		t.Error(err)
	}
	next := leader(lost)
	for _, a := range []*swanherdv1.CertificateAuthority{next.authority(), next.ownAuthority()} {
		if a.GetRotation().GetPhase() != phase {
			t.Errorf("after the leader's end %s is %v, want it in %s", a.GetName(), a, phase)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var err error
	if lost.s, err = server.Start(ctx, lost.cfg); err != nil {
		t.Fatal(err)
	}
	return next
}

// The network's authority and the controller's own are replaced at the same time, and in each
// phase the leader ends. An edge that is away keeps the phases from ending before that; when
// it is back both come to their end, and what they leave behind opens nothing.
func TestAuthoritiesAreReplacedThoughLeadersEnd(t *testing.T) {
	r := startReplicas(t)
	r[0].apply()
	here, away := r[0].enrolled("berlin"), r[0].enrolled("oslo")
	for _, e := range []*testEdge{here, away} {
		e.open()
		e.until("berlin--oslo")
		e.trusts(1)
	}
	oldRoots, oldCertificate := r[0].roots, tls.Certificate{Certificate: here.chain, PrivateKey: here.control}
	if err := away.hangUp(); err != nil {
		t.Fatal(err)
	}
	r[0].eventually("the edge to be seen offline", func() bool { return !connected(r[0], away) })
	for _, req := range []*swanherdv1.RotateCertificateAuthorityRequest{
		{Name: authorityName, RenewWithin: durationpb.New(time.Millisecond)}, {Name: controllerAuthority, Overlap: durationpb.New(0)},
	} {
		if _, err := r[0].certificates().RotateCertificateAuthority(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	here.trusts(2)

	up := loseLeaderIn(t, distributing, r)
	here.at(up)
	here.trusts(2)
	up.eventually("the edge that is here to be through", func() bool {
		return up.authority().GetRotation().GetDone() == 1 && up.ownAuthority().GetRotation().GetDone() == 1
	})
	up.force(distributing)
	if _, err := up.certificates().ForceCertificateAuthority(t.Context(), &swanherdv1.ForceCertificateAuthorityRequest{Name: authorityName, Phase: distributing}); err != nil {
		t.Fatal(err)
	}
	renewsAt(here, up)
	up.eventually("the edge that is here to be through", func() bool {
		return up.authority().GetRotation().GetDone() == 1 && up.ownAuthority().GetRotation().GetDone() == 1
	})

	up = loseLeaderIn(t, reissuing, r)
	here.at(up)
	away.at(up) // by what it knew before
	away.trusts(2)
	renewsAt(away, up)
	var own, networks *swanherdv1.CertificateAuthority
	up.eventually("both to be replaced", func() bool {
		up.roots = rootsNow(up) // the old one may be dropped between the two
		var errs [2]error
		own, errs[0] = up.certificates().GetCertificateAuthority(t.Context(), &swanherdv1.GetCertificateAuthorityRequest{Name: controllerAuthority})
		networks, errs[1] = up.certificates().GetCertificateAuthority(t.Context(), &swanherdv1.GetCertificateAuthorityRequest{Name: authorityName})
		return errs == [2]error{} && own.GetRotation() == nil && networks.GetRotation() == nil
	})
	for _, e := range []*testEdge{here, away} {
		e.trusts(1)
		e.wait("the network's new authority alone", func() bool {
			anchors := e.applied["trust"].GetTrust().GetTrustAnchors()
			return len(anchors) == 1 && anchors[0] == networks.GetCertificate()
		})
	}
	for _, c := range r {
		c.roots = pinnedRoots(t, c.s.Info().OperatorAddr.String(), own.GetPin())
		opensNothing(t, c, oldRoots, oldCertificate)
	}
}

// renewsAt has an edge renew its certificates, as it is told to, and come back with them.
func renewsAt(e *testEdge, c *controller) {
	e.t.Helper()
	e.wait("to be told to renew", func() bool { return e.applied["trust"].GetTrust().GetIssuerPin() != "" })
	e.renew()
	e.at(c)
}

// opensNothing checks that what the authorities before made is good for nothing.
func opensNothing(t *testing.T, c *controller, oldRoots *x509.CertPool, oldCertificate tls.Certificate) {
	t.Helper()
	for _, address := range []string{c.s.Info().OperatorAddr.String(), c.s.Info().EdgeAddr.String()} {
		if conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: oldRoots, NextProtos: []string{"h2"}}); err == nil {
			conn.Close()
			t.Errorf("%s still shows what the old authority vouches for", address)
		}
	}
	e := c.newEdge() // that runs nothing, so it takes the controller for what c.roots says
	_, err := swanherdv1.NewEnrollmentServiceClient(e.dial(oldCertificate)).RenewCertificate(t.Context(), &swanherdv1.RenewCertificateRequest{
		ControlCsr: e.csr(e.control), IkeCsr: e.csr(e.ike),
	})
	if code := status.Code(err); code != codes.Unauthenticated && code != codes.PermissionDenied && code != codes.Unavailable {
		t.Errorf("a certificate of the old authority: %v", err)
	}
}
