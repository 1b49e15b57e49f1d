package server_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
	"github.com/swanherd/swanherd/server/access"
)

// controller is a real one: embedded etcd, listeners on loopback.
type controller struct {
	t   testing.TB
	cfg server.Config
	s   *server.Server
	// token and roots are what an operator has.
	token string
	roots *x509.CertPool
}

func startController(t testing.TB, more ...func(*server.Config)) *controller {
	t.Helper()
	c := &controller{t: t, cfg: server.Config{
		DataDir:       filepath.Join(t.TempDir(), "controller"),
		Listen:        "127.0.0.1:0",
		EdgeListen:    "127.0.0.1:0",
		MetricsListen: "127.0.0.1:0",
		RateLimit:     access.RateLimit{PerSecond: -1}, // some try thousands of bad requests
		Version:       "test",
		Log:           slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}}
	for _, f := range more {
		f(&c.cfg)
	}
	c.start()
	c.token = c.s.Info().AdminToken
	if c.token == "" {
		t.Fatal("the first start made no administrator's token")
	}
	t.Cleanup(func() {
		if err := c.s.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *controller) start() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	s, err := server.Start(ctx, c.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.s = s
	c.roots = pinnedRoots(c.t, s.Info().OperatorAddr.String(), s.Info().CAPin)
}

// restart stops the controller and starts it on the same state and addresses.
func (c *controller) restart() {
	c.t.Helper()
	info := c.s.Info()
	if err := c.s.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.cfg.Listen, c.cfg.EdgeListen = info.OperatorAddr.String(), info.EdgeAddr.String()
	c.start()
}

// pinnedRoots fetches the controller's authority and holds it to the pin.
func pinnedRoots(t testing.TB, address, pin string) *x509.CertPool {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chain := conn.ConnectionState().PeerCertificates
	root := chain[len(chain)-1]
	if sum := sha256.Sum256(root.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) != pin {
		t.Fatalf("authority's pin is %x, want %s", sum, pin)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return pool
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func (c *controller) dial(token string) *grpc.ClientConn {
	c.t.Helper()
	options := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: c.roots}))}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	conn, err := grpc.NewClient(c.s.Info().OperatorAddr.String(), options...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

func (c *controller) topology() swanherdv1.TopologyServiceClient {
	return swanherdv1.NewTopologyServiceClient(c.dial(c.token))
}

func (c *controller) access() swanherdv1.AccessServiceClient {
	return swanherdv1.NewAccessServiceClient(c.dial(c.token))
}

func (c *controller) certificates() swanherdv1.CertificateServiceClient {
	return swanherdv1.NewCertificateServiceClient(c.dial(c.token))
}

func (c *controller) devices() swanherdv1.DeviceServiceClient {
	return swanherdv1.NewDeviceServiceClient(c.dial(c.token))
}

func (c *controller) rollouts() swanherdv1.RolloutServiceClient {
	return swanherdv1.NewRolloutServiceClient(c.dial(c.token))
}

func (c *controller) alerts() swanherdv1.AlertServiceClient {
	return swanherdv1.NewAlertServiceClient(c.dial(c.token))
}

func (c *controller) fleet() swanherdv1.FleetServiceClient {
	return swanherdv1.NewFleetServiceClient(c.dial(c.token))
}

func manifest() *swanherdv1.Manifest {
	m := &swanherdv1.Manifest{
		Networks: []*swanherdv1.Network{{Name: "networks/demo"}},
		Profiles: []*swanherdv1.Profile{{Name: "networks/demo/profiles/default"}},
		Meshes: []*swanherdv1.Mesh{{
			Name:    "networks/demo/meshes/all",
			Profile: "networks/demo/profiles/default",
			Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{
				Sites: &swanherdv1.SiteSelector{All: true},
			}},
		}},
	}
	for i, id := range []string{"berlin", "oslo", "rome"} {
		m.Sites = append(m.Sites, &swanherdv1.Site{
			Name:     "networks/demo/sites/" + id,
			Prefixes: []string{"10." + string(rune('1'+i)) + ".0.0/16"},
		})
	}
	return m
}

func (c *controller) apply() {
	c.t.Helper()
	if _, err := c.topology().Apply(c.t.Context(), &swanherdv1.ApplyRequest{Manifest: manifest()}); err != nil {
		c.t.Fatal(err)
	}
}

// testEdge is the least that is an edge: keys, certificates, and a session on
// which it acknowledges every update.
type testEdge struct {
	t       testing.TB
	c       *controller
	name    string
	control *ecdsa.PrivateKey
	ike     ed25519.PrivateKey
	chain   [][]byte
	stream  swanherdv1.EdgeControlService_SessionClient
	// hangUp ends the connection of the session.
	hangUp func() error

	mu sync.Mutex
	// applied is what the edge runs, by resource name.
	applied map[string]*swanherdv1.IntentResource
	// got is every resource that it ever got.
	got     []*swanherdv1.IntentResource
	running *swanherdv1.AppliedIntent
	// updates and bookmarks of the present session.
	updates, bookmarks int
	// commands that it got; refuses is what it answers to them, empty: it does them.
	commands []*swanherdv1.Command
	refuses  string
	// nacks is what it answers to updates, empty: it takes them.
	nacks   string
	changed chan struct{}
	ended   chan error
}

func (c *controller) newEdge() *testEdge {
	c.t.Helper()
	control, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	_, ike, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	return &testEdge{t: c.t, c: c, control: control, ike: ike, changed: make(chan struct{}, 1)}
}

func (e *testEdge) csr(key crypto.Signer) []byte {
	e.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		e.t.Fatal(err)
	}
	return der
}

func (e *testEdge) dial(certificates ...tls.Certificate) *grpc.ClientConn {
	e.t.Helper()
	conn, err := grpc.NewClient(e.c.s.Info().EdgeEndpoints[0],
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: e.anchors(), Certificates: certificates})))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { conn.Close() })
	return conn
}

// anchors are those of the intent that it runs, or without one, which authority the
// controller had when the test began.
func (e *testEdge) anchors() *x509.CertPool {
	e.mu.Lock()
	defer e.mu.Unlock()
	texts := e.applied["trust"].GetTrust().GetControllerAnchors()
	if len(texts) == 0 {
		return e.c.roots
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(strings.Join(texts, ""))) {
		e.t.Errorf("%s got anchors that are none: %q", e.name, texts)
	}
	return pool
}

func (e *testEdge) tryEnroll(token, id string) (*swanherdv1.EnrollResponse, error) {
	conn := e.dial()
	defer conn.Close()
	return swanherdv1.NewEnrollmentServiceClient(conn).Enroll(e.t.Context(), &swanherdv1.EnrollRequest{
		Token: token, EdgeId: id, ControlCsr: e.csr(e.control), IkeCsr: e.csr(e.ike),
	})
}

// tryEnrollSerial enrols without a token, by a registered serial number.
func (e *testEdge) tryEnrollSerial(serial string) (*swanherdv1.EnrollResponse, error) {
	conn := e.dial()
	defer conn.Close()
	return swanherdv1.NewEnrollmentServiceClient(conn).Enroll(e.t.Context(), &swanherdv1.EnrollRequest{
		SerialNumber: serial, ControlCsr: e.csr(e.control), IkeCsr: e.csr(e.ike),
	})
}

// poll asks what became of a request.
func (e *testEdge) poll(request string) (*swanherdv1.EnrollResponse, error) {
	conn := e.dial()
	defer conn.Close()
	return swanherdv1.NewEnrollmentServiceClient(conn).PollEnrollment(e.t.Context(), &swanherdv1.PollEnrollmentRequest{
		EnrollmentRequest: request, ControlCsr: e.csr(e.control), IkeCsr: e.csr(e.ike),
	})
}

// take takes over what the controller issued.
func (e *testEdge) take(resp *swanherdv1.EnrollResponse) {
	e.name, e.chain = resp.GetEdge(), resp.GetCertificates().GetControlChain()
}

func (e *testEdge) enroll(token string) {
	e.t.Helper()
	resp, err := e.tryEnroll(token, "")
	if err != nil {
		e.t.Fatal(err)
	}
	e.take(resp)
}

func (c *controller) tokenFor(site string, uses uint32) string {
	c.t.Helper()
	made, err := c.access().CreateEnrollmentToken(c.t.Context(), &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: "networks/demo", EnrollmentToken: &swanherdv1.EnrollmentToken{Site: "networks/demo/sites/" + site, MaxUses: uses},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return made.GetSecret()
}

func (c *controller) enrolled(site string) *testEdge {
	c.t.Helper()
	e := c.newEdge()
	e.enroll(c.tokenFor(site, 1))
	return e
}

// open opens a session, says what the edge runs, and follows the controller.
func (e *testEdge) open() {
	e.t.Helper()
	conn := e.dial(tls.Certificate{Certificate: e.chain, PrivateKey: e.control})
	stream, err := swanherdv1.NewEdgeControlServiceClient(conn).Session(e.t.Context(), grpc.WaitForReady(true))
	if err != nil {
		e.t.Fatal(err)
	}
	e.stream, e.updates, e.bookmarks = stream, 0, 0
	e.hangUp = conn.Close
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: &swanherdv1.Hello{
		ProtocolVersion: 1, BootId: "boot", AgentVersion: "test", DataPlane: "userspace", Applied: e.running,
		Uplinks: []*swanherdv1.Uplink{{Name: "wan1", Addresses: []string{"192.0.2.1"}, Port: 4500}},
	}}})
	if m, err := stream.Recv(); err != nil || m.GetWelcome() == nil {
		e.t.Fatalf("got %v, %v, want Welcome", m, err)
	}
	ended := make(chan error, 1)
	e.ended = ended
	go func() { ended <- e.follow(stream) }()
}

func (e *testEdge) follow(stream swanherdv1.EdgeControlService_SessionClient) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		e.mu.Lock()
		if m.GetBookmark() != nil {
			e.bookmarks++
		}
		if c := m.GetIntent(); c != nil {
			err = e.update(c)
		}
		if c := m.GetCommand(); c != nil {
			e.commands = append(e.commands, c)
			err = stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_CommandResult{
				CommandResult: &swanherdv1.CommandResult{Id: c.GetId(), Error: e.refuses},
			}})
		}
		if m.GetConfirm() != nil {
			err = stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{
				Stage: swanherdv1.Ack_STAGE_CONFIRMED, Running: e.running,
			}}})
		}
		e.mu.Unlock()
		if err != nil && !errors.Is(err, io.EOF) { // the stream ended, and Recv says why
			return err
		}
		select {
		case e.changed <- struct{}{}:
		default:
		}
	}
}

// update takes in an update of one chunk and acknowledges it.
func (e *testEdge) update(c *swanherdv1.IntentChunk) error {
	e.updates++
	e.got = append(e.got, c.GetUpserts()...)
	if e.nacks != "" {
		return e.stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Nack{Nack: &swanherdv1.Nack{
			Nonce: c.GetNonce(), Code: swanherdv1.Nack_CODE_INVALID, Running: e.running, Errors: []*swanherdv1.ResourceError{{Message: e.nacks}},
		}}})
	}
	if c.GetFull() {
		e.applied = map[string]*swanherdv1.IntentResource{}
	}
	for _, r := range c.GetUpserts() {
		e.applied[r.GetName()] = r
	}
	for _, name := range c.GetRemovals() {
		delete(e.applied, name)
	}
	if have := digest.NewSet(slices.Collect(maps.Values(e.applied))).Digest(); !bytes.Equal(have, c.GetResultDigest()) {
		return fmt.Errorf("update leads to %x, not to its digest %x", have, c.GetResultDigest())
	}
	e.running = &swanherdv1.AppliedIntent{Epoch: c.GetEpoch(), SourceRevision: c.GetSourceRevision(), SetDigest: c.GetResultDigest()}
	return e.stream.Send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{Nonce: c.GetNonce(), Running: e.running}}})
}

func (e *testEdge) send(m *swanherdv1.EdgeMessage) {
	e.t.Helper()
	if err := e.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		e.t.Fatal(err)
	}
}

// wait waits until what the controller said satisfies ok.
func (e *testEdge) wait(what string, ok func() bool) {
	e.t.Helper()
	timeout := time.After(15 * time.Second)
	for {
		e.mu.Lock()
		done := ok()
		e.mu.Unlock()
		if done {
			return
		}
		select {
		case <-e.changed:
		case err := <-e.ended:
			e.t.Fatalf("%s, waiting for %s: session ended: %v", e.name, what, err)
		case <-timeout:
			e.t.Fatalf("%s does not get %s", e.name, what)
		}
	}
}

// until waits until the edge has exactly the named tunnels.
func (e *testEdge) until(tunnels ...string) {
	e.t.Helper()
	e.wait("tunnels "+strings.Join(tunnels, ", "), func() bool {
		var have []string
		for name, r := range e.applied {
			if r.GetTunnel() != nil {
				have = append(have, name[strings.LastIndex(name, "/")+1:])
			}
		}
		slices.Sort(have)
		return e.applied != nil && slices.Equal(have, tunnels)
	})
}

func (e *testEdge) report(state swanherdv1.TunnelState, over ...*swanherdv1.SlaViolation) {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &swanherdv1.StatusReport{Sequence: 1, Full: true}
	for name, res := range e.applied {
		if res.GetTunnel() != nil {
			r.Tunnels = append(r.Tunnels, &swanherdv1.TunnelReport{Tunnel: name, State: state, SlaViolations: over})
		}
	}
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: r}})
}

// counted waits until the fleet's counts satisfy ok.
func (c *controller) counted(what string, ok func(*swanherdv1.FleetCounts) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 15*time.Second)
	defer cancel()
	stream, err := c.fleet().WatchFleet(ctx, &swanherdv1.WatchFleetRequest{Parent: "networks/demo"})
	if err != nil {
		c.t.Fatal(err)
	}
	var last *swanherdv1.FleetCounts
	for {
		frame, err := stream.Recv()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v; counts are %v", what, err, last)
		}
		if frame.GetCounts() == nil {
			continue
		}
		if last = frame.GetCounts(); ok(last) {
			return
		}
	}
}

func (c *controller) rest(method, path, token, body string) (*http.Response, string) {
	c.t.Helper()
	header := http.Header{}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	return c.restWith(method, path, body, header)
}

func (c *controller) restWith(method, path, body string, header http.Header) (*http.Response, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, "https://"+c.s.Info().OperatorAddr.String()+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header = header
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots}}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp, string(b)
}
