package api

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/attest"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// Attestation is what it takes to hold edges to have their control key in a TPM. It keeps
// nothing of a challenge, so any replica that shares the key of sealed secrets takes the
// answer to any other's.
type Attestation struct {
	Sealer *store.Sealer
	// Authorities are those of the moment that vouch for TPMs; it returns nil for none.
	Authorities func() *attest.Authorities
}

var errNotAttested = status.Error(codes.FailedPrecondition,
	"the control key has to be in a TPM here; run an agent that was built with the tag tpm, with --tpm and the device, such as /dev/tpmrm0")

// demandsTPM says whether who uses the grant has to show a TPM.
func (s *Enrollment) demandsTPM(g *grant) bool {
	network := s.store.Snapshot().Networks.Value(model.NetworkName{Network: g.edge.Network}.String())
	return network.GetAttestationRequired() || g.ekFingerprint() != "" || g.token != nil && g.token.Value.GetToken().GetAttestationRequired()
}

// attest holds the attestation of a request to what it has to be, and notes in g which TPM it
// is of. Whoever has not yet proved to have that TPM gets a challenge.
func (s *Enrollment) attest(shown *swanherdv1.TpmAttestation, g *grant, csrs requests) (*swanherdv1.TpmChallenge, error) {
	if shown == nil {
		return nil, s.attested(g, nil)
	}
	now := time.Now()
	evidence, err := attest.Verify(attest.Statement{
		EKCertificate: shown.GetEkCertificate(), EKPublic: shown.GetEkPublic(), AKPublic: shown.GetAkPublic(),
		KeyPublic: shown.GetKeyPublic(), CertifyInfo: shown.GetCertifyInfo(), Signature: shown.GetSignature(),
	}, csrs.control.PublicKey, s.attestation.Authorities(), now)
	var bad *attest.Error
	if errors.As(err, &bad) {
		return nil, access.Invalid("attestation."+bad.Part, bad.Reason.Error())
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "verify attestation: %v", err)
	}
	// Before the challenge: one device's registration is nothing to other TPMs.
	if err := s.attested(g, &swanherdv1.AttestedTpm{
		EkFingerprint: hex.EncodeToString(evidence.EKFingerprint[:]), Issuer: evidence.Issuer, Manufacturer: evidence.Manufacturer, Model: evidence.Model,
	}); err != nil {
		return nil, err
	}
	about := append(csrs.controlKey(), g.source()...)
	if len(shown.GetTicket()) > 0 {
		return nil, answerError(evidence.Answered(s.attestation.Sealer, about, shown.GetTicket(), shown.GetSecret(), now))
	}
	c, err := evidence.Challenge(s.attestation.Sealer, about, now)
	if err != nil {
		return nil, access.Invalid("attestation.ek_public", err.Error())
	}
	return &swanherdv1.TpmChallenge{Ticket: c.Ticket, CredentialBlob: c.Blob, EncryptedSecret: c.Seed}, nil
}

// answerError is the status for what is wrong with an answer.
func answerError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, attest.ErrExpired):
		return status.Error(codes.Aborted, err.Error())
	}
	return status.Error(codes.PermissionDenied, err.Error())
}

// attested holds a grant against the TPM that a key is in, nil for none, and notes it.
func (s *Enrollment) attested(g *grant, tpm *swanherdv1.AttestedTpm) error {
	switch want := g.ekFingerprint(); {
	case want != "" && tpm.GetEkFingerprint() != want: // public, as serial numbers are
		return errEnrollmentToken
	case tpm == nil && s.demandsTPM(g):
		return errNotAttested
	case tpm != nil && tpm.GetIssuer() == "" && want == "" && s.demandsTPM(g):
		g.approve = true // nobody vouches for it but an operator
	}
	g.tpm = tpm
	return nil
}

// aboutTPM says for the audit log in which TPM a key is; empty for none.
func aboutTPM(tpm *swanherdv1.AttestedTpm) string {
	switch {
	case tpm == nil:
		return ""
	case tpm.GetIssuer() == "":
		return fmt.Sprintf(", in a TPM that nobody vouches for, endorsement key %s", tpm.GetEkFingerprint())
	}
	return fmt.Sprintf(", in a TPM of %s, endorsement key %s", tpm.GetIssuer(), tpm.GetEkFingerprint())
}
