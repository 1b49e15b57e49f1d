package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
)

// TestKernelOffload leaves ESP to network interfaces: to one of netdevsim, which imitates
// one that can for AES-GCM without ESN, and counts the packets that it is to encrypt; and to
// one of veth, which cannot.
func TestKernelOffload(t *testing.T) {
	if !inGuest() {
		runInGuestOf(t, guest{modules: []string{"netdevsim", "esp4_offload", "esp6_offload"}}, lab.KernelUbuntuDir, lab.TreeStrongSwan)
		return
	}
	t.Run("by the interface", func(t *testing.T) {
		host := lonelyHost(t)
		taken := offloadedBy(t, host, 1)
		side := offloadingPlane(t, host)
		for i, tt := range []struct {
			proposal  string
			offloaded int // of an inbound and an outbound SA
		}{
			{"aes128gcm16", 2},
			{"aes128gcm16-esn", 0},
			{"aes256gcm16", 2},
			{"chacha20poly1305", 0},
		} {
			before, _ := taken()
			sas := describeSAs(t, tt.proposal, uint32(0x6001+i), uint32(0x7001+i))
			sas.inA.Local, sas.inA.Remote = native(sas.inA.Local), native(sas.inA.Remote)
			sas.outA.Local, sas.outA.Remote = sas.inA.Local, sas.inA.Remote
			mustApply(t, side.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
			count, sent := taken()
			if count-before != tt.offloaded {
				t.Errorf("%s: the interface has %d SAs more, want %d", tt.proposal, count-before, tt.offloaded)
			}
			if err := side.Send(clearPacket()); err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "the packet", func() bool { return countersOf(t, side.Plane, sas.outA).Packets == 1 })
			if _, now := taken(); (now-sent == 1) != (tt.offloaded > 0) {
				t.Errorf("%s: the interface was handed %d packets to encrypt", tt.proposal, now-sent)
			}
			mustApply(t, side.Plane, removal(sas.outA), removal(sas.inA))
			waitUntil(t, "the removal", func() bool { left, _ := taken(); return left == before })
		}
	})
	t.Run("by the processor", func(t *testing.T) {
		pair, _ := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){openOffloading, kernelPlane})
		sas := childSAs(t, pair, "aes128gcm16")
		for _, sa := range []*dataplane.SA{&sas.inA, &sas.outA, &sas.inB, &sas.outB} {
			sa.Local, sa.Remote = native(sa.Local), native(sa.Remote)
		}
		mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB}, dataplane.InstallSA{SA: sas.outB})
		mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
		flow := startNumbered(pair.A.Send, pair.B.Received)
		flow.waitForSent(t)
		if _, wrong := flow.end(); wrong != "" {
			t.Error(wrong)
		}
	})
}

// lonelyHost is one that nothing is connected to yet.
func lonelyHost(t *testing.T) *lab.Namespace {
	t.Helper()
	n := lab.New()
	t.Cleanup(func() { n.Close() })
	host, err := n.Add("a")
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// offloadedBy gives a host an interface that imitates hardware, with the address of the
// first plane and a neighbor at that of the second. The function that it returns says how
// many SAs the interface has, and how many packets it was to encrypt.
func offloadedBy(t *testing.T, host *lab.Namespace, number int) func() (sas, packets int) {
	t.Helper()
	const debug = "/sys/kernel/debug"
	err := unix.Mount("debugfs", debug, "debugfs", 0, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	bus := "/sys/bus/netdevsim/"
	err = host.Do(func() error { return os.WriteFile(bus+"new_device", fmt.Appendf(nil, "%d 1", number), 0o200) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(bus+"del_device", strconv.AppendInt(nil, int64(number), 10), 0o200) })
	for _, argv := range [][]string{
		{"ip", "link", "set", "eth0", "up"},
		{"ip", "address", "add", planeOuter(0).Addr().String() + "/24", "dev", "eth0"},
		{"ip", "neighbor", "add", planeOuter(1).Addr().String(), "lladdr", "02:00:00:00:00:02", "dev", "eth0"},
	} {
		if out, err := host.Run(t.Context(), argv...); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	figures := regexp.MustCompile(`SA count=(\d+) tx=(\d+)`)
	return func() (sas, packets int) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(debug, fmt.Sprintf("netdevsim/netdevsim%d/ports/0/ipsec", number)))
		found := figures.FindSubmatch(text)
		if err != nil || found == nil {
			t.Fatalf("the interface says %q, %v", text, err)
		}
		sas, err1 := strconv.Atoi(string(found[1]))
		packets, err2 := strconv.Atoi(string(found[2]))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return sas, packets
	}
}

func openOffloading(ns *lab.Namespace) (p dataplane.Plane, err error) {
	return p, ns.Do(func() error {
		p, err = xfrm.New(xfrm.Config{Offload: true})
		return err
	})
}

// offloadingPlane opens a plane that offloads, on a host without a wire.
func offloadingPlane(t *testing.T, host *lab.Namespace) planetest.Side {
	t.Helper()
	plane, err := openOffloading(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plane.Close() })
	side := planetest.Side{Plane: plane, Outer: planeOuter(0)}
	side.Send, side.Received = behindPlane(t, host, 0)
	return side
}

// native is an endpoint without UDP encapsulation.
func native(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
