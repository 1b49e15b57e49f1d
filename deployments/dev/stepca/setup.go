package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.step.sm/crypto/jose"
)

// setUp makes all that step-ca needs in the directory, and its configuration.
func setUp(dir, file string) error {
	root, err := newAuthority("Example Corp Root", nil, 2)
	if err != nil {
		return err
	}
	issuing, err := newAuthority("Example Corp Issuing", root, 1)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(issuing.key)
	if err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	provisioner, err := jose.GenerateJWK("EC", "P-256", "ES256", "sig", "", 0)
	if err != nil {
		return err
	}
	plain, err := provisioner.MarshalJSON()
	if err != nil {
		return err
	}
	encrypted, err := jose.EncryptJWK(provisioner, []byte(password))
	if err != nil {
		return err
	}
	locked, err := encrypted.CompactSerialize()
	if err != nil {
		return err
	}
	public := provisioner.Public()
	cfg, err := json.Marshal(configuration(dir, address, &public))
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"root.pem":    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}),
		"issuing.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuing.cert.Raw}),
		"issuing.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"key.json":    plain,
		"locked.json": []byte(locked + "\n"),
		"password":    []byte(password + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(file, cfg, 0o600)
}

type object = map[string]any

// configuration is step-ca's. It has a provisioner that makes authorities for a year, one that
// makes them for a day, and one that makes none.
func configuration(dir, address string, key *jose.JSONWebKey) object {
	provisioner := func(name, life, template string) object {
		return object{
			"type": "JWK", "name": name, "key": key,
			"claims":  object{"defaultTLSCertDuration": life, "maxTLSCertDuration": "17520h"},
			"options": object{"x509": object{"template": template}},
		}
	}
	return object{
		"root": filepath.Join(dir, "root.pem"), "crt": filepath.Join(dir, "issuing.pem"), "key": filepath.Join(dir, "issuing.key"),
		"address": address, "dnsNames": []string{"127.0.0.1"},
		"authority": object{"provisioners": []object{
			provisioner("authorities", "8760h", authorities), provisioner("short", "24h", authorities), provisioner("leaves", "8760h", ""),
		}},
	}
}

type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// newAuthority makes one that is signed by another one, or by itself.
func newAuthority(name string, by *authority, maxPath int) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: maxPath,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(10, 0, 0),
	}
	parent, signer := template, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key, cert}, err
}

// freeAddress is one on loopback that nobody listens on.
func freeAddress() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return lis.Addr().String(), lis.Close()
}
