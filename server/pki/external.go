package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// A network's authority may be subordinate to one that an organisation has already,
// on whatever it keeps that: the controller makes a key and a request, has it signed
// online (Requester) or waits for somebody who brings the certificate. Edges trust the subordinate alone, not all
// that the external one signs; third parties that trust the external one verify
// edges by the chain that these show.

// ErrChain is a certificate chain that is refused, by whoever brought it to be mended.
var ErrChain = errors.New("certificate chain is not acceptable")

// maxChain bounds how many certificates are above the authority.
const maxChain = 8

// request is what an external authority has to sign (RFC 2986).
func (a *Authority) request() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: a.certificate.Subject}, a.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request of %s: %w", a.certificate.Subject, err)
	}
	return der, nil
}

// ImportIn brings the certificate, in PEM with what it chains to, that an external
// authority signed for a replacement that waits for it, as a part of t; it returns the
// authority as it is then, and who signed. Roots are what the chain has to end in; nil:
// whatever it ends in. The error is ErrChain or ErrRotation, or means that the controller is
// broken.
func (k *Keeper) ImportIn(t *store.Txn, row model.Row[*storev1.CertificateAuthority], network model.NetworkName, chainPEM []byte, roots *x509.CertPool, now time.Time) (_ *storev1.CertificateAuthority, issuer string, _ error) {
	rotation := row.Value.GetRotation()
	if rotation.GetPhase() != swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE {
		return nil, "", fmt.Errorf("%w: it waits for no certificate of an external authority", ErrRotation)
	}
	chain, err := parseChain(chainPEM)
	if err != nil {
		return nil, "", err
	}
	key, err := k.keyToCome(row)
	if err != nil {
		return nil, "", err
	}
	a := &Authority{certificate: chain[0], key: key}
	if err := a.fits(chain, roots, network, now); err != nil {
		return nil, "", err
	}
	changed := proto.CloneOf(row.Value)
	changed.Rotation.Phase = swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING
	changed.Rotation.PhaseTime = timestamppb.New(now)
	changed.Rotation.OtherCertificate = chain[0].Raw
	changed.Rotation.CertificateRequest, changed.Rotation.SigningFailure = nil, nil
	for _, c := range chain[1:] {
		if !selfSigned(c) {
			changed.Rotation.OtherChain = append(changed.Rotation.OtherChain, c.Raw)
		}
	}
	k.store.Authorities.UpdateIn(t, row.Name, changed, row.Revision)
	return changed, chain[0].Issuer.String(), nil
}

// keyToCome opens the key of the authority that is to take a stored one's place.
func (k *Keeper) keyToCome(row model.Row[*storev1.CertificateAuthority]) (*ecdsa.PrivateKey, error) {
	etcdKey, err := k.store.Authorities.Key(row.Name)
	if err != nil {
		return nil, err
	}
	secret, err := k.sealer.Open(etcdKey, row.Value.GetRotation().GetOtherKey())
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	key, err := x509.ParsePKCS8PrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("parse the key to come of %s: not PKCS #8", row.Name)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key to come of %s is of another kind", row.Name)
	}
	return signer, nil
}

// parseChain reads a certificate and what it chains to.
func parseChain(b []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%w: PEM block %q where a CERTIFICATE is wanted", ErrChain, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate %d: %w", ErrChain, len(chain)+1, err)
		}
		if chain = append(chain, c); len(chain) > maxChain {
			return nil, fmt.Errorf("%w: more than %d certificates", ErrChain, maxChain)
		}
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: no certificate in PEM form", ErrChain)
	}
	return chain, nil
}

// fits says what keeps the authority, first of the chain, from issuing to edges, or who
// trusts the roots from believing these.
func (a *Authority) fits(chain []*x509.Certificate, roots *x509.CertPool, network model.NetworkName, now time.Time) error {
	c := a.certificate
	public, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || !public.Equal(&a.key.PublicKey):
		return fmt.Errorf("%w: its first certificate is not for the key of the request; sign the request that was given out last", ErrChain)
	case selfSigned(c):
		return fmt.Errorf("%w: its first certificate is signed by itself, not by another authority", ErrChain)
	case !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%w: its first certificate is not for signing others; sign the request as an authority (RFC 5280, Section 4.2.1.9)", ErrChain)
	case now.Before(c.NotBefore):
		return fmt.Errorf("%w: its first certificate is good only from %s", ErrChain, c.NotBefore.Format(time.RFC3339))
	case c.NotAfter.Before(now.Add(IKELifetime)):
		return fmt.Errorf("%w: its first certificate ends at %s; it has to outlast those that it issues, %d days", ErrChain, c.NotAfter.Format(time.RFC3339), IKELifetime/day)
	}
	for i := range chain[1:] {
		if err := chain[i].CheckSignatureFrom(chain[i+1]); err != nil || !bytes.Equal(chain[i].RawIssuer, chain[i+1].RawSubject) {
			return fmt.Errorf("%w: certificate %d is not signed by the next", ErrChain, i+1)
		}
	}
	above := x509.NewCertPool()
	for _, c := range chain {
		above.AddCert(c)
	}
	if roots == nil {
		roots = x509.NewCertPool()
		roots.AddCert(chain[len(chain)-1])
	}
	return a.canIssue(network, []x509.VerifyOptions{{Roots: a.Pool()}, {Roots: roots, Intermediates: above}}, now)
}

// canIssue tries whether what the authority issues verifies, for edges, which trust it alone,
// and for those who trust what is above it: constraints of names, of path length or of usage
// may forbid it.
func (a *Authority) canIssue(network model.NetworkName, verifiers []x509.VerifyOptions, now time.Time) error {
	trial := model.EdgeName{Network: network.Network, Edge: "trial"}
	request := &x509.CertificateRequest{PublicKey: &a.key.PublicKey}
	control, err := a.IssueControl(request, trial, now)
	if err != nil {
		return err
	}
	ike, err := a.IssueIKE(request, trial, now)
	if err != nil {
		return err
	}
	for what, leaf := range map[string]*x509.Certificate{"control": control.Leaf, "IKE": ike.Leaf} {
		for _, by := range verifiers {
			by.CurrentTime, by.KeyUsages = now, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			if _, err := leaf.Verify(by); err != nil {
				return fmt.Errorf("%w: %s certificates that it issues would not verify: %w", ErrChain, what, err)
			}
		}
	}
	return nil
}
