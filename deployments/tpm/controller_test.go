//go:build tpm

package tpm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/swanherd/swanherd/edge/enroll"
	"github.com/swanherd/swanherd/edge/state"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

const network = "networks/demo"

// controller is a real one that believes one maker of TPMs, and its operator.
type controller struct {
	t    testing.TB
	s    *server.Server
	conn *grpc.ClientConn
	// ca is the file of the makers of TPMs that it believes, by the one at first.
	ca string
	by *maker
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func startController(t testing.TB, by *maker) *controller {
	t.Helper()
	dir := t.TempDir()
	ca := filepath.Join(dir, "tpm-ca.pem")
	if err := os.WriteFile(ca, by.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), server.Config{
		DataDir: filepath.Join(dir, "controller"), Listen: "127.0.0.1:0", EdgeListen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0", TPMCA: ca,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &controller{t: t, s: s, conn: dialOperator(t, s), ca: ca, by: by}
	topology := swanherdv1.NewTopologyServiceClient(c.conn)
	if _, err := topology.CreateNetwork(t.Context(), &swanherdv1.CreateNetworkRequest{NetworkId: "demo"}); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.CreateSite(t.Context(), &swanherdv1.CreateSiteRequest{Parent: network, SiteId: "berlin"}); err != nil {
		t.Fatal(err)
	}
	return c
}

func dialOperator(t testing.TB, s *server.Server) *grpc.ClientConn {
	t.Helper()
	address := s.Info().OperatorAddr.String()
	first, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	chain := first.ConnectionState().PeerCertificates
	roots := x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})), grpc.WithPerRPCCredentials(bearer(s.Info().AdminToken)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (c *controller) devices() swanherdv1.DeviceServiceClient {
	return swanherdv1.NewDeviceServiceClient(c.conn)
}

// demand has the network ask for attestation, or not.
func (c *controller) demand(t testing.TB, required bool) {
	t.Helper()
	_, err := swanherdv1.NewTopologyServiceClient(c.conn).UpdateNetwork(t.Context(), &swanherdv1.UpdateNetworkRequest{
		Network: &swanherdv1.Network{Name: network, AttestationRequired: required}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"attestation_required"}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (c *controller) token(t testing.TB, required bool) string {
	t.Helper()
	made, err := swanherdv1.NewAccessServiceClient(c.conn).CreateEnrollmentToken(t.Context(), &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: network, EnrollmentToken: &swanherdv1.EnrollmentToken{Site: network + "/sites/berlin", MaxUses: 10, AttestationRequired: required},
	})
	if err != nil {
		t.Fatal(err)
	}
	return made.GetSecret()
}

// event is the last one of an action, about a resource whose name has what is wanted.
func (c *controller) event(t testing.TB, action string) *swanherdv1.Event {
	t.Helper()
	events, err := swanherdv1.NewFleetServiceClient(c.conn).ListEvents(t.Context(), &swanherdv1.ListEventsRequest{Parent: network, Filter: "action=" + action, PageSize: 1})
	if err != nil || len(events.GetEvents()) != 1 {
		t.Fatalf("events %s: %v, %v", action, events, err)
	}
	return events.GetEvents()[0]
}

// edge is one on a machine with a TPM, or without.
type edge struct {
	enroll.Config
}

func newEdge(t testing.TB, id, token string, e *emulator) *edge {
	t.Helper()
	dir, err := state.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	x := &edge{enroll.Config{Dir: dir, EdgeID: id, AgentVersion: "test", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}}
	if token != "" {
		if x.Token, err = enroll.ParseToken(token); err != nil {
			t.Fatal(err)
		}
	}
	if e != nil {
		dir.KeepKeysIn(e)
		x.TPM = e
	}
	return x
}

func (x *edge) enroll(t testing.TB) *state.Identity {
	t.Helper()
	id, err := enroll.Enroll(t.Context(), x.Config)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
