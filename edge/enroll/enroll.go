package enroll

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// ErrRefused means that the controller answered and said no: asking again with
// the same thing does not help.
var ErrRefused = errors.New("controller refused")

// callTimeout bounds one call to one endpoint.
const callTimeout = 20 * time.Second

// Config is what Enroll needs.
type Config struct {
	Dir   *state.Dir
	Token *Token
	// EdgeID is the last segment of the edge's name; empty: the controller
	// names the edge after its site.
	EdgeID       string
	AgentVersion string
	// SerialNumber of the hardware; empty: unknown.
	SerialNumber string
	// TPM is where Dir keeps the control key; nil: in a file.
	TPM    Attester
	Logger *slog.Logger
}

// Attester is a TPM that proves that a control key is in it.
type Attester interface {
	Attest(key crypto.Signer) (*swanherdv1.TpmAttestation, error)
	Answer(*swanherdv1.TpmChallenge) (secret []byte, err error)
}

// Enroll asks the controllers that the token names, in turn, for an identity,
// and stores it as the one in use. It may be repeated after any error: the keys
// are stored before the first call, and the controller gives the same answer to
// the same keys. If an operator has to approve first, it waits for that. An error
// that wraps ErrRefused is final.
func Enroll(ctx context.Context, c Config) (*state.Identity, error) {
	keys, err := c.Dir.CandidateKeys()
	if err != nil {
		return nil, err
	}
	req := &swanherdv1.EnrollRequest{
		Token: c.Token.secret, EdgeId: c.EdgeID, AgentVersion: c.AgentVersion, SerialNumber: c.SerialNumber,
	}
	if req.ControlCsr, req.IkeCsr, err = requests(keys); err != nil {
		return nil, err
	}
	resp, err := c.request(ctx, req, keys)
	if errors.Is(err, ErrRefused) {
		return nil, fmt.Errorf("%w; a token works until it is used up or expires (make one with `swanherd token create`), "+
			"and a name until the edge that has it is deleted (choose one with --edge-id)", err)
	}
	if err != nil {
		return nil, err
	}
	if p := resp.GetPending(); p != nil {
		if resp, err = c.awaitApproval(ctx, p, req); err != nil {
			return nil, err
		}
	}
	id, err := newIdentity(keys, resp.GetEdge(), resp.GetSessionEndpoints(), resp.GetCertificates())
	if err != nil {
		return nil, fmt.Errorf("check certificates from the controller: %w", err)
	}
	if err := c.Dir.Promote(id); err != nil {
		return nil, err
	}
	c.Logger.Info("enrolled", "edge", id.Edge, "renew_time", id.RenewTime)
	return id, nil
}

// request asks for an identity. If the key is in a TPM, that is shown, and the controller
// wants a challenge answered first.
func (c *Config) request(ctx context.Context, req *swanherdv1.EnrollRequest, keys *state.Keys) (*swanherdv1.EnrollResponse, error) {
	enroll := func(ctx context.Context, s swanherdv1.EnrollmentServiceClient) (*swanherdv1.EnrollResponse, error) {
		return s.Enroll(ctx, req)
	}
	if c.TPM == nil {
		return c.ask(ctx, enroll)
	}
	var err error
	if req.Attestation, err = c.TPM.Attest(keys.Control); err != nil {
		return nil, err
	}
	resp, err := c.ask(ctx, enroll)
	if err != nil || resp.GetChallenge() == nil {
		return resp, err
	}
	req.Attestation.Ticket = resp.GetChallenge().GetTicket()
	if req.Attestation.Secret, err = c.TPM.Answer(resp.GetChallenge()); err != nil {
		return nil, err
	}
	if resp, err = c.ask(ctx, enroll); err == nil && resp.GetChallenge() != nil {
		return nil, errors.New("controller answers the answer to its challenge with another one")
	}
	return resp, err
}

// ask asks the controllers in turn until one answers.
func (c *Config) ask(ctx context.Context, do func(context.Context, swanherdv1.EnrollmentServiceClient) (*swanherdv1.EnrollResponse, error)) (*swanherdv1.EnrollResponse, error) {
	var failures []error
	for _, endpoint := range c.Token.Endpoints() {
		var resp *swanherdv1.EnrollResponse
		err := call(ctx, endpoint, PinnedTLS(c.Token, endpoint), func(ctx context.Context, s swanherdv1.EnrollmentServiceClient) (err error) {
			resp, err = do(ctx, s)
			return err
		})
		if err == nil || errors.Is(err, ErrRefused) {
			return resp, err
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("enroll with %s: %w", c.Token, errors.Join(failures...))
}

// Bounds of how often an edge asks what became of its request, whatever the
// controller wants.
const (
	pollMin = time.Second
	pollMax = 5 * time.Minute
)

// awaitApproval asks until an operator has decided. The certificate requests of the
// first call show whose request it is.
func (c *Config) awaitApproval(ctx context.Context, p *swanherdv1.PendingEnrollment, first *swanherdv1.EnrollRequest) (*swanherdv1.EnrollResponse, error) {
	c.Logger.Info("waiting for an operator: `swanherd enrollment approve` the request if it has this key",
		"request", p.GetEnrollmentRequest(), "key_fingerprint", p.GetKeyFingerprint(), "until", p.GetExpireTime().AsTime())
	poll := &swanherdv1.PollEnrollmentRequest{
		EnrollmentRequest: p.GetEnrollmentRequest(), ControlCsr: first.GetControlCsr(), IkeCsr: first.GetIkeCsr(),
	}
	said := ""
	for {
		if !sleep(ctx, min(max(p.GetPollInterval().AsDuration(), pollMin), pollMax)) {
			return nil, ctx.Err()
		}
		resp, err := c.ask(ctx, func(ctx context.Context, s swanherdv1.EnrollmentServiceClient) (*swanherdv1.EnrollResponse, error) {
			return s.PollEnrollment(ctx, poll)
		})
		switch {
		case errors.Is(err, ErrRefused):
			return nil, err
		case err == nil && resp.GetPending() == nil:
			return resp, nil
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			c.Logger.Warn("cannot ask what became of the request; trying again", "error", err)
		}
	}
}

// call opens a connection to endpoint for one call of EnrollmentService.
func call(ctx context.Context, endpoint string, creds credentials.TransportCredentials,
	do func(context.Context, swanherdv1.EnrollmentServiceClient) error,
) error {
	conn, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	if err != nil {
		return fmt.Errorf("reach controller at %s: %w", endpoint, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return explain(endpoint, do(ctx, swanherdv1.NewEnrollmentServiceClient(conn)))
}

// explain turns a status of the controller into an error that says what to do.
func explain(endpoint string, err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.PermissionDenied, codes.Unauthenticated, codes.AlreadyExists, codes.InvalidArgument,
		codes.FailedPrecondition, codes.NotFound:
		return fmt.Errorf("%w: %s", ErrRefused, s.Message())
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("reach controller at %s: %s; check that it runs and that this machine's clock, route and firewall let TCP through to it", endpoint, s.Message())
	}
	return fmt.Errorf("controller at %s: %w", endpoint, err)
}

// requests makes the two certificate requests, in DER. The controller takes the
// public key from them and nothing else.
func requests(k *state.Keys) (control, ike []byte, err error) {
	for _, r := range []struct {
		to  *[]byte
		key crypto.Signer
	}{{&control, k.Control}, {&ike, k.IKE}} {
		if *r.to, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, r.key); err != nil {
			return nil, nil, fmt.Errorf("make certificate request: %w", err)
		}
	}
	return control, ike, nil
}

// newIdentity makes an identity of what the controller sent, and checks it.
func newIdentity(keys *state.Keys, edge string, endpoints []string, c *swanherdv1.EdgeCertificates) (*state.Identity, error) {
	id := &state.Identity{Keys: *keys, Edge: edge, SessionEndpoints: endpoints, RenewTime: c.GetRenewTime().AsTime()}
	for _, part := range []struct {
		what string
		der  [][]byte
		to   *[]*x509.Certificate
	}{
		{"control certificate", c.GetControlChain(), &id.ControlChain},
		{"IKE certificate", c.GetIkeChain(), &id.IKEChain},
		{"controller's authority", c.GetControllerRoots(), &id.ControllerRoots},
		{"network's authority", c.GetNetworkRoots(), &id.NetworkRoots},
	} {
		for _, der := range part.der {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("parse %s: %w", part.what, err)
			}
			*part.to = append(*part.to, cert)
		}
	}
	if err := id.Check(); err != nil {
		return nil, err
	}
	return id, verifyIKE(id)
}

// verifyIKE verifies that peers which trust the network's authorities will
// accept the IKE certificate.
func verifyIKE(id *state.Identity) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range id.NetworkRoots {
		roots.AddCert(c)
	}
	for _, c := range id.IKEChain[1:] {
		intermediates.AddCert(c)
	}
	_, err := id.IKEChain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("verify IKE certificate: %w; check this machine's clock", err)
	}
	return nil
}
