package state

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// TPM keeps control keys, each in a form that it alone can use, which is what is stored
// here (TSS2 PRIVATE KEY, DER).
type TPM interface {
	NewKey() (key crypto.Signer, der []byte, err error)
	LoadKey(der []byte) (crypto.Signer, error)
}

// tssType is the type of the PEM block of a key in a TPM.
const tssType = "TSS2 PRIVATE KEY"

// KeepKeysIn has control keys made in the TPM from now on, and those that are there read.
func (d *Dir) KeepKeysIn(t TPM) { d.tpm = t }

// newControl makes a control key, as a file. An identity whose key is in a TPM keeps it: the
// controller was shown that, and takes no other one.
func (d *Dir) newControl() ([]byte, error) {
	before, err := os.ReadFile(filepath.Join(d.identityPath(), "control.key"))
	if block, _ := pem.Decode(before); err == nil && block != nil && block.Type == tssType {
		return before, nil
	}
	if d.tpm != nil && err != nil {
		_, der, err := d.tpm.NewKey()
		if err != nil {
			return nil, fmt.Errorf("make control key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: tssType, Bytes: der}), nil
	}
	control, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make control key: %w", err)
	}
	return encodeKey(control)
}

func newIKE() ([]byte, error) {
	_, ike, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make IKE key: %w", err)
	}
	return encodeKey(ike)
}

// Fingerprint is SHA-256 over the public key info of the control key, hexadecimal.
func (k *Keys) Fingerprint() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Control.Public())
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

func (d *Dir) readKeys(dir string) (*Keys, error) {
	control, err := d.readControl(filepath.Join(dir, "control.key"))
	if err != nil {
		return nil, err
	}
	ike, err := readKeyOf[ed25519.PrivateKey](filepath.Join(dir, "ike.key"))
	if err != nil {
		return nil, err
	}
	return &Keys{Control: control, IKE: ike}, nil
}

// tpmError says that a key could not be had from the TPM. It may be there.
type tpmError struct{ error }

func (e tpmError) Unwrap() error { return e.error }

// readControl reads a control key, wherever it is. If a TPM cannot give it, that is a
// tpmError.
func (d *Dir) readControl(path string) (crypto.Signer, error) {
	b, err := ReadSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	if block == nil || block.Type != tssType {
		return readKeyOf[*ecdsa.PrivateKey](path)
	}
	if d.tpm == nil {
		return nil, tpmError{fmt.Errorf("%s is a key in a TPM; run with --tpm and its device, such as /dev/tpmrm0", path)}
	}
	key, err := d.tpm.LoadKey(block.Bytes)
	if err != nil {
		return nil, tpmError{fmt.Errorf("load %s: %w", path, err)}
	}
	return key, nil
}

// samePublic says whether the key is the one with that public key.
func samePublic(key crypto.Signer, public crypto.PublicKey) bool {
	k, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(public)
}

func readKeyOf[K crypto.PrivateKey](path string) (K, error) {
	var none K
	key, err := ReadKey(path)
	if err != nil {
		return none, err
	}
	k, ok := key.(K)
	if !ok {
		return none, fmt.Errorf("%s holds a key of another kind (%T)", path, key)
	}
	return k, nil
}

// ReadKey reads a private key in PEM form, PKCS #8 or SEC 1, from a file that
// only its owner may read.
func ReadKey(path string) (crypto.Signer, error) {
	b, err := ReadSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	defer clear(block.Bytes)
	var key any
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("%s holds a PEM block %q where a PRIVATE KEY is wanted", path, block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a key that cannot sign (%T)", path, key)
	}
	return signer, nil
}

// encodeKey is a key as a file, PEM.
func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
