package server_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

// demandAttestation has the network demand that edges prove where their key is, or not.
func (c *controller) demandAttestation(required bool) {
	c.t.Helper()
	if _, err := c.topology().UpdateNetwork(c.t.Context(), &swanherdv1.UpdateNetworkRequest{
		Network:    &swanherdv1.Network{Name: "networks/demo", AttestationRequired: required},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"attestation_required"}},
	}); err != nil {
		c.t.Fatal(err)
	}
}

// What is demanded is demanded of all: also of those who are approved of, who have enrolled,
// and who show something else. What TPMs say is in deployments/tpm.
func TestAttestationIsDemanded(t *testing.T) {
	c := startController(t)
	c.apply()
	demanded := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "has to be in a TPM") {
			t.Errorf("%s: %v", what, err)
		}
	}
	berlin := "networks/demo/sites/berlin"
	_, err := c.newEdge().tryEnroll(c.makeToken(&swanherdv1.EnrollmentToken{Site: berlin, AttestationRequired: true}).GetSecret(), "")
	demanded("a token that demands it", err)

	waiting, enrolled := c.newEdge(), c.newEdge()
	resp, err := waiting.tryEnroll(c.makeToken(&swanherdv1.EnrollmentToken{Site: berlin, ApprovalRequired: true}).GetSecret(), "waiting")
	if err != nil {
		t.Fatal(err)
	}
	request := resp.GetPending().GetEnrollmentRequest()
	if _, err := c.devices().ApproveEnrollmentRequest(t.Context(), &swanherdv1.ApproveEnrollmentRequestRequest{Name: request}); err != nil {
		t.Fatal(err)
	}
	token := c.tokenFor("berlin", 2)
	enrolled.enroll(token)
	c.demandAttestation(true)
	_, err = waiting.poll(request)
	demanded("who was approved of before", err)
	_, err = enrolled.tryEnroll(token, "")
	demanded("who enrolled before, again", err)
	enrolled.open() // and stays
	enrolled.until()
	c.demandAttestation(false)
	if _, err := waiting.poll(request); err != nil {
		t.Errorf("without the demand: %v", err)
	}

	// What is no attestation is refused, also where none is demanded, if the token is good.
	e := c.newEdge()
	conn := e.dial()
	for token, want := range map[string]codes.Code{token: codes.InvalidArgument, token + "x": codes.PermissionDenied} {
		_, err := swanherdv1.NewEnrollmentServiceClient(conn).Enroll(t.Context(), &swanherdv1.EnrollRequest{
			Token: token, EdgeId: "other", ControlCsr: e.csr(e.control), IkeCsr: e.csr(e.ike), Attestation: &swanherdv1.TpmAttestation{EkPublic: []byte("key")},
		})
		if status.Code(err) != want || want == codes.InvalidArgument && !strings.Contains(err.Error(), "attestation.ek_public") {
			t.Errorf("an attestation that is none: %v, want %v", err, want)
		}
	}
}

func TestAuthoritiesOfTPMsAreRead(t *testing.T) {
	cfg := server.Config{
		DataDir: t.TempDir() + "/controller", Listen: "127.0.0.1:0", EdgeListen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0", TPMCA: "attestation_test.go",
	}
	s, err := server.Start(t.Context(), cfg)
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "--tpm-ca attestation_test.go: no certificate in PEM") {
		t.Errorf("Start = %v", err)
	}
}
