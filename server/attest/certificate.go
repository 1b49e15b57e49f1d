package attest

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	// tcg-kp-EKCertificate, and what a directory name says of a TPM (EK Credential
	// Profile, 3.1.2 and 3.2.9).
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidManufacturer  = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidModel         = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	// id-RSAES-OAEP (RFC 4055), for which crypto/x509 makes no key.
	oidRSAESOAEP = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7}
)

// Authorities are whose certificates of EKs are believed. A nil *Authorities has none.
type Authorities struct{ pool *x509.CertPool }

// ParseAuthorities reads certificates in PEM, and nothing else. Each is an anchor, also one
// that another authority signed: manufacturers publish intermediates.
func ParseAuthorities(text []byte) (*Authorities, error) {
	a := &Authorities{x509.NewCertPool()}
	n := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, errors.Join(fmt.Errorf("PEM block %d, %q, is not a certificate", n+1, block.Type), err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d, of %s, is not an authority's", n+1, cert.Subject)
		}
		a.pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return a, nil
}

// vouch holds the certificate of the EK to be one of it, and notes who vouches for it.
// That nobody does who is believed is no error.
func (e *Evidence) vouch(der []byte, authorities *Authorities, now time.Time) error {
	if len(der) == 0 {
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("is not X.509 in DER: %w", err)
	}
	key, err := keyOf(cert)
	if err != nil {
		return err
	}
	if k, ok := e.ek.key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(key) {
		return errors.New("is of another key than ek_public")
	}
	if usages := cert.UnknownExtKeyUsage; len(cert.ExtKeyUsage) > 0 || len(usages) > 0 && !slices.ContainsFunc(usages, oidEKCertificate.Equal) {
		return errors.New("is not for an endorsement key, by its extended key usage")
	}
	manufacturer, model := aboutTPM(cert)
	if authorities == nil {
		return nil
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: authorities.pool, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // looked at above
	})
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		return nil
	}
	if err != nil {
		return err
	}
	valid := func(text string) string { return strings.ToValidUTF8(text, "?") }
	e.Issuer, e.Manufacturer, e.Model = valid(cert.Issuer.String()), valid(manufacturer), valid(model)
	return nil
}

// keyOf is the key of a certificate, also if that says that RSA is for OAEP only.
func keyOf(cert *x509.Certificate) (crypto.PublicKey, error) {
	if cert.PublicKey != nil {
		return cert.PublicKey, nil
	}
	info := cryptobyte.String(cert.RawSubjectPublicKeyInfo)
	var body, algorithm cryptobyte.String
	var oid asn1.ObjectIdentifier
	var bits []byte
	if !info.ReadASN1(&body, cryptobyteasn1.SEQUENCE) || !body.ReadASN1(&algorithm, cryptobyteasn1.SEQUENCE) ||
		!algorithm.ReadASN1ObjectIdentifier(&oid) || !oid.Equal(oidRSAESOAEP) || !body.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("has a key of a kind that is not known; register the fingerprint of the endorsement key in its place")
	}
	key, err := x509.ParsePKCS1PublicKey(bits)
	if err != nil {
		return nil, fmt.Errorf("has a key that is not RSA: %w", err)
	}
	return (*rsa.PublicKey)(key), nil
}

// aboutTPM reads what a certificate says of the TPM. That is a directory name as its
// alternative name, mostly critical, of which crypto/x509 does not know what to make: read,
// it is taken from the extensions that were not handled. Another one stays there.
func aboutTPM(cert *x509.Certificate) (manufacturer, model string) {
	i := slices.IndexFunc(cert.Extensions, func(x pkix.Extension) bool { return x.Id.Equal(oidSubjectAltName) })
	if i < 0 {
		return "", ""
	}
	value := cryptobyte.String(cert.Extensions[i].Value)
	var names, name cryptobyte.String
	if !value.ReadASN1(&names, cryptobyteasn1.SEQUENCE) || !value.Empty() {
		return "", ""
	}
	directoryName := cryptobyteasn1.Tag(4).ContextSpecific().Constructed() // RFC 5280, 4.2.1.6
	for !names.Empty() {
		var rdns pkix.RDNSequence
		if !names.ReadASN1(&name, directoryName) {
			return "", ""
		}
		if rest, err := asn1.Unmarshal(name, &rdns); err != nil || len(rest) > 0 {
			return "", ""
		}
		var about pkix.Name
		about.FillFromRDNSequence(&rdns)
		for _, attribute := range about.Names {
			switch {
			case attribute.Type.Equal(oidManufacturer):
				manufacturer = fmt.Sprint(attribute.Value)
			case attribute.Type.Equal(oidModel):
				model = fmt.Sprint(attribute.Value)
			}
		}
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	return manufacturer, model
}
