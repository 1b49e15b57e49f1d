package lab_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestKernelPlane runs the conformance suite on the data plane of the kernel, in a
// virtual machine whose kernel has ESP.
func TestKernelPlane(t *testing.T) { planeOn(t, lab.KernelDir, true) }

// TestKernelOld, TestKernelNew and TestKernelUbuntu are TestKernelPlane on other kernels:
// the oldest that is supported, one that is new, and one of another distribution.
func TestKernelOld(t *testing.T) { planeOn(t, lab.KernelOldDir, false) }

func TestKernelNew(t *testing.T) { planeOn(t, lab.KernelNewDir, true) }

func TestKernelUbuntu(t *testing.T) { planeOn(t, lab.KernelUbuntuDir, false) }

// planeOn is for a kernel on which SAs have a direction, or have none.
func planeOn(t *testing.T, kernel string, directed bool) {
	if !inGuest() {
		runInGuest(t, kernel, lab.TreeStrongSwan)
		return
	}
	t.Run("direction of SAs", func(t *testing.T) { saDirections(t, directed) })
	t.Run("room for SAs", roomForSAs)
	if kernel == lab.KernelUbuntuDir {
		t.Run("ESP in TCP", func(t *testing.T) { kernelStreams(t, planeWire4) })
		t.Run("ESP in TCP over IPv6", func(t *testing.T) { kernelStreams(t, planeWire6) })
		t.Run("ESP in TCP that stands still", func(t *testing.T) { kernelMessageTime(t, planeWire4) })
	} else {
		t.Run("no ESP in TCP", noKernelStreams)
	}
	if kernel == lab.KernelDir || kernel == lab.KernelOldDir {
		t.Run("labels", labels)
	}
	conform(t)
	if kernel == lab.KernelDir { // of these, no version of it matters
		conformOver6(t)
		t.Run("transport mode keeps to a path", transportPath)
		t.Run("others change what is the plane's", drifts)
	}
}

// TestKernelMixed runs the suite on the two data planes, one beside the other.
func TestKernelMixed(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	conformMixed(t)
}

// saDirections has the kernel know which way an SA is used, if it can.
func saDirections(t *testing.T, directed bool) {
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	sas := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, pair.A.Plane, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
	mustApply(t, pair.B.Plane, dataplane.InstallSA{SA: sas.inB}, dataplane.InstallSA{SA: sas.outB})
	for i, ns := range hosts {
		var states []netlink.XfrmState
		err := ns.Do(func() (err error) {
			states, err = netlink.XfrmStateList(netlink.FAMILY_ALL)
			return err
		})
		if err != nil || len(states) != 2 {
			t.Fatalf("%d states (%v), want 2", len(states), err)
		}
		for _, s := range states {
			want := netlink.SADir(0)
			switch {
			case directed && s.Dst.Equal(planeOuter(i).Addr().AsSlice()):
				want = netlink.XFRM_SA_DIR_IN
			case directed:
				want = netlink.XFRM_SA_DIR_OUT
			}
			if s.SADir != want {
				t.Errorf("SA to %s on %s has direction %d, want %d", s.Dst, planeOuter(i).Addr(), s.SADir, want)
			}
		}
	}
}

// roomForSAs looks at the size of the kernel's tables, which must not grow under traffic,
// and that nothing is left of what made them grow.
func roomForSAs(t *testing.T) {
	host := lonelyHost(t)
	plane, err := kernelPlane(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plane.Close() })
	out, err := host.Run(t.Context(), "ip", "-s", "xfrm", "state", "count")
	if err != nil {
		t.Fatal(err)
	}
	var states, places int
	_, err = fmt.Sscanf(strings.Join(strings.Fields(out), " "), "SAD count %d (buckets count %d", &states, &places)
	if err != nil || states != 0 || places < 512 {
		t.Errorf("%d states, %d places (%v), want none and 512: %s", states, places, err, out)
	}
}
