package lab_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
)

// noKernelStreams wants a kernel without ESP in TCP to be found out.
func noKernelStreams(t *testing.T) {
	const says = "CONFIG_INET_ESPINTCP"
	if err := xfrm.Probe(true); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("Probe: %v, want %q", err, says)
	}
	plane, err := kernelPlane(lonelyHost(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plane.Close() })
	if err := plane.(dataplane.StreamTaker).TakesStreams(); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("TakesStreams: %v, want %q", err, says)
	}
	sas := describeSAs(t, "aes128gcm16", 0x6001, 0x7001)
	sas.inA.TCP = true
	if err := plane.Apply([]dataplane.Op{dataplane.InstallSA{SA: sas.inA}})[0]; err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("an SA with TCP: %v, want %q", err, says)
	}
}

// kernelStreams has the kernel's data plane take over connections: they carry ESP of SAs
// with their ports, and IKE messages whole.
func kernelStreams(t *testing.T, outer func(int) netip.Addr) {
	if err := xfrm.Probe(true); err != nil {
		t.Fatalf("Probe: %v", err)
	}
	pair, hosts := planePairOver(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane}, outer)
	x := &streamPair{t: t, pair: pair, hosts: hosts}
	x.connect(outer)
	sas := childSAs(t, pair, "aes128gcm16-esn")
	for i, sa := range []*dataplane.SA{&sas.inA, &sas.outA, &sas.inB, &sas.outB} {
		sa.TCP, sa.Local, sa.Remote = true, x.ends[i/2], x.ends[1-i/2]
	}
	mustApply(t, pair.A.Plane, sas.policyA, dataplane.InstallSA{SA: sas.inA}, dataplane.InstallSA{SA: sas.outA})
	mustApply(t, pair.B.Plane, sas.policyB, dataplane.InstallSA{SA: sas.inB}, dataplane.InstallSA{SA: sas.outB})
	x.passes("in a connection")
	x.talks()

	x.conns[0].Close()
	if _, err := x.conns[1].Read(make([]byte, 100)); err == nil {
		t.Error("a connection that was closed goes on")
	}
	x.conns[1].Close()
	_ = pair.A.Send(clearPacket()) // is lost
	x.connect(outer)
	x.move(pair.A, 0)
	x.move(pair.B, 1)
	x.passes("in the next connection")

	x.connect(outer)
	x.move(pair.A, 0)
	x.passesTo("in a connection of which only one end knows", pair.A, pair.B, clearPacket())
	x.told(sas.inB.SPI)

	for i, side := range []planetest.Side{pair.A, pair.B} {
		mustApply(t, side.Plane, dataplane.UpdateEndpoints{Tunnel: "lab", Local: netip.AddrPortFrom(outer(i), xfrm.DefaultPort), Remote: netip.AddrPortFrom(outer(1-i), xfrm.DefaultPort)})
	}
	x.passes("by UDP")
	x.move(pair.A, 0)
	x.move(pair.B, 1)
	x.passes("in TCP again")
	if c := countersOf(t, pair.B.Plane, sas.inB); c.Packets != 5 || c.ReplayDrops != 0 {
		t.Errorf("counters that go on along the way: %+v, want 5 packets", c)
	}
}

// messageTime is how long a message may take in connections of these tests.
const messageTime = 2 * time.Second

// kernelMessageTime has the kernel end a connection in which a message does not go on,
// and no other.
func kernelMessageTime(t *testing.T, outer func(int) netip.Addr) {
	pair, hosts := planePairOver(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane}, outer)
	x := &streamPair{t: t, pair: pair, hosts: hosts}
	for name, part := range map[string][]byte{
		"a part of a length":      {0},
		"a part of IKE":           {0, 100, 0, 0, 0, 0, 1},
		"a part of an ESP packet": {0, 100, 0, 0, 0x10, 0, 1},
	} {
		x.dial(outer)
		x.take(1)
		peer, taken := x.conns[0], x.conns[1]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			standsStill(t, peer, taken, part)
		})
	}
}

// standsStill has a peer send a message in time, be silent, and stop in another message.
func standsStill(t *testing.T, peer, taken net.Conn, part []byte) {
	b := make([]byte, 100)
	for _, half := range [][]byte{{0, 9, 0, 0, 0}, {0, 1, 2, 3}} {
		if _, err := peer.Write(half); err != nil {
			t.Fatal(err)
		}
		time.Sleep(messageTime / 6)
	}
	_ = taken.SetReadDeadline(time.Now().Add(2 * messageTime))
	if n, err := taken.Read(b); n != 7 || err != nil {
		t.Errorf("%d octets arrive, %v, want 7", n, err)
	}
	_ = taken.SetReadDeadline(time.Now().Add(messageTime + messageTime/3))
	if _, err := taken.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection that is silent ends: %v", err)
	}
	if _, err := peer.Write(part); err != nil {
		t.Fatal(err)
	}
	_ = taken.SetReadDeadline(time.Now().Add(10 * messageTime))
	if _, err := taken.Read(b); !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("a connection that stands still goes on: %v", err)
	}
}

// streamPair is two planes and the newest connection between them.
type streamPair struct {
	t     *testing.T
	pair  *planetest.Pair
	hosts [2]*lab.Namespace
	conns [2]net.Conn
	ends  [2]netip.AddrPort
}

// connect opens a connection from A to B, which both planes take over.
func (x *streamPair) connect(outer func(int) netip.Addr) {
	x.t.Helper()
	x.dial(outer)
	x.take(0)
	x.take(1)
}

func (x *streamPair) dial(outer func(int) netip.Addr) {
	x.t.Helper()
	var l net.Listener
	x.must(x.hosts[1].Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(outer(1), xfrm.DefaultPort).String())
		return err
	}))
	defer l.Close()
	var err error
	x.must(x.hosts[0].Do(func() error {
		x.conns[0], err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		return err
	}))
	x.conns[1], err = l.Accept()
	x.must(err)
	for i, c := range x.conns {
		x.t.Cleanup(func() { c.Close() })
		x.ends[i] = c.LocalAddr().(*net.TCPAddr).AddrPort()
	}
}

// take has the plane of a side take over its end of the newest connection.
func (x *streamPair) take(i int) {
	x.t.Helper()
	plane := [2]planetest.Side{x.pair.A, x.pair.B}[i].Plane
	x.must(plane.(dataplane.StreamTaker).TakeStream(x.conns[i], messageTime))
}

func (x *streamPair) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// move has a side use the newest connection.
func (x *streamPair) move(side planetest.Side, i int) {
	x.t.Helper()
	mustApply(x.t, side.Plane, dataplane.UpdateEndpoints{Tunnel: "lab", Local: x.ends[i], Remote: x.ends[1-i], TCP: true})
}

func (x *streamPair) passes(when string) {
	x.t.Helper()
	there := clearPacket()
	back := bytes.Clone(there)
	copy(back[12:16], there[16:20])
	copy(back[16:20], there[12:16])
	x.passesTo(when, x.pair.A, x.pair.B, there)
	x.passesTo(when, x.pair.B, x.pair.A, back)
}

// passesTo wants that a packet from one side arrives at the other.
func (x *streamPair) passesTo(when string, from, to planetest.Side, packet []byte) {
	x.t.Helper()
	x.must(from.Send(packet))
	timeout := time.After(5 * time.Second)
	for {
		select {
		case got := <-to.Received:
			if bytes.Equal(got[20:], packet[20:]) {
				return
			}
		case <-timeout:
			x.t.Fatalf("%s: a packet is lost", when)
		}
	}
}

// talks passes IKE messages, a long one too, each whole.
func (x *streamPair) talks() {
	x.t.Helper()
	b := make([]byte, 1<<16)
	for _, n := range []int{28, 1, 30000} {
		for from, c := range x.conns {
			message := append(make([]byte, 4), bytes.Repeat([]byte{byte(n)}, n)...)
			_, err := c.Write(message)
			x.must(err)
			to := x.conns[1-from]
			_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
			got, err := to.Read(b)
			if err != nil || !bytes.Equal(b[:got], message) {
				x.t.Errorf("of a message of %d octets %d arrive: %v", len(message), got, err)
			}
			_ = to.SetReadDeadline(time.Time{})
		}
	}
}

// told wants that B says where packets for an SA come from now.
func (x *streamPair) told(spi uint32) {
	x.t.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case ev := <-x.pair.B.Plane.Events():
			if ev.Kind != dataplane.MappingChanged {
				continue
			}
			if ev.SPI != spi || !ev.TCP || ev.Remote != x.ends[0] {
				x.t.Errorf("MappingChanged is %+v, want TCP from %s", ev, x.ends[0])
			}
			return
		case <-timeout:
			x.t.Fatal("nothing is told of a peer in another connection")
		}
	}
}
