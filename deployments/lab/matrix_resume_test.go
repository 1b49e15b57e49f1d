package lab_test

import (
	"bytes"
	"strings"
	"sync"

	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// disk is an engine's memory over its death: what is saved after that is lost.
type disk struct {
	mu      sync.Mutex
	content []byte
	dead    bool
}

func (d *disk) Load() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = false
	return bytes.Clone(d.content), nil
}

func (d *disk) Save(b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead {
		d.content = bytes.Clone(b)
	}
	return nil
}

// holds reports whether words are in the memory.
func (d *disk) holds(words string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Contains(d.content, []byte(words))
}

func (d *disk) die() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

// libreswanResumeCases have an end that lost its SAs resume the session by the
// ticket of the other (RFC 5723). The ends agree on the ticket, the exchange and
// the keys, but not on AUTH: libreswan's covers the first message alone, without
// the nonce and the identity (RFC 5723, Section 4.3.3, and RFC 7296, Section 2.15).
// What must come of it is the whole exchange.
func libreswanResumeCases(base interopCase) []interopCase {
	memory := &disk{}
	base.lossy = true
	base.conn = "  session-resumption=yes"
	base.tunnel = func(c *engine.TunnelConfig) { c.Resume = true }
	us, them := base, base
	us.name = "resumption/ours"
	us.engine = func(c *engine.Config) { c.Store = memory }
	us.steps = []step{resumeOurs(memory), rekeyChild(ours), rekeyIKE(theirs)}
	them.name, them.initiates = "resumption/theirs", theirs
	them.engine = func(c *engine.Config) { c.Store = &disk{} } // or there are no tickets
	them.steps = []step{resumeTheirs(), rekeyChild(theirs), rekeyIKE(ours)}
	return []interopCase{us, them}
}

// resumeOurs ends our engine without a word and starts another, which has what the
// first one kept.
func resumeOurs(memory *disk) step {
	return step{"resumption by ours", func(x *run) {
		x.await("our ticket to be kept", func() (bool, string) { return memory.holds(`"Tickets":{"`), "not kept" })
		memory.die()
		x.staleIKE++ // nothing in it is heard any more, and nobody asks
		restartOurs().do(x)
		theirLog("processing IKE_SESSION_RESUME request", "in state IKE_SESSION_RESUME_R").do(x)
		theirLogNever("TICKET_NACK").do(x)
	}}
}

// resumeTheirs has the peer forget its SAs without a word, which it does not do by
// itself, and begin again. A Delete would have ended the ticket (RFC 5723, Section
// 6.2).
func resumeTheirs() step {
	return step{"resumption by theirs", func(x *run) {
		mark := x.gateway.events.mark()
		theirCommand("--impair", "send_no_delete").do(x)
		theirCommand("--name", "ours", "--suspend").do(x)
		_ = x.peer.initiate(x.ctx) // what is refused is tried again
		ev := awaitEvent[ike.Failed](x, mark, "AUTH to be refused", nil)
		if text := ev.Err.Detail(); !strings.Contains(text, "AUTH") {
			x.t.Errorf("our end says: %s", text)
		}
		x.again()
	}}
}

// theirLogNever wants words not to be in the peer's log.
func theirLogNever(words string) step {
	return step{"their log", func(x *run) {
		if strings.Contains(x.peer.log(), words) {
			x.t.Errorf("their log says %s", words)
		}
	}}
}
