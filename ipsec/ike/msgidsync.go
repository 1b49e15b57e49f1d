package ike

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// A peer may be a cluster whose standby member takes an IKE SA over with message
// IDs that lag behind. It then asks to agree on new ones, in a request with
// message ID 0 (RFC 6311). This end is no cluster: it only answers. IPsec replay
// counters are not skipped and their synchronisation is not announced; such a peer
// rekeys its Child SAs.

// synchrony is whether, and how, the message IDs of an IKE SA can be brought in step.
type synchrony struct {
	syncs bool    // both ends can do it
	sync  *idSync // the last time that it happened, nil if never
}

// idSync is what is remembered of the last synchronisation.
type idSync struct {
	hash     [sha256.Size]byte // of the request
	response [][]byte
	sender   uint32 // M1 of RFC 6311, Section 5.1
}

const idSyncLen = 12 // nonce and two message IDs (RFC 6311, Section 6.3)

// supportsSync is the announcement, of an initiator always, of a responder if the
// initiator made it (RFC 6311, Section 5). request is nil for an initiator.
func (sa *ikeSA) supportsSync(request *message) []wire.Payload {
	if request != nil && request.notify(wire.NotifyIKEv2MessageIDSyncSupported) == nil {
		return nil
	}
	return []wire.Payload{&wire.Notify{Kind: wire.NotifyIKEv2MessageIDSyncSupported}}
}

// receiveSync takes a synchronisation, and reports whether the message is dealt
// with. Any other request has message ID 0 at the most as the first of its sender.
func (sa *ikeSA) receiveSync(h wire.Header, d Datagram) bool {
	if !sa.syncs || h.Exchange != wire.ExchangeInformational || h.IsResponse() || h.MessageID != 0 ||
		h.NextPayload != wire.PayloadSK || sa.state != stateEstablished || sa.busy > 0 {
		return false
	}
	if sum := sha256.Sum256(d.Data); sa.sync != nil && sum == sa.sync.hash {
		sa.m.stats.Retransmitted += uint64(len(sa.sync.response))
		sa.sendTo(d.route(), sa.sync.response)
		return true
	}
	o, err := sa.open(h, d)
	if err != nil {
		return true
	}
	payloads, err := wire.ParsePayloads(o.first, o.plain)
	m := &message{Header: h, route: d.route(), raw: d.Data, payloads: payloads}
	switch {
	case err == nil && sa.answerSync(m):
	case sa.window.nextReceive == 0 && m.notify(wire.NotifyIKEv2MessageIDSync) == nil:
		return false
	default:
		sa.m.stats.WrongMessageID++ // a replay, of this or of another request
	}
	return true
}

// answerSync agrees on new message IDs by the rules of RFC 6311, Section 5.1, and
// reports whether m asks for that. A request that says nothing new is an old one:
// it gets no answer.
func (sa *ikeSA) answerSync(m *message) bool {
	n := m.notify(wire.NotifyIKEv2MessageIDSync)
	if n == nil || len(m.payloads) != 1 || len(n.Data) != idSyncLen {
		return false
	}
	nonce, theirs, ours := n.Data[:4], binary.BigEndian.Uint32(n.Data[4:]), binary.BigEndian.Uint32(n.Data[8:])
	if theirs < sa.window.nextReceive || sa.sync != nil && theirs <= sa.sync.sender {
		return false
	}
	ours = max(ours, sa.window.nextSend)
	sa.interrupt()
	sa.window.before.destroy()
	sa.window = window{nextSend: ours, nextReceive: theirs}
	sa.wantRekey = sa.wantRekey || ours >= manyMessageIDs
	sa.parts = [2]*reassembly{}
	sa.hears(sa.m.now)
	sa.setSuspect(false)
	data := bytes.Clone(nonce)
	data = binary.BigEndian.AppendUint32(data, ours)
	data = binary.BigEndian.AppendUint32(data, theirs)
	datagrams, err := sa.protect(wire.Header{Exchange: m.Exchange, Flags: wire.FlagResponse}, []wire.Payload{
		&wire.Notify{Kind: wire.NotifyIKEv2MessageIDSync, Data: data},
	})
	if err != nil {
		sa.fail(&Error{Op: "encode message ID synchronisation", Kind: KindInternal, Exchange: m.Exchange, Err: err})
		return true
	}
	sa.sync = &idSync{hash: sha256.Sum256(m.raw), response: datagrams, sender: theirs}
	sa.sendTo(m.route, datagrams)
	return true
}

// interrupt ends the exchange that is under way without its answer, which will
// not come any more (RFC 6311, Section 9), and notes what is still to be done.
func (sa *ikeSA) interrupt() {
	active := sa.active
	sa.window.outstanding, sa.answerTo = nil, nil
	sa.abandonTask()
	if a, ok := active.(interface{ again() }); ok {
		a.again()
	}
}

// again notes that what a task was for is still to be done.
func (r *rekeyChildTask) again() { r.old.rekeyAt = r.sa.m.now.Add(r.sa.m.retryDelay()) }
func (r *rekeyIKETask) again()   { r.old.rekeyAt = r.old.m.now.Add(r.old.m.retryDelay()) }
func (k *tokenTask) again()      { k.sa.wantToken = true }
func (k *ticketTask) again()     { k.sa.wantTicket = true }
func (r *redirectTask) again()   { r.sa.wantRedirect = true }
func (s *setTask) again()        { s.sa.wantSet = true }
