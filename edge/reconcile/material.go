package reconcile

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/ident"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Material is what an intent refers to without holding it: the edge's own
// certificate and key, and pre-shared keys.
type Material struct {
	Chain  []*x509.Certificate
	Signer crypto.Signer
	// Roots are trusted beside the trust anchors in the intent's settings, unless
	// the intent has a trust bundle.
	Roots []*x509.Certificate
	// PSKs by the name of their file.
	PSKs map[string]ident.PSK
}

// LoadMaterial reads the files that an intent names. Enrolled is the edge's
// identity, nil without one; files that the intent names go before it.
func LoadMaterial(intent *swanherdv1.EdgeIntent, enrolled *state.Identity) (*Material, Errors) {
	m := &Material{PSKs: map[string]ident.PSK{}}
	var errs Errors
	if enrolled != nil {
		m.Chain, m.Signer, m.Roots = enrolled.IKEChain, enrolled.IKE, enrolled.NetworkRoots
	}
	if files := intent.GetSettings().GetIdentityFiles(); files != nil {
		if err := m.loadIdentity(files); err != nil {
			errs.add(settingsName, "identity_files", err.Error())
		}
	}
	for _, t := range intent.GetTunnels() {
		file := t.GetAuthentication().GetPsk().GetFile()
		if file == "" || m.PSKs[file] != nil {
			continue
		}
		psk, err := readPSK(file)
		if err != nil {
			errs.add(t.GetName(), "authentication.psk.file", err.Error())
			continue
		}
		m.PSKs[file] = psk
	}
	return m, errs
}

func (m *Material) loadIdentity(files *swanherdv1.IdentityFiles) error {
	chain, err := state.ReadCertificates(files.GetCertificate())
	if err != nil {
		return err
	}
	signer, err := state.ReadKey(files.GetKey())
	if err != nil {
		return err
	}
	if public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(signer.Public()) {
		return fmt.Errorf("%s is not the key of the first certificate in %s", files.GetKey(), files.GetCertificate())
	}
	m.Chain, m.Signer = chain, signer
	return nil
}

// readPSK reads a pre-shared key; one newline at its end is not part of it.
func readPSK(file string) (ident.PSK, error) {
	b, err := state.ReadSecret(file)
	if err != nil {
		return nil, err
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	if len(b) == 0 {
		return nil, errors.New(file + " is empty; a pre-shared key has at least one octet")
	}
	return ident.PSK(b), nil
}
