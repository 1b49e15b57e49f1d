package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	replicav1 "github.com/swanherd/swanherd/proto/swanherd/replica/v1"
	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/history"
	"github.com/swanherd/swanherd/server/pki"
	"github.com/swanherd/swanherd/server/replica"
	"github.com/swanherd/swanherd/server/store"
)

// newReplicaName names a controller until it ends.
func newReplicaName() string { return "replicas/" + strings.ToLower(rand.Text()) }

// shared says whether other controllers may use the same store.
func (c Config) shared() bool { return len(c.EtcdEndpoints) > 0 || c.Cluster != nil }

// makeReplica makes the service that other replicas follow and what follows them.
func (s *Server) makeReplica() {
	if !s.cfg.shared() {
		return
	}
	identity := &serverIdentity{authority: s.authority, issue: func(a *pki.Authority, key crypto.PublicKey, now time.Time) (*pki.Certificate, error) {
		return a.IssueReplica(key, s.name, now)
	}}
	trust := func(leaf *x509.Certificate) error {
		_, err := s.authority().VerifyReplica(leaf, time.Now())
		return err
	}
	verify := func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return fmt.Errorf("the other side showed no certificate")
		}
		return trust(state.PeerCertificates[0])
	}
	s.replicaGRPC = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:       tls.VersionTLS13,
			GetCertificate:   identity.certificate,
			ClientAuth:       tls.RequireAnyClientCert,
			VerifyConnection: verify,
		})),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
	replicav1.RegisterReplicaServiceServer(s.replicaGRPC, replica.NewServer(s.name, s.fleet, s.series, s.sessions.Command, trust, func() bool { return s.staleFor() > 0 }))
	s.follower = &replica.Follower{
		Name:  s.name,
		Store: s.store,
		Fleet: s.fleet,
		Trust: trust,
		Credentials: credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13,
			// Certificates of replicas name no host; VerifyConnection holds them to the
			// controller's authority.
			InsecureSkipVerify: true,
			VerifyConnection:   verify,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return identity.certificate(nil)
			},
		}),
		Supersede: func(over []fleet.Superseded) {
			for _, o := range over {
				s.sessions.Supersede(o.Edge, o.Session)
			}
		},
		Log: s.cfg.Log,
	}
}

// cutOffAfter is how long the store may not answer before edges are to look for another
// replica: then the lease of this one has ended, and the others take its edges for lost.
const cutOffAfter = 10 * time.Second

// cutOff says whether other replicas go on without this one.
func (s *Server) cutOff() bool {
	return s.follower != nil && s.staleFor() >= cutOffAfter && s.follower.GoesOnElsewhere()
}

// command gives a command to an edge, wherever it has its session.
func (s *Server) command(ctx context.Context, edge string, c *swanherdv1.Command) error {
	switch home, ok := s.fleet.Home(edge); {
	case !ok:
		return status.Errorf(codes.FailedPrecondition, "%s has no session with the controller; it takes commands when it is back", edge)
	case home == "" || s.follower == nil:
		return s.sessions.Command(ctx, edge, c)
	default:
		return s.follower.Command(ctx, home, edge, c)
	}
}

// history is how a series was, by what all replicas have, and the names of those that do
// not tell.
func (s *Server) history(ctx context.Context, series string, start, end time.Time, step time.Duration) (history.Curve, []string, error) {
	own, err := s.series.Query(series, start, end, time.Now(), step)
	if err != nil || s.follower == nil {
		return own, nil, err
	}
	others, missing := s.follower.History(ctx, series, start, end, own.Step)
	return history.Sum(own, others...), missing, nil
}

// serveReplicas announces this replica, follows the others, and leads when it is its
// turn, until ctx ends.
func (s *Server) serveReplicas(ctx context.Context) {
	duties := store.Duties{
		Replica: &storev1.Replica{
			Name:          s.name,
			EdgeEndpoints: s.info.EdgeEndpoints,
			Version:       s.cfg.Version,
			StartTime:     timestamppb.Now(),
		},
		Lead: s.lead,
	}
	if s.replicaGRPC != nil {
		duties.Replica.Address = s.info.ReplicaEndpoint
		s.background.Go(func() { s.served("replicas", s.replicaGRPC.Serve(s.listeners.replica)) })
		s.background.Go(func() { s.follower.Run(ctx) })
	}
	s.background.Go(func() { s.store.Serve(ctx, duties) })
}

// lead does, until ctx ends, what only one replica is to do.
func (s *Server) lead(ctx context.Context, l *store.Leadership) {
	s.cfg.Log.Info("leading")
	s.leadsSince.Store(time.Now().UnixNano())
	s.leads.Store(true)
	defer s.leads.Store(false)
	var duties sync.WaitGroup
	duties.Go(func() { s.store.TrimEvents(ctx, l) })
	duties.Go(func() { s.store.SealAudit(ctx, l, s.sealer) })
	duties.Go(func() { s.keyRing.Reseal(ctx, l) })
	duties.Go(func() { s.store.PromoteMembers(ctx) })
	duties.Go(func() { s.forgetExpired(ctx) })
	duties.Go(func() { s.jobs.Tend(ctx) })
	duties.Go(func() { s.rotator().Run(ctx) })
	duties.Go(func() { s.requester().Run(ctx) })
	duties.Go(func() { s.expiryWatch().Run(ctx) })
	duties.Go(func() { s.driveRollouts(ctx, l) })
	duties.Go(func() { s.alerter.run(ctx, l) })
	duties.Go(func() { s.alerter.courier.Run(ctx) })
	duties.Go(func() { _ = s.keeper.Run(ctx) })
	duties.Wait()
	s.cfg.Log.Info("leading no more")
}
