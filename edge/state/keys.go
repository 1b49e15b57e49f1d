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
	"path/filepath"
)

func newKeys() (*Keys, error) {
	control, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make control key: %w", err)
	}
	_, ike, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make IKE key: %w", err)
	}
	return &Keys{Control: control, IKE: ike}, nil
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

func readKeys(dir string) (*Keys, error) {
	control, err := readKeyOf[*ecdsa.PrivateKey](filepath.Join(dir, "control.key"))
	if err != nil {
		return nil, err
	}
	ike, err := readKeyOf[ed25519.PrivateKey](filepath.Join(dir, "ike.key"))
	if err != nil {
		return nil, err
	}
	return &Keys{Control: control, IKE: ike}, nil
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

func writeKey(path string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	defer clear(der)
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(b)
	return writeFile(path, b)
}
