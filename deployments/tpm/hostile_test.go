//go:build tpm

package tpm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/swanherd/swanherd/server/attest"
)

// signing is the template of keys that sign, as the agent makes them.
func signing(change func(*tpm2.TPMTPublic)) tpm2.TPMTPublic {
	p := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256, Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
		}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
	change(&p)
	return p
}

func asAK(p *tpm2.TPMTPublic) { p.ObjectAttributes.Restricted = true }

// subject is an object that is loaded, and how its use is authorized.
type subject struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPM2BPublic
	auth   tpm2.Session
}

func (s *subject) authorized() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: s.handle, Name: s.name, Auth: s.auth}
}

func (e *emulator) made(t testing.TB, change func(*tpm2.TPMTPublic)) *subject {
	t.Helper()
	r := e.primary(t, tpm2.TPMRHOwner, signing(change))
	return &subject{r.ObjectHandle, r.Name, r.OutPublic, tpm2.PasswordAuth(nil)}
}

// allowed is a policy that allows one command, and its digest.
func allowed(t testing.TB, code tpm2.TPMCC) (digest []byte, session tpm2.Session) {
	t.Helper()
	command := tpm2.PolicyCommandCode{Code: code}
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Update(calculator); err != nil {
		t.Fatal(err)
	}
	return calculator.Hash().Digest, tpm2.Policy(tpm2.TPMAlgSHA256, sha256.Size, func(dev transport.TPM, h tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyCommandCode{PolicySession: h, Code: code}.Execute(dev)
		return err
	})
}

// pretended is the public area of a key in software that claims to be the TPM's own, loaded
// without a private part.
func (e *emulator) pretended(t testing.TB, key *ecdsa.PrivateKey, auth tpm2.Session, change func(*tpm2.TPMTPublic)) *subject {
	t.Helper()
	area := signing(func(p *tpm2.TPMTPublic) {
		change(p)
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: key.X.FillBytes(make([]byte, 32))}, Y: tpm2.TPM2BECCParameter{Buffer: key.Y.FillBytes(make([]byte, 32))},
		})
	})
	r, err := tpm2.LoadExternal{InPublic: tpm2.New2B(area), Hierarchy: tpm2.TPMRHOwner}.Execute(e.dev)
	if err != nil {
		t.Fatal(err)
	}
	return &subject{r.ObjectHandle, r.Name, tpm2.New2B(area), auth}
}

// certified is what TPM2_Certify makes of an object.
func (e *emulator) certified(object, by *subject) (info, signature []byte, err error) {
	r, err := tpm2.Certify{ObjectHandle: object.authorized(), SignHandle: by.authorized(), InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}}.Execute(e.dev)
	if err != nil {
		return nil, nil, err
	}
	return r.CertifyInfo.Bytes(), tpm2.Marshal(r.Signature), nil
}

// activated is what the TPM finds in a challenge for an attestation key.
func (e *emulator) activated(t testing.TB, ak *subject, blob, seed []byte) ([]byte, error) {
	t.Helper()
	ek := e.primary(t, tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate)
	defer e.flush(t, ek.ObjectHandle)
	r, err := tpm2.ActivateCredential{
		ActivateHandle: ak.authorized(),
		KeyHandle: tpm2.AuthHandle{Handle: ek.ObjectHandle, Name: ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, sha256.Size, func(dev transport.TPM, h tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: h, NonceTPM: nonce}.Execute(dev)
			return err
		})},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: seed},
	}.Execute(e.dev)
	if err != nil {
		return nil, err
	}
	return r.CertInfo.Buffer, nil
}

func (e *emulator) ekPublic(t testing.TB) []byte {
	t.Helper()
	ek := e.primary(t, tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate)
	defer e.flush(t, ek.ObjectHandle)
	return ek.OutPublic.Bytes()
}

func publicKey(t testing.TB, s *subject) crypto.PublicKey {
	t.Helper()
	area, err := s.public.Contents()
	if err != nil {
		t.Fatal(err)
	}
	k, err := tpm2.Pub(*area)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestKeysThatOthersHave has a real TPM make and say whatever it can be brought to about keys
// that it does not hold for itself.
func TestKeysThatOthersHave(t *testing.T) {
	e := start(t, nil, false)
	ekPublic := e.ekPublic(t)
	for _, tc := range []struct {
		name    string
		ak, key func(*tpm2.TPMTPublic)
		want    string
	}{
		{"as it should be", asAK, func(*tpm2.TPMTPublic) {}, ""},
		{"AK that signs anything", func(*tpm2.TPMTPublic) {}, func(*tpm2.TPMTPublic) {}, "ak_public does not have the attribute restricted"},
		{"AK that may be duplicated", func(p *tpm2.TPMTPublic) {
			asAK(p)
			p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false
		}, func(*tpm2.TPMTPublic) {}, "ak_public does not have the attribute fixedTPM"},
		{"key that may be duplicated", asAK, func(p *tpm2.TPMTPublic) {
			p.ObjectAttributes.FixedTPM, p.ObjectAttributes.FixedParent = false, false
		}, "key_public does not have the attribute fixedTPM"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ak, key := e.made(t, tc.ak), e.made(t, func(p *tpm2.TPMTPublic) {
				tc.key(p)
				p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("key")}})
			})
			defer e.flush(t, ak.handle)
			defer e.flush(t, key.handle)
			info, signature, err := e.certified(key, ak)
			if err != nil {
				t.Fatal(err)
			}
			_, err = attest.Verify(attest.Statement{
				EKPublic: ekPublic, AKPublic: ak.public.Bytes(), KeyPublic: key.public.Bytes(), CertifyInfo: info, Signature: signature,
			}, publicKey(t, key), nil, time.Now())
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || err.Error() != tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// TestKeysInSoftware shows that a TPM does not lend itself to a lie about an object whose public
// area alone it has, whatever that claims, as it would have to by its auth value or by a
// policy. Verify does not rely on it for policies.
func TestKeysInSoftware(t *testing.T) {
	e := start(t, nil, false)
	ekPublic := e.ekPublic(t)
	soft, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	inTPM := e.made(t, asAK)
	defer e.flush(t, inTPM.handle)
	activate := func(ak *subject) error {
		blob, seed := conceal(t, ekPublic, ak.name.Buffer, []byte("secret"))
		found, err := e.activated(t, ak, blob, seed)
		if err == nil && string(found) != "secret" {
			t.Errorf("found %q in the challenge", found)
		}
		return err
	}
	certify := func(key *subject) error {
		_, _, err := e.certified(key, inTPM)
		return err
	}
	for what, tc := range map[string]struct {
		code tpm2.TPMCC
		do   func(*subject) error
		kind func(*tpm2.TPMTPublic)
	}{
		"TPM2_ActivateCredential": {tpm2.TPMCCActivateCredential, activate, asAK},
		"TPM2_Certify":            {tpm2.TPMCCCertify, certify, func(*tpm2.TPMTPublic) {}},
	} {
		digest, session := allowed(t, tc.code)
		withPolicy := func(p *tpm2.TPMTPublic) {
			tc.kind(p)
			p.AuthPolicy.Buffer, p.ObjectAttributes.AdminWithPolicy = digest, true
		}
		own := e.made(t, withPolicy)
		own.auth = session
		if err := tc.do(own); err != nil {
			t.Errorf("%s of an object of the TPM with a policy: %v", what, err)
		}
		e.flush(t, own.handle)
		for _, pretend := range []func() *subject{
			func() *subject { return e.pretended(t, soft, session, withPolicy) },
			func() *subject { return e.pretended(t, soft, tpm2.PasswordAuth(nil), tc.kind) },
		} {
			o := pretend()
			if err := tc.do(o); !errors.Is(err, tpm2.TPMRCAuthUnavailable) {
				t.Errorf("%s of a key in software: %v", what, err)
			}
			e.flush(t, o.handle)
		}
	}
}

// conceal is TPM2_MakeCredential.
func conceal(t testing.TB, ek, name, secret []byte) (blob, seed []byte) {
	t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		t.Fatal(err)
	}
	if blob, seed, err = tpm2.CreateCredential(rand.Reader, key, name, secret); err != nil {
		t.Fatal(err)
	}
	return blob, seed
}
