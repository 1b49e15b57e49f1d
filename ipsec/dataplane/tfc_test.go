package dataplane_test

import (
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

func TestTFCValidate(t *testing.T) {
	out := dataplane.SA{Direction: dataplane.Outbound, Suite: gcm}
	in, transport, ah := out, out, out
	in.Direction, transport.Mode, ah.Suite = dataplane.Inbound, dataplane.Transport, ah256
	pad := dataplane.TFC{PadTo: 1000}
	for _, tt := range []struct {
		name string
		tfc  dataplane.TFC
		sa   dataplane.SA
		ok   bool
	}{
		{"nothing", dataplane.TFC{}, in, true},
		{"padding", pad, out, true},
		{"padding to the path", dataplane.TFC{PadTo: dataplane.PadToPath}, out, true},
		{"dummy packets", dataplane.TFC{Fill: time.Millisecond}, out, true},
		{"inbound", pad, in, false},
		{"transport mode", pad, transport, false},
		{"AH", pad, ah, false},
		{"less than nothing", dataplane.TFC{PadTo: -2}, out, false},
		{"more than a packet", dataplane.TFC{PadTo: 65536}, out, false},
		{"too often", dataplane.TFC{Fill: time.Microsecond}, out, false},
		{"backwards", dataplane.TFC{Fill: -time.Second}, out, false},
	} {
		if err := tt.tfc.ValidateFor(&tt.sa); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
