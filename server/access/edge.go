package access

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// TrustDomain is the SPIFFE trust domain of edges' control certificates.
const TrustDomain = "swanherd"

// EdgeIdentity is who an edge proved to be with its control certificate.
type EdgeIdentity struct {
	// Edge is its resource name, `networks/{network}/edges/{edge}`.
	Edge string
	// Serial of the certificate, hexadecimal, lower case, no leading zeros.
	Serial string
	// NotAfter is when the certificate expires.
	NotAfter time.Time
	// Certificate is the leaf that the edge presented.
	Certificate *x509.Certificate
}

// EdgeFromCertificate reads the identity in a control certificate: exactly one
// URI SAN, `spiffe://swanherd/networks/{network}/edges/{edge}`. The caller has
// verified the chain.
func EdgeFromCertificate(cert *x509.Certificate) (EdgeIdentity, error) {
	if len(cert.URIs) != 1 {
		return EdgeIdentity{}, fmt.Errorf("control certificate has %d URI names, want the edge's SPIFFE ID alone", len(cert.URIs))
	}
	name, ok := strings.CutPrefix(cert.URIs[0].String(), "spiffe://"+TrustDomain+"/")
	part := strings.Split(name, "/")
	if !ok || len(part) != 4 || part[0] != "networks" || part[2] != "edges" {
		return EdgeIdentity{}, fmt.Errorf("control certificate names %s, not an edge", cert.URIs[0])
	}
	return EdgeIdentity{
		Edge:        name,
		Serial:      cert.SerialNumber.Text(16),
		NotAfter:    cert.NotAfter,
		Certificate: cert,
	}, nil
}

// EdgeFromContext returns the identity of the edge that makes the call. The
// error is a gRPC status: UNAUTHENTICATED without a verified certificate.
func EdgeFromContext(ctx context.Context) (EdgeIdentity, error) {
	if id, ok := ctx.Value(edgeKey{}).(EdgeIdentity); ok {
		return id, nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return EdgeIdentity{}, status.Error(codes.Unauthenticated, "the connection has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return EdgeIdentity{}, status.Error(codes.Unauthenticated, "the method needs the edge's control certificate (mutual TLS)")
	}
	id, err := EdgeFromCertificate(info.State.VerifiedChains[0][0])
	if err != nil {
		return EdgeIdentity{}, status.Error(codes.Unauthenticated, err.Error())
	}
	return id, nil
}

type edgeKey struct{}

// WithEdge returns a context that carries an edge's identity, as the edge
// listener's interceptor makes it once it has checked the identity.
func WithEdge(ctx context.Context, id EdgeIdentity) context.Context {
	return context.WithValue(ctx, edgeKey{}, id)
}
