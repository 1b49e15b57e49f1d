package stepca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// tokenLife is how long a token may be used; step-ca takes each once.
const tokenLife = 5 * time.Minute

// claims are what step-ca's JWK provisioners ask of a token: RFC 7519, Section 4.1, and the
// names that may be signed, and what request (RFC 7800, Section 3.1, by its SHA-256).
type claims struct {
	jwt.Claims
	Names        []string     `json:"sans"`
	Confirmation confirmation `json:"cnf"`
}

type confirmation struct {
	Request string `json:"x5rt#S256"`
}

// token makes one by which the request may be signed once.
func (c *Config) token(key *jose.JSONWebKey, name string, request []byte, now time.Time) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm(key), Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("keyFile: %w", err)
	}
	sum := sha256.Sum256(request)
	text, err := jwt.Signed(signer).Claims(claims{
		Claims: jwt.Claims{
			ID: rand.Text(), Issuer: c.Provisioner, Subject: name, Audience: jwt.Audience{c.base() + signPath},
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(tokenLife)),
		},
		Names:        []string{name},
		Confirmation: confirmation{base64.RawURLEncoding.EncodeToString(sum[:])},
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token with the key of keyFile: %w", err)
	}
	return text, nil
}

// algorithm is the one that is for the key (RFC 7518, Section 3.1; RFC 8037); empty: none.
func algorithm(key *jose.JSONWebKey) jose.SignatureAlgorithm {
	switch k := key.Key.(type) {
	case *ecdsa.PrivateKey:
		return map[int]jose.SignatureAlgorithm{256: jose.ES256, 384: jose.ES384, 521: jose.ES512}[k.Curve.Params().BitSize]
	case ed25519.PrivateKey:
		return jose.EdDSA
	case *rsa.PrivateKey:
		return jose.RS256
	}
	return ""
}

// key reads the key of the provisioner, under the id by which step-ca knows it: the one that
// it has, or its thumbprint (RFC 7638).
func (c *Config) key() (*jose.JSONWebKey, error) {
	text, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("keyFile: %w", err)
	}
	defer clear(text)
	text = bytes.TrimSpace(text)
	if encrypted, err := parseJWE(text); err == nil {
		if text, err = c.decrypt(encrypted); err != nil {
			return nil, err
		}
		defer clear(text)
	}
	var key jose.JSONWebKey
	if json.Unmarshal(text, &key) != nil || !key.Valid() || key.IsPublic() || algorithm(&key) == "" { // what is wrong may quote it
		return nil, fmt.Errorf("keyFile: %s holds no private JWK for signatures (EC, OKP or RSA)", c.KeyFile)
	}
	if key.KeyID == "" {
		sum, err := key.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("keyFile: %w", err)
		}
		key.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	}
	return &key, nil
}

// parseJWE parses what `step` makes of a key and a password, in either form.
func parseJWE(text []byte) (*jose.JSONWebEncryption, error) {
	return jose.ParseEncrypted(string(text),
		[]jose.KeyAlgorithm{jose.PBES2_HS256_A128KW, jose.PBES2_HS384_A192KW, jose.PBES2_HS512_A256KW},
		[]jose.ContentEncryption{jose.A128CBC_HS256, jose.A256CBC_HS512, jose.A128GCM, jose.A256GCM})
}

func (c *Config) decrypt(encrypted *jose.JSONWebEncryption) ([]byte, error) {
	if c.PasswordFile == "" {
		return nil, errors.New("keyFile: the key is encrypted; give a passwordFile")
	}
	password, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("passwordFile: %w", err)
	}
	defer clear(password)
	text, err := encrypted.Decrypt(bytes.TrimRight(password, "\r\n"))
	if err != nil {
		return nil, fmt.Errorf("passwordFile: its password does not open the key of %s", c.KeyFile)
	}
	return text, nil
}
