package probe

import (
	"net/netip"
	"time"
)

const (
	// minReflectRate and reflectBurst bound the answers to one peer: the former in a
	// second, if it is not to probe more often, and the latter at once. It is more than a peer
	// sends that is in doubt about a path with alternatives, of which this end may not know yet.
	minReflectRate = 40
	reflectBurst   = 20
)

// Reflector is the Session-Reflector of all paths of an edge, a stateful one (RFC 8762,
// Section 4). It answers the peers of its paths alone, none more often than twice as
// often as that may ask, and with no more octets than it got. It does no I/O and reads
// no clock; it is for one goroutine at a time.
type Reflector struct {
	sessions map[ends]*reflection
}

// reflection is what is known of one peer's probes.
type reflection struct {
	next   uint32 // number of the next answer
	rate   float64
	tokens float64
	last   time.Time
}

// NewReflector returns a Reflector that answers nobody.
func NewReflector() *Reflector { return &Reflector{sessions: map[ends]*reflection{}} }

// Set makes list the paths whose peers are answered.
func (r *Reflector) Set(list []Path) {
	next := make(map[ends]*reflection, len(list))
	for _, path := range list {
		key := ends{path.Local, path.Remote}
		s := r.sessions[key]
		if s == nil {
			s = &reflection{tokens: reflectBurst}
		}
		s.rate = max(minReflectRate, 2*float64(time.Second)/float64(path.Interval))
		next[key] = s
	}
	r.sessions = next
}

// Answer returns the answer, to be sent now, to what came from remote to local with a hop
// limit, or nil if it gets none.
func (r *Reflector) Answer(came, now time.Time, local, remote netip.Addr, hopLimit uint8, payload []byte) []byte {
	t, err := parseTest(payload)
	if err != nil {
		return nil
	}
	s := r.sessions[ends{local, remote}]
	if s == nil || !s.admit(now) {
		return nil
	}
	if t.Sequence == 0 { // a new session (RFC 8762, Section 4.2.1)
		s.next = 0
	}
	a := answer{Sequence: s.next, Received: ntp(came), Time: ntp(now), Test: t, HopLimit: hopLimit}
	s.next++
	return a.append(make([]byte, 0, packetLen))
}

func (s *reflection) admit(now time.Time) bool {
	if elapsed := now.Sub(s.last); elapsed > 0 {
		s.tokens = min(reflectBurst, s.tokens+s.rate*elapsed.Seconds())
		s.last = now
	}
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}
