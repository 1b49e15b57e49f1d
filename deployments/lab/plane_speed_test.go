package lab_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestKernelSpeed has the data plane of the kernel and that in user space carry the same
// traffic in turn, in one virtual machine, and says how many times as much the kernel's
// carries. As processors are emulated, that is all there is to learn. It fails only if
// nothing passes.
func TestKernelSpeed(t *testing.T) {
	if !inGuest() {
		runInGuestOf(t, guest{alone: true}, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	t.Run("beside userspace", testSpeed)
}

func testSpeed(t *testing.T) {
	const rounds, span = 3, 500 * time.Millisecond
	kernel, user := speedPair(t, kernelPlane), speedPair(t, userPlane(0))
	for _, m := range []struct {
		name, unit string
		of         func(*testing.T, [2]*lab.Namespace, time.Duration) float64
	}{
		{"TCP, 1 stream", "Mbit/s", tcpSpeed},
		{"UDP of 1,200 octets", "kpps", udpSpeed(1200)},
		{"UDP of 64 octets", "kpps", udpSpeed(64)},
	} {
		var kernels, users, ratios []float64
		for range rounds {
			k, u := m.of(t, kernel, span), m.of(t, user, span)
			kernels, users, ratios = append(kernels, k), append(users, u), append(ratios, k/u)
		}
		t.Logf("%s: kernel %.1f %s, userspace %.1f; ratio %.2f (%.2f to %.2f)",
			m.name, median(kernels), m.unit, median(users), median(ratios), slices.Min(ratios), slices.Max(ratios))
	}
}

// speedPair makes two hosts with a plane on each and a Child SA between them.
func speedPair(t *testing.T, open func(*lab.Namespace) (dataplane.Plane, error)) [2]*lab.Namespace {
	t.Helper()
	pair, hosts := planesOf(t, open)
	sas := childSAs(t, pair, "aes128gcm16-esn")
	mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
	mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB}, dataplane.InstallSA{SA: sas.outB})
	return hosts
}

// The hosts behind the planes.
var speedFrom, speedTo = netip.MustParseAddr("10.91.1.1"), netip.MustParseAddr("10.91.2.1")

// udpSpeed is how many thousand datagrams arrive in a second, of as many as the sender
// may have under way.
func udpSpeed(size int) func(*testing.T, [2]*lab.Namespace, time.Duration) float64 {
	return func(t *testing.T, hosts [2]*lab.Namespace, span time.Duration) float64 {
		result := runLoad(t, lab.UDPLoad{
			From: hosts[0], To: hosts[1], Size: size, Window: 256,
			Flows: []lab.UDPFlow{{Source: speedFrom, Destination: speedTo}},
		}, span)
		if result.Received == 0 {
			t.Fatalf("of %d datagrams none arrived", result.Sent)
		}
		return result.Rate() / 1e3
	}
}

// tcpSpeed is how many megabits of a connection arrive in a second.
func tcpSpeed(t *testing.T, hosts [2]*lab.Namespace, span time.Duration) float64 {
	t.Helper()
	var listener net.Listener
	var c net.Conn
	err := hosts[1].Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(speedTo, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	type count struct {
		octets int64
		err    error
	}
	arrived := make(chan count)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			arrived <- count{err: err}
			return
		}
		defer c.Close()
		n, err := io.Copy(io.Discard, c)
		arrived <- count{n, err}
	}()
	err = hosts[0].Do(func() (err error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: speedFrom.AsSlice()}, Timeout: 20 * time.Second}
		c, err = dialer.Dial("tcp", listener.Addr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	c.SetWriteDeadline(begin.Add(span))
	for b := make([]byte, 1<<16); err == nil; {
		_, err = c.Write(b)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	got := <-arrived
	if got.err != nil || got.octets == 0 {
		t.Fatalf("%d octets arrived: %v", got.octets, got.err)
	}
	return float64(got.octets) * 8 / 1e6 / time.Since(begin).Seconds()
}
