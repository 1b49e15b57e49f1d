package replica

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Trust says whether the certificate of another replica is good now. A stream goes on for
// as long as both replicas do, and the authority of the other one's certificate may be
// dropped meanwhile.
type Trust func(*x509.Certificate) error

// errDistrusted is a stream whose other side showed a certificate that is no longer good.
var errDistrusted = errors.New("the certificate that it showed is no longer good")

// holds looks again at what the other side of the stream showed.
func (t Trust) holds(stream context.Context) error {
	p, ok := peer.FromContext(stream)
	if !ok {
		return errDistrusted
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return errDistrusted
	}
	if err := t(info.State.PeerCertificates[0]); err != nil {
		return fmt.Errorf("%w: %w", errDistrusted, err)
	}
	return nil
}

// distrusted says whether a stream ended as one of both no longer took what the other one
// had shown, which by now has another one.
func distrusted(err error) bool {
	return errors.Is(err, errDistrusted) || status.Code(err) == codes.Unauthenticated
}
