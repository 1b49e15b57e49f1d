package lab_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// newKey makes a key of a kind that a case names.
func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case "ecdsa256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ecdsa521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "rsa2048":
		return rsa.GenerateKey(rand.Reader, 2048)
	case "rsa3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return nil, fmt.Errorf("no key of kind %q", kind)
}

// Keys are made once for all cases: those of RSA take long.
var keys sync.Map // of kind/owner to func() (crypto.Signer, error)

func keyOf(kind, owner string) (crypto.Signer, error) {
	f, _ := keys.LoadOrStore(kind+"/"+owner, sync.OnceValues(func() (crypto.Signer, error) {
		if text := os.Getenv(keyEnv(kind, owner)); text != "" {
			return parseKey(text)
		}
		return newKey(kind)
	}))
	return f.(func() (crypto.Signer, error))()
}

// keyEnv names the environment variable by which a virtual machine is given a
// key: making an RSA key there would take minutes.
func keyEnv(kind, owner string) string { return "SWANHERD_KEY_" + kind + "_" + owner }

// keysForGuest are the keys as the environment of a virtual machine.
func keysForGuest() ([]string, error) {
	var env []string
	for _, owner := range []string{"ours", "theirs"} {
		key, err := keyOf("rsa2048", owner)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		env = append(env, keyEnv("rsa2048", owner)+"="+base64.StdEncoding.EncodeToString(der))
	}
	return env, nil
}

func parseKey(text string) (crypto.Signer, error) {
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}

// authority issues certificates, through an intermediate one if it has that.
type authority struct {
	root, issuer *x509.Certificate
	key          crypto.Signer
}

var serial atomic.Int64

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{Organization: []string{"Swanherd"}, CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
	}
}

func authorityTemplate(name string) *x509.Certificate {
	t := template(name)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return t
}

func sign(t, issuer *x509.Certificate, public crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, public, by)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", t.Subject, err)
	}
	return x509.ParseCertificate(der)
}

// newAuthority makes a root of ECDSA P-256, and an intermediate authority under
// it if asked.
func newAuthority(intermediate bool) (*authority, error) {
	key, err := keyOf("ecdsa256", "root")
	if err != nil {
		return nil, err
	}
	t := authorityTemplate("interop root")
	root, err := sign(t, t, key.Public(), key)
	if err != nil || !intermediate {
		return &authority{root, root, key}, err
	}
	below, err := keyOf("ecdsa256", "intermediate")
	if err != nil {
		return nil, err
	}
	issuer, err := sign(authorityTemplate("interop intermediate"), root, below.Public(), key)
	return &authority{root, issuer, below}, err
}

// issue makes an end's certificate with the identity id in it: a name, an
// address of e-mail or IP, or nothing but the subject's if it is a
// distinguished name.
func (ca *authority) issue(kind, owner, id string) (crypto.Signer, *x509.Certificate, error) {
	key, err := keyOf(kind, owner)
	if err != nil {
		return nil, nil, err
	}
	t := template(owner)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	switch {
	case strings.Contains(id, "="):
	case net.ParseIP(id) != nil:
		t.IPAddresses = []net.IP{net.ParseIP(id)}
	case strings.Contains(id, "@"):
		t.EmailAddresses = []string{id}
	default:
		t.DNSNames = []string{id}
	}
	cert, err := sign(t, ca.issuer, key.Public(), ca.key)
	return key, cert, err
}

// writePEM writes what openssl and swanctl read.
func writePEM(file, kind string, der []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
