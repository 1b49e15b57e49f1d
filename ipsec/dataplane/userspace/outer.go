package userspace

import "github.com/swanherd/swanherd/ipsec/dataplane"

// outerHeader is where a packet goes and what its outer header says. All packets of
// a group have the same.
type outerHeader struct {
	to       *endpoint
	class    uint8 // DSCP and ECN
	fragment bool  // routers may: DF is clear
}

// outerRule is dataplane.Outer made ready: class = inner & keep | set.
type outerRule struct {
	keep, set uint8
	df        dataplane.DF
}

func compileOuter(o dataplane.Outer) outerRule {
	r := outerRule{keep: 0xff, df: o.DF}
	if o.FixDSCP {
		r.keep, r.set = r.keep&3, o.DSCP<<2
	}
	if o.NoECN {
		r.keep &^= 3
	}
	return r
}

// header makes the outer header for the inner packet b to e (RFC 4301, Section
// 5.1.2). All segments of a super-packet have the one of the first.
func (r *outerRule) header(e *endpoint, b []byte, v6 bool) outerHeader {
	h := outerHeader{to: e, class: trafficClass(b, v6)&r.keep | r.set}
	if e.remote.Addr().Is4() {
		h.fragment = r.df == dataplane.DFClear || r.df == dataplane.DFCopy && mayFragment(b, v6)
	}
	return h
}

// mayFragment reports whether routers may fragment an inner packet.
func mayFragment(b []byte, v6 bool) bool { return !v6 && b[6]&0x40 == 0 }
