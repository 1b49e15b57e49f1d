package server_test

import (
	"bytes"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/swanherd/swanherd/server/cli"
	"github.com/swanherd/swanherd/server/providertest"
)

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
func (c *controller) signedIn(p *providertest.Provider, name string) *terminal {
	c.t.Helper()
	x := &terminal{c: c, config: filepath.Join(c.t.TempDir(), "config.yaml")}
	if code, text := x.signsIn(x.login(p), signInURL, func(at string) { p.Visit(p.Browser(p.Roots()), at, name) }); code != 0 {
		c.t.Fatalf("%s does not get in: %s", name, text)
	}
	return x
}

// login is the command with which one signs in with the provider.
func (x *terminal) login(p *providertest.Provider) string {
	info := x.c.s.Info()
	return "login " + info.OperatorAddr.String() + " --ca-pin sha256:" + info.CAPin + " --network demo --oidc --oidc-ca " + p.File
}
