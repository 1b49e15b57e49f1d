package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const (
	// embeddedMaxTxnOps lets Apply store a fleet file of a thousand sites in one
	// transaction; etcd's default is 128.
	embeddedMaxTxnOps = 4096
	// externalMaxTxnOps is etcd's default.
	externalMaxTxnOps = 128
	// embeddedMaxRequest bounds a transaction in octets; etcd's default of
	// 1.5 MiB is too little for embeddedMaxTxnOps sites, and this the most that
	// it recommends.
	embeddedMaxRequest = 10 << 20
	// embeddedQuota bounds the database in octets; the most that etcd suggests.
	embeddedQuota = 8 << 30
)

// embedded is an etcd inside this process, alone or a member of a cluster of such. The
// only client makes direct calls, so it listens for other members at most.
type embedded struct {
	server *embed.Etcd
	lock   *os.File
}

// startEmbedded starts etcd on the files below dir and waits until it serves.
func startEmbedded(ctx context.Context, dir string, cluster *Cluster, log *slog.Logger) (*embedded, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	cfg := embeddedConfig(filepath.Join(dir, "etcd"), log)
	if err := cluster.configure(cfg); err != nil {
		lock.Close()
		return nil, err
	}
	server, err := survive(func() (*embed.Etcd, error) { return embed.StartEtcd(cfg) })
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("start embedded etcd in %s: %w", dir, err)
	}
	e := &embedded{server, lock}
	select {
	case <-server.Server.ReadyNotify():
		return e, nil
	case err := <-server.Err():
		e.close()
		return nil, fmt.Errorf("start embedded etcd in %s: %w", dir, err)
	case <-ctx.Done():
		e.close()
		return nil, fmt.Errorf("start embedded etcd in %s: %w%s", dir, ctx.Err(), cluster.hint())
	}
}

// survive turns a panic of start into an error: etcd panics when its disk is
// full, and a person is to read one line of it.
func survive(start func() (*embed.Etcd, error)) (server *embed.Etcd, err error) {
	defer func() {
		if p := recover(); p != nil {
			server, err = nil, fmt.Errorf("%v (what it logged before says why; is the disk full?)", p)
		}
	}()
	return start()
}

func embeddedConfig(dir string, log *slog.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = "swanherd"
	cfg.Dir = dir
	// A member needs a peer address by name, also one without peers; nothing
	// listens on it.
	nowhere := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{nowhere}, []url.URL{nowhere}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// With one member nobody contests the election: be quick about it.
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.MaxTxnOps = embeddedMaxTxnOps
	cfg.MaxRequestBytes = embeddedMaxRequest
	cfg.QuotaBackendBytes = embeddedQuota
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "10m"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(log))
	cfg.EnableGRPCGateway = false
	// etcd's defaults suit a datacentre; a slow disk is worth a word, not a flood.
	cfg.WarningApplyDuration, cfg.WarningUnaryRequestDuration = 2*time.Second, 2*time.Second
	return cfg
}

func (e *embedded) client() *clientv3.Client { return v3client.New(e.server.Server) }

func (e *embedded) close() {
	e.server.Close()
	e.lock.Close()
}

// lockDir keeps a second controller off dir. etcd would wait for the first to
// end, silently.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, fmt.Errorf("data directory %s is in use by another controller; stop it or use another directory", dir)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
