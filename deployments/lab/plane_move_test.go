package lab_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestKernelMove moves an SA to and fro while several programs send on it. On the
// wire no sequence number is seen twice, none is left out, and nothing is in clear.
func TestKernelMove(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelDir, lab.TreeStrongSwan)
		return
	}
	for _, proposal := range []string{"aes128gcm16", "aes256gcm16-esn"} {
		t.Run(proposal, func(t *testing.T) { moveUnderLoad(t, proposal) })
	}
}

func moveUnderLoad(t *testing.T, proposal string) {
	const moves, senders = 100, 4
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	tap := tapWire(t, hosts[1])
	sas := childSAs(t, pair, proposal)
	mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
	mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB})
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range senders {
		running.Go(func() {
			for packet := clearPacket(); ; {
				select {
				case <-stop:
					return
				default:
					_ = pair.A.Send(packet)
				}
			}
		})
	}
	sent := func() uint64 { return countersOf(t, pair.A.Plane, sas.outA).Packets }
	for i := range moves {
		local := netip.AddrPortFrom(planeMoved, xfrm.DefaultPort)
		if i%2 == 1 {
			local = pair.A.Outer
		}
		before := sent()
		mustApply(t, pair.A.Plane, dataplane.UpdateEndpoints{Tunnel: sas.outA.Tunnel, Local: local, Remote: pair.B.Outer})
		waitUntil(t, "packets on the SA after its move", func() bool { return sent() > before })
	}
	close(stop)
	running.Wait()
	total := sent()
	waitUntil(t, "the last packet on the wire", func() bool { return uint64(tap.last()) >= total })
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if tap.repeated != 0 || tap.clear != 0 {
		t.Errorf("%d sequence numbers were used twice, and %d packets were in clear", tap.repeated, tap.clear)
	}
	if uint64(tap.highest) != total {
		t.Errorf("the highest sequence number is %d after %d packets: numbers were left out", tap.highest, total)
	}
	if uint64(len(tap.seen)) < total/2 {
		t.Errorf("only %d of %d packets were seen on the wire: too few to judge by", len(tap.seen), total)
	}
	t.Logf("%d packets over %d moves, %d of them seen on the wire", total, moves, len(tap.seen))
}

// clearMarker is in packets that must not be seen on the wire.
const clearMarker = "swanherd in clear"

// clearPacket is a UDP packet between the hosts behind the planes.
func clearPacket() []byte {
	b := make([]byte, 28, 64)
	b = append(b, clearMarker...)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], []byte{10, 91, 1, 1})
	copy(b[16:], []byte{10, 91, 2, 1})
	binary.BigEndian.PutUint16(b[20:], uint16(planePorts[0]))
	binary.BigEndian.PutUint16(b[22:], uint16(planePorts[1]))
	binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20))
	return b // the kernel fills in the checksum of the header, and UDP needs none
}

// wireTap notes what arrives on the wire of a host.
type wireTap struct {
	mu              sync.Mutex
	seen            map[uint32]bool
	highest         uint32
	header          []byte // the outer one of the last packet
	repeated, clear int
}

func tapWire(t *testing.T, host *lab.Namespace) *wireTap {
	t.Helper()
	tap := &wireTap{seen: map[uint32]bool{}}
	var fd int
	err := host.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		wait := unix.NsecToTimeval(int64(50 * time.Millisecond))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		nic, err := net.InterfaceByName("wire")
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: nic.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(fd)
		for b := make([]byte, 65536); ; {
			select {
			case <-done:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, b, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_OUTGOING {
				tap.note(b[:n])
			}
		}
	}()
	t.Cleanup(func() {
		close(done)
		<-ended
	})
	return tap
}

func (w *wireTap) note(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if bytes.Contains(frame, []byte(clearMarker)) {
		w.clear++
	}
	if !isESPInUDP(frame) {
		return
	}
	w.header = bytes.Clone(frame[14:34])
	n := binary.BigEndian.Uint32(frame[frameESP+4:])
	if w.seen[n] {
		w.repeated++
	}
	w.seen[n] = true
	w.highest = max(w.highest, n)
}

func (w *wireTap) last() uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.highest
}

// testChild are the SAs and policies of one Child SA between two planes.
type testChild struct {
	inA, outA, inB, outB dataplane.SA
	policyA, policyB     dataplane.SetPolicy
}

// espSuite is the suite of a proposal that leaves no choice.
func espSuite(t *testing.T, text string) suite.ESPSuite {
	t.Helper()
	p, err := suite.ParseESP(text)
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := suite.ChooseESP([]wire.Proposal{p.Wire(1, []byte{0, 0, 1, 0})}, []suite.ESPProposal{p})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// childSAs describes one between the planes of a pair.
func childSAs(t *testing.T, pair *planetest.Pair, proposal string) testChild {
	t.Helper()
	return successorSAs(t, pair, proposal, testChild{})
}

// successorSAs describes one that takes over from old.
func successorSAs(t *testing.T, pair *planetest.Pair, proposal string, old testChild) testChild {
	t.Helper()
	spi := func(p planetest.Side, replaces uint32) uint32 {
		n, err := p.Plane.AllocateSPI(replaces)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return describeSAs(t, proposal, spi(pair.A, old.inA.SPI), spi(pair.B, old.inB.SPI))
}

// describeSAs describes one by the SPIs of its inbound SAs; its keys depend on them.
func describeSAs(t *testing.T, proposal string, a, b uint32) testChild {
	t.Helper()
	s := espSuite(t, proposal)
	only := func(prefix string) []ts.Selector { return []ts.Selector{ts.FromPrefix(netip.MustParsePrefix(prefix))} }
	netA, netB := only("10.91.1.0/24"), only("10.91.2.0/24")
	sa := func(d dataplane.Direction, spi, peer uint32, key byte, local, remote netip.AddrPort, localTS, remoteTS []ts.Selector) dataplane.SA {
		return dataplane.SA{
			Tunnel: "lab", Child: "net", Direction: d, SPI: spi, PeerSPI: peer, Suite: s, Key: bytes.Repeat([]byte{key}, s.KeyLen()),
			Local: local, Remote: remote, LocalTS: localTS, RemoteTS: remoteTS,
		}
	}
	outerA, outerB := planeOuter(0), planeOuter(1)
	toA, toB := byte(a), byte(b)
	policy := func(local, remote []ts.Selector) dataplane.SetPolicy {
		return dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: "lab", Child: "net", LocalTS: local, RemoteTS: remote}}
	}
	return testChild{
		inA:  sa(dataplane.Inbound, a, b, toA, outerA, outerB, netA, netB),
		outA: sa(dataplane.Outbound, b, a, toB, outerA, outerB, netA, netB),
		inB:  sa(dataplane.Inbound, b, a, toB, outerB, outerA, netB, netA),
		outB: sa(dataplane.Outbound, a, b, toA, outerB, outerA, netB, netA),

		policyA: policy(netA, netB), policyB: policy(netB, netA),
	}
}

func mustApply(t *testing.T, p dataplane.Plane, ops ...dataplane.Op) {
	t.Helper()
	for i, err := range p.Apply(ops) {
		if err != nil {
			t.Fatalf("%T: %v", ops[i], err)
		}
	}
}

func countersOf(t *testing.T, p dataplane.Plane, sa dataplane.SA) dataplane.Counters {
	t.Helper()
	for _, c := range p.Counters() {
		if c.Tunnel == sa.Tunnel && c.SPI == sa.SPI && c.Direction == sa.Direction {
			return c
		}
	}
	t.Fatalf("no counters for the %s SA %08x", sa.Direction, sa.SPI)
	return dataplane.Counters{}
}

// waitUntil waits for a condition.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			t.Fatalf("%s: not seen in time", what)
		}
	}
}
