package lab_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
)

// TestKernelRekey rekeys a Child SA 100 times while packets pass without a pause: none
// is lost, none comes twice or late, and none is in clear. The kernel has ciphers alone that
// never leave a packet for later, and let others pass it.
func TestKernelRekey(t *testing.T) {
	if !inGuest() {
		runInGuestOf(t, guest{alone: true, without: []string{"aesni_intel", "ghash_clmulni_intel", "cryptd"}}, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("under load", testRekeyUnderLoad)
}

func testRekeyUnderLoad(t *testing.T) {
	const rekeys = 100
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	rekey := 0
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("it went wrong in rekey %d", rekey)
		}
	})
	tap := tapWire(t, hosts[1])
	a, b := pair.A.Plane, pair.B.Plane
	old := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, b, old.policyB, dataplane.InstallSA{SA: old.inB}, dataplane.InstallSA{SA: old.outB})
	mustApply(t, a, old.policyA, dataplane.InstallSA{SA: old.inA}, dataplane.InstallSA{SA: old.outA})
	flow := startNumbered(pair.A.Send, pair.B.Received)
	for ; rekey < rekeys && !flow.stuck(); rekey++ {
		// The order of RFC 7296, Section 2.8: the end that answers can receive and
		// send first, then the end that asked; each deletes what it had last.
		next := successorSAs(t, pair, "aes128gcm16-esn", old)
		mustApply(t, a, dataplane.InstallSA{SA: next.inA})
		mustApply(t, b, dataplane.InstallSA{SA: next.inB}, dataplane.InstallSA{SA: next.outB})
		mustApply(t, a, dataplane.InstallSA{SA: next.outA})
		waitUntil(t, "traffic on the new SA", func() bool { return countersOf(t, b, next.inB).Packets > 0 || flow.stuck() })
		mustApply(t, a, removal(old.outA), removal(old.inA))
		flow.waitForSent(t)
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
	if n := flow.late.Load(); n > 0 {
		t.Errorf("%d packets were overtaken", n)
	}
	t.Logf("%d packets over %d rekeys, each once and in order", passed, rekeys)
}

// TestRekeyAtLoad rekeys a Child SA in user space 1,000 times while it carries 80 % of
// what it can, and wants every packet, once and in order, with one worker and with two.
func TestRekeyAtLoad(t *testing.T) {
	lab.Require(t)
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			result := rekeyAtLoad(t, 1000, workers)
			if result.Received != result.Sent {
				t.Errorf("%d of %d packets were lost", result.Sent-result.Received, result.Sent)
			}
			if result.Late > 0 {
				t.Errorf("%d of %d packets were late, or came again", result.Late, result.Sent)
			}
		})
	}
}

func rekeyAtLoad(t *testing.T, rekeys, workers int) lab.UDPResult {
	t.Helper()
	const window = 256
	pair, hosts := userPlanes(t, workers)
	a, b := pair.A.Plane, pair.B.Plane
	old := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, b, old.policyB, dataplane.InstallSA{SA: old.inB}, dataplane.InstallSA{SA: old.outB})
	mustApply(t, a, old.policyA, dataplane.InstallSA{SA: old.inA}, dataplane.InstallSA{SA: old.outA})
	load := lab.UDPLoad{
		From: hosts[0], To: hosts[1], Size: 200, Window: window,
		Flows: []lab.UDPFlow{{Source: netip.MustParseAddr("10.91.1.1"), Destination: netip.MustParseAddr("10.91.2.1")}},
	}
	load.Rate = 0.8 * runLoad(t, load, 500*time.Millisecond).Rate()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	var result lab.UDPResult
	go func() {
		var err error
		result, err = load.Run(ctx)
		ended <- err
	}()
	for range rekeys {
		next := successorSAs(t, pair, "aes128gcm16-esn", old)
		mustApply(t, a, dataplane.InstallSA{SA: next.inA})
		mustApply(t, b, dataplane.InstallSA{SA: next.inB}, dataplane.InstallSA{SA: next.outB})
		mustApply(t, a, dataplane.InstallSA{SA: next.outA})
		waitUntil(t, "what the old SA had sent", func() bool {
			return countersOf(t, b, next.inB).Packets > window && countersOf(t, a, old.outA).Packets == countersOf(t, b, old.inB).Packets
		})
		mustApply(t, a, removal(old.outA), removal(old.inA))
		mustApply(t, b, removal(old.outB), removal(old.inB))
		old = next
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rekeys at %.0f packets a second of at most %.0f: %+v", rekeys, result.Rate(), load.Rate/0.8, result)
	return result
}

func runLoad(t *testing.T, load lab.UDPLoad, duration time.Duration) lab.UDPResult {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), duration)
	defer stop()
	result, err := load.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// userPlanes makes two hosts with the data plane in user space.
func userPlanes(t *testing.T, workers int) (*planetest.Pair, [2]*lab.Namespace) {
	t.Helper()
	return planesOf(t, userPlane(workers))
}

// planesOf makes two hosts with a plane on each, for programs on them to use.
func planesOf(t *testing.T, open func(*lab.Namespace) (dataplane.Plane, error)) (*planetest.Pair, [2]*lab.Namespace) {
	t.Helper()
	hosts := planeWire(t)
	pair := &planetest.Pair{}
	for i, side := range []*planetest.Side{&pair.A, &pair.B} {
		plane, err := open(hosts[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { plane.Close() })
		side.Plane, side.Outer = plane, planeOuter(i)
		routeBehind(t, hosts[i], i)
	}
	return pair, hosts
}

// xfrmDrops are the counters of what a host's kernel dropped, but for those that are 0.
func xfrmDrops(host *lab.Namespace) string {
	var out strings.Builder
	err := host.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/xfrm_stat")
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 && f[1] != "0" {
				out.WriteString(line)
			}
		}
		return err
	})
	if err != nil {
		return err.Error()
	}
	return out.String()
}

func removal(sa dataplane.SA) dataplane.Op {
	return dataplane.RemoveSA{Tunnel: sa.Tunnel, SPI: sa.SPI, Direction: sa.Direction}
}
