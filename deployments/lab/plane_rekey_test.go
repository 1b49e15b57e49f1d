package lab_test

import (
	"testing"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestKernelRekey rekeys a Child SA 100 times while packets pass without a pause: none
// is lost, none comes twice, and none is in clear. Of those that were overtaken it says
// how many there were.
func TestKernelRekey(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("under load", testRekeyUnderLoad)
}

func testRekeyUnderLoad(t *testing.T) {
	const rekeys = 100
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	tap := tapWire(t, hosts[1])
	a, b := pair.A.Plane, pair.B.Plane
	old := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, b, old.policyB, dataplane.InstallSA{SA: old.inB}, dataplane.InstallSA{SA: old.outB})
	mustApply(t, a, old.policyA, dataplane.InstallSA{SA: old.inA}, dataplane.InstallSA{SA: old.outA})
	flow := startNumbered(pair.A.Send, pair.B.Received)
	for i := range rekeys {
		if flow.stuck() {
			t.Logf("it went wrong in rekey %d", i)
			break
		}
		// The order of RFC 7296, Section 2.8: the end that answers can receive and
		// send first, then the end that asked; each deletes what it had last.
		next := childSAs(t, pair, "aes128gcm16-esn")
		mustApply(t, a, dataplane.InstallSA{SA: next.inA})
		mustApply(t, b, dataplane.InstallSA{SA: next.inB}, dataplane.InstallSA{SA: next.outB})
		mustApply(t, a, dataplane.InstallSA{SA: next.outA})
		waitUntil(t, "traffic on the new SA", func() bool { return countersOf(t, b, next.inB).Packets > 0 || flow.stuck() })
		mustApply(t, a, removal(old.outA), removal(old.inA))
		drained := flow.passed.Load() + numberedWindow + 1
		waitUntil(t, "what the old SA had sent", func() bool { return flow.passed.Load() >= drained || flow.stuck() })
		mustApply(t, b, removal(old.outB), removal(old.inB))
		old = next
	}
	passed, wrong := flow.end()
	if wrong != "" {
		t.Fatalf("after %d packets: %s", passed, wrong)
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if tap.clear != 0 {
		t.Errorf("%d packets were in clear", tap.clear)
	}
	t.Logf("%d packets over %d rekeys, none lost; %d were overtaken", passed, rekeys, flow.late.Load())
}

func removal(sa dataplane.SA) dataplane.Op {
	return dataplane.RemoveSA{Tunnel: sa.Tunnel, SPI: sa.SPI, Direction: sa.Direction}
}
