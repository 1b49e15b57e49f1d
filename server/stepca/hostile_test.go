package stepca_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/swanherd/swanherd/server/stepca"
	"github.com/swanherd/swanherd/server/stepca/stepcatest"
)

// impostor answers as a handler does, in place of a step-ca.
func impostor(t *testing.T, handler http.HandlerFunc) stepca.Config {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body) // a server that has not read it does not see its client leave
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return stepca.Config{URL: server.URL, RootFile: file(t, "root.pem", root), Provisioner: "swanherd", KeyFile: file(t, "key.json", jwk(t, ecKey(t), ""))}
}

func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	at := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(at, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func jwk(t *testing.T, key any, id string) []byte {
	t.Helper()
	b, err := (&jose.JSONWebKey{Key: key, KeyID: id}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is no step-ca, or one that misbehaves, costs no more than a bounded answer, gets the token
// once, and is told what it did.
func TestBadAnswers(t *testing.T) {
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("went to %s", r.URL) }))
	t.Cleanup(elsewhere.Close)
	answers := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	sent := make(chan int64, 1)
	for what, c := range map[string]struct {
		does http.HandlerFunc
		want string
	}{
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "step-ca answered 307: it sends elsewhere"},
		"an answer without end": {func(w http.ResponseWriter, r *http.Request) {
			var n int64
			defer func() { sent <- n }()
			for w.WriteHeader(http.StatusCreated); r.Context().Err() == nil; n += 4096 {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, "more than 65536 octets"},
		"headers without end": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		}, "reach step-ca: "},
		"no JSON":           {answers(http.StatusCreated, "<html>"), "does not answer as step-ca does"},
		"another JSON":      {answers(http.StatusOK, `{"crt": 7, "certChain": []}`), "does not answer as step-ca does"},
		"a refusal":         {answers(http.StatusForbidden, `{"status":403,"message":"not you"}`), "step-ca answered 403 not you: the provisioner has to allow"},
		"a wordy refusal":   {answers(http.StatusUnauthorized, `{"message":"`+strings.Repeat("y", 10_000)+`"}`), strings.Repeat("y", 200) + "...: the provisioner has to be"},
		"a proxy's refusal": {answers(http.StatusBadGateway, "<html>no</html>"), "step-ca answered 502: look into its log"},
		"another path":      {answers(http.StatusNotFound, ""), "step-ca answered 404: check the url"},
		"an end in between": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "reach step-ca: "},
		"half an answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusCreated)
		}, "read the answer of step-ca: unexpected EOF"},
	} {
		_, err := client(t, impostor(t, c.does)).Sign(t.Context(), request(t, "x"))
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 1000 {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	if n := <-sent; n > 16<<20 {
		t.Errorf("took %d octets of an answer without end", n)
	}
	other := impostor(t, answers(http.StatusCreated, "{}"))
	strange := impostor(t, func(http.ResponseWriter, *http.Request) { t.Error("an impostor got a token") })
	strange.RootFile = stepcatest.Start(t).Settings("authorities").RootFile
	if _, err := client(t, strange).Sign(t.Context(), request(t, "x")); err == nil || !strings.Contains(err.Error(), "does not chain to the certificate of rootFile") {
		t.Errorf("of another root: %v", err)
	}
	other.URL = strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	if _, err := client(t, other).Sign(t.Context(), request(t, "x")); err == nil || !strings.Contains(err.Error(), "the url has to name one of its dnsNames") {
		t.Errorf("by another name: %v", err)
	}
}

// One that is slow is left when the caller's time is over.
func TestSlowAnswer(t *testing.T) {
	c := client(t, impostor(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Sign(ctx, request(t, "x")); err == nil || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("got %v", err)
	}
}

// Each request comes with a token of its own, for that request alone, and with the key that the
// file has then.
func TestTokens(t *testing.T) {
	type body struct{ CSR, OTT, NotAfter string }
	bodies := make(chan body, 1)
	cfg := impostor(t, func(_ http.ResponseWriter, r *http.Request) {
		var b body
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			t.Error(err)
		}
		bodies <- b
	})
	cfg.URL += "/"
	cfg.Lifetime = 8760 * time.Hour
	c, ids := client(t, cfg), map[string]bool{}
	edKey := ed25519.NewKeyFromSeed(make([]byte, 32))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	first := ecKey(t)
	for _, key := range []struct {
		private, public any
		alg             jose.SignatureAlgorithm
		id              string
	}{
		{first, first.Public(), jose.ES256, ""}, {first, first.Public(), jose.ES256, "known"}, {edKey, edKey.Public(), jose.EdDSA, "ed"}, {rsaKey, rsaKey.Public(), jose.RS256, "rsa"},
	} {
		if err := os.WriteFile(cfg.KeyFile, jwk(t, key.private, key.id), 0o600); err != nil {
			t.Fatal(err)
		}
		asked := request(t, "Swanherd network demo")
		if _, err := c.Sign(t.Context(), asked); err == nil {
			t.Fatal("an empty answer was taken")
		}
		b := <-bodies
		block, _ := pem.Decode([]byte(b.CSR))
		if block == nil || !bytes.Equal(block.Bytes, asked) || b.NotAfter != "8760h0m0s" {
			t.Errorf("asked for %q until %s", b.CSR, b.NotAfter)
		}
		token, err := jwt.ParseSigned(b.OTT, []jose.SignatureAlgorithm{key.alg})
		if err != nil {
			t.Fatal(err)
		}
		var claims struct {
			jwt.Claims
			SANs []string `json:"sans"`
		}
		if err := token.Claims(key.public, &claims); err != nil {
			t.Fatal(err)
		}
		if err := claims.Validate(jwt.Expected{Issuer: "swanherd", Subject: "Swanherd network demo", AnyAudience: jwt.Audience{strings.TrimSuffix(cfg.URL, "/") + "/1.0/sign"}}); err != nil {
			t.Error(err)
		}
		if life := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); life != 5*time.Minute || ids[claims.ID] || claims.ID == "" || len(claims.SANs) != 1 {
			t.Errorf("good for %s, id %q", life, claims.ID)
		}
		ids[claims.ID] = true
		if id := token.Headers[0].KeyID; id == "" || key.id != "" && id != key.id {
			t.Errorf("key is %q, want %q", id, key.id)
		}
	}
}

// What is wrong with the configuration is said, with its field, and without what is secret.
func TestMistakes(t *testing.T) {
	good := impostor(t, nil)
	secret := "c2VjcmV0LXNlY3JldC1zZWNyZXQ"
	public, err := (&jose.JSONWebKey{Key: ecKey(t).Public()}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	encrypter, err := jose.NewEncrypter(jose.A128GCM, jose.Recipient{Algorithm: jose.PBES2_HS256_A128KW, Key: []byte("right"), PBES2Count: 1000}, nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := encrypter.Encrypt(jwk(t, ecKey(t), ""))
	if err != nil {
		t.Fatal(err)
	}
	locked := file(t, "locked.json", []byte(encrypted.FullSerialize()))
	for _, c := range []struct {
		does func(*stepca.Config)
		want string
	}{
		{func(c *stepca.Config) { c.URL = "http://ca.example.net" }, `url "http://ca.example.net": want https://`},
		{func(c *stepca.Config) { c.URL = "https://ca.example.net/1.0/sign" }, "url "},
		{func(c *stepca.Config) { c.Provisioner = "" }, "provisioner: "},
		{func(c *stepca.Config) { c.RootFile = "" }, "rootFile: "},
		{func(c *stepca.Config) { c.RootFile = "/nonexistent" }, "rootFile: open /nonexistent"},
		{func(c *stepca.Config) { c.RootFile = c.KeyFile }, "holds no certificate in PEM"},
		{func(c *stepca.Config) { c.KeyFile = "" }, "keyFile: "},
		{func(c *stepca.Config) { c.KeyFile = "/nonexistent" }, "keyFile: open /nonexistent"},
		{func(c *stepca.Config) { c.KeyFile = file(t, "k", public) }, "holds no private JWK"},
		{func(c *stepca.Config) { c.KeyFile = file(t, "k", []byte(`{"kty":"oct","k":"`+secret+`"}`)) }, "holds no private JWK"},
		{func(c *stepca.Config) { c.KeyFile = file(t, "k", []byte(secret)) }, "holds no private JWK"},
		{func(c *stepca.Config) {
			c.KeyFile = file(t, "k", []byte(`{"kty":"EC","crv":"P-256","d":"`+secret+`"}`))
		}, "holds no private JWK"},
		{func(c *stepca.Config) { c.KeyFile = locked }, "give a passwordFile"},
		{func(c *stepca.Config) { c.KeyFile, c.PasswordFile = locked, file(t, "p", []byte("wrong\n")) }, "does not open the key"},
		{func(c *stepca.Config) { c.Lifetime = -time.Hour }, "lifetime -1h0m0s: "},
	} {
		cfg := good
		c.does(&cfg)
		if _, err := stepca.New(cfg); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	opened := good
	opened.KeyFile, opened.PasswordFile = locked, file(t, "p", []byte("right\n"))
	if _, err := stepca.New(opened); err != nil {
		t.Error(err)
	}
}

// The file of external authorities names them, and systemd's credentials are found by that.
func TestLoad(t *testing.T) {
	good, dir := impostor(t, nil), t.TempDir()
	key, err := os.ReadFile(good.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "swanherd-external-authority-corp-key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	corp := fmt.Sprintf("corp:\n  url: %s\n  rootFile: %s\n  provisioner: swanherd\n  lifetime: 8760h\n", good.URL, good.RootFile)
	for text, want := range map[string]string{
		corp: "", "": "",
		strings.Replace(corp, "corp", "lab", 1):          "lab: keyFile: ",
		strings.Replace(corp, "corp", "Corp", 1):         "Corp: want a name of a-z, 0-9 and -",
		corp + "  proviosner: x\n":                       "field proviosner not found",
		strings.Replace(corp, "8760h", "long", 1):        "long",
		strings.Replace(corp, good.URL, "ca.example", 1): `corp: url "ca.example"`,
		corp + corp: "already defined",
	} {
		got, err := stepca.Load(file(t, "authorities.yaml", []byte(text)), dir)
		if want == "" && (err != nil || (got["corp"] == nil) != (text == "")) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\n%v, %v, want %q", text, got, err, want)
		}
	}
}
