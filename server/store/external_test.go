package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// startCluster starts an etcd with etcd's own defaults on a loopback port that
// wants mutual TLS. It returns its endpoint, what --etcd-endpoints names, and
// the TLS configuration of a client that it lets in.
func startCluster(t *testing.T) (string, *tls.Config) {
	t.Helper()
	certFile, keyFile, client := clusterCertificates(t)
	cfg := embeddedConfig(t.TempDir(), slog.New(slog.DiscardHandler))
	cfg.MaxTxnOps, cfg.MaxRequestBytes = embed.DefaultMaxTxnOps, embed.DefaultMaxRequestBytes
	cfg.ListenClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	cfg.ClientTLSInfo = transport.TLSInfo{CertFile: certFile, KeyFile: keyFile, TrustedCAFile: certFile, ClientCertAuth: true}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	return "https://" + server.Clients[0].Addr().String(), client
}

// clusterCertificates makes one certificate that is its own authority, for the
// cluster and for its clients.
func clusterCertificates(t *testing.T) (certFile, keyFile string, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	certFile, keyFile = write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	client = &tls.Config{RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	client.RootCAs.AddCert(cert)
	return certFile, keyFile, client
}

func TestExternalCluster(t *testing.T) {
	endpoint, clientTLS := startCluster(t)
	ctx := within(t, 60*time.Second)
	openReplica := func() *Store {
		s, err := Open(ctx, Config{Endpoints: []string{endpoint}, TLS: clientTLS, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return s
	}
	// Two replicas share the store: the epoch, and what either writes.
	one, two := openReplica(), openReplica()
	if one.Epoch() != two.Epoch() {
		t.Errorf("replicas have epochs %s and %s", one.Epoch(), two.Epoch())
	}
	revision, err := one.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	snap, err := two.WaitRevision(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	if row, ok := snap.Sites.Get(berlin); !ok || row.Revision != revision {
		t.Errorf("the other replica has %v, %v", row, ok)
	}
	if one.maxTxnOps != externalMaxTxnOps {
		t.Errorf("transactions of %d operations, an external cluster takes %d", one.maxTxnOps, externalMaxTxnOps)
	}
}

// A cluster that wants a certificate keeps out who has none, and the error
// comes within the time that the caller has.
func TestExternalClusterWithoutCertificate(t *testing.T) {
	endpoint, clientTLS := startCluster(t)
	clientTLS = clientTLS.Clone()
	clientTLS.Certificates = nil
	s, err := Open(within(t, 3*time.Second), Config{Endpoints: []string{endpoint}, TLS: clientTLS, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		s.Close()
		t.Fatal("a client without a certificate was let in")
	}
	t.Log(err)
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	for want, cfg := range map[string]Config{
		"neither a data directory nor": {},
		"both a data directory and":    {DataDir: t.TempDir(), Endpoints: []string{"http://127.0.0.1:1"}},
	} {
		if s, err := Open(t.Context(), cfg); err == nil {
			s.Close()
			t.Errorf("%s: opened", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
}
