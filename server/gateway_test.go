package server_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A gateway's tunnel is planned with its key, which reaches the edge, is nowhere in the
// store in clear, and is shown by nothing. What a gateway uses stays.
func TestGateways(t *testing.T) {
	c := startController(t)
	c.apply()
	e := c.enrolled("berlin")
	e.open()
	c.gateway("networks/demo", e.name)
	topology, ctx := c.topology(), t.Context()

	tunnel := "networks/demo/tunnels/berlin--partner.gw"
	has := func(secret string) {
		t.Helper()
		e.wait("the gateway's secret", func() bool {
			return string(e.applied[tunnel].GetTunnel().GetAuthentication().GetPsk().GetSecret()) == secret
		})
	}
	has("a secret of a test")
	if _, err := topology.UpdatePreSharedKey(ctx, &swanherdv1.UpdatePreSharedKeyRequest{PreSharedKey: &swanherdv1.PreSharedKey{
		Name: "networks/demo/preSharedKeys/partner", Secret: "another secret of it",
	}}); err != nil {
		t.Fatal(err)
	}
	has("another secret of it")
	e.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	c.eventually("the tunnel to be up by what its one edge says", func() bool {
		got, err := c.fleet().GetTunnel(ctx, &swanherdv1.GetTunnelRequest{Name: tunnel})
		return err == nil && got.GetStatus() == swanherdv1.TunnelStatus_TUNNEL_STATUS_UP && got.GetB().GetGateway() == "networks/demo/gateways/partner"
	})
	c.checkNoSecret("a secret of a test", "another secret of it", c.madeOnce())

	for what, err := range map[string]error{
		"key":     second(topology.DeletePreSharedKey(ctx, &swanherdv1.DeletePreSharedKeyRequest{Name: "networks/demo/preSharedKeys/partner"})),
		"profile": second(topology.DeleteProfile(ctx, &swanherdv1.DeleteProfileRequest{Name: "networks/demo/profiles/default"})),
		"edge":    second(topology.DeleteEdge(ctx, &swanherdv1.DeleteEdgeRequest{Name: e.name})),
	} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "networks/demo/gateways/partner") {
			t.Errorf("delete the %s in use: %v", what, err)
		}
	}
	explained, err := topology.Explain(ctx, &swanherdv1.ExplainRequest{Parent: "networks/demo", Source: "10.1.0.5", Destination: "10.88.0.7"})
	if err != nil || !explained.GetReachable() || explained.GetDestinationGateway() != "networks/demo/gateways/partner" || explained.GetHops()[0].GetTunnel() != tunnel {
		t.Errorf("explanation is %v, %v", explained, err)
	}
	if _, err := topology.DeleteGateway(ctx, &swanherdv1.DeleteGatewayRequest{Name: "networks/demo/gateways/partner"}); err != nil {
		t.Fatal(err)
	}
	if _, err := topology.DeletePreSharedKey(ctx, &swanherdv1.DeletePreSharedKeyRequest{Name: "networks/demo/preSharedKeys/partner"}); err != nil {
		t.Errorf("delete the key that nothing uses any more: %v", err)
	}
}

// madeOnce makes keys by requests that come again, and returns the hash of one, by which its
// secret could be guessed.
func (c *controller) madeOnce() (sum string) {
	c.t.Helper()
	ctx, t, topology := c.t.Context(), c.t, c.topology()
	req := &swanherdv1.CreatePreSharedKeyRequest{
		Parent: "networks/demo", PreSharedKeyId: "once", PreSharedKey: &swanherdv1.PreSharedKey{Secret: "guessable"}, ValidateOnly: true, RequestId: requestA,
	}
	if _, err := topology.CreatePreSharedKey(ctx, req); err != nil {
		t.Errorf("validate: %v", err)
	}
	if _, err := topology.GetPreSharedKey(ctx, &swanherdv1.GetPreSharedKeyRequest{Name: "networks/demo/preSharedKeys/once"}); status.Code(err) != codes.NotFound {
		t.Errorf("what was only validated: %v", err)
	}
	req.ValidateOnly = false
	first, err := topology.CreatePreSharedKey(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := topology.CreatePreSharedKey(ctx, req)
	if err != nil || !proto.Equal(first, again) || first.GetEtag() == "" {
		t.Errorf("again: %v, %v, want %v", again, err, first)
	}
	other := proto.CloneOf(req)
	other.PreSharedKey.Secret = "another guess"
	if _, err := topology.CreatePreSharedKey(ctx, other); status.Code(err) != codes.InvalidArgument || !slices.Equal(violated(err), []string{"request_id"}) {
		t.Errorf("with another secret: %v", err)
	}
	remove := &swanherdv1.DeletePreSharedKeyRequest{Name: first.GetName(), RequestId: requestB, ValidateOnly: true}
	for _, only := range []bool{true, false, false} {
		remove.ValidateOnly = only
		if _, err := topology.DeletePreSharedKey(ctx, remove); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(b)
	return string(hash[:])
}

func second[T any](_ T, err error) error { return err }

// checkNoSecret looks for secrets in what the API shows and in the store's files.
func (c *controller) checkNoSecret(secrets ...string) {
	c.t.Helper()
	ctx := c.t.Context()
	var shown []string
	key, err := c.topology().GetPreSharedKey(ctx, &swanherdv1.GetPreSharedKeyRequest{Name: "networks/demo/preSharedKeys/partner"})
	shown = append(shown, key.String())
	events, err2 := c.fleet().ListEvents(ctx, &swanherdv1.ListEventsRequest{Parent: "networks/demo"})
	shown = append(shown, events.String())
	config, err3 := c.topology().RenderGatewayConfig(ctx, &swanherdv1.RenderGatewayConfigRequest{
		Name: "networks/demo/gateways/partner", Format: swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_STRONGSWAN,
	})
	shown = append(shown, config.String())
	if err != nil || err2 != nil || err3 != nil {
		c.t.Fatal(err, err2, err3)
	}
	err = filepath.WalkDir(c.cfg.DataDir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, readErr := os.ReadFile(path)
			for _, s := range secrets {
				if bytes.Contains(b, []byte(s)) {
					c.t.Errorf("%s has the secret", path)
				}
			}
			return readErr
		}
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	for _, text := range shown {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				c.t.Errorf("the API shows the secret: %s", text)
			}
		}
	}
}
