package stepca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

const (
	signPath = "/1.0/sign"
	// maxAnswer bounds what step-ca may answer, and maxHeaders its headers, in octets.
	maxAnswer  = 64 << 10
	maxHeaders = 16 << 10
	// maxMessage bounds what is repeated of its own words, in octets.
	maxMessage = 200
)

// Client is a pki.Signer: a step-ca.
type Client struct {
	cfg  Config
	pool *x509.CertPool
	http *http.Client
}

// New returns a client; it does not call step-ca yet, but for the key it needs nothing else.
func New(cfg Config) (*Client, error) {
	if err := cfg.mistakes(); err != nil {
		return nil, err
	}
	pool, err := cfg.roots()
	if err != nil {
		return nil, err
	}
	if _, err := cfg.key(); err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, pool: pool, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
			MaxResponseHeaderBytes: maxHeaders,
			DisableKeepAlives:      true, // it is asked once in months
		},
		// The token is for one address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Roots implements pki.Signer.
func (c *Client) Roots() *x509.CertPool { return c.pool }

// signRequest and signResponse are of step-ca's API.
type signRequest struct {
	Request  string `json:"csr"`
	Token    string `json:"ott"`
	NotAfter string `json:"notAfter,omitempty"`
}

type signResponse struct {
	Chain []string `json:"certChain"`
}

// Sign implements pki.Signer.
func (c *Client) Sign(ctx context.Context, request []byte) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("parse the request: %w", err)
	}
	key, err := c.cfg.key()
	if err != nil {
		return nil, err
	}
	token, err := c.cfg.token(key, csr.Subject.CommonName, request, time.Now())
	if err != nil {
		return nil, err
	}
	ask := signRequest{Request: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})), Token: token}
	if c.cfg.Lifetime > 0 {
		ask.NotAfter = c.cfg.Lifetime.String()
	}
	body, err := c.post(ctx, ask)
	if err != nil {
		return nil, err
	}
	var answer signResponse
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Chain) == 0 {
		return nil, fmt.Errorf("%s does not answer as step-ca does; check the url", c.cfg.base()+signPath)
	}
	return []byte(strings.Join(answer.Chain, "\n")), nil
}

func (c *Client) post(ctx context.Context, ask signRequest) ([]byte, error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.base()+signPath, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reach step-ca: %w", unreachable(err))
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer of step-ca: %w", err)
	case len(got) > maxAnswer:
		return nil, fmt.Errorf("step-ca answered with more than %d octets; check the url", maxAnswer)
	case resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK:
		return nil, refusal(resp.StatusCode, got)
	}
	return got, nil
}

// unreachable adds to a failure of TLS what to do.
func unreachable(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w; what it shows does not chain to the certificate of rootFile", err)
	case errors.As(err, &host):
		return fmt.Errorf("%w; the url has to name one of its dnsNames", err)
	}
	return err
}

// refusal is what step-ca said, and what to do.
func refusal(code int, body []byte) error {
	var said struct{ Message string }
	_ = json.Unmarshal(body, &said) // some refusals come from a proxy before it
	if len(said.Message) > maxMessage {
		said.Message = said.Message[:maxMessage] + "..."
	}
	remedy := "look into its log"
	switch {
	case code >= 300 && code < 400:
		remedy = "it sends elsewhere, where the token does not go; give the url of the step-ca itself"
	case code == http.StatusUnauthorized:
		remedy = "the provisioner has to be of the type JWK and to have the key of keyFile, the url to name one of its dnsNames, and the clocks to agree"
	case code == http.StatusForbidden || code == http.StatusBadRequest:
		remedy = "the provisioner has to allow that name and lifetime, and its template to make an authority"
	case code == http.StatusNotFound:
		remedy = "check the url"
	}
	return errors.New(strings.TrimSpace(fmt.Sprintf("step-ca answered %d %s", code, said.Message)) + ": " + remedy)
}
