package kms

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// VaultConfig says how to reach a transit engine of HashiCorp Vault or OpenBao.
type VaultConfig struct {
	// Address of the server, `https://vault.example.net:8200`. Without TLS on loopback only.
	Address string
	// Mount of the engine, default `transit`, and Key, default `swanherd`, the name of the key.
	Mount, Key string
	// Namespace, where the server has such; empty: none.
	Namespace string
	// TokenFile holds the token that may encrypt and decrypt with the key. It is read
	// for each request, so that something else may renew it.
	TokenFile string
	// CAFile holds in PEM the authorities that the server's certificate chains to;
	// empty: the system's.
	CAFile string
}

// Vault wraps keys with the transit engine of HashiCorp Vault or OpenBao.
type Vault struct {
	cfg    VaultConfig
	client *http.Client
}

// NewVault returns a wrapper; it does not call the server yet.
func NewVault(cfg VaultConfig) (*Vault, error) {
	for s, value := range map[*string]string{&cfg.Mount: "transit", &cfg.Key: "swanherd"} {
		if *s == "" {
			*s = value
		}
	}
	u, err := url.Parse(cfg.Address)
	if err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || !safe(u) {
		return nil, fmt.Errorf("vault address %q: want https://host:8200; without TLS on loopback only", cfg.Address)
	}
	if cfg.TokenFile == "" {
		return nil, errors.New("vault: no file with a token; give one that holds a token which may encrypt and decrypt with the key")
	}
	cfg.Address = strings.TrimSuffix(cfg.Address, "/")
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if cfg.CAFile != "" {
		b, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("vault: read authorities: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("vault: %s holds no certificate in PEM", cfg.CAFile)
		}
	}
	return &Vault{cfg: cfg, client: &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		// A standby sends its clients to the active server, and the token with them.
		if len(via) > 2 || !safe(req.URL) {
			return fmt.Errorf("redirected to %s://%s, where the token does not go", req.URL.Scheme, req.URL.Host)
		}
		return nil
	}}}, nil
}

// safe says whether a token may be sent there.
func safe(u *url.URL) bool {
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && err == nil && addr.IsLoopback()
}

// Name implements store.Wrapper.
func (v *Vault) Name() string {
	return fmt.Sprintf("vault:%s/%s/%s", v.cfg.Address, v.cfg.Mount, v.cfg.Key)
}

// transit is what both operations ask and answer.
type transit struct {
	Plaintext  string `json:"plaintext,omitempty"`
	Ciphertext string `json:"ciphertext,omitempty"`
}

// Wrap implements store.Wrapper.
func (v *Vault) Wrap(ctx context.Context, key []byte) ([]byte, error) {
	out, err := v.call(ctx, "encrypt", transit{Plaintext: base64.StdEncoding.EncodeToString(key)})
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(out.Ciphertext, "vault:v") {
		return nil, errors.New("vault answered with no ciphertext of its own")
	}
	return []byte(out.Ciphertext), nil
}

// Unwrap implements store.Wrapper.
func (v *Vault) Unwrap(ctx context.Context, wrapped []byte) ([]byte, error) {
	out, err := v.call(ctx, "decrypt", transit{Ciphertext: string(wrapped)})
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(out.Plaintext)
	if err != nil {
		return nil, errors.New("vault answered with a plaintext that is not base64")
	}
	return key, nil
}

// maxAnswer bounds what the server may answer, in octets.
const maxAnswer = 64 << 10

func (v *Vault) call(ctx context.Context, operation string, in transit) (out transit, _ error) {
	token, err := os.ReadFile(v.cfg.TokenFile)
	if err != nil {
		return out, fmt.Errorf("read vault's token: %w", err)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return out, fmt.Errorf("encode the request: %w", err)
	}
	defer clear(body)
	at := fmt.Sprintf("%s/v1/%s/%s/%s", v.cfg.Address, v.cfg.Mount, operation, url.PathEscape(v.cfg.Key))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(body))
	if err != nil {
		return out, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Request", "true")
	req.Header.Set("X-Vault-Token", strings.TrimSpace(string(token)))
	if v.cfg.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", v.cfg.Namespace)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return out, fmt.Errorf("reach vault: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, fmt.Errorf("read vault's answer: %w", err)
	}
	defer clear(b)
	if resp.StatusCode != http.StatusOK {
		return out, refusal(resp.StatusCode, b)
	}
	var answer struct{ Data transit }
	if err := json.Unmarshal(b, &answer); err != nil {
		return out, fmt.Errorf("%s does not answer as vault's transit engine does; check the address and the mount", at)
	}
	return answer.Data, nil
}

// refusal is what the server said, and what to do.
func refusal(code int, body []byte) error {
	var said struct{ Errors []string }
	_ = json.Unmarshal(body, &said) // some refusals come from a proxy before it
	text := strings.Join(said.Errors, "; ")
	remedy := "check the address, the mount and the key's name"
	switch code {
	case http.StatusForbidden:
		remedy = "the token has to be good, and its policy to let it update encrypt/ and decrypt/ of the key"
	case http.StatusServiceUnavailable:
		remedy = "unseal it"
	case http.StatusNotFound:
		remedy = "enable the transit engine at that mount, and make the key"
	}
	return fmt.Errorf("vault answered %d %s: %s", code, strings.TrimSpace(text), remedy)
}
