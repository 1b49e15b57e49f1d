package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
)

// flow is a stream of numbered datagrams in each direction between two hosts,
// which counts what is lost.
type flow struct {
	ends    [2]*flowEnd
	stop    chan struct{}
	sending sync.WaitGroup
}

// flowInterval is the time between two datagrams of one direction.
const flowInterval = 5 * time.Millisecond

// flowEnd is one host: what it sent, and what it received of the other's.
type flowEnd struct {
	conn *net.UDPConn
	to   netip.AddrPort
	// foreign is a host whose data plane is not ours. What it refuses to send
	// counts as not sent: where charon removes an SA, its kernel answers the
	// packet that is on the way to that SA in transport mode with EINVAL.
	foreign bool

	mu       sync.Mutex
	sent     []time.Time // of each
	refused  error       // of the host, to send
	received map[uint64]bool
	twice    int
	arrived  chan struct{} // capacity 1
}

const flowPort = 7000

// flowHost is one host of a flow: its own address, and the other's as it sees it.
type flowHost struct {
	ns       *lab.Namespace
	own, far netip.Addr
}

// startFlow begins to send between a host of ours and one of the peer's.
func startFlow(ends [2]flowHost) (*flow, error) {
	f := &flow{stop: make(chan struct{})}
	for i, end := range ends {
		e := &flowEnd{foreign: i == 1, to: netip.AddrPortFrom(end.far, flowPort), received: map[uint64]bool{}, arrived: make(chan struct{}, 1)}
		err := end.ns.Do(func() (err error) {
			e.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(end.own, flowPort)))
			return err
		})
		if err == nil {
			err = roomy(e.conn)
		}
		if err != nil {
			f.close()
			return nil, fmt.Errorf("start flow in %s: %w", end.ns.Name, err)
		}
		f.ends[i] = e
		go e.receive()
	}
	for _, e := range f.ends {
		f.sending.Go(func() { e.send(f.stop) })
	}
	return f, nil
}

// roomy lets a socket keep what comes while a busy machine runs others.
func roomy(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, labBuffer)
	}); e != nil {
		return e
	}
	return err
}

func (f *flow) close() {
	for _, e := range f.ends {
		if e != nil {
			e.conn.Close()
		}
	}
}

// flowLength is the length of a datagram. None of the 1,191 before it had the same.
func flowLength(number int) int { return 8 + number*37%1192 }

// send sends datagrams of several sizes until stop.
func (e *flowEnd) send(stop <-chan struct{}) {
	tick := time.NewTicker(flowInterval)
	defer tick.Stop()
	packet := make([]byte, 1200)
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		i := len(e.sent) // only this goroutine changes it
		binary.BigEndian.PutUint64(packet, uint64(i))
		at := time.Now()
		_, err := e.conn.WriteToUDPAddrPort(packet[:flowLength(i)], e.to)
		e.mu.Lock()
		if err != nil {
			e.refused = err
		}
		if err == nil || !e.foreign {
			e.sent = append(e.sent, at)
		}
		e.mu.Unlock()
	}
}

func (e *flowEnd) receive() {
	b := make([]byte, 2048)
	for {
		n, _, err := e.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 8 {
			continue // an ICMP error is told by the count
		}
		number := binary.BigEndian.Uint64(b)
		e.mu.Lock()
		if e.received[number] {
			e.twice++
		}
		e.received[number] = true
		e.mu.Unlock()
		select {
		case e.arrived <- struct{}{}:
		default:
		}
	}
}

// flowCount is the result of one direction.
type flowCount struct {
	sent, lost, twice int
	which             []int       // were lost
	when              []time.Time // they were sent
	refused           error
}

func (c flowCount) String() string {
	s := fmt.Sprintf("%d of %d lost", c.lost, c.sent)
	if len(c.when) > 0 {
		first, last := c.when[0], c.when[len(c.when)-1]
		s += fmt.Sprintf(" (sent from %s to %s)", first.UTC().Format(clock), last.UTC().Format(clock))
	}
	if c.twice > 0 {
		s += fmt.Sprintf(", %d twice", c.twice)
	}
	if c.refused != nil {
		s += fmt.Sprintf(", %v", c.refused)
	}
	return s
}

// flowLeast is how many datagrams pass in each direction at the least.
const flowLeast = 20

// end lets some more pass, stops sending, waits with patience for what is under
// way, and returns the counts from the first end to the second and back.
func (f *flow) end(patience time.Duration) (there, back flowCount) {
	for _, e := range f.ends {
		e.awaitMore(flowLeast)
	}
	close(f.stop)
	f.sending.Wait()
	defer f.close()
	return count(f.ends[0], f.ends[1], patience), count(f.ends[1], f.ends[0], patience)
}

// awaitMore waits until n more datagrams arrived, or too long.
func (e *flowEnd) awaitMore(n int) {
	patience := time.After(3 * time.Second)
	e.mu.Lock()
	want := len(e.received) + n
	e.mu.Unlock()
	for {
		e.mu.Lock()
		there := len(e.received)
		e.mu.Unlock()
		if there >= want {
			return
		}
		select {
		case <-e.arrived:
		case <-patience:
			return
		}
	}
}

func count(from, to *flowEnd, patience time.Duration) flowCount {
	from.mu.Lock()
	sent, refused := slices.Clone(from.sent), from.refused
	from.mu.Unlock()
	enough := time.After(patience)
	for {
		to.mu.Lock()
		c := flowCount{sent: len(sent), twice: to.twice, refused: refused}
		for i, at := range sent {
			if !to.received[uint64(i)] {
				c.which, c.when = append(c.which, i), append(c.when, at)
			}
		}
		c.lost = len(c.when)
		to.mu.Unlock()
		if c.lost == 0 {
			return c
		}
		select {
		case <-to.arrived:
		case <-enough:
			return c
		}
	}
}
