package userspace

import (
	"sync/atomic"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
)

const (
	// pathInterval is how often the kernel is asked for the MTU of a path in use.
	// It has learnt it by itself, and forgets it after ten minutes (RFC 4301,
	// Section 8.2.2; net.ipv4.route.mtu_expires). In between nothing is lost: the
	// kernel fragments what it knows not to pass.
	pathInterval = 2 * time.Second
	// singleLifetime is how long a device that refuses to segment is spared.
	singleLifetime = 10 * time.Minute

	// minLimit is the least path MTU that is believed, in octets of ESP packet.
	minLimit = 576 - ipv4HeaderLen - udpHeaderLen
)

// pathMTU is what is known of the path to an endpoint, for all who use it.
type pathMTU struct {
	limit  atomic.Int64 // octets of packet behind the IP and UDP header that pass unfragmented, 0: not known
	proved atomic.Int64 // the longest IP datagram that is known to arrive where the kernel would send longer ones, 0: none is
	hole   atomic.Bool  // limit is of that: what the kernel would send whole, or fragment, is lost
	asked  moment       // when the kernel was, last
	told   moment       // when an inner sender was told last
	single moment       // when the device refused to segment
}

// moment is a time that several goroutines look at; the zero value is long ago.
type moment struct{ nanoseconds atomic.Int64 }

// since reports whether d has passed, by now.
func (m *moment) since(now time.Time, d time.Duration) bool {
	at := m.nanoseconds.Load()
	return at == 0 || now.UnixNano()-at >= int64(d)
}

func (m *moment) at() time.Time { return time.Unix(0, m.nanoseconds.Load()) }

func (m *moment) set(now time.Time) { m.nanoseconds.Store(now.UnixNano()) }

// due reports, to one of those who ask, that d has passed, and begins it anew.
func (m *moment) due(now time.Time, d time.Duration) bool {
	at := m.nanoseconds.Load()
	return (at == 0 || now.UnixNano()-at >= int64(d)) && m.nanoseconds.CompareAndSwap(at, now.UnixNano())
}

// segments reports whether the kernel may be asked to cut a group into packets
// of size octets.
func (p *pathMTU) segments(size int, now time.Time) bool {
	limit := int(p.limit.Load())
	return (limit == 0 || size <= limit) && p.single.since(now, singleLifetime)
}

// limit returns how long an ESP packet to e may be, 0 if that is not known or
// does not matter, as in a TCP connection.
func (e *endpoint) limit(p *probes, now time.Time) int {
	if !e.tcp && e.path.asked.due(now, pathInterval) {
		e.learnPath(p)
	}
	return int(e.path.limit.Load())
}

// learnPath asks the kernel for the MTU to e, which holds unless IKE has found out that
// less arrives.
func (e *endpoint) learnPath(p *probes) {
	mtu, err := p.mtu(e.remote.Addr())
	proved := int(e.path.proved.Load())
	hole := proved != 0 && (err != nil || proved < mtu)
	if hole {
		mtu = proved
	}
	limit := max(0, mtu-e.headerLen())
	if !e.native() {
		limit -= udpHeaderLen
	}
	if limit < minLimit {
		limit, hole = 0, false
	}
	e.path.limit.Store(int64(limit))
	e.path.hole.Store(hole)
}

// prove takes what dataplane.SA.PathMTU says. Of several tunnels between the same
// addresses, all of which find it out, the last one to say something is right.
func (e *endpoint) prove(mtu int, p *probes) {
	if e.path.proved.Swap(int64(mtu)) != int64(mtu) && !e.tcp {
		e.learnPath(p)
	}
}

// fits returns how long an inner packet, in transport mode with its IP header, may be
// for the path of e, whose limit must be known.
func fits(c *dataplane.SA, e *endpoint) int {
	if c.Suite.AH {
		return behindIP(c, e, int(e.path.limit.Load())-esp.AHLen(c.Suite, e.remote.Addr().Is6()))
	}
	return behindIP(c, e, esp.MaxPayload(c.Suite, int(e.path.limit.Load())))
}

// fits is the function, faster.
func (sa *outboundSA) fits(e *endpoint) int {
	if sa.ah != nil {
		return fits(&sa.config, e)
	}
	return behindIP(&sa.config, e, sa.esp.MaxPayload(int(e.path.limit.Load())))
}

// behindIP adds the header that an inner packet of transport mode shares with the
// outer one to the length n of its payload.
func behindIP(c *dataplane.SA, e *endpoint, n int) int {
	if n > 0 && c.Mode == dataplane.Transport {
		n += e.headerLen()
	}
	return max(0, n)
}
