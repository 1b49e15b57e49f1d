package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/api"
	"github.com/swanherd/swanherd/server/stun"
)

const (
	// maxManifest bounds a message of an operator in octets: a manifest of a
	// large fleet.
	maxManifest = 16 << 20
	// maxEdgeMessage bounds a message of an edge: a full status report.
	maxEdgeMessage = 4 << 20
	// maxEdgeStreams bounds what one edge does at once: a session and a renewal,
	// with room for those that it gave up and that are not gone yet.
	maxEdgeStreams = 16
)

// listeners are the bound sockets.
type listeners struct {
	operator, edge, metrics, replica net.Listener

	stun *stun.Server // nil: off
}

func (l *listeners) close() {
	for _, lis := range []net.Listener{l.operator, l.edge, l.metrics, l.replica} {
		if lis != nil {
			lis.Close() // already closed by who served it, when there was one
		}
	}
	if l.stun != nil {
		l.stun.Close()
	}
}

// listen binds every address, so that what is advertised is known before
// anything is made from it.
func (s *Server) listen(ctx context.Context) error {
	bind := func(what, address string, lis *net.Listener) error {
		var cfg net.ListenConfig
		var err error
		if *lis, err = cfg.Listen(ctx, "tcp", address); err != nil {
			return fmt.Errorf("listen for %s: %w", what, err)
		}
		return nil
	}
	if err := errors.Join(
		bind("operators (--listen)", s.cfg.Listen, &s.listeners.operator),
		bind("edges (--edge-listen)", s.cfg.EdgeListen, &s.listeners.edge),
		bind("metrics (--metrics-listen)", s.cfg.MetricsListen, &s.listeners.metrics)); err != nil {
		return err
	}
	if s.cfg.shared() {
		if err := bind("replicas (--replica-listen)", s.cfg.ReplicaListen, &s.listeners.replica); err != nil {
			return err
		}
		s.info.ReplicaEndpoint = cmp.Or(s.cfg.AdvertiseReplica, reachable(s.listeners.replica.Addr(), ""))
	}
	if s.cfg.STUNListen != "" {
		var err error
		if s.listeners.stun, err = stun.Listen(ctx, s.cfg.STUNListen, func(r stun.Result) { s.metrics.STUNAsked(r.String()) }); err != nil {
			return fmt.Errorf("listen for STUN (--stun-listen; empty for none): %w", err)
		}
		s.info.STUNPorts = s.listeners.stun.Ports()
	}
	s.info.OperatorAddr, s.info.EdgeAddr, s.info.MetricsAddr = s.listeners.operator.Addr(), s.listeners.edge.Addr(), s.listeners.metrics.Addr()
	s.info.EdgeEndpoints = s.cfg.AdvertiseEdge
	if len(s.info.EdgeEndpoints) == 0 {
		s.info.EdgeEndpoints = []string{reachable(s.info.EdgeAddr, "")}
	}
	s.info.URL = strings.TrimSuffix(s.cfg.AdvertiseURL, "/")
	if s.info.URL == "" {
		s.info.URL = "https://" + reachable(s.info.OperatorAddr, "")
	}
	return nil
}

// guarded returns the options that put the guard in front of every call.
func (s *Server) guarded(edges access.Verifier, source func(context.Context) netip.Addr, certificate func(context.Context) *x509.Certificate) ([]grpc.ServerOption, error) {
	guard, err := access.NewGuard(s.keeper, edges, s.cfg.Log, source, certificate)
	if err != nil {
		return nil, err
	}
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(access.NewCodec()),
		grpc.ChainUnaryInterceptor(append([]grpc.UnaryServerInterceptor{s.metrics.GRPC.UnaryServerInterceptor(), s.markStale}, guard.Unary()...)...),
		grpc.ChainStreamInterceptor(append([]grpc.StreamServerInterceptor{s.metrics.GRPC.StreamServerInterceptor(), s.markStaleStream}, guard.Stream()...)...),
	}, nil
}

// markStale says in the header of an answer that it may be old: reads go on when the
// store does not answer.
func (s *Server) markStale(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if since, stale := s.store.StaleSince(); stale {
		// Fails only where there is no answer to mark.
		_ = grpc.SetHeader(ctx, staleHeader(since))
	}
	return handle(ctx, req)
}

// markStaleStream does that at the begin of a stream; what comes later the stream says.
func (s *Server) markStaleStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if since, stale := s.store.StaleSince(); stale {
		_ = stream.SetHeader(staleHeader(since)) // fails only after one was sent
	}
	return handle(srv, stream)
}

func staleHeader(since time.Time) metadata.MD {
	return metadata.Pairs(api.StaleHeader, since.UTC().Format(time.RFC3339))
}

func (s *Server) registerOperatorServices(g *grpc.Server) {
	swanherdv1.RegisterTopologyServiceServer(g, s.services.topology)
	swanherdv1.RegisterFleetServiceServer(g, s.services.fleet)
	swanherdv1.RegisterAccessServiceServer(g, s.services.access)
	swanherdv1.RegisterCertificateServiceServer(g, s.services.certificates)
	swanherdv1.RegisterDeviceServiceServer(g, s.services.devices)
	swanherdv1.RegisterRolloutServiceServer(g, s.services.rollouts)
	swanherdv1.RegisterJobServiceServer(g, s.services.jobs)
	swanherdv1.RegisterAlertServiceServer(g, s.services.alerts)
	swanherdv1.RegisterKeyServiceServer(g, s.services.keys)
	swanherdv1.RegisterRoleBindingServiceServer(g, s.services.bindings)
	swanherdv1.RegisterUserServiceServer(g, s.services.users)
	swanherdv1.RegisterSignInServiceServer(g, s.services.signIn)
	swanherdv1.RegisterHistoryServiceServer(g, s.services.history)
	swanherdv1.RegisterClusterServiceServer(g, s.services.cluster)
	healthpb.RegisterHealthServer(g, s.health)
	reflection.Register(g)
}

// loop is the controller's own way to its operator services, for REST and the
// dashboard: the same services behind the same guard, in memory.
type loop struct {
	listener *bufconn.Listener
	server   *grpc.Server
	conn     *grpc.ClientConn
}

// sourceHeader carries where a REST or dashboard call came from. Only the loop
// looks at it, and there only the controller itself sets it.
const sourceHeader = "swanherd-source"

func (s *Server) serveLoop() error {
	options, err := s.guarded(nil, func(ctx context.Context) netip.Addr {
		for _, v := range metadata.ValueFromIncomingContext(ctx, sourceHeader) {
			if ap, err := netip.ParseAddrPort(v); err == nil {
				return ap.Addr()
			}
		}
		return netip.Addr{}
	}, access.ForwardedCertificate)
	if err != nil {
		return err
	}
	l := &loop{listener: bufconn.Listen(1 << 20), server: grpc.NewServer(append(options, grpc.MaxRecvMsgSize(maxManifest))...)}
	s.registerOperatorServices(l.server)
	l.conn, err = grpc.NewClient("passthrough:///controller",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // never leaves the process
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.listener.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxManifest)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoker(withSourceHeader(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(withSourceHeader(ctx), desc, cc, method, opts...)
		}))
	if err != nil {
		return fmt.Errorf("reach the own services: %w", err)
	}
	s.loop = l
	s.background.Go(func() { s.served("own services", l.server.Serve(l.listener)) })
	return nil
}

func (l *loop) close() {
	l.conn.Close()
	l.server.Stop()
	l.listener.Close()
}

type sourceKey struct{}

// httpSource is where an HTTP request came from, what the client called itself, and the
// client certificate that it may act by; nil: none.
type httpSource struct {
	address, userAgent string
	certificate        *x509.Certificate
}

// sameSite refuses what a page of another site makes a browser ask for: it would show
// the client certificate for that.
var sameSite = http.NewCrossOriginProtection()

// actingCertificate is the certificate that a REST call acts by. The dashboard's pages
// have a sign-in of their own.
func actingCertificate(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || !strings.HasPrefix(r.URL.Path, "/v1/") || sameSite.Check(r) != nil {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}

// withSourceHeader passes on where the HTTP request came from, and nothing that
// claims to be that.
func withSourceHeader(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	md.Delete(sourceHeader)
	md.Delete(access.UserAgentHeader)
	md.Delete(access.CertificateHeader)
	if source, ok := ctx.Value(sourceKey{}).(httpSource); ok {
		md.Set(sourceHeader, source.address)
		md.Set(access.UserAgentHeader, access.PlainUserAgent(source.userAgent))
		if source.certificate != nil {
			md.Set(access.CertificateHeader, base64.StdEncoding.EncodeToString(source.certificate.Raw))
		}
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// operatorServer serves gRPC, REST and the dashboard on one TLS port.
type operatorServer struct {
	http   *http.Server
	grpc   *grpc.Server
	cancel context.CancelFunc
}

func (s *Server) makeOperator(ctx context.Context) error {
	options, err := s.guarded(nil, access.PeerAddr, access.PeerCertificate)
	if err != nil {
		return err
	}
	g := grpc.NewServer(append(options, grpc.MaxRecvMsgSize(maxManifest))...)
	s.registerOperatorServices(g)
	rest, err := api.NewREST(ctx, s.loop.conn)
	if err != nil {
		return fmt.Errorf("make REST gateway: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", rest)
	mux.Handle("/openapi.json", rest)
	if s.cfg.Dashboard != nil {
		dashboard, err := s.cfg.Dashboard(s.loop.conn)
		if err != nil {
			return fmt.Errorf("make dashboard: %w", err)
		}
		mux.Handle("/", dashboard)
	}
	base, cancel := context.WithCancel(context.Background())
	s.operator = &operatorServer{grpc: g, cancel: cancel, http: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = s.bounded(r)
			if r.ProtoMajor == 2 && isGRPC(r.Header.Get("Content-Type")) {
				g.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), sourceKey{}, httpSource{r.RemoteAddr, r.UserAgent(), actingCertificate(r)})))
		}),
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          discardHandshakeErrors(s.cfg.Log),
	}}
	return nil
}

// isGRPC says whether a request is native gRPC; gRPC-Web is the dashboard's.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// shutdown ends streams at once, as they would last for ever, and gives calls
// until ctx ends.
func (o *operatorServer) shutdown(ctx context.Context) {
	o.cancel()
	if o.http.Shutdown(ctx) != nil {
		o.http.Close()
	}
	o.grpc.Stop()
}

// What a connection of an edge may take, in octets.
const (
	edgeWriteBuffer = 4 << 10
	edgeWindow      = 64 << 10 // the least that there is
)

// makeEdge makes the server of the edges. It asks for client certificates and
// proves those that come in each handshake; methods that need one refuse calls
// without.
func (s *Server) makeEdge() error {
	options, err := s.guarded(s.verifyEdge, access.PeerAddr, access.PeerCertificate)
	if err != nil {
		return err
	}
	s.edgeGRPC = grpc.NewServer(append(options,
		grpc.Creds(boundHandshakes(credentials.NewTLS(&tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: s.identity.certificate,
			ClientAuth:     tls.RequestClientCert,
			// Edges ask for none: each connection proves the certificate of the moment.
			SessionTicketsDisabled: true,
			VerifyConnection: func(state tls.ConnectionState) error {
				if len(state.PeerCertificates) == 0 {
					return nil
				}
				_, err := s.verifyEdge(state.PeerCertificates[0])
				return err
			},
		}), maxHandshakes, handshakeWait)),
		grpc.MaxRecvMsgSize(maxEdgeMessage),
		grpc.MaxConcurrentStreams(maxEdgeStreams),
		grpc.ConnectionTimeout(handshakeWait+2*handshakeTimeout),
		// An edge is quiet nearly always, and there are many: no buffer is kept for
		// each, nor a window that grows.
		grpc.ReadBufferSize(0),
		grpc.WriteBufferSize(edgeWriteBuffer),
		grpc.SharedWriteBuffer(true),
		grpc.HeaderTableSize(0), // one stream after the other: no header comes twice
		grpc.StaticStreamWindowSize(edgeWindow),
		grpc.StaticConnWindowSize(edgeWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)...)
	swanherdv1.RegisterEnrollmentServiceServer(s.edgeGRPC, s.services.enrollment)
	swanherdv1.RegisterEdgeControlServiceServer(s.edgeGRPC, s.sessions)
	healthpb.RegisterHealthServer(s.edgeGRPC, s.health)
	return nil
}

func (s *Server) makeMetrics() {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := s.store.Ping(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	if s.cfg.Profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	s.metricsH = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
}

// startServing begins to accept on every listener.
func (s *Server) startServing() {
	tlsConfig := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: s.identity.certificate,
		NextProtos:     []string{"h2", "http/1.1"},
	}
	s.operator.http.TLSConfig = tlsConfig
	if s.operatorCAs != nil {
		s.operatorCAs.configure(s.operator.http)
	}
	s.background.Go(func() {
		s.served("operators", s.operator.http.ServeTLS(s.listeners.operator, "", ""))
	})
	s.background.Go(func() { s.served("edges", s.edgeGRPC.Serve(s.listeners.edge)) })
	s.background.Go(func() { s.served("metrics", s.metricsH.Serve(s.listeners.metrics)) })
	if s.listeners.stun != nil {
		s.background.Go(s.listeners.stun.Serve)
	}
}

// served takes note of a listener that ended.
func (s *Server) served(what string, err error) {
	if err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
		s.fail(fmt.Errorf("serve %s: %w", what, err))
	}
}
