package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/server"
)

// parse runs the command line and returns what would be run.
func parse(t *testing.T, args ...string) (cfg server.Config, err error) {
	t.Helper()
	ran := false
	cmd := newCommand(func(c server.Config) error {
		cfg, ran = c, true
		return nil
	})
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	err = cmd.ExecuteContext(t.Context())
	if ran != (err == nil) {
		t.Fatalf("%v: ran: %t, error: %v", args, ran, err)
	}
	return cfg, err
}

func TestDefaults(t *testing.T) {
	cfg, err := parse(t)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != server.DefaultDataDir || cfg.Listen != server.DefaultListen || cfg.EdgeListen != server.DefaultEdgeListen ||
		cfg.MetricsListen != server.DefaultMetricsListen || cfg.STUNListen != server.DefaultSTUNListen || cfg.EtcdTLS != nil || cfg.Profiling || cfg.Log == nil {
		t.Errorf("defaults are %+v", cfg)
	}
}

func TestFlags(t *testing.T) {
	cfg, err := parse(t, "--data-dir", "/d", "--key-file", "/k", "--listen", "a:1", "--edge-listen", "b:2", "--metrics-listen", "c:3", "--stun-listen", "",
		"--advertise-edge", "e1:4,e2:4", "--advertise-url", "https://u:5", "--etcd-endpoints", "https://x:6,https://y:6",
		"--etcd-max-txn-ops", "7", "--counter-interval", "8s", "--confirm-within", "9s", "--profiling", "--log-format", "json", "--log-level", "debug")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = nil
	if cfg.DataDir != "/d" || cfg.KeyFile != "/k" || cfg.Listen != "a:1" || cfg.EdgeListen != "b:2" || cfg.MetricsListen != "c:3" || cfg.STUNListen != "" ||
		!slices.Equal(cfg.AdvertiseEdge, []string{"e1:4", "e2:4"}) || cfg.AdvertiseURL != "https://u:5" ||
		!slices.Equal(cfg.EtcdEndpoints, []string{"https://x:6", "https://y:6"}) || cfg.EtcdMaxTxnOps != 7 ||
		cfg.CounterInterval != 8*time.Second || cfg.ConfirmWithin != 9*time.Second || !cfg.Profiling {
		t.Errorf("got %+v", cfg)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"extra":                           "extra",
		"--frob":                          "--frob",
		"--counter-interval soon":         "--counter-interval",
		"--log-level loud":                `--log-level "loud": want debug, info, warn or error`,
		"--log-format xml":                `--log-format "xml": want text or json`,
		"--etcd-ca " + noPEM:              "holds no certificate in PEM",
		"--etcd-ca /nonexistent":          "read --etcd-ca",
		"--external-authorities " + noPEM: "read --external-authorities: ",
		"--oidc-client-id swanherd":       "no --oidc-issuer",
		"--oidc-issuer https://id.example.net --oidc-ca " + noPEM: "read --oidc-ca",
		"--etcd-cert only":                      "--etcd-cert and --etcd-key go together",
		"--etcd-cert a --etcd-key /nonexistent": "read --etcd-cert and --etcd-key",
	} {
		if _, err := parse(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
