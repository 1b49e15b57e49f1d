package main

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/edge/enroll"
	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	distributing = swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING
	reissuing    = swanherdv1.CertificateAuthority_PHASE_REISSUING
)

// authorities are those that are replaced.
var authorities = []*swanherdv1.RotateCertificateAuthorityRequest{
	{Name: network + "/certificateAuthority", RenewWithin: durationpb.New(time.Second)},
	{Name: "certificateAuthorities/controller", Overlap: durationpb.New(0)},
}

// replaceAuthorities replaces the network's authority and the controller's own at the same
// time, and kills the leader while edges learn to trust the new ones (server's tests end it in
// the other phase too). An edge that is away keeps that from ending before; when it is back, both
// come to their end by themselves, and what they leave behind opens nothing.
func (f *faults) replaceAuthorities() {
	f.t.Helper()
	crew := f.crews[0].(*hands)
	before, away := crew.edges[0].identity.Load(), crew.edges[len(crew.edges)-1]
	away.end()
	f.until("an edge to be away", func(metric func(string) float64) bool {
		return int(metric("swanherd_edges_in_sync")) == f.options.edges-1
	})
	for _, req := range authorities {
		if _, err := f.certificates().RotateCertificateAuthority(f.ctx, req); err != nil {
			f.t.Fatal(err)
		}
	}
	f.loseLeaderIn(distributing)
	f.at("every edge but one to trust both", distributing, len(crew.edges)-1)
	for _, a := range authorities {
		if _, err := f.certificates().ForceCertificateAuthority(f.ctx, &swanherdv1.ForceCertificateAuthorityRequest{Name: a.GetName(), Phase: distributing}); err != nil {
			f.t.Fatal(err)
		}
	}
	f.at("every edge but one to have certificates of the new one", reissuing, len(crew.edges)-1)
	away.start()
	f.at("both to be replaced", swanherdv1.CertificateAuthority_PHASE_UNSPECIFIED, 0)
	f.whole(3)
	f.opensNothing(before, crew)
}

// certificates is the service at a controller that was not killed, so that a connection to it
// that the old authority vouched for still stands.
func (f *faults) certificates() swanherdv1.CertificateServiceClient {
	f.t.Helper()
	for _, c := range f.controllers {
		if !f.killed[c] {
			return swanherdv1.NewCertificateServiceClient(c.conn)
		}
	}
	f.t.Fatal("every controller was killed")
	return nil
}

// at waits until both replacements are in the phase, with so many edges through it.
func (f *faults) at(what string, phase swanherdv1.CertificateAuthority_Phase, done int) {
	f.t.Helper()
	for _, a := range authorities {
		for {
			got, err := f.certificates().GetCertificateAuthority(f.ctx, &swanherdv1.GetCertificateAuthorityRequest{Name: a.GetName()})
			if err == nil && got.GetRotation().GetPhase() == phase && int(got.GetRotation().GetDone()) == done {
				break
			}
			if perr := pause(f.ctx, 50*time.Millisecond); perr != nil {
				f.t.Fatalf("waiting for %s: %s is %v, %v", what, a.GetName(), got, err)
			}
		}
	}
}

// loseLeaderIn kills the leader in a phase, which the next one is in too.
func (f *faults) loseLeaderIn(phase swanherdv1.CertificateAuthority_Phase) {
	f.t.Helper()
	lost := f.leader()
	f.killed[lost] = true
	lost.kill()
	f.leader()
	for _, a := range authorities {
		got, err := f.certificates().GetCertificateAuthority(f.ctx, &swanherdv1.GetCertificateAuthorityRequest{Name: a.GetName()})
		if err != nil || got.GetRotation().GetPhase() != phase {
			f.t.Errorf("after the leader's end %s is %v, %v, want it in %s", a.GetName(), got, err, phase)
		}
	}
	f.again(lost)
}

// opensNothing checks that whoever has what was good before gets in nowhere, and takes no
// controller for one, and that every edge has what is good now, and nothing else.
func (f *faults) opensNothing(before *state.Identity, crew *hands) {
	f.t.Helper()
	now := crew.edges[0]
	for _, e := range crew.edges {
		t, id := e.Running().Resources.Get("trust").GetTrust(), e.identity.Load()
		if len(t.GetTrustAnchors()) != 1 || len(t.GetControllerAnchors()) != 1 {
			f.t.Errorf("%s trusts %d authorities of the network and %d of the controller", id.Edge, len(t.GetTrustAnchors()), len(t.GetControllerAnchors()))
		}
		if root := parsed(f, t.GetTrustAnchors()[0]); id.ControlChain[0].CheckSignatureFrom(root) != nil || id.IKEChain[0].CheckSignatureFrom(root) != nil {
			f.t.Errorf("%s has certificates of another authority than it trusts", id.Edge)
		}
	}
	anchors := []*x509.Certificate{parsed(f, now.Running().Resources.Get("trust").GetTrust().GetControllerAnchors()[0])}
	for i, c := range f.controllers {
		for _, address := range []string{c.edges, c.operators} {
			if err := shakesHands(address, anchors); err != nil {
				f.t.Errorf("controller %d at %s is not of the new authority: %v", i, address, err)
			}
			if shakesHands(address, before.ControllerRoots) == nil {
				f.t.Errorf("controller %d at %s still shows what the old authority vouches for", i, address)
			}
		}
		if err := asks(f, c, enroll.IdentityTLS(now.identity.Load(), anchors, c.edges)); status.Code(err) != codes.InvalidArgument {
			f.t.Errorf("controller %d says to a certificate of the new authority: %v", i, err)
		}
		if err := asks(f, c, enroll.IdentityTLS(before, anchors, c.edges)); err == nil || status.Code(err) == codes.InvalidArgument {
			f.t.Errorf("controller %d takes a certificate of the old authority: %v", i, err)
		}
	}
}

// shakesHands says why whoever trusts the roots does not take what answers there for a
// controller.
func shakesHands(address string, roots []*x509.Certificate) error {
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}})
	if err == nil {
		conn.Close()
	}
	return err
}

// asks makes a call that only edges may make, with nothing in it.
func asks(f *faults, c *controller, as credentials.TransportCredentials) error {
	conn, err := grpc.NewClient("passthrough:///"+c.edges, grpc.WithTransportCredentials(as))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = swanherdv1.NewEnrollmentServiceClient(conn).RenewCertificate(f.ctx, &swanherdv1.RenewCertificateRequest{})
	return err
}

func parsed(f *faults, text string) *x509.Certificate {
	f.t.Helper()
	all, err := state.ParseCertificates("anchor", []byte(strings.TrimSpace(text)))
	if err != nil || len(all) != 1 {
		f.t.Fatalf("anchor %q: %v", text, err)
	}
	return all[0]
}
