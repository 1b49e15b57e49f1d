package access

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/store"
)

// Guard is what every call passes before it reaches a handler: recovery from
// panics, a line in the log, authentication, authorisation, validation.
type Guard struct {
	keeper   *Keeper
	edges    Verifier
	validate protovalidate.Validator
	log      *slog.Logger
	source   func(context.Context) netip.Addr
	// certificate is the client certificate of an operator; nil: none.
	certificate func(context.Context) *x509.Certificate
}

// NewGuard returns a guard. edges verifies control certificates; nil where no
// edges call. source tells where a call comes from, and certificate the operator's client
// certificate if it has proved one.
func NewGuard(keeper *Keeper, edges Verifier, log *slog.Logger, source func(context.Context) netip.Addr, certificate func(context.Context) *x509.Certificate) (*Guard, error) {
	v, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make request validator: %w", err)
	}
	return &Guard{keeper: keeper, edges: edges, validate: v, log: log, source: source, certificate: certificate}, nil
}

// PeerAddr returns the address at the other end of the call's connection.
func PeerAddr(ctx context.Context) netip.Addr {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Addr{}
	}
	return hostAddr(p.Addr)
}

func hostAddr(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}

// Unary returns the interceptors of unary calls, outermost first.
func (g *Guard) Unary() []grpc.UnaryServerInterceptor {
	return []grpc.UnaryServerInterceptor{
		logging.UnaryServerInterceptor(g.logger(), logOptions()...),
		recovery.UnaryServerInterceptor(recovery.WithRecoveryHandlerContext(g.recovered)),
		g.unary,
	}
}

// Stream returns the interceptors of streams, outermost first.
func (g *Guard) Stream() []grpc.StreamServerInterceptor {
	return []grpc.StreamServerInterceptor{
		logging.StreamServerInterceptor(g.logger(), logOptions()...),
		recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(g.recovered)),
		g.stream,
	}
}

// logOptions leaves payloads and metadata out: they hold secrets.
func logOptions() []logging.Option {
	return []logging.Option{
		logging.WithLogOnEvents(logging.FinishCall),
		logging.WithDisableLoggingFields(logging.SystemTag[0], logging.ComponentFieldKey, logging.MethodTypeFieldKey, "grpc.request.deadline"),
		logging.WithLevels(func(c codes.Code) logging.Level {
			switch c {
			case codes.OK, codes.Canceled:
				return logging.LevelDebug
			case codes.Internal, codes.Unknown, codes.DataLoss:
				return logging.LevelError
			default:
				return logging.LevelInfo
			}
		}),
	}
}

func (g *Guard) logger() logging.Logger {
	return logging.LoggerFunc(func(ctx context.Context, lvl logging.Level, msg string, fields ...any) {
		g.log.Log(ctx, slog.Level(lvl), msg, fields...)
	})
}

func (g *Guard) recovered(ctx context.Context, p any) error {
	method, _ := grpc.Method(ctx)
	g.log.ErrorContext(ctx, "panic in a call", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "the controller made a mistake; its log has the details")
}

func (g *Guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	r, ctx, err := g.authenticate(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	message, ok := req.(proto.Message)
	if !ok {
		return nil, status.Errorf(codes.Internal, "request of %s is no message", info.FullMethod)
	}
	if err := g.admit(ctx, r, message); err != nil {
		return nil, err
	}
	ctx = g.withSource(ctx, info.FullMethod, message)
	resp, err := handler(ctx, req)
	if r.guessable {
		g.countFailure(ctx, info.FullMethod, err)
	}
	return resp, err
}

func (g *Guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	r, ctx, err := g.authenticate(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	wrapped := middleware.WrapServerStream(ss)
	wrapped.WrappedContext = g.withSource(ctx, info.FullMethod, nil)
	return handler(srv, &guardedStream{WrappedServerStream: wrapped, guard: g, rule: r})
}

// guardedStream admits each message of a stream as if it were a call.
type guardedStream struct {
	*middleware.WrappedServerStream
	guard *Guard
	rule  rule
}

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.WrappedServerStream.RecvMsg(m); err != nil {
		return err
	}
	message, ok := m.(proto.Message)
	if !ok {
		return status.Error(codes.Internal, "message of a stream is no message")
	}
	return s.guard.admit(s.Context(), s.rule, message)
}

// authenticate finds who calls and whether the method is for such callers.
func (g *Guard) authenticate(ctx context.Context, method string) (rule, context.Context, error) {
	r, ok := rules[method]
	if !ok {
		return rule{}, nil, status.Errorf(codes.PermissionDenied, "no rule allows %s", method)
	}
	if r.guessable && g.keeper.failures.blocked(g.source(ctx)) {
		return rule{}, nil, errTooManyFailures()
	}
	switch r.caller {
	case forAnyone:
		return r, ctx, nil
	case forEdges:
		id, err := g.edges.identify(ctx)
		if err != nil {
			return rule{}, nil, err
		}
		return r, WithEdge(ctx, id), nil
	}
	p, err := g.operator(ctx, method)
	if err != nil {
		return rule{}, nil, err
	}
	if wait := g.keeper.calls.take(p.Actor, time.Now()); wait > 0 {
		if g.keeper.cfg.Limited != nil {
			g.keeper.cfg.Limited()
		}
		return rule{}, nil, errTooManyCalls(p.Actor, wait)
	}
	enough, err := p.For(method)
	if err != nil {
		return rule{}, nil, err
	}
	return r, WithPrincipal(ctx, enough), nil
}

// For is the principal as a handler of the method gets it: with those of its grants that are
// enough for the method. The error is PERMISSION_DENIED where none is.
func (p Principal) For(method string) (Principal, error) {
	r, ok := rules[method]
	if !ok || r.caller != forOperators {
		return Principal{}, status.Errorf(codes.PermissionDenied, "no rule allows %s", method)
	}
	if p.Role() < r.role {
		return Principal{}, status.Errorf(codes.PermissionDenied, "%s needs %s, %s has %s", method, r.role, p.Actor, p.Role())
	}
	enough := p.With(r.role)
	if !r.limited {
		if enough = enough.Whole(); len(enough.Grants) == 0 {
			return Principal{}, status.Errorf(codes.PermissionDenied, "%s concerns whole networks, the role of %s is limited to what carries %s",
				method, p.Actor, p.With(r.role).limits(""))
		}
	}
	if r.scope == everywhere && !enough.Global() {
		return Principal{}, status.Errorf(codes.PermissionDenied, "%s concerns all networks, %s is bound to %s",
			method, p.Actor, strings.Join(enough.Networks(), ", "))
	}
	return enough, nil
}

// In is PERMISSION_DENIED for a network, `networks/{network}`, in which the principal has no
// grant. `networks/-` stands for those in which it has.
func (p Principal) In(network string) error {
	if network == "networks/-" || p.Sees(network) {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "%s may not act in %s", p.Actor, network)
}

// operator authenticates by the call's bearer token (RFC 6750, Section 2.1), or without
// one by the client certificate.
func (g *Guard) operator(ctx context.Context, method string) (Principal, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if cert := g.certificate(ctx); len(values) == 0 && cert != nil {
		p, err := g.keeper.holder(ctx, cert)
		g.recordSignIn(ctx, method, string(cert.Raw), p, err)
		return p, err
	}
	if len(values) != 1 {
		return Principal{}, status.Error(codes.Unauthenticated, "no token; send `authorization: Bearer` and an API token (swa_...) or an ID token")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, status.Error(codes.Unauthenticated, "authorization is not of the form `Bearer swa_...`")
	}
	token = strings.TrimSpace(token)
	p, err := g.keeper.Authenticate(ctx, token)
	g.recordSignIn(ctx, method, token, p, err)
	if err == nil { // however many others behind the same address were wrong
		return p, nil
	}
	if status.Code(err) != codes.Unauthenticated || errors.Is(err, errOldIDToken) { // nothing that was guessed
		return Principal{}, err
	}
	if g.keeper.failures.blocked(g.source(ctx)) {
		return Principal{}, errTooManyFailures()
	}
	g.countFailure(ctx, method, err)
	return Principal{}, err
}

// admit checks a message against its rules and the caller's networks. Reports
// of edges pass: they are many, and one odd field must not end a session. The session
// bounds them, see session/bounds.go.
func (g *Guard) admit(ctx context.Context, r rule, m proto.Message) error {
	if err := decoded(m); err != nil {
		return err
	}
	if r.caller == forOperators && r.scope == inNetworks {
		p := PrincipalFrom(ctx)
		for _, n := range networksOf(m) {
			if err := p.In(n); err != nil {
				return err
			}
		}
		if err := g.inScope(p, r, m); err != nil {
			return err
		}
	}
	if e, ok := m.(*swanherdv1.EdgeMessage); ok && e.GetHello() == nil && e.GetUplinks() == nil {
		return nil
	}
	violations := Violations(g.validate.Validate(m, protovalidate.WithFilter(protovalidate.FilterFunc(complete))))
	if len(violations) == 0 {
		return nil
	}
	return InvalidAll(violations)
}

// inScope holds what the request names to the labels that limit the caller. What it
// means to make, or lists, the handler looks at.
func (g *Guard) inScope(p Principal, r rule, m proto.Message) error {
	name := nameIn(m)
	if name == "" || !p.limited() {
		return nil
	}
	scope := p.Scope(g.keeper.store.Snapshot())
	if r.role > viewer && !scope.Changes(name) || !scope.Sees(name) {
		return scope.Denied(name)
	}
	return nil
}

// complete is false of the resource in an update: it may hold nothing but what
// changes (AIP-134), so its rules are for what comes of it, by the handler.
func complete(_ protoreflect.Message, d protoreflect.Descriptor) bool {
	f, ok := d.(protoreflect.FieldDescriptor)
	if !ok || f.Message() == nil || f.Name() == updateMask {
		return true
	}
	return f.ContainingMessage().Fields().ByName(updateMask) == nil
}

const updateMask = protoreflect.Name("update_mask")

// countFailure counts a wrong secret against its source, and writes it to the
// audit log as far as limits allow: neither may a guesser fill the store.
func (g *Guard) countFailure(ctx context.Context, method string, err error) {
	if c := status.Code(err); c != codes.PermissionDenied && c != codes.Unauthenticated {
		return
	}
	source := g.source(ctx)
	within := g.keeper.failures.failed(source)
	suppressed, ok := g.keeper.audits.allow()
	if !within || !ok {
		return
	}
	message := fmt.Sprintf("%s from %s: %s", method, source, status.Convert(err).Message())
	if suppressed > 0 {
		message += fmt.Sprintf("; %d more were not recorded", suppressed)
	}
	write, cancel := context.WithTimeout(context.WithoutCancel(g.withSource(ctx, method, nil)), 5*time.Second)
	defer cancel()
	event := Audit("source:"+source.String(), method, "token.reject", message)
	if err := g.keeper.store.AppendEvent(write, store.NoNetwork, event); err != nil {
		g.log.WarnContext(ctx, "cannot record a rejected token", "error", err)
	}
}

func errTooManyFailures() error {
	st := status.New(codes.ResourceExhausted, "too many wrong tokens from this address; wait and try again")
	if d, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(failureInterval)}); err == nil {
		st = d
	}
	return st.Err()
}
