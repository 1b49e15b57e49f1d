package access

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// CertificateHeader carries, base64, the client certificate that a REST call's connection
// proved to have. Only the controller's own loop looks at it, and there only the
// controller sets it.
const CertificateHeader = "swanherd-client-certificate"

// PeerCertificate is the client certificate that the call's connection proved to have, by
// an authority of operators; nil: none.
func PeerCertificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}

// ForwardedCertificate is the certificate in CertificateHeader; nil: none.
func ForwardedCertificate(ctx context.Context) *x509.Certificate {
	for _, text := range metadata.ValueFromIncomingContext(ctx, CertificateHeader) {
		if der, err := base64.StdEncoding.DecodeString(text); err == nil {
			if cert, err := x509.ParseCertificate(der); err == nil {
				return cert
			}
		}
	}
	return nil
}

// identityOf is who holds a client certificate. What of its names is no text of one line
// is left out.
func identityOf(cert *x509.Certificate) *identity {
	who := &identity{}
	add := func(kind, name string) {
		if oneLine(name) {
			who.certificate = append(who.certificate, kind+":"+name)
		}
	}
	for _, uri := range cert.URIs {
		add("cert-uri", uri.String())
	}
	for _, address := range cert.EmailAddresses {
		add("cert-email", strings.ToLower(address))
	}
	add("cert-cn", cert.Subject.CommonName)
	return who
}

// oneLine says whether a name is one that a binding can have: common names have spaces.
func oneLine(name string) bool {
	return name != "" && len(name) <= 255 && name[0] != ' ' && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// holder authenticates by a client certificate, which the connection has proved. What it
// may do is what the bindings of its names give now.
func (k *Keeper) holder(ctx context.Context, cert *x509.Certificate) (Principal, error) {
	who := identityOf(cert)
	if len(who.certificate) == 0 {
		return Principal{}, status.Error(codes.Unauthenticated, "the client certificate has no URI, e-mail address or common name that could be bound to a role")
	}
	if now := time.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) { // the connection may be older
		return Principal{}, status.Error(codes.Unauthenticated, "the client certificate has expired; connect with another one")
	}
	return k.bound(ctx, who, cert.NotAfter)
}
