package server_test

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/server"
)

func TestConfigMistakesAreNamed(t *testing.T) {
	for want, cfg := range map[string]server.Config{
		`listen "7443": want host:port`:            {Listen: "7443"},
		`edge-listen "x": want host:port`:          {EdgeListen: "x"},
		`advertise-edge ":7444": want host:port`:   {AdvertiseEdge: []string{":7444"}},
		`advertise-url "http://a": want https://`:  {AdvertiseURL: "http://a"},
		"counter-interval 1ns: want at least 1s":   {CounterInterval: 1},
		"counter-interval -1s: want at least 1s":   {CounterInterval: -time.Second},
		"confirm-within 2h0m0s: want 1s to 1h":     {ConfirmWithin: 2 * time.Hour},
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
