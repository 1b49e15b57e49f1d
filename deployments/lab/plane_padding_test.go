package lab_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestKernelPadding looks at how long packets of the kernel are on the wire that are
// padded against traffic analysis, and that they arrive.
func TestKernelPadding(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	const (
		overhead = 20 + 8 + 8 + 8 + 16 // IP, UDP, ESP, its IV and ICV
		longest  = (1500-overhead)&^3 + overhead
	)
	length := func(inner int) int { return (inner+2+3)&^3 + overhead }
	for _, tt := range []struct {
		name  string
		padTo int
		want  map[int]int // by the length of the inner packet
	}{
		{"none", 0, map[int]int{60: length(60), 300: length(300)}},
		{"600", 600, map[int]int{60: length(600), 599: length(600), 600: length(600), 700: length(700)}},
		{"path", dataplane.PadToPath, map[int]int{60: longest, 1200: longest}},
		{"beyond the path", 9000, map[int]int{60: longest}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
			tap := tapWire(t, hosts[1])
			sas := childSAs(t, pair, "aes128gcm16")
			sas.outA.TFC.PadTo = tt.padTo
			mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.outA})
			mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB})
			sent := uint32(0)
			for inner, want := range tt.want {
				p := append(clearPacket(), make([]byte, inner-len(clearPacket()))...)
				binary.BigEndian.PutUint16(p[2:], uint16(inner))
				binary.BigEndian.PutUint16(p[24:], uint16(inner-20))
				if err := pair.A.Send(p); err != nil {
					t.Fatal(err)
				}
				sent++
				waitUntil(t, "the packet on the wire", func() bool { return tap.last() == sent })
				tap.mu.Lock()
				if got := int(binary.BigEndian.Uint16(tap.header[2:])); got != want {
					t.Errorf("a packet of %d octets has %d on the wire, want %d", inner, got, want)
				}
				tap.mu.Unlock()
				if got := <-pair.B.Received; len(got) != inner {
					t.Errorf("a packet of %d octets has %d when it arrives", inner, len(got))
				}
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		pair, _ := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
		sas := childSAs(t, pair, "aes128gcm16")
		sas.outA.TFC.Fill = time.Second
		sas.inA.TFC.PadTo = 1000
		for _, sa := range []dataplane.SA{sas.outA, sas.inA} {
			if err := pair.A.Plane.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}})[0]; err == nil {
				t.Errorf("%+v on the %s SA, which the kernel cannot do, is taken", sa.TFC, sa.Direction)
			}
		}
	})
}
