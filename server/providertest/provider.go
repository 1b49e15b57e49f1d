// Package providertest runs a real OpenID provider for tests, the one of
// deployments/dev/provider, and signs people in at it as a browser would.
package providertest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/peertest"
)

// Provider is a provider over TLS on loopback. It has two clients, swanherd and wiki.
type Provider struct {
	// Issuer is its URL, and File holds its certificate.
	Issuer, File string

	t      testing.TB
	config map[string]any
	peer   *peertest.Peer
}

// Person is somebody whose password is the name.
type Person struct {
	Name     string   `json:"name"`
	Password string   `json:"password"`
	Email    string   `json:"email"`
	Verified bool     `json:"email_verified"`
	Groups   []string `json:"groups"`
}

// Start starts a provider, whose ID tokens last for life. redirect is where browsers
// may come back to, besides loopback.
func Start(t testing.TB, life time.Duration, redirect string, people ...Person) *Provider {
	t.Helper()
	for i := range people {
		people[i].Password = people[i].Name
	}
	p := &Provider{t: t, File: filepath.Join(t.TempDir(), "provider.pem")}
	p.config = map[string]any{
		"listen": "127.0.0.1:0", "certificate_file": p.File, "client_id": "swanherd", "other_client_id": "wiki",
		"redirect_uris": []string{"http://127.0.0.1/callback", redirect}, "id_token_life": life.String(), "users": people,
	}
	p.Restart()
	t.Cleanup(p.Stop)
	return p
}

// Restart starts it again after Stop, where it was, with other keys.
func (p *Provider) Restart() {
	p.t.Helper()
	config, err := json.Marshal(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.peer = peertest.Start(p.t, "provider", append(config, '\n'))
	p.Issuer = p.peer.URL
	p.config["listen"] = strings.TrimPrefix(p.Issuer, "https://") // there again
}

// Stop stops it.
func (p *Provider) Stop() { p.peer.Stop() }

// Roots are the authorities of its certificate.
func (p *Provider) Roots() *x509.CertPool {
	p.t.Helper()
	b, err := os.ReadFile(p.File)
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	return pool
}

// Settings are those of a controller whose people are here.
func (p *Provider) Settings() *access.OIDC {
	return &access.OIDC{Issuer: p.Issuer, ClientID: "swanherd", GroupsClaim: "groups", RootCAs: p.Roots()}
}

// Browser is a browser with cookies that trusts the roots.
func (p *Provider) Browser(roots *x509.CertPool) *http.Client {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, Timeout: 10 * time.Second}
}

func (p *Provider) page(resp *http.Response, err error) (*url.URL, string) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s: %s: %s", resp.Request.URL, resp.Status, b)
	}
	return resp.Request.URL, string(b)
}

// Visit opens an address that leads here, and signs in; it returns the last page.
func (p *Provider) Visit(b *http.Client, address, name string) string {
	p.t.Helper()
	_, text := p.page(p.signIn(b, address, name))
	return text
}

// VisitAny is Visit, whatever the last page's status is.
func (p *Provider) VisitAny(b *http.Client, address, name string) string {
	p.t.Helper()
	resp, err := p.signIn(b, address, name)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

func (p *Provider) signIn(b *http.Client, address, name string) (*http.Response, error) {
	p.t.Helper()
	at, _ := p.page(b.Get(address))
	return b.PostForm(p.Issuer+"/login/username", url.Values{
		"username": {name}, "password": {name}, "id": {at.Query().Get("authRequestID")},
	})
}

// Confirm enters the code of a device, signs in and agrees, or does not.
func (p *Provider) Confirm(code, name, action string) {
	p.t.Helper()
	b := p.Browser(p.Roots())
	p.page(b.PostForm(p.Issuer+"/device/login", url.Values{"user_code": {code}, "username": {name}, "password": {name}}))
	p.page(b.Get(p.Issuer + "/device/confirm?action=" + action))
}
