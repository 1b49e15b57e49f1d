package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spf13/cobra"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// client holds the stubs of one connection.
type client struct {
	conn     *grpc.ClientConn
	topology swanherdv1.TopologyServiceClient
	fleet    swanherdv1.FleetServiceClient
	access   swanherdv1.AccessServiceClient

	certificates swanherdv1.CertificateServiceClient
	devices      swanherdv1.DeviceServiceClient
	rollouts     swanherdv1.RolloutServiceClient
	jobs         swanherdv1.JobServiceClient
	alerts       swanherdv1.AlertServiceClient
	keys         swanherdv1.KeyServiceClient
	bindings     swanherdv1.RoleBindingServiceClient
	users        swanherdv1.UserServiceClient
	history      swanherdv1.HistoryServiceClient
	cluster      swanherdv1.ClusterServiceClient
	// parent is the network to work in, `networks/{network}`; empty for
	// commands that need none.
	parent string
}

func (c *client) close() { c.conn.Close() }

// dial connects to the server of the session's context. The connection is made
// when it is first used.
func (s *session) dial() (*client, error) {
	x, err := s.currentContext()
	if err != nil {
		return nil, err
	}
	return s.newClient(x)
}

// dialNetwork is dial for commands that work in one network.
func (s *session) dialNetwork() (*client, error) {
	x, err := s.currentContext()
	if err != nil {
		return nil, err
	}
	parent, err := s.parent(x)
	if err != nil {
		return nil, err
	}
	c, err := s.newClient(x)
	if err != nil {
		return nil, err
	}
	c.parent = parent
	return c, nil
}

// connected runs f with a connection.
func (s *session) connected(f func(*cobra.Command, *client, []string) error) func(*cobra.Command, []string) error {
	return s.over(s.dial, f)
}

// inNetwork runs f with a connection for commands that work in one network.
func (s *session) inNetwork(f func(*cobra.Command, *client, []string) error) func(*cobra.Command, []string) error {
	return s.over(s.dialNetwork, f)
}

func (s *session) over(dial func() (*client, error), f func(*cobra.Command, *client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := dial()
		if err != nil {
			return err
		}
		defer s.keepSuccessor()
		defer c.close()
		return f(cmd, c, args)
	}
}

// keepSuccessor has the context pin the authority that takes the place of the one that it
// pins, which will be dropped.
func (s *session) keepSuccessor() {
	pin := s.successor.Load()
	if pin == nil {
		return
	}
	err := s.editContext(s.context, func(_ *Config, x *Context) { x.CAPin = "sha256:" + *pin })
	if err != nil {
		fmt.Fprintf(s.Err, "warning: the controller's authority is being replaced, and this context still pins the one before: %v\n", err)
		return
	}
	fmt.Fprintf(s.Err, "the controller's authority is being replaced: this context pins sha256:%s from now on\n", *pin)
}

func (s *session) currentContext() (*Context, error) {
	cfg, err := loadConfig(s.configFile)
	if err != nil {
		return nil, err
	}
	x, err := cfg.find(s.context)
	if err != nil {
		return nil, err
	}
	if x, err = s.refreshed(s.ctx, x); err != nil {
		return nil, err
	}
	x.breakGlass = s.breakGlass
	x.learned = func(pin string) { s.successor.Store(&pin) }
	return x, nil
}

func (s *session) newClient(x *Context) (*client, error) {
	conn, err := Connect(x, grpc.WithChainUnaryInterceptor(s.onlyCheck, s.warnStale, x.withReason))
	if err != nil {
		return nil, err
	}
	return clientOf(conn), nil
}

func clientOf(conn *grpc.ClientConn) *client {
	return &client{
		conn:     conn,
		topology: swanherdv1.NewTopologyServiceClient(conn),
		fleet:    swanherdv1.NewFleetServiceClient(conn),
		access:   swanherdv1.NewAccessServiceClient(conn),

		certificates: swanherdv1.NewCertificateServiceClient(conn),
		devices:      swanherdv1.NewDeviceServiceClient(conn),
		rollouts:     swanherdv1.NewRolloutServiceClient(conn),
		jobs:         swanherdv1.NewJobServiceClient(conn),
		alerts:       swanherdv1.NewAlertServiceClient(conn),
		keys:         swanherdv1.NewKeyServiceClient(conn),
		bindings:     swanherdv1.NewRoleBindingServiceClient(conn),
		users:        swanherdv1.NewUserServiceClient(conn),
		history:      swanherdv1.NewHistoryServiceClient(conn),
		cluster:      swanherdv1.NewClusterServiceClient(conn),
	}
}

// Connect returns a connection to the server of x that trusts only the pinned
// authority and shows x's token, as it is.
func Connect(x *Context, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	tlsConfig, err := pinnedTLS(x.Server, x.CAPin, x.learned)
	if err != nil {
		return nil, err
	}
	if x.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(x.Certificate, x.Key)
		if err != nil {
			return nil, usagef("client certificate of context %q: %w", x.Name, err)
		}
		tlsConfig.Certificates = []tls.Certificate{pair}
	}
	return grpc.NewClient(x.Server, append(more,
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)),
		grpc.WithPerRPCCredentials(x.bearer()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
	)...)
}

// withReason tells the controller why a change is made without approval, if there is a
// reason.
func (x *Context) withReason(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if x.breakGlass != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "swanherd-break-glass", x.breakGlass)
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

// staleHeader is what the controller marks answers with that may be old.
const staleHeader = "swanherd-stale-since"

// warnStale tells the operator that what follows may be old.
func (s *session) warnStale(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var header metadata.MD
	err := invoke(ctx, method, req, reply, conn, append(opts, grpc.Header(&header))...)
	for _, since := range header.Get(staleHeader) {
		fmt.Fprintf(s.Err, "warning: the controller does not reach its store; this is how it was at %s\n", since)
	}
	return err
}

// warnStaleStream does so when a stream says that the controller ceases to learn of
// changes, and says when it learns of them again.
func (s *session) warnStaleStream(since *timestamppb.Timestamp, current bool) {
	switch {
	case since != nil:
		fmt.Fprintf(s.Err, "warning: the controller does not reach its store; what was shown and what follows is how it was at %s\n", since.AsTime().Format(time.RFC3339))
	case current:
		fmt.Fprintln(s.Err, "the controller reaches its store again: what follows is how it is now")
	}
}

// pinnedTLS trusts exactly the authority with the pinned key, which the server
// sends behind its own certificate; the system's authorities do not count. While another
// authority takes its place the server's certificate is of that one, which the pinned one
// signed: learned is told its pin.
func pinnedTLS(server, pin string, learned func(pin string)) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, usagef("server %q: want host:port", server)
	}
	want, err := hex.DecodeString(strings.TrimPrefix(pin, "sha256:"))
	if err != nil || len(want) != sha256.Size {
		return nil, usagef("CA pin %q: want sha256: and 64 hexadecimal digits, as the controller printed it", pin)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         host,
		InsecureSkipVerify: true, // VerifyConnection below verifies against the pinned authority.
		VerifyConnection: func(cs tls.ConnectionState) error {
			successor, err := verifyPinned(cs, host, want)
			if successor != "" && learned != nil {
				learned(successor)
			}
			return err
		},
	}, nil
}

// verifyPinned verifies the server's certificate; successor is the pin of the authority that
// issued it if that is not the pinned one itself.
func verifyPinned(cs tls.ConnectionState, host string, pin []byte) (successor string, err error) {
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	pinned := false
	for _, c := range cs.PeerCertificates[1:] {
		if sum := sha256.Sum256(c.RawSubjectPublicKeyInfo); bytes.Equal(sum[:], pin) {
			roots.AddCert(c)
			pinned = true
		} else {
			middle.AddCert(c)
		}
	}
	if !pinned {
		return "", errors.New("the server's authority is not the pinned one: either this is another controller, somebody is in between, or the authority was replaced and the controller prints another pin now")
	}
	chains, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: middle})
	if err != nil {
		return "", fmt.Errorf("verify the server's certificate: %w", err)
	}
	if chain := chains[0]; len(chain) > 2 {
		sum := sha256.Sum256(chain[1].RawSubjectPublicKeyInfo)
		successor = hex.EncodeToString(sum[:])
	}
	return successor, nil
}

// bearer is what x signs in with.
func (x *Context) bearer() bearer {
	if x.OIDC != nil {
		return bearer(x.OIDC.IDToken)
	}
	return bearer(x.Token)
}

// bearer is an API token or an ID token as per-call credentials.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if b == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
