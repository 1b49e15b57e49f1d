package lab_test

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
)

// doomedEnv is set in the process that TestKernelAdoption kills: to the network namespace
// of its label.
const doomedEnv = "SWANHERD_DOOMED"

// The SPIs of the SAs of that process, and of those that take their place.
const (
	doomedA, doomedB = 0x1101, 0x2202
	nextA, nextB     = 0x3303, 0x4404
)

const adoptionProposal = "aes128gcm16-esn"

// TestKernelAdoption kills a process that has SAs in the kernel. They go on, also
// when the next process begins and when it sets its policies, until there are others;
// what nothing takes the place of is removed after a while. Nothing is ever in clear.
func TestKernelAdoption(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	if os.Getenv(doomedEnv) != "" {
		beDoomed(t)
		return
	}
	t.Run("killed", testKilled)
}

func testKilled(t *testing.T) {
	hosts, corp := planeWire(t), labelPlaces(t)
	tap := tapWire(t, hosts[1])
	ofCorp := ofLabel(describeSAs(t, adoptionProposal, doomedA+1, doomedB+1))
	old, next := describeSAs(t, adoptionProposal, doomedA, doomedB), describeSAs(t, adoptionProposal, nextA, nextB)
	b := openAdopting(t, hosts[1], corp[1], time.Hour)
	mustApply(t, b, old.policyB, dataplane.InstallSA{SA: old.inB}, dataplane.InstallSA{SA: old.outB})
	mustApply(t, b, ofCorp.policyB, dataplane.InstallSA{SA: ofCorp.inB}, dataplane.InstallSA{SA: ofCorp.outB})
	startAndKill(t, hosts[0], corp[0])
	corpA, fromB := behindPlane(t, corp[0], 0)
	corpB, fromA := behindPlane(t, corp[1], 1)
	sendA, receivedA := behindPlane(t, hosts[0], 0)
	sendB, receivedB := behindPlane(t, hosts[1], 1)
	both := func(when string) {
		t.Helper()
		passesClear(t, when+", there", sendA, receivedB, false)
		passesClear(t, when+", back", sendB, receivedA, true)
		passesClear(t, when+", there in corp", corpA, fromA, false)
		passesClear(t, when+", back in corp", corpB, fromB, true)
	}
	// The socket that takes ESP out of UDP went with the process: what comes in waits
	// for the next one.
	passesClear(t, "without a process", sendA, receivedB, false)
	passesClear(t, "without a process, in corp", corpA, fromA, false)

	a := openAdopting(t, hosts[0], corp[0], time.Hour)
	both("with a new process")
	mustApply(t, a, old.policyA, ofCorp.policyA)
	both("with its policy")
	mustApply(t, a, dataplane.InstallSA{SA: next.inA})
	both("with its inbound SA")
	mustApply(t, b, dataplane.InstallSA{SA: next.inB}, dataplane.InstallSA{SA: next.outB})
	mustApply(t, a, dataplane.InstallSA{SA: next.outA})
	both("with its outbound SA")
	for _, of := range []struct {
		plane dataplane.Plane
		sa    dataplane.SA
	}{{a, next.outA}, {a, next.inA}} {
		if n := countersOf(t, of.plane, of.sa).Packets; n != 1 {
			t.Errorf("the new %s SA carried %d packets, want 1", of.sa.Direction, n)
		}
	}
	waitUntil(t, "the old outbound SA going", func() bool { return !hasState(t, hosts[0], doomedB) })
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if n := xfrmObjects(t, hosts[0]); n != 0 {
		t.Errorf("%d states and policies are left after Close", n)
	}

	startAndKill(t, hosts[0], corp[0])
	if err := routeIntoPlane(hosts[0]); err != nil { // the first routes went with the first interface
		t.Fatal(err)
	}
	_ = openAdopting(t, hosts[0], corp[0], time.Second)
	waitUntil(t, "what nobody took over going", func() bool { return xfrmObjects(t, hosts[0]) == 0 })
	for range 10 {
		_ = sendA(clearPacket())
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if tap.clear != 0 || len(tap.seen) == 0 {
		t.Errorf("%d packets were in clear on the wire, and %d were not", tap.clear, len(tap.seen))
	}
}

// openAdopting opens the kernel's plane with a label, and a bound for what is adopted.
func openAdopting(t *testing.T, host, corp *lab.Namespace, bound time.Duration) (p dataplane.Plane) {
	t.Helper()
	err := host.Do(func() (err error) {
		p, err = xfrm.New(xfrm.Config{Adoption: bound, Labels: corpIn(corp.Do)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// startAndKill has another process install the SAs of side A, and kills it.
func startAndKill(t *testing.T, host, corp *lab.Namespace) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	doomed := exec.Command(self, "-test.run=^TestKernelAdoption$", "-test.v")
	doomed.Env = append(os.Environ(), doomedEnv+"="+corp.Path())
	out, err := doomed.StdoutPipe()
	if err == nil {
		err = host.Do(doomed.Start)
	}
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = append(said, lines.Text())
		if lines.Text() == doomedReady {
			break
		}
	}
	if err := doomed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := doomed.Wait(); !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the process ended by itself: %v: %q", err, said)
	}
}

const doomedReady = "ready to be killed"

// beDoomed installs the SAs of side A and waits for its end.
func beDoomed(t *testing.T) {
	corp, err := hostnet.OpenNamespace(os.Getenv(doomedEnv))
	if err != nil {
		t.Fatal(err)
	}
	p, err := xfrm.New(xfrm.Config{Labels: corpIn(corp.Do)})
	if err != nil {
		t.Fatal(err)
	}
	ofCorp := ofLabel(describeSAs(t, adoptionProposal, doomedA+1, doomedB+1))
	mustApply(t, p, ofCorp.policyA, dataplane.InstallSA{SA: ofCorp.inA}, dataplane.InstallSA{SA: ofCorp.outA})
	sas := describeSAs(t, adoptionProposal, doomedA, doomedB)
	mustApply(t, p, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
	os.Stdout.WriteString(doomedReady + "\n")
	select {}
}

// passesClear sends a packet behind one plane, or the one back, and wants it behind
// the other.
func passesClear(t *testing.T, when string, send func([]byte) error, received <-chan []byte, back bool) {
	t.Helper()
	p := clearPacket()
	if back {
		copy(p[12:20], append(bytes.Clone(p[16:20]), p[12:16]...))
	}
	if err := send(p); err != nil {
		t.Fatal(err)
	}
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		select {
		case got := <-received:
			if bytes.Contains(got, []byte(clearMarker)) {
				return
			}
		case <-deadline.C:
			t.Fatalf("%s: the packet did not arrive", when)
		}
	}
}

// hasState reports whether the kernel of a host has a state with an SPI.
func hasState(t *testing.T, host *lab.Namespace, spi int) (there bool) {
	t.Helper()
	if err := host.Do(func() error {
		states, err := netlink.XfrmStateList(netlink.FAMILY_ALL)
		for _, s := range states {
			there = there || s.Spi == spi
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return there
}

// xfrmObjects counts the states and policies of a host, but for those that a packet
// made which found no SA.
func xfrmObjects(t *testing.T, host *lab.Namespace) (n int) {
	t.Helper()
	if err := host.Do(func() error {
		states, err := netlink.XfrmStateList(netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, s := range states {
			if s.Spi != 0 {
				n++
			}
		}
		policies, err := netlink.XfrmPolicyList(netlink.FAMILY_ALL)
		for _, p := range policies {
			if p.Dir == netlink.XFRM_DIR_IN || p.Dir == netlink.XFRM_DIR_OUT || p.Dir == netlink.XFRM_DIR_FWD {
				n++
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}
