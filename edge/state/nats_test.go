package state

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func TestNATsSurviveARestart(t *testing.T) {
	d, err := Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	if known, err := d.LoadNATs(); known != nil || err != nil {
		t.Errorf("at first: %v, %v", known, err)
	}
	want := &swanherdv1.UplinkNat{Address: "192.168.1.2", Mapping: swanherdv1.NatMapping_NAT_MAPPING_ENDPOINT_INDEPENDENT, MappedAddress: "203.0.113.7", MappedPort: 31022, CarrierGrade: true}
	if err := d.SaveNATs([]*swanherdv1.UplinkNat{want}); err != nil {
		t.Fatal(err)
	}
	if known, err := d.LoadNATs(); err != nil || len(known) != 1 || !proto.Equal(known[0], want) {
		t.Errorf("then: %v, %v", known, err)
	}
	if err := os.WriteFile(d.natsPath(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := d.LoadNATs(); known != nil || err == nil {
		t.Errorf("broken: %v, %v", known, err)
	}
}
