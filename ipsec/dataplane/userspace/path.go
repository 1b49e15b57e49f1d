package userspace

import "time"

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

// pathMTU is what is known of the path to an endpoint.
type pathMTU struct {
	limit  int       // octets of packet behind the IP and UDP header that pass unfragmented, 0: not known
	asked  time.Time // when the kernel was, last
	told   time.Time // when an inner sender was told last
	single time.Time // until then the device segments nothing
}

// segments reports whether the kernel may be asked to cut a group into packets
// of size octets.
func (p *pathMTU) segments(size int, now time.Time) bool {
	return (p.limit == 0 || size <= p.limit) && !now.Before(p.single)
}

// limit returns how long an ESP packet to e may be, 0 if that is not known or
// does not matter, as in a TCP connection. Probes belong to the caller.
func (e *endpoint) limit(p *probes, now time.Time) int {
	if !e.tcp && now.Sub(e.path.asked) >= pathInterval {
		e.learnPath(p, now)
	}
	return e.path.limit
}

// learnPath asks the kernel for the MTU to e.
func (e *endpoint) learnPath(p *probes, now time.Time) {
	e.path.asked, e.path.limit = now, 0
	mtu, err := p.mtu(e.remote.Addr())
	if err != nil {
		return
	}
	headers := e.headerLen()
	if !e.native() {
		headers += udpHeaderLen
	}
	if limit := mtu - headers; limit >= minLimit {
		e.path.limit = limit
	}
}
