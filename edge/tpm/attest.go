//go:build tpm

package tpm

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// endorsementKeys are the templates, and where the certificates are (EK Credential
// Profile, 2.2.1.4 and 2.2.1.5), the one that is used first at first.
var endorsementKeys = []struct {
	certificate tpm2.TPMHandle
	template    tpm2.TPMTPublic
}{
	{0x01C0000A, tpm2.ECCEKTemplate},
	{0x01C00002, tpm2.RSAEKTemplate},
}

// nvBlock is how much of a certificate is read at once; every TPM reads as much.
const nvBlock = 512

// Attest has the TPM say that key, which NewKey or LoadKey returned, is in it.
func (t *TPM) Attest(key crypto.Signer) (*swanherdv1.TpmAttestation, error) {
	k, ok := key.(*Key)
	if !ok || k.tpm != t {
		return nil, errors.New("the control key is not in the TPM")
	}
	a := &swanherdv1.TpmAttestation{}
	err := t.use(func(dev transport.TPM) (err error) {
		ek, certificate, err := endorsementKey(dev)
		if err != nil {
			return err
		}
		a.EkPublic, a.EkCertificate = ek.public.Bytes(), certificate
		if ek.flush(dev, &err); err != nil {
			return err
		}
		subject, err := k.load(dev)
		if err != nil {
			return err
		}
		defer subject.flush(dev, &err)
		ak, err := primary(dev, tpm2.TPMRHOwner, signing(true))
		if err != nil {
			return err
		}
		defer ak.flush(dev, &err)
		r, err := tpm2.Certify{
			ObjectHandle: subject.open(), SignHandle: ak.open(), InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(dev)
		if err != nil {
			return fmt.Errorf("certify the control key: %w", err)
		}
		a.AkPublic, a.KeyPublic = ak.public.Bytes(), subject.public.Bytes()
		a.CertifyInfo, a.Signature = r.CertifyInfo.Bytes(), tpm2.Marshal(r.Signature)
		return nil
	})
	return a, err
}

// Answer finds what is in the controller's challenge, which was made for what Attest
// returned.
func (t *TPM) Answer(c *swanherdv1.TpmChallenge) (secret []byte, err error) {
	err = t.use(func(dev transport.TPM) (err error) {
		ak, err := primary(dev, tpm2.TPMRHOwner, signing(true))
		if err != nil {
			return err
		}
		defer ak.flush(dev, &err)
		ek, _, err := endorsementKey(dev)
		if err != nil {
			return err
		}
		defer ek.flush(dev, &err)
		r, err := tpm2.ActivateCredential{
			ActivateHandle: ak.open(),
			KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, sha256.Size, endorsementPolicy)},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.GetCredentialBlob()},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.GetEncryptedSecret()},
		}.Execute(dev)
		if err != nil {
			return fmt.Errorf("answer the controller's challenge: %w", err)
		}
		secret = r.CertInfo.Buffer
		return nil
	})
	return secret, err
}

// EKFingerprint is SHA-256 over the public key info of the endorsement key, hexadecimal: by it
// an operator registers the TPM.
func (t *TPM) EKFingerprint() (fingerprint string, err error) {
	err = t.use(func(dev transport.TPM) (err error) {
		ek, _, err := endorsementKey(dev)
		if err != nil {
			return err
		}
		defer ek.flush(dev, &err)
		area, err := ek.public.Contents()
		if err != nil {
			return err
		}
		public, err := tpm2.Pub(*area)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		sum := sha256.Sum256(der)
		fingerprint = hex.EncodeToString(sum[:])
		return err
	})
	return fingerprint, err
}

// endorsementPolicy is the policy of the templates: who knows the password of the endorsement
// hierarchy, which is empty.
func endorsementPolicy(dev transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, PolicySession: session, NonceTPM: nonce,
	}.Execute(dev)
	return err
}

// endorsementKey makes the endorsement key that there is a certificate of, or else the first
// one that the TPM can make.
func endorsementKey(dev transport.TPM) (*object, []byte, error) {
	var failures []error
	for _, k := range endorsementKeys {
		certificate, err := readCertificate(dev, k.certificate)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		ek, err := primary(dev, tpm2.TPMRHEndorsement, k.template)
		return ek, certificate, err
	}
	for _, k := range endorsementKeys {
		ek, err := primary(dev, tpm2.TPMRHEndorsement, k.template)
		if err == nil {
			return ek, nil, nil
		}
		failures = append(failures, err)
	}
	return nil, nil, fmt.Errorf("find an endorsement key: %w", errors.Join(failures...))
}

// readCertificate reads a certificate from an NV index, without the octets that some
// manufacturers have behind it.
func readCertificate(dev transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(dev)
	if err != nil {
		return nil, fmt.Errorf("find certificate at %#x: %w", index, err)
	}
	area, err := r.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("find certificate at %#x: %w", index, err)
	}
	var b []byte
	for len(b) < int(area.DataSize) {
		block, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: r.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: r.NVName},
			Size:       uint16(min(nvBlock, int(area.DataSize)-len(b))), Offset: uint16(len(b)),
		}.Execute(dev)
		if err != nil {
			return nil, fmt.Errorf("read certificate at %#x: %w", index, err)
		}
		if len(block.Data.Buffer) == 0 {
			return nil, fmt.Errorf("read certificate at %#x: the TPM gives nothing", index)
		}
		b = append(b, block.Data.Buffer...)
	}
	var certificate asn1.RawValue
	if _, err := asn1.Unmarshal(b, &certificate); err != nil {
		return nil, fmt.Errorf("decode certificate at %#x: %w", index, err)
	}
	return certificate.FullBytes, nil
}
