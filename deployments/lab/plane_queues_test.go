package lab_test

import (
	"os"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/planetest"
)

// TestKernelQueues has two planes of a kernel share the traffic of a child between
// several outbound SAs (RFC 9611): one for each of the two CPUs, and one for all.
func TestKernelQueues(t *testing.T) {
	if !inGuest() {
		runInGuest(t, lab.KernelNewDir, lab.TreeStrongSwan)
		return
	}
	t.Run("each CPU has its own", func(t *testing.T) { testOwnSAs(t, newQueues(t)) })
	t.Run("rekeyed under load", func(t *testing.T) { testQueuesRekeyed(t, newQueues(t)) })
	t.Run("one in its time", func(t *testing.T) { testQueueTime(t, newQueues(t)) })
	t.Run("one at its limit", func(t *testing.T) { testQueueLimit(t, newQueues(t)) })
}

// TestKernelCPUComes has a CPU come that was not there when the planes began.
func TestKernelCPUComes(t *testing.T) {
	if !inGuest() {
		runInGuestOf(t, guest{cpus: 3}, lab.KernelNewDir, lab.TreeStrongSwan)
		return
	}
	t.Run("third of three", testCPUComes)
}

func testCPUComes(t *testing.T) {
	online := func(state string) {
		if err := os.WriteFile("/sys/devices/system/cpu/cpu2/online", []byte(state), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	online("0")
	q := newQueues(t)
	for i := range q.sas {
		q.up(i, dataplane.Limits{})
	}
	q.sends(0, 1, "with two CPUs")
	online("1")
	q.finds(2)
	q.sends(2, 0, "on the new CPU")
	before := q.sent(0) + q.sent(1) + q.sent(2)
	q.from(0, 5)
	q.from(1, 5)
	if n := q.sent(0) + q.sent(1) + q.sent(2) - before; n != 10 {
		t.Errorf("%d of 10 packets of the other CPUs were sent", n)
	}
	q.up(1, dataplane.Limits{})
	q.sends(2, 0, "after a rekey")
	waitUntil(t, "an SA more for the new CPU", func() bool {
		return q.pair.A.Plane.(interface{ Workers() int }).Workers() == 4
	})
	q.sas = append(q.sas, testChild{})
	q.up(3, dataplane.Limits{})
	for cpu := range 3 {
		q.sends(cpu, cpu+1, "with an SA for each of three")
	}
	q.inClear()
}

// finds has a CPU that has no SA of its own find that which is for all. Its first packet
// goes there while the kernel asks for one.
func (q *queues) finds(cpu int) {
	q.t.Helper()
	before := q.sent(0)
	waitUntil(q.t, "traffic on the SA for all", func() bool {
		q.from(cpu, 1)
		return q.sent(0) > before+1
	})
}

// queues are the Child SAs of one child between two planes, by their queue.
type queues struct {
	t    *testing.T
	pair *planetest.Pair
	wire *wireTap
	sas  []testChild
}

func newQueues(t *testing.T) *queues {
	pair, hosts := planePair(t, [2]func(*lab.Namespace) (dataplane.Plane, error){kernelPlane, kernelPlane})
	q := &queues{t: t, pair: pair, wire: tapWire(t, hosts[1]), sas: make([]testChild, 3)}
	for _, side := range []planetest.Side{pair.A, pair.B} {
		if n := side.Plane.(interface{ Workers() int }).Workers(); n != len(q.sas) {
			t.Fatalf("%d workers, want one for each of 2 CPUs and one for all", n)
		}
	}
	return q
}

// up makes or rekeys the Child SA of a queue.
func (q *queues) up(queue int, limits dataplane.Limits) {
	q.t.Helper()
	s := successorSAs(q.t, q.pair, "aes128gcm16-esn", q.sas[queue])
	s.outA.Queue, s.outB.Queue, s.outA.Limits = queue, queue, limits
	mustApply(q.t, q.pair.A.Plane, dataplane.InstallSA{SA: s.inA})
	mustApply(q.t, q.pair.B.Plane, s.policyB, dataplane.InstallSA{SA: s.inB}, dataplane.InstallSA{SA: s.outB})
	mustApply(q.t, q.pair.A.Plane, s.policyA, dataplane.InstallSA{SA: s.outA})
	q.sas[queue] = s
}

// sent is how many packets the SA of a queue has sent.
func (q *queues) sent(queue int) uint64 {
	q.t.Helper()
	return countersOf(q.t, q.pair.A.Plane, q.sas[queue].outA).Packets
}

// sends sends packets from a CPU, and wants the SA of a queue to carry them all.
func (q *queues) sends(cpu, queue int, when string) {
	q.t.Helper()
	const packets = 10
	before := make([]uint64, len(q.sas))
	for i := range before {
		if q.sas[i].outA.SPI != 0 {
			before[i] = q.sent(i)
		}
	}
	q.from(cpu, packets)
	for i, n := range before {
		want := n
		if i == queue {
			want += packets
		}
		if q.sas[i].outA.SPI != 0 && q.sent(i) != want {
			q.t.Errorf("%s: the SA of queue %d sent %d of %d packets of CPU %d, want %d", when, i, q.sent(i)-n, packets, cpu, want-n)
		}
	}
	q.arrives(queue, when)
}

// arrives waits until all that the SA of a queue has sent is accepted at the other end.
func (q *queues) arrives(queue int, when string) {
	q.t.Helper()
	waitUntil(q.t, when+": all packets at the other end", func() bool {
		return countersOf(q.t, q.pair.B.Plane, q.sas[queue].inB).Packets == q.sent(queue)
	})
}

// from sends packets from a CPU.
func (q *queues) from(cpu, packets int) {
	q.t.Helper()
	err := onCPU(cpu, func() error {
		for range packets {
			if err := q.pair.A.Send(clearPacket()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		q.t.Fatal(err)
	}
}

// inClear wants that nothing was in clear on the wire.
func (q *queues) inClear() {
	q.t.Helper()
	q.wire.mu.Lock()
	defer q.wire.mu.Unlock()
	if q.wire.clear != 0 {
		q.t.Errorf("%d packets were in clear", q.wire.clear)
	}
}

func testOwnSAs(t *testing.T, q *queues) {
	q.up(0, dataplane.Limits{})
	q.sends(0, 0, "with one SA")
	q.sends(1, 0, "with one SA")
	q.up(1, dataplane.Limits{})
	q.sends(1, 0, "while CPU 1 has none of its own")
	q.up(2, dataplane.Limits{})
	q.sends(1, 2, "with all SAs")
	q.sends(0, 1, "with all SAs")
	for i := range q.sas {
		old := q.sas[i]
		q.up(i, dataplane.Limits{})
		q.sends(0, 1, "after a rekey")
		q.sends(1, 2, "after a rekey")
		mustApply(t, q.pair.A.Plane, removal(old.outA), removal(old.inA))
		q.sends(0, 1, "after the end of an old SA")
		q.sends(1, 2, "after the end of an old SA")
	}
	mustApply(t, q.pair.A.Plane, removal(q.sas[0].outA))
	q.sas[0] = testChild{}
	q.sends(0, 1, "without the one for all")
	q.sends(1, 2, "without the one for all")
	q.up(0, dataplane.Limits{})
	mustApply(t, q.pair.A.Plane, removal(q.sas[2].outA))
	q.sas[2] = testChild{}
	q.sends(1, 0, "when CPU 1 has lost its own")
	q.inClear()
}

// testQueuesRekeyed wants that nothing is lost while SAs come, are replaced, and go.
func testQueuesRekeyed(t *testing.T, q *queues) {
	const rekeys = 30
	q.up(0, dataplane.Limits{})
	flow := startNumbered(q.pair.A.Send, q.pair.B.Received, 0, 1)
	q.up(1, dataplane.Limits{})
	q.up(2, dataplane.Limits{})
	passes := func(what string, queue int) {
		waitUntil(t, what, func() bool { return q.sent(queue) > 0 || flow.stuck() })
	}
	passes("traffic of CPU 0", 1)
	passes("traffic of CPU 1", 2)
	for i := range rekeys {
		if flow.stuck() {
			break
		}
		queue := i % len(q.sas)
		old := q.sas[queue]
		q.up(queue, dataplane.Limits{})
		if queue > 0 {
			passes("traffic on the new SA", queue)
		}
		mustApply(t, q.pair.A.Plane, removal(old.outA), removal(old.inA))
		flow.waitForSent(t)
		mustApply(t, q.pair.B.Plane, removal(old.outB), removal(old.inB))
	}
	passed, wrong := flow.end()
	if wrong != "" {
		t.Fatalf("after %d packets: %s", passed, wrong)
	}
	q.inClear()
	t.Logf("%d packets over %d rekeys, none lost", passed, rekeys)
}

// testQueueTime has SAs last for their time, although the kernel does not know when they
// were made.
func testQueueTime(t *testing.T, q *queues) {
	for i := range q.sas {
		q.up(i, dataplane.Limits{HardTime: 3 * time.Second})
	}
	q.sends(1, 2, "at first")
	for expired := 0; expired < len(q.sas); {
		select {
		case ev := <-q.pair.A.Plane.Events():
			if ev.Kind == dataplane.HardExpire {
				expired++
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d SAs have expired", expired, len(q.sas))
		}
	}
}

// testQueueLimit has the kernel remove the SA of a CPU: it uses the one for all then.
func testQueueLimit(t *testing.T, q *queues) {
	q.up(0, dataplane.Limits{})
	q.up(1, dataplane.Limits{})
	q.up(2, dataplane.Limits{HardPackets: 10})
	q.sends(1, 2, "up to the limit")
	q.from(1, 1) // that which finds the limit
	q.finds(1)
	q.sas[2] = testChild{}
	q.sends(1, 0, "without its own SA")
	q.sends(0, 1, "when another has none of its own")
	q.inClear()
}
