package server_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/cli"
)

// providerProgram builds the OpenID provider, once; it is in a module of its own.
var providerProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "swanherd-provider")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "provider")
	cmd := exec.Command("go", "build", "-C", filepath.Join("..", "deployments", "dev", "provider"), "-o", out, ".")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", &exec.Error{Name: "go build: " + string(text), Err: err}
	}
	return out, nil
})

// identityProvider is a real one, with people whose password is their name.
type identityProvider struct {
	t       testing.TB
	config  map[string]any
	issuer  string
	file    string // with its certificate
	process *exec.Cmd
	input   io.Closer
}

type person struct {
	Name     string   `json:"name"`
	Password string   `json:"password"`
	Email    string   `json:"email"`
	Verified bool     `json:"email_verified"`
	Groups   []string `json:"groups"`
}

func startProvider(t testing.TB, life string, people ...person) *identityProvider {
	t.Helper()
	for i := range people {
		people[i].Password = people[i].Name
	}
	p := &identityProvider{t: t, file: filepath.Join(t.TempDir(), "provider.pem")}
	p.config = map[string]any{
		"listen": "127.0.0.1:0", "certificate_file": p.file, "client_id": "swanherd", "other_client_id": "wiki",
		"redirect_uris": []string{"http://127.0.0.1/callback"}, "id_token_life": life, "users": people,
	}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *identityProvider) start() {
	p.t.Helper()
	program, err := providerProgram()
	if err != nil {
		p.t.Skipf("needs the modules of deployments/dev/provider: %v", err)
	}
	p.process = exec.CommandContext(p.t.Context(), program)
	in, err := p.process.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := p.process.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.input = in
	if err := p.process.Start(); err != nil {
		p.t.Fatal(err)
	}
	if err := json.NewEncoder(in).Encode(p.config); err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	p.issuer = strings.TrimSpace(line)
	p.config["listen"] = strings.TrimPrefix(p.issuer, "https://") // there again
}

func (p *identityProvider) stop() {
	p.input.Close()
	_ = p.process.Wait() // when the test ends, it is killed
}

func (p *identityProvider) roots() *x509.CertPool {
	p.t.Helper()
	b, err := os.ReadFile(p.file)
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b)
	return pool
}

func (p *identityProvider) settings() *access.OIDC {
	return &access.OIDC{Issuer: p.issuer, ClientID: "swanherd", GroupsClaim: "groups", RootCAs: p.roots()}
}

// browser is a browser with cookies that trusts the provider.
func (p *identityProvider) browser() *http.Client {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.roots()}}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, Timeout: 10 * time.Second}
}

func (p *identityProvider) page(resp *http.Response, err error) (*url.URL, string) {
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

// visit opens an address to sign in at, and signs in; it returns the last page.
func (p *identityProvider) visit(address, name string) string {
	p.t.Helper()
	b := p.browser()
	at, _ := p.page(b.Get(address))
	_, text := p.page(b.PostForm(p.issuer+"/login/username", url.Values{
		"username": {name}, "password": {name}, "id": {at.Query().Get("authRequestID")},
	}))
	return text
}

// confirm enters the code of a device, signs in and agrees, or does not.
func (p *identityProvider) confirm(code, name, action string) {
	p.t.Helper()
	b := p.browser()
	p.page(b.PostForm(p.issuer+"/device/login", url.Values{"user_code": {code}, "username": {name}, "password": {name}}))
	p.page(b.Get(p.issuer + "/device/confirm?action=" + action))
}

// output is what a command says while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var (
	signInURL  = regexp.MustCompile(`(?m)^(https://\S+redirect_uri\S+)\n`)
	deviceCode = regexp.MustCompile(`enter the code (\S+)`)
)

// signsIn runs a command that has somebody sign in, and does as that one would. It
// returns the exit code and what the command said.
func (x *terminal) signsIn(command string, wanted *regexp.Regexp, do func(match string)) (int, string) {
	x.c.t.Helper()
	said := &output{more: make(chan struct{}, 1)}
	done := make(chan int, 1)
	go func() {
		done <- cli.Main(x.c.t.Context(), append(strings.Fields(command), "--config", x.config), cli.IO{In: strings.NewReader(""), Out: said, Err: said})
	}()
	for acted, timeout := false, time.After(60*time.Second); ; {
		select {
		case <-said.more:
		case code := <-done:
			return code, said.String()
		case <-timeout:
			x.c.t.Fatalf("swanherd %s does not end: %s", command, said)
		}
		if m := wanted.FindStringSubmatch(said.String()); m != nil && !acted {
			acted = true
			do(m[1])
		}
	}
}

// signedIn is a terminal of somebody who signed in with the provider.
func (c *controller) signedIn(p *identityProvider, name string) *terminal {
	c.t.Helper()
	x := &terminal{c: c, config: filepath.Join(c.t.TempDir(), "config.yaml")}
	if code, text := x.signsIn(x.login(p), signInURL, func(at string) { p.visit(at, name) }); code != 0 {
		c.t.Fatalf("%s does not get in: %s", name, text)
	}
	return x
}

// login is the command with which one signs in with the provider.
func (x *terminal) login(p *identityProvider) string {
	info := x.c.s.Info()
	return "login " + info.OperatorAddr.String() + " --ca-pin sha256:" + info.CAPin + " --network demo --oidc --oidc-ca " + p.file
}
