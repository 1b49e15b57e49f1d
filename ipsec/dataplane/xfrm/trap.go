package xfrm

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// What may wait for an SA: of one child, of all of them together, and for how long.
// Packets that come first are those that open connections; what waited longer than
// its sender does is of no use.
const (
	keptOfChild       = 16
	keptOctetsOfChild = 128 << 10
	keptOctetsInAll   = 8 << 20
	keptFor           = 10 * time.Second

	trapBuffer = 1 << 20
)

// trapAddress is of this host's loopback, which is all of 127.0.0.0/8.
var trapAddress = netip.AddrFrom4([4]byte{127, 83, 87, 65})

// trapSuite is of the SAs of traps, whose keys nobody else knows.
var trapSuite = suite.ESPSuite{Encryption: wire.EncryptionAESGCM16, KeyBits: 128, ESN: true}

// A trap is what the policies of a child lead to while it has no outbound SA: a state
// like others, whose peer is a socket of this process on the host's loopback. So the
// kernel protects those packets too, drops none, and has nothing to ask for. What it
// can do by itself is to drop them: it keeps packets for a policy
// (net.core.xfrm_larval_drop=0), but not those that come to an XFRM interface.
type trap struct {
	stateID
	child *child
	in    *esp.Inbound
	spent bool // it has had enough: what still comes is dropped
}

// kept are the packets of a child that wait.
type kept struct {
	packets [][]byte
	octets  int
	since   time.Time // of the first; zero: none waits
	toldAt  time.Time // when Acquire was last raised
	full    bool      // no more are taken: the kernel drops them
}

// traps are those of all children. They are used under the lock of the plane.
type traps struct {
	in      *os.File // nil: there are none, and the kernel drops first packets
	at      netip.AddrPort
	fd      int // of in
	buf     []byte
	of      map[uint32]*trap // by SPI
	needed  map[*child]bool  // by children that have none yet
	keeping []*child         // in the order of their first packets
	octets  int
}

// openTraps opens the sockets of traps and of what was in them, and sees that loopback delivers.
func (p *Plane) openTraps() (err error) {
	for _, l := range p.links {
		if l.packet < 0 {
			return fmt.Errorf("there is no packet socket for interface %s", l.name)
		}
	}
	if p.outlet, err = openOutlet(); err != nil {
		return err
	}
	t := traps{of: map[uint32]*trap{}, needed: map[*child]bool{}, buf: make([]byte, 1<<16)}
	if t.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return err
	}
	t.in = os.NewFile(uintptr(t.fd), "trap")
	unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, trapBuffer) // as much of it as the host allows
	err = unix.Bind(t.fd, &unix.SockaddrInet4{Addr: trapAddress.As4()})
	if err == nil {
		err = t.echo()
	}
	if err != nil {
		t.in.Close()
		return err
	}
	p.traps = t
	return nil
}

// echo sends a datagram to the socket itself, whose address it notes.
func (t *traps) echo() error {
	self, err := unix.Getsockname(t.fd)
	if err != nil {
		return err
	}
	t.at = netip.AddrPortFrom(trapAddress, uint16(self.(*unix.SockaddrInet4).Port))
	if err := unix.Sendto(t.fd, []byte{0}, 0, self); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	const wait = 100 // milliseconds
	poll := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, wait); err != nil || n == 0 {
		return errors.Join(errors.New("loopback: what is sent does not arrive"), err)
	}
	_, _, err = unix.Recvfrom(t.fd, t.buf, 0)
	return err
}

func (t *traps) stop() {
	if t.in != nil {
		t.in.Close()
	}
}

// trapped reports whether the policies of a child are to lead to a trap.
func (c *child) trapped() bool {
	return c.selectors != nil && c.spec.Action == dataplane.Protect && len(c.outbound) == 0 && c.heir == nil && !c.moving && !c.kept.full &&
		(c.mode == dataplane.Tunnel || c.ofAnyProtocol())
}

// ofAnyProtocol reports whether the policies of a child are for addresses alone. Of what is
// sent by a raw socket, as what waited in transport mode has to be, the kernel knows
// neither protocol nor ports: policies for some of them would let it out in clear.
func (c *child) ofAnyProtocol() bool {
	return !slices.ContainsFunc(c.selectors, func(s selector) bool { return s.protocol != ts.AnyProtocol })
}

// setTraps makes those that children have come to need: at the end of many operations, as
// most children that get a policy get their SA with it. Without one the kernel asks for an
// SA, and drops what there is none for.
func (p *Plane) setTraps() {
	for c := range p.traps.needed {
		if p.children[c.childKey] != c || !c.trapped() || c.trap != nil {
			continue
		}
		trap, err := p.newTrap(c)
		if err != nil {
			p.logger.Warn("the first packets of a child will not wait for its SA", "tunnel", c.tunnel, "child", c.name, "error", err)
			continue
		}
		c.trap, p.traps.of[trap.spi] = trap, trap
	}
	clear(p.traps.needed)
}

// aboutTrap notes that a child needs one, or takes it away, before its policies are set.
func (p *Plane) aboutTrap(c *child) {
	switch wants := c.trapped(); {
	case p.traps.in == nil || wants == (c.trap != nil):
	case wants:
		p.traps.needed[c] = true
	default:
		p.closeTrap(c)
	}
}

// closeTrap has nothing lead to the trap of a child any more. What chose it may still be
// under way.
func (p *Plane) closeTrap(c *child) {
	p.retired = append(p.retired, retired{c.trap.stateID, c.idle, time.Now()})
	c.trap = nil
	p.askAnew(c) // policies of what an SA is not for do not lead there either
}

func (p *Plane) newTrap(c *child) (*trap, error) {
	spi := dataplane.NewSPI(func(spi uint32) bool { return p.traps.of[spi] != nil })
	a := &association{request: c.idle, cpu: anyCPU, SA: dataplane.SA{
		SPI: spi, Direction: dataplane.Outbound, Local: p.traps.at, Remote: p.traps.at, Suite: trapSuite, Key: make([]byte, trapSuite.KeyLen()),
	}}
	rand.Read(a.Key) // cannot fail
	defer clear(a.Key)
	in, err := esp.NewInbound(esp.Config{SPI: spi, Suite: trapSuite, Key: a.Key})
	if err != nil {
		return nil, err
	}
	s, err := a.state(nil)
	if err != nil {
		return nil, err
	}
	if s.ifID = c.interfaceID(); p.able.direction {
		s.direct()
	}
	return &trap{stateID: s.stateID, child: c, in: in}, p.make(s)
}

// watchTraps takes what comes to the traps, until the plane is closed.
func (p *Plane) watchTraps() {
	if p.traps.in == nil {
		return
	}
	raw, err := p.traps.in.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(uintptr) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.emptyTraps()
		p.setTraps()
		return p.closed
	})
}

// emptyTraps takes what has come so far.
func (p *Plane) emptyTraps() {
	for !p.closed && p.traps.in != nil {
		n, _, err := unix.Recvfrom(p.traps.fd, p.traps.buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		p.takeTrapped(p.traps.buf[:n])
	}
}

// takeTrapped has a packet wait, or sends it if its SA is there by now.
func (p *Plane) takeTrapped(b []byte) {
	if len(b) < 4 {
		return
	}
	trap := p.traps.of[binary.BigEndian.Uint32(b)]
	if trap == nil || trap.spent || p.children[trap.child.childKey] != trap.child {
		return
	}
	opened, err := trap.in.Open(b)
	if err != nil {
		return // of somebody on this host who has not the key
	}
	c := trap.child
	switch source, destination, known := addressesOf(opened.Payload); {
	case !known:
	case len(c.outbound) > 0:
		p.sendLate(c, opened.Payload)
	case p.keep(c, opened.Payload):
		now := time.Now()
		if now.Sub(c.kept.toldAt) >= eventInterval && p.raise(dataplane.Event{
			Kind: dataplane.Acquire, Tunnel: c.tunnel, Child: c.name, Source: source, Destination: destination,
		}) {
			c.kept.toldAt = now
		}
	}
}

// keep has a packet of c wait. When there are enough of them the trap goes: the kernel
// drops what comes then at less cost.
func (p *Plane) keep(c *child, b []byte) bool {
	k := &c.kept
	if c.selectors == nil || k.full {
		return false
	}
	if k.since.IsZero() {
		k.since = time.Now()
		p.traps.keeping = append(p.traps.keeping, c)
	}
	if p.traps.octets+len(b) <= keptOctetsInAll && k.octets+len(b) <= keptOctetsOfChild {
		k.packets = append(k.packets, slices.Clone(b))
		k.octets += len(b)
		p.traps.octets += len(b)
		if len(k.packets) < keptOfChild {
			return true
		}
	}
	k.full = true
	if c.trap != nil {
		c.trap.spent = true // lest some come after others that are lost
	}
	if err := p.program(c); err != nil {
		p.logger.Warn("a child keeps more packets than it should", "tunnel", c.tunnel, "child", c.name, "error", err)
	}
	return true
}

// sendKept sends what waited for the SA that has come, and then what has come to its trap
// and was not taken yet.
func (p *Plane) sendKept(c *child) {
	p.sendLate(c, p.takeKept(c)...)
	p.emptyTraps()
}

// sendLate sends packets of a child on its outbound SA. What cannot be sent is lost, as if
// there had been no room for it.
func (p *Plane) sendLate(c *child, packets ...[]byte) {
	send := p.linkOf(c.spec.Label).send
	if c.mode == dataplane.Transport {
		send = p.outlet.asHost
	}
	for _, b := range packets {
		if err := send(b); err != nil {
			p.logger.Debug("a packet that waited for an SA is lost", "tunnel", c.tunnel, "child", c.name, "error", err)
		}
	}
}

// takeKept gives up what waits for an SA of c.
func (p *Plane) takeKept(c *child) [][]byte {
	out := c.kept.packets
	p.traps.octets -= c.kept.octets
	p.traps.keeping = slices.DeleteFunc(p.traps.keeping, func(o *child) bool { return o == c })
	c.kept = kept{toldAt: c.kept.toldAt}
	return out
}

// dropKept drops what waited too long, and lets others wait.
func (p *Plane) dropKept(now time.Time) {
	for len(p.traps.keeping) > 0 && now.Sub(p.traps.keeping[0].kept.since) >= keptFor {
		c := p.traps.keeping[0]
		p.takeKept(c)
		if c.trap != nil {
			continue
		}
		p.askAnew(c)
		if err := p.program(c); err != nil {
			p.logger.Warn("a child cannot ask for an SA again", "tunnel", c.tunnel, "child", c.name, "error", err)
		}
	}
}
