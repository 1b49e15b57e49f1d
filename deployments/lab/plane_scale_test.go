package lab_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// TestKernelScale installs 10,000 SAs with their policies, looks that each is there
// and that one of them carries traffic, and removes them. It says at what rate. The
// machine has emulated processors: others are faster.
func TestKernelScale(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("10000", testScale)
}

// scaleOps is how many operations go to the plane in one call, as the engine does it.
const scaleOps = 256

func testScale(t *testing.T) {
	const tunnels = 5000
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	a, b := childSAs(t, pair, "aes128gcm16-esn"), pair.B.Plane
	mustApply(t, b, a.policyB, dataplane.InstallSA{SA: a.inB}, dataplane.InstallSA{SA: a.outB})
	var install, remove []dataplane.Op
	for i := range tunnels {
		local := []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.91.1.0/24"))}
		remote := []ts.Selector{ts.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + byte(i>>8), byte(i), 0}), 24))}
		sa := a.outA
		sa.Tunnel, sa.LocalTS, sa.RemoteTS = fmt.Sprintf("t%d", i), local, remote
		sa.SPI, sa.Remote = uint32(0x10000+i), netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), sa.Remote.Port())
		in := sa
		in.Direction, in.SPI = dataplane.Inbound, uint32(0x20000+i)
		install = append(install,
			dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: sa.Tunnel, Child: sa.Child, LocalTS: local, RemoteTS: remote}},
			dataplane.InstallSA{SA: in}, dataplane.InstallSA{SA: sa})
		remove = append(remove,
			dataplane.RemoveSA{Tunnel: sa.Tunnel, SPI: sa.SPI, Direction: dataplane.Outbound},
			dataplane.RemoveSA{Tunnel: sa.Tunnel, SPI: in.SPI, Direction: dataplane.Inbound},
			dataplane.RemovePolicy{Tunnel: sa.Tunnel, Child: sa.Child})
	}
	rate := func(what string, ops []dataplane.Op) {
		start := time.Now()
		for len(ops) > 0 {
			n := min(scaleOps, len(ops))
			mustApply(t, pair.A.Plane, ops[:n]...)
			ops = ops[n:]
		}
		took := time.Since(start)
		t.Logf("%s %d SAs and %d policies of the kernel in %v: %.0f SAs/s", what, 2*tunnels, 3*tunnels, took.Round(time.Millisecond), 2*tunnels/took.Seconds())
	}
	rate("installed", install)
	if n := len(pair.A.Plane.Counters()); n != 2*tunnels {
		t.Errorf("%d SAs have counters, want %d", n, 2*tunnels)
	}
	waitUntil(t, "the kernel to have the states and policies, and no other", func() bool { return xfrmObjects(t, hosts[0]) == 5*tunnels })
	mustApply(t, pair.A.Plane, a.policyA, dataplane.InstallSA{SA: a.inA}, dataplane.InstallSA{SA: a.outA})
	passesClear(t, "there", pair.A.Send, pair.B.Received, false)
	passesClear(t, "back", pair.B.Send, pair.A.Received, true)

	rate("removed", remove)
	if err := pair.A.Plane.Close(); err != nil {
		t.Error(err)
	}
	if n := xfrmObjects(t, hosts[0]); n != 0 {
		t.Errorf("%d states and policies are left", n)
	}
}

// TestKernelAsks sends to a child that has no SA: it asks, and again while it has
// none and packets come, and at once after it had one.
func TestKernelAsks(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("again", testAsks)
}

func testAsks(t *testing.T) {
	pair, _ := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	sas := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, pair.A.Plane, sas.policyA)
	asks := func(when string) {
		t.Helper()
		waitUntil(t, "an acquire "+when, func() bool {
			_ = pair.A.Send(clearPacket())
			select {
			case ev := <-pair.A.Plane.Events():
				return ev.Kind == dataplane.Acquire && ev.Tunnel == "lab"
			default:
				return false
			}
		})
	}
	start := time.Now()
	asks("at first")
	asks("that is the second")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the second acquire came after %v", took)
	}
	mustApply(t, pair.A.Plane, dataplane.InstallSA{SA: sas.outA}, dataplane.RemoveSA{Tunnel: sas.outA.Tunnel, SPI: sas.outA.SPI, Direction: dataplane.Outbound})
	start = time.Now()
	asks("after there was an SA")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the acquire after an SA came after %v", took)
	}
}

// TestKernelOuter looks at the outer headers that the kernel makes.
func TestKernelOuter(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	const inner, df = 0xb9, 0x40 // EF and ECT(1); do not fragment
	for _, tt := range []struct {
		name     string
		outer    dataplane.Outer
		class    byte
		fragment byte
	}{
		{"copied", dataplane.Outer{}, inner, df},
		{"no class", dataplane.Outer{FixDSCP: true}, inner & 3, df},
		{"no congestion marks", dataplane.Outer{NoECN: true}, inner &^ 3, df},
		{"may be fragmented", dataplane.Outer{DF: dataplane.DFClear}, inner, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
			tap := tapWire(t, hosts[1])
			sas := childSAs(t, pair, "aes128gcm16")
			sas.outA.Outer = tt.outer
			mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.outA})
			p := clearPacket()
			p[1], p[6] = inner, df
			if err := pair.A.Send(p); err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "the packet on the wire", func() bool { return tap.last() == 1 })
			tap.mu.Lock()
			defer tap.mu.Unlock()
			if got := tap.header; got[1] != tt.class || got[6]&df != tt.fragment {
				t.Errorf("outer header has class %#x and flags %#x, want %#x and %#x", got[1], got[6], tt.class, tt.fragment)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		pair, _ := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
		for _, o := range []dataplane.Outer{{FixDSCP: true, DSCP: 46}, {DF: dataplane.DFSet}} {
			sas := childSAs(t, pair, "aes128gcm16")
			sas.outA.Outer = o
			if err := pair.A.Plane.Apply([]dataplane.Op{dataplane.InstallSA{SA: sas.outA}})[0]; err == nil {
				t.Errorf("%+v, which the kernel cannot do, is taken", o)
			}
		}
	})
}
