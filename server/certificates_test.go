package server_test

import (
	"crypto/tls"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
