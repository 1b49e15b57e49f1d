package kms_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/server/kms"
	"github.com/swanherd/swanherd/server/kms/kmstest"
)

func TestVaultWraps(t *testing.T) {
	transit := kmstest.Start(t)
	v := transit.Wrapper()
	key := []byte("thirty-two octets that are a key")
	wrapped, err := v.Wrap(t.Context(), key)
	if err != nil || bytes.Contains(wrapped, key) {
		t.Fatalf("wrapped %q, %v", wrapped, err)
	}
	transit.Rotate()
	transit.SetToken("s.second") // which something renewed
	if got, err := v.Unwrap(t.Context(), wrapped); err != nil || !bytes.Equal(got, key) {
		t.Errorf("unwrapped %q, %v", got, err)
	}
	if again, err := v.Wrap(t.Context(), key); err != nil || !bytes.HasPrefix(again, []byte("vault:v2:")) {
		t.Errorf("with the newest version: %q, %v", again, err)
	}
}

// What the server refuses is told with what to do, and without token or key.
func TestVaultRefuses(t *testing.T) {
	transit := kmstest.Start(t)
	wrapped, err := transit.Wrapper().Wrap(t.Context(), []byte("a key"))
	if err != nil {
		t.Fatal(err)
	}
	try := func(cfg kms.VaultConfig, wrapped []byte) string {
		v, err := kms.NewVault(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Unwrap(t.Context(), wrapped)
		if err == nil {
			return "nothing"
		}
		return err.Error()
	}
	wrongKey, wrongMount := transit.Config(), transit.Config()
	wrongKey.Key, wrongMount.Mount = "nothing", "nowhere"
	for what, c := range map[string]struct{ said, want string }{
		"altered":       {try(transit.Config(), append(bytes.Clone(wrapped), 'x')), "base64"},
		"another text":  {try(transit.Config(), []byte("x")), "no prefix"},
		"another key":   {try(wrongKey, wrapped), "the key's name"},
		"another mount": {try(wrongMount, wrapped), "enable the transit engine"},
		"no CA":         {try(kms.VaultConfig{Address: transit.Config().Address, TokenFile: transit.Config().TokenFile}, wrapped), "certificate"},
		"no token":      {try(kms.VaultConfig{Address: transit.Config().Address, TokenFile: "/nothing"}, wrapped), "token"},
	} {
		if !strings.Contains(c.said, c.want) {
			t.Errorf("%s: said %s, want %q", what, c.said, c.want)
		}
	}
	transit.Retire()
	transit.Rotate()
	transit.Retire()
	if said := try(transit.Config(), wrapped); !strings.Contains(said, "too old") {
		t.Errorf("a version that was retired: %s", said)
	}
	transit.Revoke("s.other")
	if said := try(transit.Config(), wrapped); !strings.Contains(said, "its policy") || strings.Contains(said, "s.first") {
		t.Errorf("a token that was revoked: %s", said)
	}
	transit.Seal(true)
	if said := try(transit.Config(), wrapped); !strings.Contains(said, "unseal it") {
		t.Errorf("sealed: %s", said)
	}
}

func TestVaultConfigIsChecked(t *testing.T) {
	for _, address := range []string{"", "vault:8200", "http://vault.example.net:8200", "ftp://127.0.0.1", "https://", "https://vault/v1/transit"} {
		if _, err := kms.NewVault(kms.VaultConfig{Address: address, TokenFile: "t"}); err == nil || !strings.Contains(err.Error(), "want https://") {
			t.Errorf("address %q: %v", address, err)
		}
	}
	if _, err := kms.NewVault(kms.VaultConfig{Address: "https://vault:8200"}); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("no token: %v", err)
	}
}

// The token does not follow a redirection to where anybody could read it.
func TestVaultTokenStaysSafe(t *testing.T) {
	from := httptest.NewServer(http.RedirectHandler("http://vault.example.net/v1/transit/encrypt/swanherd", http.StatusTemporaryRedirect))
	defer from.Close()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s.secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := kms.NewVault(kms.VaultConfig{Address: from.URL, TokenFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Wrap(t.Context(), []byte("key")); err == nil || !strings.Contains(err.Error(), "the token does not go") || strings.Contains(err.Error(), "s.secret") {
		t.Errorf("redirected: %v", err)
	}
}
