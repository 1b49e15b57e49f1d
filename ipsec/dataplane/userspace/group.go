package userspace

import (
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// maxGroups is how many groups packets are gathered in at a time.
	maxGroups = 64
	// maxHeld is of how many SAs.
	maxHeld = 64
	// maxSegments is what one UDP_SEGMENT send may carry (UDP_MAX_SEGMENTS
	// of older kernels).
	maxSegments = 64
	// maxGroupLen keeps a group below the greatest UDP payload over IPv6.
	maxGroupLen = 65000
)

// group is a run of packets that leaves in one send: with one outer header, equal in
// length but for a shorter last one. They may be of several SAs.
type group struct {
	outer  outerHeader
	closed bool // holds a shorter packet: nothing may follow
	size   int  // of each packet
	count  int
	buf    []byte
	sas    []*outboundSA // of the packets, again where another was in between
}

// add notes that a packet of sa, which is held for it, has been put into buf.
func (g *group) add(sa *outboundSA) {
	g.count++
	if n := len(g.sas); n > 0 && g.sas[n-1] == sa {
		sa.waiting--
		return
	}
	g.sas = append(g.sas, sa)
}

// gathered is what a transmitter has sealed and not sent.
type gathered struct {
	groups [maxGroups]group
	used   int    // groups that may hold packets: those behind are empty
	last   int    // group used last
	held   []held // SAs of packets in the groups
	outbox outbox
}

// held is an SA whose packets this transmitter moves.
type held struct {
	sa    *outboundSA
	child *child
}

// outbox is what leaves in one system call: a message for each group.
type outbox struct {
	groups   []*group
	messages [maxGroups]message
	vecs     [maxGroups]unix.Iovec
	controls [maxGroups]control
}

// hold makes this transmitter the one that moves the packets of sa, for one more group
// to wait under it, until those have left. Whoever waits for another has nothing that
// others could wait for. What waits under the SA that a rekey has replaced goes first,
// lest packets of a flow overtake each other.
func (t *transmitter) hold(sa *outboundSA) {
	for i := range t.gathered.held {
		h := &t.gathered.held[i]
		if h.sa == sa {
			sa.waiting++
			return
		}
		if h.child == sa.child {
			t.flushGroups()
			break
		}
	}
	if len(t.gathered.held) == maxHeld {
		t.flushGroups()
	}
	if !sa.moving.TryLock() {
		t.flushGroups()
		sa.moving.Lock()
	}
	sa.waiting = 1
	t.gathered.held = append(t.gathered.held, held{sa, sa.child})
}

// letGo lets go of SAs under which nothing waits.
func (t *transmitter) letGo() {
	t.gathered.held = slices.DeleteFunc(t.gathered.held, func(h held) bool {
		if h.sa.waiting > 0 {
			return false
		}
		h.sa.moving.Unlock()
		return true
	})
}

// group returns the group that takes a packet of n sealed octets next, made
// empty first where it does not fit.
func (t *transmitter) group(outer outerHeader, n int) *group {
	x := &t.gathered
	g := &x.groups[x.last]
	if x.last >= x.used || g.outer != outer {
		g = t.otherGroup(outer)
	}
	if g.count > 0 && (g.closed || n > g.size || g.count == maxSegments || len(g.buf)+n > maxGroupLen) {
		t.flush(g)
	}
	if g.count == 0 {
		if g.buf == nil {
			g.buf = make([]byte, 0, maxGroupLen)
		}
		g.outer, g.size = outer, n
	} else if n < g.size {
		g.closed = true
	}
	return g
}

// otherGroup finds another group than the last used: that with the header, or one
// that is empty.
func (t *transmitter) otherGroup(outer outerHeader) *group {
	x := &t.gathered
	at := -1
	for i := range x.groups[:x.used] {
		g := &x.groups[i]
		if g.outer == outer {
			x.last = i
			return g
		}
		if g.count == 0 && at < 0 {
			at = i
		}
	}
	if at < 0 {
		if x.used == maxGroups {
			t.flushGroups()
		}
		at = x.used
		x.used++
	}
	x.last = at
	return &x.groups[at]
}

// flushGroups sends all groups, those of one lane in one call as far as they can be.
func (t *transmitter) flushGroups() {
	groups := t.gathered.groups[:t.gathered.used]
	for i := range groups {
		if groups[i].count > 0 {
			t.flushLike(groups[i:])
		}
	}
	t.gathered.used = 0
}

// flushLike sends the first of groups, and others that can leave with it.
func (t *transmitter) flushLike(groups []group) {
	first := &groups[0]
	if !t.isMessage(first) {
		t.flush(first)
		return
	}
	x := &t.gathered.outbox
	x.groups = x.groups[:0]
	l := t.lane(first.outer.to)
	for i := range groups {
		if g := &groups[i]; g.count > 0 && g.outer.fragment == first.outer.fragment && t.isMessage(g) && t.lane(g.outer.to) == l {
			x.groups = append(x.groups, g)
		}
	}
	if len(x.groups) == 1 {
		t.flush(first)
		return
	}
	t.sendOutbox(l)
	for _, g := range x.groups {
		t.empty(g)
	}
	t.letGo()
}

// isMessage reports whether a group is to leave as one message.
func (t *transmitter) isMessage(g *group) bool {
	e := g.outer.to
	return !e.tcp && !e.native() && (g.count == 1 || e.path.segments(g.size, t.now))
}

// sendOutbox sends the outbox by a lane. A message that does not leave at once is sent
// by itself, before those behind it.
func (t *transmitter) sendOutbox(l *lane) {
	x := &t.gathered.outbox
	for i, g := range x.groups {
		c := &x.controls[i]
		t.prepare(c, g.outer)
		if g.count > 1 {
			c.addSegment(g.size)
		}
		x.vecs[i].Base = &g.buf[0]
		x.vecs[i].SetLen(len(g.buf))
		x.messages[i].header = messageTo(g.outer.to, &x.vecs[i], c)
	}
	l.allowFragments(x.groups[0].outer.fragment)
	for at := 0; at < len(x.groups); {
		n, errno := l.sendMany(x.messages[at:len(x.groups)])
		if errno != 0 {
			t.sendAlone(x.groups[at])
			n = 1
		}
		at += n
	}
}

// flush sends a group and empties it.
func (t *transmitter) flush(g *group) {
	if e := g.outer.to; e.tcp {
		t.sendStream(e, g)
	} else {
		t.sendAlone(g)
	}
	t.empty(g)
	t.letGo()
}

// empty forgets the packets of a group, which have left.
func (t *transmitter) empty(g *group) {
	for _, sa := range g.sas {
		sa.publish(t.now)
		sa.hidden.sent.set(t.now)
		sa.waiting--
	}
	clear(g.sas)
	g.count, g.closed, g.buf, g.sas = 0, false, g.buf[:0], g.sas[:0]
}

// sendAlone sends a group by itself and counts it if it is lost.
func (t *transmitter) sendAlone(g *group) {
	if errno := t.send(g.outer.to, g); errno != 0 {
		t.plane.stats.sendErrors.Add(uint64(g.count))
	}
}

// send tries segmentation by the kernel first. EMSGSIZE, of older kernels EINVAL,
// comes from a path whose MTU has no room for the segment size, EIO from a device
// that cannot checksum: then each packet is sent by itself, and the kernel may
// fragment it.
//
// Where there is one uplink, a full one holds everything back until the interface's
// queue drops. Of several, a full one drops by itself and holds up no other.
func (t *transmitter) send(e *endpoint, g *group) unix.Errno {
	lane := t.lane(e)
	if e.native() {
		e.raw.sending.Lock()
		defer e.raw.sending.Unlock()
	}
	lane.allowFragments(g.outer.fragment)
	wait := !t.socket.several.Load()
	if g.count > 1 && !e.native() && e.path.segments(g.size, t.now) {
		t.prepare(&t.control, g.outer)
		t.control.addSegment(g.size)
		switch errno := lane.sendWait(e, g.buf, &t.control, wait); errno {
		case unix.EMSGSIZE, unix.EINVAL:
			e.path.asked.set(t.now)
			e.learnPath(t.socket.probes)
		case unix.EIO:
			e.path.single.set(t.now)
		default:
			return errno
		}
	}
	t.prepare(&t.control, g.outer)
	var first unix.Errno
	for rest := g.buf; len(rest) > 0; {
		n := min(g.size, len(rest))
		errno := unix.Errno(0)
		if e.native() && e.raw.ah {
			errno = t.sendOwn(e, rest[:n], wait)
		} else {
			errno = lane.sendWait(e, rest[:n], &t.control, wait)
		}
		if errno != 0 && first == 0 {
			first = errno
		}
		rest = rest[n:]
	}
	return first
}

// lane is the one for packets to e.
func (t *transmitter) lane(e *endpoint) *lane {
	if e.native() {
		return &e.raw.lane
	}
	if t.inside != t.plane.insides[0] {
		return t.lanes.find(e)
	}
	if e.lanes[t.worker] == nil {
		e.lanes[t.worker] = t.lanes.find(e)
	}
	return e.lanes[t.worker]
}

// prepare writes the ancillary data that all sends with this outer header share.
func (t *transmitter) prepare(c *control, outer outerHeader) {
	e := outer.to
	c.reset()
	if e.native() {
		e.raw.prepare(e, outer, c)
		return
	}
	if t.socket.local.Addr().IsUnspecified() {
		c.addSource(t.socket.family, e.local.Addr())
	}
	if outer.class != 0 {
		c.addClass(outer.class, e.remote.Addr().Is4())
	}
}
