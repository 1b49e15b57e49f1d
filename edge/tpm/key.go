//go:build tpm

package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// signing is a key for ECDSA with SHA-256 on P-256 that does not leave the TPM. It has no
// policy, or the controller would not believe it.
func signing(restricted bool) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true, Restricted: restricted,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// keyFile is TPMKey of "ASN.1 Key Format for TPM Keys", section 3, as far as it is used.
type keyFile struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"optional,explicit,tag:0"`
	Parent    int64
	Public    []byte // TPM2B_PUBLIC
	Private   []byte // TPM2B_PRIVATE
}

// oidLoadableKey is id-loadablekey: wrapped by its parent.
var oidLoadableKey = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

// Key is a key in a TPM.
type Key struct {
	tpm    *TPM
	file   keyFile
	public *ecdsa.PublicKey
}

// NewKey makes a key for ECDSA on P-256. der is what LoadKey takes, and no other TPM does.
func (t *TPM) NewKey() (key crypto.Signer, der []byte, err error) {
	err = t.use(func(dev transport.TPM) (err error) {
		parent, err := primary(dev, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
		if err != nil {
			return err
		}
		defer parent.flush(dev, &err)
		r, err := tpm2.Create{ParentHandle: parent.open(), InPublic: tpm2.New2B(signing(false))}.Execute(dev)
		if err != nil {
			return fmt.Errorf("make key: %w", err)
		}
		der, err = asn1.Marshal(keyFile{
			Type: oidLoadableKey, EmptyAuth: true, Parent: int64(tpm2.TPMRHOwner),
			Public: tpm2.Marshal(r.OutPublic), Private: tpm2.Marshal(r.OutPrivate),
		})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	key, err = t.LoadKey(der)
	return key, der, err
}

// LoadKey returns the key in a file that NewKey made. It is an error if this TPM did not
// make it.
func (t *TPM) LoadKey(der []byte) (crypto.Signer, error) {
	k := &Key{tpm: t}
	if rest, err := asn1.Unmarshal(der, &k.file); err != nil || len(rest) > 0 {
		return nil, errors.Join(errors.New("file of the key is not in the form TSS2 PRIVATE KEY"), err)
	}
	if !k.file.Type.Equal(oidLoadableKey) || !k.file.EmptyAuth || k.file.Parent != int64(tpm2.TPMRHOwner) {
		return nil, errors.New("file of the key is not one that this agent made: it has another parent, type or a password")
	}
	var ok bool
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](k.file.Public)
	if err != nil {
		return nil, fmt.Errorf("decode public area of the key: %w", err)
	}
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("decode public area of the key: %w", err)
	}
	p, err := tpm2.Pub(*area)
	if k.public, ok = p.(*ecdsa.PublicKey); err != nil || !ok {
		return nil, errors.Join(errors.New("file of the key holds none for ECDSA"), err)
	}
	return k, k.use(func(transport.TPM, *object) error { return nil })
}

// use loads the key for f.
func (k *Key) use(f func(transport.TPM, *object) error) error {
	return k.tpm.use(func(dev transport.TPM) (err error) {
		o, err := k.load(dev)
		if err != nil {
			return err
		}
		defer o.flush(dev, &err)
		return f(dev, o)
	})
}

func (k *Key) load(dev transport.TPM) (_ *object, err error) {
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](k.file.Public)
	if err != nil {
		return nil, err
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](k.file.Private)
	if err != nil {
		return nil, err
	}
	parent, err := primary(dev, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return nil, err
	}
	defer parent.flush(dev, &err)
	r, err := tpm2.Load{ParentHandle: parent.open(), InPrivate: *private, InPublic: *public}.Execute(dev)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("the key is not this TPM's: the disk is from another machine, or the TPM was cleared; enroll anew: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	return &object{r.ObjectHandle, r.Name, *public}, nil
}

// Public implements crypto.Signer; it is an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer for digests of SHA-256; the signature is in DER.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.SHA256 {
		return nil, fmt.Errorf("the key in the TPM signs digests of SHA-256, not of %v", opts.HashFunc())
	}
	var signature *tpm2.TPMSSignatureECC
	err := k.use(func(dev transport.TPM, key *object) error {
		r, err := tpm2.Sign{
			KeyHandle: key.open(), Digest: tpm2.TPM2BDigest{Buffer: digest},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
		}.Execute(dev)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		signature, err = r.Signature.Signature.ECDSA()
		return err
	})
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cryptobyteasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(signature.SignatureR.Buffer))
		b.AddASN1BigInt(new(big.Int).SetBytes(signature.SignatureS.Buffer))
	})
	return b.Bytes()
}
