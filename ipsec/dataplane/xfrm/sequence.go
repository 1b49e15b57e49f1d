package xfrm

import (
	"bytes"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// SetSequenceForTest has an SA go on as if sequence were the number that was sent last,
// or the highest that was received and the only one of its window, with as many packets
// counted.
func (p *Plane) SetSequenceForTest(c dataplane.SA, sequence uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.sas[keyOf(c.Direction, c.Tunnel, c.SPI)]
	if a == nil {
		return fmt.Errorf("set sequence number of %s SA %08x: there is no such SA", c.Direction, c.SPI)
	}
	f, err := p.kernel.getState(a.stateID())
	if err == nil {
		f.used.Packets = sequence
		f.replay.jump(a.Direction, sequence)
		_, err = p.kernel.do(f.update())
	}
	if err != nil {
		return fmt.Errorf("set sequence number of %s SA %08x: %w", c.Direction, c.SPI, err)
	}
	return nil
}

// jump makes sequence the last number of a direction. The bit of the highest number is
// where the kernel looks for it.
func (r *replay) jump(d dataplane.Direction, sequence uint64) {
	if d == dataplane.Outbound {
		r.out = sequence
		return
	}
	r.in = sequence
	clear(r.seen)
	if bit := int((uint32(sequence) - 1) % uint32(r.window)); sequence > 0 {
		r.seen[bit/32] |= 1 << (bit % 32)
	}
}

// update is the request that gives a state the sequence numbers and the use of f:
// struct xfrm_aevent_id with what it is about.
func (f *facts) update() request {
	body := bytes.Clone(f.ask(nl.XFRM_MSG_NEWAE).body)
	var source nl.XfrmAddress
	setAddress(&source, f.source)
	body = append(body, source[:]...)
	body = append(body, make([]byte, 8)...) // flags and request ID, which the kernel does not read
	body = appendAttribute(body, nl.XFRMA_REPLAY_ESN_VAL, f.replay.encode())
	body = appendAttribute(body, nl.XFRMA_LTIME_VAL, f.used.Serialize())
	return request{nl.XFRM_MSG_NEWAE, unix.NLM_F_REPLACE, body}
}
