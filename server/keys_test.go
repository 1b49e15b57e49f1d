package server_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/kms/kmstest"
)

func (c *controller) keys() swanherdv1.KeyServiceClient {
	return swanherdv1.NewKeyServiceClient(c.dial(c.token))
}

func TestKeyInAFileIsNotRotatedFromAfar(t *testing.T) {
	c := startController(t)
	c.apply()
	sealing, err := c.keys().GetSealing(t.Context(), &swanherdv1.GetSealingRequest{})
	if err != nil || sealing.GetWrapper() != "" || len(sealing.GetKeys()) != 1 || !sealing.GetKeys()[0].GetInFile() || !sealing.GetKeys()[0].GetActive() ||
		sealing.GetKeys()[0].GetSecrets() != 2 { // the controller's authority and the network's
		t.Errorf("%v, %v", sealing, err)
	}
	_, err = c.keys().RotateSealing(t.Context(), &swanherdv1.RotateSealingRequest{What: swanherdv1.RotateSealingRequest_WHAT_DATA_KEY})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "put a new one on a line before it") {
		t.Errorf("rotated: %v", err)
	}
}

// A controller takes its keys to a key management service, replaces them there, and does
// without the file for what is sealed since.
func TestKeysOfAKeyManagementService(t *testing.T) {
	c := startController(t)
	c.apply()
	transit := kmstest.Start(t)
	c.cfg.KMS = transit.Wrapper()
	c.restart()
	c.enrolled("berlin") // by an authority whose key the file opens
	x := c.terminal()
	x.says(0, "", "key show", "seals", "vault:https://", "(key file)")
	before, err := c.keys().GetSealing(t.Context(), &swanherdv1.GetSealingRequest{})
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := c.keys().RotateSealing(t.Context(), &swanherdv1.RotateSealingRequest{What: swanherdv1.RotateSealingRequest_WHAT_DATA_KEY})
	if err != nil || len(rotated.GetKeys()) != 3 || rotated.GetKeys()[0].GetId() == before.GetKeys()[0].GetId() || rotated.GetKeys()[1].GetRetireTime() == nil {
		t.Fatalf("rotated: %v, %v", rotated, err)
	}
	transit.Rotate()
	x.says(0, "", "key rotate --wrapping", rotated.GetKeys()[0].GetId())
	transit.Retire()
	c.restart()
	c.enrolled("oslo")
	after, err := c.keys().GetSealing(t.Context(), &swanherdv1.GetSealingRequest{})
	if err != nil || !after.GetKeys()[0].GetActive() || after.GetKeys()[0].GetId() != rotated.GetKeys()[0].GetId() {
		t.Errorf("after a restart: %v, %v", after, err)
	}
	if e := c.auditEvents(`action = "sealing.rewrap"`); len(e) != 1 || e[0].GetActor() != "token:admin" {
		t.Errorf("audited %v", e)
	}
	transit.Seal(true)
	_, err = c.keys().RotateSealing(t.Context(), &swanherdv1.RotateSealingRequest{What: swanherdv1.RotateSealingRequest_WHAT_DATA_KEY})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "unseal it") {
		t.Errorf("with the service sealed: %v", err)
	}
	transit.Seal(false)
}
