package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// Config says where the state is. Either DataDir or Endpoints is set.
type Config struct {
	// DataDir holds the embedded etcd's files; created with mode 0700.
	DataDir string
	// Cluster makes the embedded etcd a member of a cluster of such; nil: it is alone.
	Cluster *Cluster
	// Endpoints of an etcd cluster, `https://host:2379`.
	Endpoints []string
	// TLS for Endpoints; nil: none.
	TLS *tls.Config
	// MaxTxnOps is how many operations Endpoints take in one transaction, etcd's
	// --max-txn-ops. Default 128; the embedded etcd takes 4096.
	MaxTxnOps int
	// Restored says that the store was restored from a backup: it begins an epoch, so
	// that what came after the backup is told from what comes now.
	Restored bool
	// EventRetention is how many transitions are kept per network, AuditRetention how many
	// audit events. Defaults DefaultEventRetention and DefaultAuditRetention.
	EventRetention, AuditRetention int
	// DeletedAuditRetention is how long after its newest event the audit log of a network
	// that was deleted is kept. Default DefaultDeletedAuditRetention.
	DeletedAuditRetention time.Duration
	// Program is this program's version, for who comes to its store with an older one.
	Program string
	// Logger; nil: slog.Default().
	Logger *slog.Logger

	migrations []migration // nil: those of this program
}

// Store is the controller's durable state. Close it when done.
type Store struct {
	Networks         *Collection[*swanherdv1.Network]
	Profiles         *Collection[*swanherdv1.Profile]
	Segments         *Collection[*swanherdv1.Segment]
	Sites            *Collection[*swanherdv1.Site]
	Meshes           *Collection[*swanherdv1.Mesh]
	Gateways         *Collection[*swanherdv1.Gateway]
	Assertions       *Collection[*swanherdv1.Assertion]
	PreSharedKeys    *Collection[*storev1.PreSharedKey]
	Edges            *Collection[*swanherdv1.Edge]
	EdgeStatuses     *Collection[*storev1.EdgeStatus]
	EdgeIdentities   *Collection[*storev1.EdgeIdentity]
	EnrollmentTokens *Collection[*storev1.EnrollmentToken]
	APITokens        *Collection[*storev1.ApiToken]
	LoginLinks       *Collection[*storev1.LoginLink]
	Authorities      *Collection[*storev1.CertificateAuthority]
	Revocations      *Collection[*storev1.Revocation]
	Replicas         *Collection[*storev1.Replica]

	EnrollmentRequests *Collection[*storev1.EnrollmentRequest]
	Devices            *Collection[*swanherdv1.Device]
	DeviceSerials      *Collection[*storev1.DeviceSerial]
	TokenUses          *Collection[*storev1.TokenUse]
	ExpiryChecks       *Collection[*storev1.ExpiryCheck]
	DataKeys           *Collection[*storev1.DataKeys]
	RoleBindings       *Collection[*swanherdv1.RoleBinding]
	Users              *Collection[*swanherdv1.User]

	ChangeSets   *Collection[*swanherdv1.ChangeSet]
	Rollouts     *Collection[*storev1.Rollout]
	RolloutPlans *Collection[*storev1.RolloutPlan]

	Jobs *Collection[*swanherdv1.Job]
	// JobOutputs are not in the watch cache.
	JobOutputs *Collection[*storev1.JobOutput]

	AlertRules        *Collection[*swanherdv1.AlertRule]
	Alerts            *Collection[*swanherdv1.Alert]
	AlertDefaults     *Collection[*storev1.AlertDefaults]
	WebhookSinks      *Collection[*storev1.WebhookSink]
	WebhookDeliveries *Collection[*storev1.WebhookDelivery]

	client           *clientv3.Client
	embedded         *embedded // nil with an external cluster
	cluster          *Cluster  // nil: the embedded etcd is alone, or there is none
	log              *slog.Logger
	maxTxnOps        int
	eventRetention   int
	auditRetention   int
	deletedRetention time.Duration // of audit events
	schema           schemaFence
	epoch            string
	pastEpochs       map[string]int64
	ids              *eventIDs
	cached           []cachedCollection

	stop context.CancelFunc
	done sync.WaitGroup

	snapshot atomic.Pointer[Snapshot]
	// current is the last moment at which the snapshot was known to be what is in etcd, in
	// nanoseconds of Unix time.
	current atomic.Int64

	past     pastSnapshots
	requests requestLease

	catchUp  sync.Mutex
	caughtUp time.Time // guarded by catchUp

	mu            sync.Mutex
	subscriptions map[*Subscription]struct{} // guarded by mu
	advanced      chan struct{}              // guarded by mu; closed at the next snapshot
}

// Open starts or reaches etcd, makes the epoch when the store is new, and fills
// the watch cache. A failed Open leaves nothing running.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	s := &Store{
		log:              cfg.Logger,
		maxTxnOps:        cfg.MaxTxnOps,
		eventRetention:   cmp.Or(cfg.EventRetention, DefaultEventRetention),
		auditRetention:   cmp.Or(cfg.AuditRetention, DefaultAuditRetention),
		deletedRetention: cmp.Or(cfg.DeletedAuditRetention, DefaultDeletedAuditRetention),
		ids:              newEventIDs(),
		subscriptions:    map[*Subscription]struct{}{},
		advanced:         make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.makeCollections()
	if err := s.connect(ctx, cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.disconnect()
		}
	}()
	if err := s.migrate(ctx, cfg); err != nil {
		return nil, err
	}
	if err := s.ensureEpoch(ctx, cfg.Restored); err != nil {
		return nil, err
	}
	s.current.Store(time.Now().UnixNano())
	if err := s.loadSnapshot(ctx); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Go(func() { s.follow(run) })
	s.done.Go(func() { s.look(run) })
	return s, nil
}

// Close ends the watch and, with an embedded etcd, stops it after everything
// acknowledged is on disk.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	return s.disconnect()
}

// Epoch identifies the store; it stays the same for the store's life, until the
// store is restored from a backup.
func (s *Store) Epoch() string { return s.epoch }

// PastEpochs are the epochs of which this store has the beginning, with the last
// revision that it has of each. The caller does not change it.
func (s *Store) PastEpochs() map[string]int64 { return s.pastEpochs }

// Failed yields an error when an embedded etcd stops by itself; the process
// should end then. With an external cluster it never does.
func (s *Store) Failed() <-chan error {
	if s.embedded == nil {
		return nil
	}
	return s.embedded.server.Err()
}

// Ping says whether etcd answers: a linearizable read within ctx.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.client.Get(ctx, epochKey); err != nil {
		return fmt.Errorf("reach etcd: %w", err)
	}
	return nil
}

func (s *Store) makeCollections() {
	s.Networks = collect(s, "networks", "networks/*", func(n *Snapshot) *model.Table[*swanherdv1.Network] { return &n.Networks })
	s.Profiles = collect(s, "profiles", "networks/*/profiles/*", func(n *Snapshot) *model.Table[*swanherdv1.Profile] { return &n.Profiles })
	s.Segments = collect(s, "segments", "networks/*/segments/*", func(n *Snapshot) *model.Table[*swanherdv1.Segment] { return &n.Segments })
	s.Sites = collect(s, "sites", "networks/*/sites/*", func(n *Snapshot) *model.Table[*swanherdv1.Site] { return &n.Sites })
	s.Meshes = collect(s, "meshes", "networks/*/meshes/*", func(n *Snapshot) *model.Table[*swanherdv1.Mesh] { return &n.Meshes })
	s.Gateways = collect(s, "gateways", "networks/*/gateways/*", func(n *Snapshot) *model.Table[*swanherdv1.Gateway] { return &n.Gateways })
	s.Assertions = collect(s, "assertions", "networks/*/assertions/*", func(n *Snapshot) *model.Table[*swanherdv1.Assertion] { return &n.Assertions })
	s.PreSharedKeys = collect(s, "pre_shared_keys", "networks/*/preSharedKeys/*", func(n *Snapshot) *model.Table[*storev1.PreSharedKey] { return &n.PreSharedKeys })
	s.Edges = collect(s, "edges", "networks/*/edges/*", func(n *Snapshot) *model.Table[*swanherdv1.Edge] { return &n.Edges })
	s.EdgeStatuses = collect(s, "edge_status", "networks/*/edges/*", func(n *Snapshot) *model.Table[*storev1.EdgeStatus] { return &n.EdgeStatuses })
	s.EdgeIdentities = collect(s, "edge_identities", "networks/*/edges/*", func(n *Snapshot) *model.Table[*storev1.EdgeIdentity] { return &n.EdgeIdentities })
	s.EnrollmentTokens = collect(s, "enrollment_tokens", "networks/*/enrollmentTokens/*", func(n *Snapshot) *model.Table[*storev1.EnrollmentToken] { return &n.EnrollmentTokens })
	s.APITokens = collect(s, "api_tokens", "apiTokens/*", func(n *Snapshot) *model.Table[*storev1.ApiToken] { return &n.APITokens })
	s.LoginLinks = collect(s, "login_links", "loginLinks/*", func(n *Snapshot) *model.Table[*storev1.LoginLink] { return &n.LoginLinks })
	s.Authorities = collect(s, "cas", "certificateAuthorities/**", func(n *Snapshot) *model.Table[*storev1.CertificateAuthority] { return &n.Authorities })
	s.Revocations = collect(s, "revocations", "networks/*/revocations/*", func(n *Snapshot) *model.Table[*storev1.Revocation] { return &n.Revocations })
	s.Replicas = collect(s, "replicas", "replicas/*", func(n *Snapshot) *model.Table[*storev1.Replica] { return &n.Replicas })
	s.EnrollmentRequests = collect(s, "enrollment_requests", "networks/*/enrollmentRequests/*", func(n *Snapshot) *model.Table[*storev1.EnrollmentRequest] { return &n.EnrollmentRequests })
	s.Devices = collect(s, "devices", "networks/*/devices/*", func(n *Snapshot) *model.Table[*swanherdv1.Device] { return &n.Devices })
	s.DeviceSerials = collect(s, "device_serials", "deviceSerials/*", func(n *Snapshot) *model.Table[*storev1.DeviceSerial] { return &n.DeviceSerials })
	s.TokenUses = collect(s, "token_uses", "apiTokens/*", func(n *Snapshot) *model.Table[*storev1.TokenUse] { return &n.TokenUses })
	s.DataKeys = collect(s, "data_keys", "dataKeys/*", func(n *Snapshot) *model.Table[*storev1.DataKeys] { return &n.DataKeys })
	s.ExpiryChecks = collect(s, "expiry_checks", "expiryChecks/*", func(n *Snapshot) *model.Table[*storev1.ExpiryCheck] { return &n.ExpiryChecks })
	s.ChangeSets = collect(s, "change_sets", "networks/*/changeSets/*", func(n *Snapshot) *model.Table[*swanherdv1.ChangeSet] { return &n.ChangeSets })
	s.Rollouts = collect(s, "rollouts", "networks/*/rollouts/*", func(n *Snapshot) *model.Table[*storev1.Rollout] { return &n.Rollouts })
	s.RolloutPlans = collect(s, "rollout_plans", "networks/*/rollouts/*", func(n *Snapshot) *model.Table[*storev1.RolloutPlan] { return &n.RolloutPlans })
	s.Jobs = collect(s, "jobs", "networks/*/jobs/*", func(n *Snapshot) *model.Table[*swanherdv1.Job] { return &n.Jobs })
	s.JobOutputs = &Collection[*storev1.JobOutput]{store: s, layout: newLayout("job_outputs", "networks/*/jobs/*/output"), aside: true}
	s.AlertRules = collect(s, "alert_rules", "networks/*/alertRules/*", func(n *Snapshot) *model.Table[*swanherdv1.AlertRule] { return &n.AlertRules })
	s.Alerts = collect(s, "alerts", "networks/*/alerts/*", func(n *Snapshot) *model.Table[*swanherdv1.Alert] { return &n.Alerts })
	s.AlertDefaults = collect(s, "alert_defaults", "alertDefaults/*", func(n *Snapshot) *model.Table[*storev1.AlertDefaults] { return &n.AlertDefaults })
	s.WebhookSinks = collect(s, "webhook_sinks", "networks/*/webhookSinks/*", func(n *Snapshot) *model.Table[*storev1.WebhookSink] { return &n.WebhookSinks })
	s.WebhookDeliveries = collect(s, "webhook_deliveries", "networks/*/webhookSinks/*/deliveries/*", func(n *Snapshot) *model.Table[*storev1.WebhookDelivery] { return &n.WebhookDeliveries })
	s.Users = collect(s, "users", "users/*", func(n *Snapshot) *model.Table[*swanherdv1.User] { return &n.Users })
	s.RoleBindings = collect(s, "role_bindings", "roleBindings/*", func(n *Snapshot) *model.Table[*swanherdv1.RoleBinding] { return &n.RoleBindings })
	s.EdgeStatuses.aside, s.EdgeIdentities.aside, s.TokenUses.aside, s.RolloutPlans.aside = true, true, true, true
}

func collect[T proto.Message](s *Store, dir, form string, table func(*Snapshot) *model.Table[T]) *Collection[T] {
	c := &Collection[T]{store: s, layout: newLayout(dir, form), table: table}
	s.cached = append(s.cached, c)
	return c
}

const dialTimeout = 10 * time.Second

func (s *Store) connect(ctx context.Context, cfg Config) error {
	switch {
	case cfg.DataDir != "" && len(cfg.Endpoints) > 0:
		return errors.New("open store: both a data directory and etcd endpoints are set; set one")
	case cfg.DataDir != "":
		e, err := startEmbedded(ctx, cfg.DataDir, cfg.Cluster, s.log)
		if err != nil {
			return err
		}
		s.embedded, s.client, s.maxTxnOps = e, e.client(), embeddedMaxTxnOps
		s.cluster = cfg.Cluster
		return nil
	case len(cfg.Endpoints) > 0:
		if s.maxTxnOps == 0 {
			s.maxTxnOps = externalMaxTxnOps
		}
		client, err := clientv3.New(clientv3.Config{
			Endpoints:            cfg.Endpoints,
			TLS:                  cfg.TLS,
			DialTimeout:          dialTimeout,
			DialKeepAliveTime:    10 * time.Second,
			DialKeepAliveTimeout: 5 * time.Second,
			MaxCallSendMsgSize:   embeddedMaxRequest,
			Logger:               zapLogger(s.log),
		})
		if err != nil {
			return fmt.Errorf("reach etcd at %v: %w", cfg.Endpoints, err)
		}
		s.client = client
		probe, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if err := s.Ping(probe); err != nil {
			client.Close()
			return fmt.Errorf("%w; endpoints %v, check addresses, certificates and --etcd-ca", err, cfg.Endpoints)
		}
		return nil
	default:
		return errors.New("open store: neither a data directory nor etcd endpoints are set; set one")
	}
}

func (s *Store) disconnect() error {
	err := s.client.Close()
	if s.embedded != nil {
		s.embedded.close()
	}
	if errors.Is(err, context.Canceled) { // what a client that had a watch answers
		return nil
	}
	return err
}

const epochKey = root + "meta/epoch"

// ensureEpoch makes the epoch unless another replica did; anew makes another one in any
// case.
func (s *Store) ensureEpoch(ctx context.Context, anew bool) error {
	resp, err := s.client.Get(ctx, epochKey)
	if err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	var epoch storev1.Epoch
	made := int64(0) // revision of the epoch that there is
	if len(resp.Kvs) > 0 {
		made = resp.Kvs[0].ModRevision
		if err := proto.Unmarshal(resp.Kvs[0].Value, &epoch); err != nil {
			return fmt.Errorf("decode epoch: %w", err)
		}
	}
	if made == 0 || anew {
		next := &storev1.Epoch{Id: ulid.Make().String(), CreateTime: timestamppb.Now(), Past: epoch.GetPast()}
		if made != 0 {
			next.Past = append(next.Past, &storev1.PastEpoch{Id: epoch.GetId(), EndRevision: resp.Header.GetRevision()})
		}
		b, err := proto.Marshal(next)
		if err != nil {
			return fmt.Errorf("encode epoch: %w", err)
		}
		put, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(epochKey), "=", made)).
			Then(clientv3.OpPut(epochKey, string(b))).
			Commit()
		if err != nil {
			return fmt.Errorf("write epoch: %w", err)
		}
		if !put.Succeeded { // another replica was faster: it is as new as ours
			return s.ensureEpoch(ctx, false)
		}
		epoch = storev1.Epoch{Id: next.GetId(), Past: next.GetPast()}
	}
	s.epoch, s.pastEpochs = epoch.GetId(), map[string]int64{}
	for _, p := range epoch.GetPast() {
		s.pastEpochs[p.GetId()] = p.GetEndRevision()
	}
	return nil
}

// scan reads every key below prefix as of one revision, 0 for the present one,
// page by page, and returns that revision.
func (s *Store) scan(ctx context.Context, prefix string, revision int64, each func(*mvccpb.KeyValue) error) (int64, error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	for key := prefix; ; {
		resp, err := s.client.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return 0, fmt.Errorf("list %s: %w", prefix, err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			if err := each(kv); err != nil {
				return 0, err
			}
		}
		if !resp.More {
			return revision, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}
