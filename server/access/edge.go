package access

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// EdgeIdentity is who an edge proved to be with its control certificate.
type EdgeIdentity struct {
	// Edge is its resource name, `networks/{network}/edges/{edge}`.
	Edge string
	// Certificate is the leaf that the edge presented.
	Certificate *x509.Certificate
}

// Serial is the certificate's serial number, hexadecimal, lower case, no leading
// zeros; empty without a certificate.
func (i EdgeIdentity) Serial() string {
	if i.Certificate == nil {
		return ""
	}
	return i.Certificate.SerialNumber.Text(16)
}

// Verifier proves that a certificate is the control certificate of an edge
// that may connect now, and returns which edge; its error is a gRPC status.
type Verifier func(*x509.Certificate) (EdgeIdentity, error)

// identify returns the edge at the other end of the connection.
func (v Verifier) identify(ctx context.Context) (EdgeIdentity, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return EdgeIdentity{}, errNoCertificate
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 || v == nil {
		return EdgeIdentity{}, errNoCertificate
	}
	return v(info.State.PeerCertificates[0])
}

var errNoCertificate = status.Error(codes.Unauthenticated, "the method needs the edge's control certificate (mutual TLS)")

type edgeKey struct{}

// WithEdge returns a context that carries the identity of the edge that calls.
func WithEdge(ctx context.Context, id EdgeIdentity) context.Context {
	return context.WithValue(ctx, edgeKey{}, id)
}

// EdgeFrom returns the identity of the edge that calls. The error is a gRPC
// status: UNAUTHENTICATED when the caller is no edge.
func EdgeFrom(ctx context.Context) (EdgeIdentity, error) {
	id, ok := ctx.Value(edgeKey{}).(EdgeIdentity)
	if !ok {
		return EdgeIdentity{}, errNoCertificate
	}
	return id, nil
}
