package server_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/access"
)

func TestConfigMistakesAreNamed(t *testing.T) {
	for want, cfg := range map[string]server.Config{
		`listen "7443": want host:port`:            {Listen: "7443"},
		`edge-listen "x": want host:port`:          {EdgeListen: "x"},
		`advertise-edge ":7444": want host:port`:   {AdvertiseEdge: []string{":7444"}},
		`advertise-url "http://a": want https://`:  {AdvertiseURL: "http://a"},
		"counter-interval 1ns: want at least 1s":   {CounterInterval: 1},
		"counter-interval -1s: want at least 1s":   {CounterInterval: -time.Second},
		"event-retention 99: want at least 100":    {EventRetention: 99},
		"audit-retention -1: want at least 100":    {AuditRetention: -1},
		"deleted-audit-retention 1m0s: want":       {DeletedAuditRetention: time.Minute},
		"confirm-within 2h0m0s: want 1s to 1h":     {ConfirmWithin: 2 * time.Hour},
		`oidc-issuer "http://id": want the https`:  {OIDC: &access.OIDC{Issuer: "http://id", ClientID: "swanherd"}},
		"oidc-issuer, but no oidc-client-id; give": {OIDC: &access.OIDC{Issuer: "https://id.example.net"}},
		"certificates for etcd, but no etcd-endpo": {EtcdTLS: &tls.Config{}},
	} {
		cfg.DataDir = filepath.Join(t.TempDir(), "controller")
		s, err := server.Start(t.Context(), cfg)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := os.Stat(cfg.DataDir); !os.IsNotExist(err) {
			t.Errorf("%q left %s behind: %v", want, cfg.DataDir, err)
		}
	}
}

// Under systemd the key of secrets is a credential, and nothing of it is in the data
// directory.
func TestKeyFromCredential(t *testing.T) {
	credentials := t.TempDir()
	key := filepath.Join(credentials, server.KeyCredential)
	if err := os.WriteFile(key, []byte("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	c := startController(t)
	c.apply() // makes an authority with a sealed key
	if _, err := os.Stat(filepath.Join(c.cfg.DataDir, "secret.key")); !os.IsNotExist(err) {
		t.Errorf("there is a key in the data directory: %v", err)
	}
	// Without it the secrets stay closed.
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := c.s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), c.cfg)
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "is not in the key file") {
		t.Errorf("started without the key: %v", err)
	}
}
