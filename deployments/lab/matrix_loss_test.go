package lab_test

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
)

// passage is a packet of ESP or AH on the cable between the gateways.
type passage struct {
	at       time.Time
	spi, seq uint32
	length   int // of the frame
}

// readPassage finds ESP, in UDP too, or AH in a frame of IPv4.
func readPassage(frame []byte) (p passage, is bool) {
	const ip = vnetHeader + 14
	if len(frame) < ip+20 || frame[ip]>>4 != 4 {
		return p, false
	}
	at := ip + 4*int(frame[ip]&15)
	switch frame[ip+9] {
	case unix.IPPROTO_ESP:
	case unix.IPPROTO_AH:
		at += 4 // RFC 4302, Section 2
	case unix.IPPROTO_UDP:
		if len(frame) < at+4 || binary.BigEndian.Uint16(frame[at:]) != 4500 && binary.BigEndian.Uint16(frame[at+2:]) != 4500 {
			return p, false
		}
		at += 8
	default:
		return p, false
	}
	if len(frame) < at+8 {
		return p, false
	}
	p = passage{time.Now(), binary.BigEndian.Uint32(frame[at:]), binary.BigEndian.Uint32(frame[at+4:]), len(frame)}
	return p, p.spi != 0 // else it is IKE (RFC 3948, Section 2.2)
}

// onWire are the passages from a side.
func (c *cable) onWire(s side) []passage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.passed[s])
}

// clock is how the loss report and the peers' logs tell the time.
const clock = "15:04:05.000"

// whereLost says how far packets came that a side sent and the other did not receive.
func whereLost(c flowCount, wire []passage) string {
	if c.lost == 0 || len(wire) == 0 {
		return "" // or nothing is known of it, such as in TCP
	}
	passed := map[uint32][]passage{}
	for _, p := range seenOnWire(c, wire) {
		passed[p.spi] = append(passed[p.spi], p)
	}
	before := c.lost
	var b strings.Builder
	for _, spi := range slices.Sorted(maps.Keys(passed)) {
		before -= len(passed[spi])
		fmt.Fprintf(&b, "\n  %d passed it: %s", len(passed[spi]), span(passed[spi]))
	}
	return fmt.Sprintf("\n  %d did not come as far as the wire%s\n  the SAs on the wire:%s", before, b.String(), spans(wire))
}

// seenOnWire finds which of the lost packets were on the wire. Nothing but their lengths
// and their order tells: those that were received are found first, since each has passed,
// and then those that were lost among what is between them.
func seenOnWire(c flowCount, wire []passage) (found []passage) {
	if c.lost == 0 || len(wire) == 0 {
		return nil
	}
	shortest := slices.MinFunc(wire, func(a, b passage) int { return cmp.Compare(a.length, b.length) }).length - flowLength(0)
	const padding = 16
	find := func(number, from, to int) int {
		for at := from; at < to; at++ {
			if extra := wire[at].length - flowLength(number) - shortest; -padding < extra && extra < padding {
				return at
			}
		}
		return -1
	}
	at, next := 0, 0 // on the wire, and of the lost ones
	for number := range c.sent + 1 {
		if slices.Contains(c.which, number) {
			continue
		}
		to := len(wire)
		if number < c.sent {
			if to = find(number, at, min(at+flowReorder, len(wire))); to < 0 {
				continue // it came out of order
			}
		}
		for ; next < len(c.which) && c.which[next] < number; next++ {
			if i := find(c.which[next], at, to); i >= 0 {
				found, at = append(found, wire[i]), i+1
			}
		}
		at = to + 1
	}
	return found
}

// flowReorder is among how many packets on the wire the next one is looked for. A packet
// of almost the same length comes no sooner.
const flowReorder = 30

// droppedByThem is how many of the packets that did not come as far as the wire the peer's
// kernel dropped for want of the SA that it had just chosen. charon removes an outbound SA
// as soon as another one takes its place: a processor that is between the choice and the
// use then, be it for long because the machine runs others, has a packet of no SA. So there
// is one for each processor and each SA that was replaced at most. In transport mode that is
// told to who sends (see flowEnd); who has his packets forwarded is told nothing.
func (x *run) droppedByThem(c flowCount) int {
	wire := x.cable.onWire(theirs)
	used := map[uint32]bool{}
	for _, p := range wire {
		used[p.spi] = true
	}
	return min(x.wantedState(theirs)-x.wantedBefore, c.lost-len(seenOnWire(c, wire)), runtime.NumCPU()*max(0, len(used)-1))
}

// wantedState is how many packets a gateway's kernel dropped because it had no state to
// send them with, or one that was being removed.
func (x *run) wantedState(s side) (n int) {
	for line := range strings.Lines(xfrmDrops(x.hosts[s.String()])) {
		var name string
		var count int
		if _, err := fmt.Sscan(line, &name, &count); err == nil && (name == "XfrmOutStateInvalid" || name == "XfrmOutNoStates") {
			n += count
		}
	}
	return n
}

// spans tells of each SA of passages, in the order in which they were used first.
func spans(wire []passage) string {
	of := map[uint32][]passage{}
	var order []uint32
	for _, p := range wire {
		if of[p.spi] == nil {
			order = append(order, p.spi)
		}
		of[p.spi] = append(of[p.spi], p)
	}
	var b strings.Builder
	for _, spi := range order {
		b.WriteString("\n    " + span(of[spi]))
	}
	return b.String()
}

// span tells of passages of one SA.
func span(p []passage) string {
	last := p[len(p)-1]
	return fmt.Sprintf("SPI %08x, numbers %d to %d (%d packets), %s to %s", last.spi, p[0].seq, last.seq, len(p),
		p[0].at.UTC().Format(clock), last.at.UTC().Format(clock))
}

// lossReport is all that is known of packets that were lost, for the one who has to find
// out where.
func (x *run) lossReport(there, back flowCount) string {
	var b strings.Builder
	fmt.Fprintf(&b, "packets were lost; by the cable between the gateways: %d", x.cable.dropped())
	fmt.Fprintf(&b, "\nto them %v%s", there, whereLost(there, x.cable.onWire(ours)))
	fmt.Fprintf(&b, "\nto us %v%s", back, whereLost(back, x.cable.onWire(theirs)))
	for _, name := range slices.Sorted(maps.Keys(x.hosts)) {
		fmt.Fprintf(&b, "\nwhat the kernel counts in %s:%s", name, kernelCounts(x.hosts[name]))
	}
	fmt.Fprintf(&b, "\nour counters: %+v", x.gateway.plane.Counters())
	events, _ := x.gateway.events.since(0)
	for _, ev := range events {
		fmt.Fprintf(&b, "\n%s our engine: %T %+v", ev.Time.UTC().Format(clock), ev.What, ev.What)
	}
	from, to := lossTime(there, back)
	return b.String() + "\nwhat the kernel dropped meanwhile, for anybody:" + droppedByKernel(from, to)
}

// lossTime is when packets were sent that were lost, with some time around it.
func lossTime(counts ...flowCount) (from, to time.Time) {
	for _, c := range counts {
		for _, at := range c.when {
			if from.IsZero() || at.Before(from) {
				from = at
			}
			if at.After(to) {
				to = at
			}
		}
	}
	return from.Add(-time.Second), to.Add(time.Second)
}

// kernelCounts are the counters of a host's kernel that tell of what it did not deliver,
// but for those that are 0.
func kernelCounts(host *lab.Namespace) string {
	out := " " + strings.Join(strings.Fields(xfrmDrops(host)), " ")
	err := host.Do(func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		out += pairs(string(snmp), "Ip:", "InHdrErrors", "InAddrErrors", "InDiscards", "OutDiscards", "OutNoRoutes") +
			pairs(string(snmp), "Udp:", "NoPorts", "InErrors", "RcvbufErrors", "SndbufErrors")
		dev, failed := os.ReadFile("/proc/thread-self/net/dev")
		for line := range strings.Lines(string(dev)) {
			// receive: bytes packets errs drop ...; send: the same, from the ninth on
			if f := strings.Fields(line); len(f) == 17 && (f[3] != "0" || f[4] != "0" || f[11] != "0" || f[12] != "0") {
				out += fmt.Sprintf(" %s receive errors %s drops %s, send errors %s drops %s", f[0], f[3], f[4], f[11], f[12])
			}
		}
		return errors.Join(err, failed)
	})
	if err != nil {
		out += " " + err.Error()
	}
	return out
}

// pairs are the wanted fields of /proc/net/snmp that are not 0.
func pairs(text, protocol string, wanted ...string) (out string) {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != protocol {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i, name := range names {
			if slices.Contains(wanted, name) && i < len(f) && f[i] != "0" {
				out += fmt.Sprintf(" %s%s %s", protocol, name, f[i])
			}
		}
	}
	return out
}

// tellDrops has a test that fails say what the kernel of its hosts counts and what the
// kernel dropped since now.
func tellDrops(t *testing.T, hosts ...*lab.Namespace) {
	if !inGuest() {
		return
	}
	traceDrops() // an error is told with the first failure
	begin := time.Now()
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range hosts {
				t.Logf("what the kernel counts in %s:%s", h.Name, kernelCounts(h))
			}
			t.Logf("what the kernel dropped meanwhile, for anybody:%s", droppedByKernel(begin, time.Now()))
		}
	})
}

// traceDrops has the kernel of a virtual machine note each packet that it drops, with the
// place in it and the reason.
var traceDrops = sync.OnceValues(func() (dir string, err error) {
	dir = "/sys/kernel/tracing"
	if err := unix.Mount("tracefs", dir, "tracefs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return "", fmt.Errorf("mount tracefs: %w", err)
	}
	for _, setting := range [][2]string{{"trace_clock", "mono"}, {"buffer_size_kb", "4096"}, {"events/skb/kfree_skb/filter", "protocol != 0"}, {"events/skb/kfree_skb/enable", "1"}} {
		if err := os.WriteFile(filepath.Join(dir, setting[0]), []byte(setting[1]), 0); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// droppedByKernel is what it noted between two times.
func droppedByKernel(from, to time.Time) string {
	if !inGuest() {
		return " not known: it is asked only in a virtual machine"
	}
	dir, err := traceDrops()
	if err != nil {
		return " " + err.Error()
	}
	f, err := os.Open(filepath.Join(dir, "trace"))
	if err != nil {
		return " " + err.Error()
	}
	defer f.Close()
	var mono unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return " " + err.Error()
	}
	began := time.Now().Add(-time.Duration(mono.Nano()))
	var said []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// task-pid [cpu] flags seconds: kfree_skb: what
		head, what, ok := strings.Cut(lines.Text(), ": kfree_skb: ")
		fields := strings.Fields(head)
		if !ok || len(fields) == 0 || strings.HasSuffix(what, "OTHERHOST") { // such as what passes the cable
			continue
		}
		since, err := time.ParseDuration(fields[len(fields)-1] + "s")
		if at := began.Add(since); err == nil && at.After(from) && at.Before(to) {
			said = append(said, fmt.Sprintf("\n  %s %s: %s", at.UTC().Format(clock), strings.Join(fields[:len(fields)-1], " "), what))
		}
	}
	const most = 100
	return strings.Join(said[:min(len(said), most)], "") + fmt.Sprintf("\n  %d in all", len(said))
}
