package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/store"
)

// Defaults of Config.
const (
	DefaultDataDir       = "/var/lib/swanherd"
	DefaultListen        = "0.0.0.0:7443"
	DefaultEdgeListen    = "0.0.0.0:7444"
	DefaultMetricsListen = "127.0.0.1:7445"
	DefaultReplicaListen = "0.0.0.0:7446"
	// DefaultSTUNListen is the default of the program, where a Config has none.
	DefaultSTUNListen = "0.0.0.0:3478"
)

// minRetention is of events, so that what goes on stays in sight.
const minRetention = 100

// Config configures a controller. The zero value is one that keeps its state in
// DefaultDataDir and listens on the default ports.
type Config struct {
	// DataDir holds the embedded etcd, the key of stored secrets, and the
	// administrator's first credential. Created with mode 0700.
	DataDir string
	// EtcdEndpoints of a cluster to use in place of the embedded etcd.
	EtcdEndpoints []string
	// EtcdTLS for EtcdEndpoints; nil: none.
	EtcdTLS *tls.Config
	// EtcdMaxTxnOps is the cluster's --max-txn-ops; 0: 128, etcd's default.
	EtcdMaxTxnOps int
	// Cluster makes the embedded etcd a member of a cluster of such; nil: it is alone.
	Cluster *store.Cluster
	// KeyFile holds the key that seals secrets in the store; made when it does
	// not exist. Replicas share it. Default: the systemd credential KeyCredential, if
	// the service has it, or secret.key in DataDir.
	KeyFile string
	// KMS wraps the keys that seal secrets, which are in the store then; KeyFile, if
	// there is one, opens what it sealed before. Nil: the key is in KeyFile.
	KMS store.Wrapper

	// Restored says that the store was restored from a backup: edges that run something
	// newer keep it until an operator resumes them.
	Restored bool

	// Listen is for operators: gRPC, REST and the dashboard.
	Listen string
	// EdgeListen is for edges: enrolment and sessions.
	EdgeListen string
	// MetricsListen is for /metrics, /healthz and /readyz, without TLS.
	MetricsListen string
	// ReplicaListen is for other controllers on the same store, with EtcdEndpoints or
	// Cluster only.
	ReplicaListen string
	// STUNListen is where edges ask what their UDP port looks like from outside: this UDP
	// port and the next one. Empty: nowhere.
	STUNListen string
	// AdvertiseReplica is where they reach it, `host:port`. Default: the address of
	// ReplicaListen, or the machine's.
	AdvertiseReplica string
	// AdvertiseEdge is where edges reach EdgeListen, `host:port`, as enrolment
	// tokens tell them. Default: the address of EdgeListen, or the machine's.
	AdvertiseEdge []string
	// RedirectEdges is where edges are sent to, `host:port`: they go when they are
	// welcomed there. Empty: they stay.
	RedirectEdges []string
	// AdvertiseURL is where browsers reach Listen, `https://host:7443`.
	AdvertiseURL string
	// CounterInterval is how often edges report counters. Default 10 s.
	CounterInterval time.Duration
	// ConfirmWithin is after what time an edge takes an update back that cost it
	// the controller. Default 30 s.
	ConfirmWithin time.Duration
	// HistoryOctets bounds what is kept on disk of how tunnels were. Default
	// history.DefaultMaxOctets.
	HistoryOctets int64
	// EventRetention is how many transitions are kept per network, and AuditRetention how
	// many audit events. Defaults store.DefaultEventRetention and DefaultAuditRetention.
	EventRetention, AuditRetention int
	// DeletedAuditRetention is how long after its newest event the audit log of a deleted
	// network is kept. Default store.DefaultDeletedAuditRetention.
	DeletedAuditRetention time.Duration
	// WebhookAllowLocal lets webhooks go to receivers on this host and its link.
	WebhookAllowLocal bool
	// Profiling serves /debug/pprof on MetricsListen.
	Profiling bool

	// OIDC is the identity provider that people sign in with, besides API tokens; nil: none.
	OIDC *access.OIDC
	// RateLimit is how often each principal may call the API; zero fields: the defaults.
	RateLimit access.RateLimit
	// OperatorCA is a file, PEM, of the authorities of client certificates with which people
	// and programs may come in place of a token; empty: none is asked for. It is read
	// again when it changes.
	OperatorCA string
	// ExternalAuthorities are those that networks' authorities may be subordinate to, and that
	// are asked online, by name. Every replica has the same.
	ExternalAuthorities map[string]pki.Signer
	// TPMCA is a file, PEM, of the authorities of TPM manufacturers whose word is taken for what
	// is a TPM when edges enrol; empty: nobody's is. It is read again when it changes.
	TPMCA string

	// Dashboard makes what is served at / on Listen; conn calls the operator
	// services in the caller's name. Nil: none.
	Dashboard func(conn grpc.ClientConnInterface) (http.Handler, error)
	// Version is the build, as WhoAmI tells it.
	Version string
	// Log; nil: slog.Default().
	Log *slog.Logger
	// Out gets the administrator's credential at the first start, as two lines
	// for people; nil: os.Stdout. Only Run writes to it.
	Out io.Writer
}

// withDefaults returns c with what was left open filled in, or what is wrong.
func (c Config) withDefaults() (Config, error) {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.DataDir, DefaultDataDir)
	set(&c.KeyFile, credentialFile(os.Getenv("CREDENTIALS_DIRECTORY")))
	set(&c.KeyFile, filepath.Join(c.DataDir, "secret.key"))
	set(&c.Listen, DefaultListen)
	set(&c.EdgeListen, DefaultEdgeListen)
	set(&c.MetricsListen, DefaultMetricsListen)
	set(&c.ReplicaListen, DefaultReplicaListen)
	set(&c.Version, "devel")
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Out == nil {
		c.Out = os.Stdout
	}
	return c, c.mistakes()
}

// mistakes says everything that is wrong with c, whose defaults are filled in.
func (c Config) mistakes() error {
	var errs []error
	for flag, address := range map[string]string{"listen": c.Listen, "edge-listen": c.EdgeListen, "metrics-listen": c.MetricsListen, "replica-listen": c.ReplicaListen} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			errs = append(errs, fmt.Errorf("%s %q: want host:port: %w", flag, address, err))
		}
	}
	if c.STUNListen != "" {
		if _, _, err := net.SplitHostPort(c.STUNListen); err != nil {
			errs = append(errs, fmt.Errorf("stun-listen %q: want host:port, or nothing: %w", c.STUNListen, err))
		}
	}
	for _, address := range c.AdvertiseEdge {
		if !isEndpoint(address) {
			errs = append(errs, fmt.Errorf("advertise-edge %q: want host:port, where edges reach this controller", address))
		}
	}
	if c.AdvertiseReplica != "" && !isEndpoint(c.AdvertiseReplica) {
		errs = append(errs, fmt.Errorf("advertise-replica %q: want host:port, where other controllers reach this one", c.AdvertiseReplica))
	}
	if c.Cluster != nil && len(c.EtcdEndpoints) > 0 {
		errs = append(errs, errors.New("both a cluster of embedded etcds and etcd-endpoints; give one"))
	}
	for _, address := range c.RedirectEdges {
		if !isEndpoint(address) {
			errs = append(errs, fmt.Errorf("redirect-edges %q: want host:port, where edges reach the controller from now on", address))
		}
	}
	if c.AdvertiseURL != "" {
		u, err := url.Parse(c.AdvertiseURL)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" {
			errs = append(errs, fmt.Errorf("advertise-url %q: want https://host:port", c.AdvertiseURL))
		}
	}
	if c.OIDC != nil {
		if u, err := url.Parse(c.OIDC.Issuer); err != nil || u.Scheme != "https" || u.Host == "" {
			errs = append(errs, fmt.Errorf("oidc-issuer %q: want the https:// URL of the identity provider", c.OIDC.Issuer))
		}
		if c.OIDC.ClientID == "" {
			errs = append(errs, errors.New("oidc-issuer, but no oidc-client-id; give what the provider calls this controller"))
		}
	}
	if c.RateLimit.Burst < 0 {
		errs = append(errs, fmt.Errorf("rate-burst %d: want at least 1 call", c.RateLimit.Burst))
	}
	if c.CounterInterval != 0 && c.CounterInterval < time.Second {
		errs = append(errs, fmt.Errorf("counter-interval %v: want at least 1s", c.CounterInterval))
	}
	if c.ConfirmWithin != 0 && (c.ConfirmWithin < time.Second || c.ConfirmWithin > time.Hour) {
		errs = append(errs, fmt.Errorf("confirm-within %v: want 1s to 1h", c.ConfirmWithin))
	}
	if c.HistoryOctets != 0 && c.HistoryOctets < 1<<20 {
		errs = append(errs, fmt.Errorf("history-size %d octets: want at least 1 MiB", c.HistoryOctets))
	}
	for flag, n := range map[string]int{"event-retention": c.EventRetention, "audit-retention": c.AuditRetention} {
		if n != 0 && n < minRetention {
			errs = append(errs, fmt.Errorf("%s %d: want at least %d", flag, n, minRetention))
		}
	}
	if c.DeletedAuditRetention != 0 && c.DeletedAuditRetention < time.Hour {
		errs = append(errs, fmt.Errorf("deleted-audit-retention %v: want at least 1h", c.DeletedAuditRetention))
	}
	if c.EtcdTLS != nil && len(c.EtcdEndpoints) == 0 {
		errs = append(errs, errors.New("certificates for etcd, but no etcd-endpoints; give both, or neither for the embedded etcd"))
	}
	return errors.Join(errs...)
}

// KeyCredential is the name of the systemd credential that holds the key of secrets, as
// `LoadCredentialEncrypted=` gives it to a service.
const KeyCredential = "swanherd-secret-key"

// credentialFile is where systemd put the key; empty: nowhere.
func credentialFile(dir string) string {
	if dir == "" {
		return ""
	}
	file := filepath.Join(dir, KeyCredential)
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

func isEndpoint(address string) bool {
	host, port, err := net.SplitHostPort(address)
	return err == nil && host != "" && port != ""
}

// Info is what became of a Config once the controller runs.
type Info struct {
	// Addresses that the listeners are bound to.
	OperatorAddr, EdgeAddr, MetricsAddr net.Addr
	// CAPin is the hexadecimal SHA-256 of the controller authority's public key
	// info, without the prefix `sha256:`.
	CAPin string
	// AdminToken is the administrator's token if this was the first start.
	AdminToken string
	// CredentialFile holds it, with the server's address and the pin; empty if
	// this was not the first start.
	CredentialFile string
	// EdgeEndpoints and URL are what is advertised.
	EdgeEndpoints []string
	URL           string
	// STUNPorts are those that edges ask at; none: nowhere.
	STUNPorts []uint32
	// ReplicaEndpoint is where other replicas reach this one; empty: nowhere.
	ReplicaEndpoint string
}

// Run runs a controller until ctx ends or it fails. At the first start it
// prints the administrator's credential to Config.Out.
func Run(ctx context.Context, cfg Config) error {
	s, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	info := s.Info()
	if info.AdminToken != "" {
		fmt.Fprintf(s.cfg.Out, "admin token: %s\nca pin: sha256:%s\n", info.AdminToken, info.CAPin)
	}
	select {
	case <-ctx.Done():
		return s.Close()
	case err := <-s.Failed():
		return errors.Join(err, s.Close())
	}
}
