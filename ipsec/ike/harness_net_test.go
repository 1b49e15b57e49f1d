package ike

import (
	"bytes"
	"fmt"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

func (n *node) sendBy(r route, data []byte) {
	w := n.w
	w.lastID++
	data = n.unlearn(data)
	p := &packet{id: w.lastID, from: n, to: n.nodeAt(r.remote.Addr()), src: r.local, dst: r.remote, tcp: r.tcp, data: bytes.Clone(data), sent: w.now}
	var lost string
	switch {
	case r.tcp:
		_, lost = w.leaveByTCP(r)
	default:
		p.src, lost = w.leave(n, r.local, r.remote)
	}
	if w.log != nil {
		w.log("%s %s%s\n", p, w.render(p.data), w.way(p))
	}
	if lost != "" {
		w.note("%s %s\n", p, lost)
		return
	}
	if w.trace != nil {
		w.trace(w, p)
	}
	if mtu := w.mtu[n]; mtu > 0 && !r.tcp && n.lengthOf(r, data) > mtu {
		w.note("%s is too large for the path\n", p)
		return
	}
	w.flight = append(w.flight, p)
}

// lengthOf is that of the IP datagram that carries a message: only the NAT port has the
// non-ESP marker.
func (n *node) lengthOf(r route, data []byte) int {
	length := datagramSize(Datagram{Remote: r.remote, Data: data})
	if r.local.Port() != n.t.natPort {
		length -= markerLen
	}
	return length
}

// way is from where to where a datagram goes, if that is to be shown.
func (w *world) way(p *packet) string {
	if !w.ways {
		return ""
	}
	return fmt.Sprintf(" %s -> %s", p.src, p.dst)
}

func (p *packet) String() string {
	by := ""
	if p.tcp {
		by = "tcp "
	}
	return fmt.Sprintf("%s>%s %s#%d", p.from.name, p.to.name, by, p.id)
}

// datagramLife is how long a network keeps a datagram at most (RFC 9293, Section
// 3.4.1).
const datagramLife = 2 * time.Minute

// deliver hands a packet to its receiver, as the engine would.
func (w *world) deliver(p *packet) {
	n := p.to
	if !p.tcp && w.now.Sub(p.sent) > datagramLife {
		w.note("%s is too old\n", p)
		return
	}
	if w.cut[p.from] {
		return
	}
	if w.intruder != nil && w.intruder.hears(p) {
		if w.silent {
			return
		}
		n = w.intruder
	}
	local, lost := w.comes(n, p)
	if lost != "" {
		w.note("%s %s\n", p, lost)
		return
	}
	if p.esp != 0 {
		n.receiveESP(p)
		return
	}
	if w.deaf[n] {
		w.note("%s is not heard\n", p)
		return
	}
	n.receive(Datagram{Local: local, Remote: p.src, TCP: p.tcp, Data: p.data})
}

func (n *node) receive(d Datagram) {
	h, err := wire.ParseHeader(d.Data)
	if err != nil {
		n.step(d)
		return
	}
	if n.halfFragments && h.Exchange == wire.ExchangeInformational && h.NextPayload == wire.PayloadSKF {
		return
	}
	if isFirst(h.Exchange) && !h.IsResponse() && h.ResponderSPI.IsZero() {
		n.receiveInit(h, d)
		return
	}
	for _, half := range n.halves {
		if h.FromInitiator() && half.sa.localSPI == h.ResponderSPI && !half.adopted {
			n.stepHalf(half, d)
			return
		}
	}
	if n.answerUnknown(h, d) {
		return
	}
	n.step(d)
}

// answerUnknown answers a request for an IKE SA that is not known, if the node
// does quick crash detection.
func (n *node) answerUnknown(h wire.Header, d Datagram) bool {
	ours := h.ResponderSPI
	if !h.FromInitiator() {
		ours = h.InitiatorSPI
	}
	if n.registered[ours] || n.cfg.Runtime.Tokens == nil {
		return false
	}
	if answer := n.cfg.Runtime.Tokens.AnswerUnknown(d.Data); answer != nil {
		n.send(d.Local, d.Remote, answer)
	}
	return true
}

// anywhere is where n sends whoever comes, before it knows who it is.
func (n *node) anywhere() Gateway {
	if n.redirectsAll {
		return n.t.cfg.RedirectTo
	}
	return Gateway{}
}

func (n *node) receiveInit(h wire.Header, d Datagram) {
	for _, half := range n.halves {
		if half.sa.remoteSPI == h.InitiatorSPI && !half.adopted {
			n.stepHalf(half, d)
			return
		}
	}
	if n.t.repeatsInit(h, d) {
		n.step(d)
		return
	}
	if n.cookies != nil && !n.hasCookie(h, d) {
		return
	}
	half, err := NewHalfOpen(n.now(), &HalfOpenConfig{
		Proposals: n.t.cfg.Proposals, Roots: n.t.cfg.Peer.Roots, Methods: n.t.cfg.Peer.Methods(), PPKs: ident.NewPPKSet(n.t.cfg.PPKs), NATPort: n.cfg.NATPort, ForceEncap: n.cfg.ForceEncap, ProhibitNAT: n.cfg.Mobility.ProhibitNAT,
		Childless: n.t.cfg.Childless != ChildlessNever, RedirectTo: n.anywhere(),
		HalfOpen: n.t.cfg.Timing.HalfOpen, Runtime: n.cfg.Runtime,
	}, d)
	if err != nil {
		return
	}
	n.halves = append(n.halves, half)
	n.drain(half, half)
	n.sweep()
}

func (n *node) hasCookie(h wire.Header, d Datagram) bool {
	m, err := wire.Parse(d.Data)
	if err != nil {
		return false
	}
	msg := &message{payloads: m.Payloads}
	nonce := find[*wire.Nonce](msg).Data
	if c := msg.notify(wire.NotifyCookie); c != nil && !n.forgetful && n.cookies.Check(n.now(), c.Data, d.Remote.Addr(), h.InitiatorSPI, nonce) {
		return true
	}
	cookie, _ := n.cookies.Make(n.now(), d.Remote.Addr(), h.InitiatorSPI, nonce)
	raw, _ := (&wire.Message{
		Header:   wire.Header{InitiatorSPI: h.InitiatorSPI, Major: 2, Exchange: h.Exchange, Flags: wire.FlagResponse},
		Payloads: []wire.Payload{&wire.Notify{Kind: wire.NotifyCookie, Data: cookie}},
	}).Append(nil)
	n.send(d.Local, d.Remote, raw)
	return false
}
