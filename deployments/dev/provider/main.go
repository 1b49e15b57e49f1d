// Command provider is an OpenID provider for tests: the OpenID certified one of
// github.com/zitadel/oidc, with its sign-in pages, on loopback over TLS. It is in a
// module of its own, so that its dependencies are not the product's.
//
// It reads a Config in JSON from standard input, writes the issuer's URL to standard
// output, and serves until standard input ends.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Config says who may sign in, and for what.
type Config struct {
	// Listen is host:port; of port 0 any.
	Listen string `json:"listen"`
	// CertificateFile is where the provider's certificate and its key are, in PEM; made when
	// it does not exist.
	CertificateFile string `json:"certificate_file"`
	ClientID        string `json:"client_id"`
	// OtherClientID is of a client that tokens for the other one are not for.
	OtherClientID string   `json:"other_client_id"`
	RedirectURIs  []string `json:"redirect_uris"`
	// IDTokenLife is how long ID tokens are good.
	IDTokenLife string `json:"id_token_life"`
	Users       []User `json:"users"`
}

// User is somebody with a password. The name is the subject too.
type User struct {
	Name          string   `json:"name"`
	Password      string   `json:"password"`
	Email         string   `json:"email"`
	EmailVerified bool     `json:"email_verified"`
	Groups        []string `json:"groups"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "provider:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	var cfg Config
	dec := json.NewDecoder(in)
	if err := dec.Decode(&cfg); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	life, err := time.ParseDuration(cfg.IDTokenLife)
	if err != nil {
		return fmt.Errorf("id_token_life: %w", err)
	}
	lis, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return err
	}
	certificate, err := makeCertificate(cfg.CertificateFile)
	if err != nil {
		return err
	}
	issuer := "https://" + lis.Addr().String()
	store := &users{Storage: storage.NewStorageWithClients(cfg, map[string]*storage.Client{
		cfg.ClientID:      storage.NativeClient(cfg.ClientID, cfg.RedirectURIs...),
		cfg.OtherClientID: storage.NativeClient(cfg.OtherClientID, cfg.RedirectURIs...),
	}), cfg: cfg, life: life}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	server := &http.Server{
		Handler:   exampleop.SetupServer(issuer, store, log, false),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	fmt.Fprintln(out, issuer)
	go func() {
		_, _ = io.Copy(io.Discard, io.MultiReader(dec.Buffered(), in)) // until whoever started this ends
		_ = server.Close()
	}()
	if err := server.ServeTLS(lis, "", ""); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func makeCertificate(file string) (tls.Certificate, error) {
	if _, err := os.Stat(file); err == nil {
		return tls.LoadX509KeyPair(file, file)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "OpenID provider"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	b := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(file, b, 0o600)
}

// GetUserByID implements storage.UserStore.
func (c Config) GetUserByID(id string) *storage.User {
	i := slices.IndexFunc(c.Users, func(u User) bool { return u.Name == id })
	if i < 0 {
		return nil
	}
	u := c.Users[i]
	return &storage.User{ID: u.Name, Username: u.Name, Password: u.Password, Email: u.Email, EmailVerified: u.EmailVerified}
}

// GetUserByUsername implements storage.UserStore.
func (c Config) GetUserByUsername(name string) *storage.User { return c.GetUserByID(name) }

// ExampleClientID implements storage.UserStore.
func (Config) ExampleClientID() string { return "service" }

// users adds groups to the claims, and the device flow to the clients.
type users struct {
	*storage.Storage
	cfg  Config
	life time.Duration
}

// SetUserinfoFromRequest implements op.CanSetUserinfoFromRequest.
func (u *users) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, token op.IDTokenRequest, scopes []string) error {
	if err := u.Storage.SetUserinfoFromRequest(ctx, info, token, scopes); err != nil {
		return err
	}
	for _, user := range u.cfg.Users {
		if user.Name == token.GetSubject() && slices.Contains(scopes, "groups") {
			info.AppendClaims("groups", user.Groups)
		}
	}
	return nil
}

// CreateAccessAndRefreshTokens implements op.Storage. The example's makes refresh tokens of
// the device flow for no client, so that none can use them.
func (u *users) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, refreshToken string) (string, string, time.Time, error) {
	if device, ok := request.(*op.DeviceAuthorizationState); ok {
		request = &storage.AuthRequest{ApplicationID: device.ClientID, UserID: device.Subject, Scopes: device.Scopes}
	}
	return u.Storage.CreateAccessAndRefreshTokens(ctx, request, refreshToken)
}

// GetClientByClientID implements op.Storage.
func (u *users) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := u.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{c, u.life}, nil
}

type client struct {
	op.Client
	life time.Duration
}

func (c client) IDTokenLifetime() time.Duration       { return c.life }
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c client) IsScopeAllowed(scope string) bool     { return scope == "groups" }
func (c client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeDeviceCode}
}
