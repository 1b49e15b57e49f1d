package server

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/status"

	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/api"
	"github.com/swanherd/swanherd/server/attest"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/history"
	"github.com/swanherd/swanherd/server/job"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/replica"
	"github.com/swanherd/swanherd/server/session"
	"github.com/swanherd/swanherd/server/store"
)

const (
	// drainTimeout bounds how long edges and calls have to leave.
	drainTimeout  = 5 * time.Second
	probeInterval = 10 * time.Second
)

// Server is a running controller.
type Server struct {
	cfg  Config
	info Info
	// name tells this replica of the controller from others, and from its own earlier
	// lives: `replicas/{replica}`.
	name  string
	leads atomic.Bool
	// leadsSince is when this replica began to lead, in nanoseconds of Unix time.
	leadsSince atomic.Int64
	planned    atomic.Pointer[planned]

	store    *store.Store
	sealer   *store.Sealer
	keyRing  *store.KeyRing
	pki      *pki.Keeper
	verifier pki.Verifier
	identity *serverIdentity
	keeper   *access.Keeper
	recorder *fleet.Recorder
	fleet    *fleet.Fleet
	board    *session.Board
	jobs     *job.Keeper
	sessions *session.Server
	metrics  *history.Metrics
	alerter  *alerter
	series   *history.Series
	health   *health.Server
	services services

	listeners listeners
	loop      *loop
	edgeGRPC  *grpc.Server
	// replicaGRPC and follower are nil when the store is this process's alone.
	replicaGRPC *grpc.Server
	follower    *replica.Follower
	operator    *operatorServer
	operatorCAs *operatorCAs // nil: operators have no certificates
	metricsH    *http.Server

	stop       context.CancelFunc
	background sync.WaitGroup
	failed     chan error
	closeOnce  sync.Once
	closeErr   error
}

// services are the implementations of the API.
type services struct {
	topology   *api.Topology
	fleet      *api.Fleet
	access     *api.Access
	enrollment *api.Enrollment

	certificates *api.Certificates
	devices      *api.Devices
	rollouts     *api.Rollouts
	jobs         *api.Jobs
	alerts       *api.Alerts
	keys         *api.Keys
	bindings     *api.RoleBindings
	users        *api.Users
	signIn       *api.SignIn
	history      *api.History
	cluster      *api.Cluster
}

// Start starts a controller and returns once it serves. A Start that fails
// leaves nothing running. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, name: newReplicaName(), failed: make(chan error, 1), stop: func() {}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	for _, step := range []func(context.Context) error{
		s.openStore,
		s.listen,
		s.makeParts,
		s.makeServices,
		s.bootstrap,
		s.serve,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	cfg.Log.Info("controller serves", "operators", s.info.OperatorAddr, "edges", s.info.EdgeAddr,
		"metrics", s.info.MetricsAddr, "replica", s.name, "url", s.info.URL, "advertise_edge", s.info.EdgeEndpoints, "epoch", s.store.Epoch())
	return s, nil
}

// Info tells what became of the Config.
func (s *Server) Info() Info { return s.info }

// Failed yields an error when the controller cannot go on; Close it then.
func (s *Server) Failed() <-chan error { return s.failed }

func (s *Server) fail(err error) {
	select {
	case s.failed <- err:
	default: // the first failure tells
	}
}

func (s *Server) openStore(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	cfg := store.Config{Endpoints: s.cfg.EtcdEndpoints, TLS: s.cfg.EtcdTLS, MaxTxnOps: s.cfg.EtcdMaxTxnOps, Cluster: s.cfg.Cluster, Restored: s.cfg.Restored, Program: s.cfg.Version, Logger: s.cfg.Log}
	cfg.EventRetention, cfg.AuditRetention, cfg.DeletedAuditRetention = s.cfg.EventRetention, s.cfg.AuditRetention, s.cfg.DeletedAuditRetention
	if len(cfg.Endpoints) == 0 {
		cfg.DataDir = s.cfg.DataDir
	}
	var err error
	if s.store, err = store.Open(ctx, cfg); err != nil {
		return err
	}
	load := store.LoadSealer
	if s.cfg.KMS != nil {
		load = store.OldKeys
	}
	if s.sealer, err = load(s.cfg.KeyFile); err != nil {
		return err
	}
	if s.keyRing, err = s.store.OpenKeyRing(ctx, s.cfg.KMS, s.sealer); err != nil {
		return err
	}
	s.pki = pki.NewKeeper(s.store, s.sealer)
	s.series, err = history.OpenSeries(filepath.Join(s.cfg.DataDir, "history.db"), s.cfg.HistoryOctets, s.cfg.Log)
	return err
}

func (s *Server) makeParts(ctx context.Context) error {
	authority, err := s.pki.Controller(ctx, time.Now())
	if err != nil {
		return err
	}
	s.info.CAPin = authority.Pin()
	if s.cfg.OperatorCA != "" {
		if s.operatorCAs, err = readOperatorCAs(s.cfg.OperatorCA, s.cfg.Log); err != nil {
			return err
		}
	}
	hosts := hostsOf(s.info)
	s.identity = &serverIdentity{authority: s.authority, issue: func(a *pki.Authority, key crypto.PublicKey, now time.Time) (*pki.Certificate, error) {
		return a.IssueServer(key, hosts, now)
	}}
	s.keeper = access.NewKeeper(access.Config{
		RateLimit:     s.cfg.RateLimit,
		Limited:       func() { s.metrics.CallLimited() },
		Store:         s.store,
		EdgeEndpoints: s.info.EdgeEndpoints,
		CAPin:         func() string { return s.authority().Pin() },
		URL:           s.info.URL,
		OIDC:          s.cfg.OIDC,
		Log:           s.cfg.Log,
	})
	s.recorder = fleet.NewRecorder(journal{s.store}, s.cfg.Log)
	s.fleet = fleet.New(fleet.Config{Recorder: s.recorder, Leads: s.leads.Load})
	s.metrics = history.New(s.fleet, s.networks)
	s.metrics.Collect(pki.ExpiryCollector{Snapshot: s.store.Snapshot})
	s.metrics.Collect(rolloutCollector{s.store.Snapshot})
	s.metrics.WatchReplica(s.leads.Load, func() int { return s.store.Snapshot().Replicas.Len() }, s.staleFor)
	s.board = session.NewBoard()
	s.jobs = job.NewKeeper(s.store, s.sealer, s.cfg.Log)
	s.sessions = session.New(session.Config{
		Epoch:      s.store.Epoch(),
		PastEpochs: s.store.PastEpochs(),
		Board:      s.board,
		Fleet:      s.fleet,
		Admit:      s.admit,
		JobEnded:   s.jobs.Report,
		Metrics:    s.metrics,
		Log:        s.cfg.Log,

		CounterInterval: s.cfg.CounterInterval,
		ConfirmWithin:   s.cfg.ConfirmWithin,
		Redirect:        s.cfg.RedirectEdges,
		CutOff:          s.cutOff,
		STUNPorts:       s.info.STUNPorts,
	})
	s.health = health.NewServer()
	return nil
}

func (s *Server) makeServices(context.Context) error {
	attestation := api.Attestation{Sealer: s.sealer, Authorities: func() *attest.Authorities { return nil }}
	if s.cfg.TPMCA != "" {
		authorities, err := readTPMCAs(s.cfg.TPMCA, s.cfg.Log)
		if err != nil {
			return err
		}
		attestation.Authorities = authorities.now
	}
	topology, err := api.NewTopology(s.store, s.pki, s.fleet, s.keeper, s.sealer, s.view)
	if err != nil {
		return err
	}
	devices, err := api.NewDevices(s.store)
	if err != nil {
		return err
	}
	s.services = services{
		topology: topology,
		fleet: api.NewFleet(api.FleetConfig{
			Store: s.store, Sealer: s.sealer, Fleet: s.fleet, Keeper: s.keeper, Command: s.command, Version: s.cfg.Version,
		}),
		access:     api.NewAccess(s.store, s.sealer, s.keeper, s.cfg.Version),
		enrollment: api.NewEnrollment(s.store, s.pki, s.keeper, s.info.EdgeEndpoints, attestation),

		certificates: api.NewCertificates(s.store, s.pki, slices.Sorted(maps.Keys(s.cfg.ExternalAuthorities))),
		devices:      devices,
		rollouts:     api.NewRollouts(s.store, topology, s.view),
		jobs:         api.NewJobs(api.JobsConfig{Store: s.store, Keeper: s.jobs, Fleet: s.fleet, Command: s.command}),
		keys:         api.NewKeys(s.store, s.keyRing),
		bindings:     api.NewRoleBindings(s.store, s.keeper),
		users:        api.NewUsers(s.store, s.keeper),
		signIn:       api.NewSignIn(s.keeper),
		cluster:      api.NewCluster(s.store),
	}
	s.services.history = api.NewHistory(s.store, s.fleet, s.history)
	return s.makeAlerts()
}

// staleFor says for how long what this replica knows may be old.
func (s *Server) staleFor() time.Duration {
	if since, stale := s.store.StaleSince(); stale {
		return time.Since(since)
	}
	return 0
}

// networks lists the networks there are, for the metrics.
func (s *Server) networks() []string {
	var out []string
	for row := range s.store.Snapshot().Networks.All() {
		out = append(out, row.Name)
	}
	return out
}

// verifyEdge proves that a certificate is an edge's that may connect now. The edge may
// just have enrolled with another replica.
func (s *Server) verifyEdge(cert *x509.Certificate) (access.EdgeIdentity, error) {
	id, err := s.edgeOf(s.store.Snapshot(), cert)
	if err != nil {
		id, err = s.edgeOf(s.store.CatchUp(context.Background()), cert)
	}
	return id, err
}

func (s *Server) edgeOf(snap *store.Snapshot, cert *x509.Certificate) (access.EdgeIdentity, error) {
	name, err := s.verifier.Control(snap, cert, time.Now())
	if err != nil {
		return access.EdgeIdentity{}, status.Error(codes.PermissionDenied, err.Error())
	}
	return access.EdgeIdentity{Edge: name.String(), Certificate: cert}, nil
}

// admit says whether an edge that has proved itself may still have a session. It does
// not block.
func (s *Server) admit(id access.EdgeIdentity) error {
	_, err := s.edgeOf(s.store.Snapshot(), id.Certificate)
	return err
}

// bootstrap makes the administrator's credential of a new store.
func (s *Server) bootstrap(ctx context.Context) error {
	var file string
	token, err := s.keeper.Bootstrap(ctx, func(token string) (err error) {
		file, err = writeCredential(s.cfg.DataDir, credential{
			Server: reachable(s.info.OperatorAddr, "127.0.0.1"),
			CAPin:  pinPrefix + s.info.CAPin,
			Token:  token,
		})
		return err
	})
	if err == nil && token == "" && file != "" { // another replica's counts
		err = os.Remove(file)
	}
	if token != "" {
		s.info.AdminToken, s.info.CredentialFile = token, file
	}
	return err
}

// serve plans what there is and begins to serve.
func (s *Server) serve(ctx context.Context) error {
	f := newFollower(s)
	f.step() // so that edges and viewers find the fleet from the first moment
	run, stop := context.WithCancel(context.Background())
	s.stop = stop
	if err := s.serveLoop(); err != nil {
		return err
	}
	if err := s.makeOperator(run); err != nil {
		return err
	}
	if err := s.makeEdge(); err != nil {
		return err
	}
	s.makeMetrics()
	s.makeReplica()
	s.background.Go(func() { f.run(run) })
	s.background.Go(func() { s.sessions.Run(run) })
	s.background.Go(func() { s.tendMemory(run) })
	s.background.Go(func() { _ = s.fleet.Run(run) })
	s.background.Go(func() {
		if err := s.recorder.Run(run); err != nil {
			s.cfg.Log.Warn("last transitions were not recorded", "error", err)
		}
	})
	s.background.Go(func() { s.jobs.Run(run) })
	s.background.Go(func() { s.keeper.RunUses(run) })
	s.background.Go(func() { s.keeper.RunProvider(run) })
	s.background.Go(func() {
		s.series.Run(run, cmp.Or(s.cfg.CounterInterval, session.DefaultCounterInterval), (&sampler{seen: s.fleet.Seen}).sample)
	})
	s.background.Go(func() { s.metrics.ProbeStore(run, probeInterval, s.store.Ping) })
	s.background.Go(func() { s.watchStore(run) })
	s.background.Go(func() { s.keyRing.Follow(run) })
	s.background.Go(func() { s.followAuthority(run) })
	if s.operatorCAs != nil {
		s.background.Go(func() { s.operatorCAs.run(run) })
	}
	s.serveReplicas(run)
	s.startServing()
	return ctx.Err()
}

// watchStore ends the controller when its embedded etcd stops by itself.
func (s *Server) watchStore(ctx context.Context) {
	select {
	case <-ctx.Done():
	case err := <-s.store.Failed():
		s.fail(fmt.Errorf("embedded etcd stopped: %w", err))
	}
}

// Close stops the controller: edges are asked to come back later, calls may
// finish within seconds, what is to be stored is stored. It may be called more
// than once.
func (s *Server) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Server) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if s.health != nil {
		s.health.Shutdown()
	}
	if s.edgeGRPC != nil {
		s.sessions.Drain(ctx)
		s.edgeGRPC.Stop()
	}
	if s.operator != nil {
		s.operator.shutdown(ctx)
	}
	if s.loop != nil {
		s.loop.close()
	}
	if s.replicaGRPC != nil {
		s.replicaGRPC.Stop()
	}
	if s.metricsH != nil {
		s.metricsH.Close()
	}
	s.listeners.close()
	s.stop()
	s.background.Wait()
	var err error
	if s.series != nil {
		err = s.series.Close(time.Now())
	}
	if s.store != nil {
		err = errors.Join(err, s.store.Close())
	}
	if err != nil {
		return errors.Join(errors.New("close store"), err)
	}
	return nil
}
