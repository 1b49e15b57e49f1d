package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/history"
	"github.com/swanherd/swanherd/server/kms"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/session"
	"github.com/swanherd/swanherd/server/stepca"
	"github.com/swanherd/swanherd/server/store"
)

// options are flags that are not fields of server.Config as they stand.
type options struct {
	etcdCA, etcdCert, etcdKey string
	cluster                   store.Cluster
	vault                     kms.VaultConfig
	members                   []string
	oidc                      access.OIDC
	oidcCA                    string
	externalAuthorities       string
	logLevel, logFormat       string
	historySize               int64 // MiB
}

func newCommand(run func(server.Config) error) *cobra.Command {
	var cfg server.Config
	var o options
	cmd := &cobra.Command{
		Use:   "swanherd-server",
		Short: "The Swanherd controller",
		Long: `The Swanherd controller: keeps the topology of IPsec fleets, plans every edge's
tunnels, and gives them to the edges over sessions that they open.

At its first start it prints the administrator's API token and the pin of its
certificate authority, and writes both to DATA-DIR/admin-credential, which
"swanherd login --credential" reads. Later starts print nothing of the sort.

State is in an embedded etcd below --data-dir, or in the etcd cluster that
--etcd-endpoints names. Several controllers act as one when they share a cluster,
or when their embedded etcds form one (--cluster), with the same --key-file: any
of them serves any edge and any operator. Secrets in the store are sealed with the key in --key-file: back it
up, and keep it apart from backups of the store.`,
		Example: `  swanherd-server --data-dir /var/lib/swanherd --advertise-edge ctrl.example.net:7444
  swanherd-server --etcd-endpoints https://etcd-1:2379,https://etcd-2:2379 \
      --etcd-ca ca.pem --etcd-cert client.pem --etcd-key client.key --key-file /etc/swanherd/secret.key
  swanherd-server --cluster a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c=https://10.0.0.3:2380 \
      --cluster-member a --cluster-ca ca.pem --cluster-cert a.pem --cluster-key a.key \
      --key-file /etc/swanherd/secret.key`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if cfg.EtcdTLS, err = o.etcdTLS(); err != nil {
				return err
			}
			if cfg.Cluster, err = o.etcdCluster(); err != nil {
				return err
			}
			if cfg.KMS, err = o.kms(); err != nil {
				return err
			}
			if cfg.ExternalAuthorities, err = o.signers(); err != nil {
				return err
			}
			if cfg.Log, err = o.logger(); err != nil {
				return err
			}
			cfg.HistoryOctets = o.historySize << 20
			slog.SetDefault(cfg.Log)
			if cfg.OIDC, err = o.identityProvider(); err != nil {
				return err
			}
			return run(cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", server.DefaultDataDir, "directory of the state, mode 0700")
	f.StringSliceVar(&cfg.EtcdEndpoints, "etcd-endpoints", nil, "etcd cluster to use in place of the embedded one, https://host:2379,...")
	f.StringVar(&o.etcdCA, "etcd-ca", "", "PEM file of the authorities that etcd's certificates chain to")
	f.StringVar(&o.etcdCert, "etcd-cert", "", "PEM file of the client certificate for etcd")
	f.StringVar(&o.etcdKey, "etcd-key", "", "PEM file of its key")
	f.IntVar(&cfg.EtcdMaxTxnOps, "etcd-max-txn-ops", 0, "the cluster's --max-txn-ops (default 128)")
	f.StringSliceVar(&o.members, "cluster", nil, "members of a cluster of embedded etcds, NAME=https://host:port,...")
	f.StringVar(&o.cluster.Member, "cluster-member", "", "which of them this controller is")
	f.BoolVar(&o.cluster.Join, "cluster-join", false, "the cluster is there, and lets this one in (\"swanherd replica add\"); for the first start")
	f.StringVar(&o.cluster.Listen, "cluster-listen", "", "address for the other members, https://address:port (default this one's of --cluster)")
	f.StringVar(&o.cluster.CAFile, "cluster-ca", "", "PEM file of the authority that members' certificates chain to")
	f.StringVar(&o.cluster.CertFile, "cluster-cert", "", "PEM file of this member's certificate, for servers and clients")
	f.StringVar(&o.cluster.KeyFile, "cluster-key", "", "PEM file of its key")
	f.StringVar(&cfg.KeyFile, "key-file", "", "key that seals secrets in the store; made when missing (default the systemd credential swanherd-secret-key, or DATA-DIR/secret.key)")
	f.StringVar(&o.vault.Address, "kms-vault", "", "HashiCorp Vault or OpenBao whose transit engine wraps the keys of secrets, https://host:8200; --key-file opens what it sealed before")
	f.StringVar(&o.vault.Mount, "kms-vault-mount", "transit", "where that engine is mounted")
	f.StringVar(&o.vault.Key, "kms-vault-key", "swanherd", "its key")
	f.StringVar(&o.vault.Namespace, "kms-vault-namespace", "", "the namespace of the engine")
	f.StringVar(&o.vault.TokenFile, "kms-vault-token-file", "", "file of a token that may encrypt and decrypt with the key, read for each request (default the systemd credential swanherd-vault-token)")
	f.StringVar(&o.vault.CAFile, "kms-vault-ca", "", "PEM file of the authorities that its certificate chains to")
	f.StringVar(&cfg.Listen, "listen", server.DefaultListen, "address for operators: gRPC, REST, dashboard")
	f.StringVar(&cfg.EdgeListen, "edge-listen", server.DefaultEdgeListen, "address for edges")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", server.DefaultMetricsListen, "address of /metrics, /healthz and /readyz, without TLS")
	f.StringVar(&cfg.STUNListen, "stun-listen", server.DefaultSTUNListen, "UDP address at which edges ask what their own port looks like from outside, which takes the next port too; empty: none")
	f.StringVar(&cfg.ReplicaListen, "replica-listen", server.DefaultReplicaListen, "address for other controllers on the same store; with --etcd-endpoints or --cluster")
	f.StringVar(&cfg.AdvertiseReplica, "advertise-replica", "", "where they reach --replica-listen, host:port (default its address)")
	f.StringSliceVar(&cfg.AdvertiseEdge, "advertise-edge", nil, "where edges reach --edge-listen, host:port,... (default its address)")
	f.StringSliceVar(&cfg.RedirectEdges, "redirect-edges", nil, "send edges to these endpoints, host:port,...; they go once they are welcomed there")
	f.StringVar(&cfg.AdvertiseURL, "advertise-url", "", "where browsers reach --listen, https://host:port (default its address)")
	f.StringVar(&o.oidc.Issuer, "oidc-issuer", "", "URL of the identity provider (OpenID Connect) that people may sign in with")
	f.StringVar(&o.oidc.ClientID, "oidc-client-id", "", "what the identity provider calls this controller; a public client with the device flow, and redirects to loopback and to /auth/oidc/callback of --advertise-url")
	f.StringVar(&o.oidc.GroupsClaim, "oidc-groups-claim", "groups", "claim of ID tokens with a person's groups")
	f.StringVar(&o.oidcCA, "oidc-ca", "", "PEM file of the authorities of the identity provider's certificate (default the system's)")
	f.Float64Var(&cfg.RateLimit.PerSecond, "rate-limit", access.DefaultCallsPerSecond, "calls a second that one token, person or certificate may make on average; below 0: any")
	f.IntVar(&cfg.RateLimit.Burst, "rate-burst", access.DefaultCallsBurst, "calls that it may make at once")
	f.StringVar(&cfg.OperatorCA, "operator-ca", "", "PEM file of the authorities of client certificates that operators may come with, read again when it changes (\"swanherd role grant ... cert-uri:...\")")
	f.StringVar(&o.externalAuthorities, "external-authorities", "", "YAML file of external authorities (step-ca) that sign the authorities of networks online, by name (\"swanherd ca rotate --signed-by NAME\")")
	f.StringVar(&cfg.TPMCA, "tpm-ca", "", "PEM file of the authorities of TPM manufacturers that are believed when an edge proves that its key is in a TPM")
	f.DurationVar(&cfg.ConfirmWithin, "confirm-within", session.DefaultConfirmWithin, "after what time an edge takes a change back by itself that cost it the controller or critical tunnels")
	f.DurationVar(&cfg.CounterInterval, "counter-interval", session.DefaultCounterInterval, "how often edges report the counters of their SAs")
	f.BoolVar(&cfg.Restored, "restored", false, "the store was restored from a backup: edges that run something newer keep it until \"swanherd resume\"; for one start")
	f.Int64Var(&o.historySize, "history-size", history.DefaultMaxOctets>>20, "how much of how tunnels were is kept in DATA-DIR, in MiB")
	f.IntVar(&cfg.EventRetention, "event-retention", store.DefaultEventRetention, "how many transitions of edges and tunnels are kept per network, the newest ones")
	f.IntVar(&cfg.AuditRetention, "audit-retention", store.DefaultAuditRetention, "how many audit events are kept per network, the newest ones")
	f.DurationVar(&cfg.DeletedAuditRetention, "deleted-audit-retention", store.DefaultDeletedAuditRetention, "how long after its newest event the audit log of a deleted network is kept")
	f.BoolVar(&cfg.WebhookAllowLocal, "webhook-allow-local", false, "let webhooks go to receivers on this host and its link, which operators could misuse")
	f.BoolVar(&cfg.Profiling, "profiling", false, "serve /debug/pprof on --metrics-listen")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json, on standard error")
	return cmd
}

// etcdCluster is the cluster of embedded etcds; nil: none asked for.
func (o *options) etcdCluster() (*store.Cluster, error) {
	if len(o.members) == 0 {
		if o.cluster.Member != "" {
			return nil, errors.New("--cluster-member, but no --cluster; name the members")
		}
		return nil, nil
	}
	var err error
	o.cluster.Peers, err = store.ParsePeers(o.members)
	return &o.cluster, err
}

// kms is what wraps the keys of secrets; nil: they are in the key file.
func (o *options) kms() (store.Wrapper, error) {
	if o.vault.Address == "" {
		return nil, nil
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); o.vault.TokenFile == "" && dir != "" {
		o.vault.TokenFile = filepath.Join(dir, "swanherd-vault-token")
	}
	return kms.NewVault(o.vault)
}

// signers are the external authorities that are asked online.
func (o *options) signers() (map[string]pki.Signer, error) {
	if o.externalAuthorities == "" {
		return nil, nil
	}
	clients, err := stepca.Load(o.externalAuthorities, os.Getenv("CREDENTIALS_DIRECTORY"))
	if err != nil {
		return nil, fmt.Errorf("read --external-authorities: %w", err)
	}
	out := map[string]pki.Signer{}
	for name, c := range clients {
		out[name] = c
	}
	return out, nil
}

// etcdTLS loads the TLS configuration for the etcd cluster; nil: none asked for.
func (o *options) etcdTLS() (*tls.Config, error) {
	if o.etcdCA == "" && o.etcdCert == "" && o.etcdKey == "" {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if cfg.RootCAs, err = authorities("etcd-ca", o.etcdCA); err != nil {
		return nil, err
	}
	if (o.etcdCert == "") != (o.etcdKey == "") {
		return nil, errors.New("--etcd-cert and --etcd-key go together; give both")
	}
	if o.etcdCert != "" {
		pair, err := tls.LoadX509KeyPair(o.etcdCert, o.etcdKey)
		if err != nil {
			return nil, fmt.Errorf("read --etcd-cert and --etcd-key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// authorities reads the file of a flag; nil: there is none.
func authorities(flag, file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read --%s: %w", flag, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read --%s: %s holds no certificate in PEM", flag, file)
	}
	return pool, nil
}

// identityProvider is who people sign in with; nil: they have API tokens.
func (o *options) identityProvider() (*access.OIDC, error) {
	if o.oidc.Issuer == "" {
		if o.oidc.ClientID != "" || o.oidcCA != "" {
			return nil, errors.New("--oidc-client-id or --oidc-ca, but no --oidc-issuer; name the identity provider")
		}
		return nil, nil
	}
	var err error
	o.oidc.RootCAs, err = authorities("oidc-ca", o.oidcCA)
	return &o.oidc, err
}

// logger writes to standard error. Under systemd, which stamps lines itself,
// text lines carry no time.
func (o *options) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", o.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	case "text":
		if os.Getenv("JOURNAL_STREAM") != "" {
			options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
				if len(groups) == 0 && a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}
		}
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	default:
		return nil, fmt.Errorf("--log-format %q: want text or json", o.logFormat)
	}
}
