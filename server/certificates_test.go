package server_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// renew gets the edge certificates for new keys.
func (e *testEdge) renew() {
	e.t.Helper()
	conn := e.dial(tls.Certificate{Certificate: e.chain, PrivateKey: e.control})
	defer conn.Close()
	next := e.c.newEdge()
	resp, err := swanherdv1.NewEnrollmentServiceClient(conn).RenewCertificate(e.t.Context(), &swanherdv1.RenewCertificateRequest{
		ControlCsr: e.csr(next.control), IkeCsr: e.csr(next.ike),
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.control, e.ike, e.chain = next.control, next.ike, resp.GetCertificates().GetControlChain()
}

func (c *controller) authority() *swanherdv1.CertificateAuthority {
	c.t.Helper()
	a, err := c.certificates().GetCertificateAuthority(c.t.Context(), &swanherdv1.GetCertificateAuthorityRequest{Name: authorityName})
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

const authorityName = "networks/demo/certificateAuthority"

// A revocation at one replica ends the session at another, reaches the peer at the
// third, and what that says of it shows at the first.
func TestRevocationReachesEveryReplica(t *testing.T) {
	r := startReplicas(t)
	r[0].apply()
	stolen, peer := r[0].enrolled("berlin"), r[0].enrolled("oslo")
	stolen.at(r[1])
	peer.at(r[2])
	stolen.until("berlin--oslo")
	peer.until("berlin--oslo")
	resp, err := r[0].certificates().RevokeEdge(t.Context(), &swanherdv1.RevokeEdgeRequest{Name: stolen.name})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-stolen.ended; status.Code(err) != codes.PermissionDenied {
		t.Errorf("session at another replica ended with %v", err)
	}
	peer.wait("the revoked serial numbers", func() bool {
		return slices.Contains(peer.applied["trust"].GetTrust().GetRevokedSerials(), resp.GetSerials()[0])
	})
	r[0].eventually("the revocation to be acknowledged", func() bool {
		list, err := r[0].certificates().ListRevocations(t.Context(), &swanherdv1.ListRevocationsRequest{Parent: "networks/demo"})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.GetRevocations()) == 2 && list.GetRevocations()[0].GetAcknowledged() == 1 && list.GetRevocations()[1].GetAcknowledged() == 1
	})
}

// The replacement of an authority goes on when replicas end in the middle of it, also
// the one that leads.
func TestAuthorityIsReplacedWhileReplicasEnd(t *testing.T) {
	r := startReplicas(t)
	r[0].apply()
	edges := []*testEdge{r[0].enrolled("berlin"), r[0].enrolled("oslo")}
	for _, e := range edges {
		e.at(r[1])
		e.until("berlin--oslo")
	}
	before := r[0].authority().GetPin()
	if _, err := r[0].certificates().RotateCertificateAuthority(t.Context(), &swanherdv1.RotateCertificateAuthorityRequest{
		Name: authorityName, RenewWithin: durationpb.New(time.Second),
	}); err != nil {
		t.Fatal(err)
	}
	for _, e := range edges {
		e.wait("to be told to renew", func() bool {
			trust := e.applied["trust"].GetTrust()
			return trust.GetIssuerPin() != "" && len(trust.GetTrustAnchors()) == 2
		})
	}
	a := r[1].authority()
	if a.GetPin() == before || a.GetRotation().GetOtherPin() != before || a.GetRotation().GetPhase() != swanherdv1.CertificateAuthority_PHASE_REISSUING || a.GetRotation().GetDone() != 0 {
		t.Fatalf("authority is %v", a)
	}
	edges[0].renew()
	edges[0].at(r[1])
	r[1].eventually("the first edge to be done", func() bool { return r[1].authority().GetRotation().GetDone() == 1 })
	// One of the two that are left leads now, or did before.
	if err := r[0].s.Close(); err != nil {
		t.Error(err)
	}
	edges[1].renew()
	edges[1].at(r[2])
	r[1].eventually("the authority before to be dropped", func() bool { return r[1].authority().GetRotation() == nil })
	for _, e := range edges {
		e.wait("the new authority alone", func() bool {
			anchors := e.applied["trust"].GetTrust().GetTrustAnchors()
			return len(anchors) == 1 && anchors[0] == r[1].authority().GetCertificate()
		})
	}
	block, _ := pem.Decode([]byte(r[1].authority().GetCertificate()))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edges {
		if leaf, err := x509.ParseCertificate(e.chain[0]); err != nil || leaf.CheckSignatureFrom(root) != nil {
			t.Errorf("%s has a certificate of another authority: %v", e.name, err)
		}
	}
}
