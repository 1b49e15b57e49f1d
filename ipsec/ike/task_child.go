package ike

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// maxKERetries bounds how often a peer can ask for another key exchange method
// in one exchange.
const maxKERetries = 3

// childExchange is our side of a CREATE_CHILD_SA exchange for a Child SA, new
// or to replace another (RFC 7296, Sections 1.3.1 and 1.3.3).
type childExchange struct {
	sa  *ikeSA
	cfg *ChildConfig
	old *childSA // being replaced; nil for a new one
	// offer are the present proposals, and behind them the former.
	offer []suite.ESPProposal

	spi               uint32 // 0 while none is reserved
	ni                []byte
	ke                *suite.KeyExchange
	localTS, remoteTS []ts.Selector
	retries           int
	// early are SPIs that the peer deleted and we did not know: maybe that of
	// the SA being made.
	early []uint32
	// series are the key exchanges from the answer to CREATE_CHILD_SA on.
	series *keySeries[*suite.ChildKeys]

	// lost is asked before IKE_FOLLOWUP_KE begins. It returns true if the
	// peer's own exchange has won, and then the exchange has ended; nil says
	// that this cannot be.
	lost      func(nonce []byte) bool
	failed    func(*Error)
	succeeded func(*childSA)
}

// createChildTask makes a Child SA that is configured and missing.
type createChildTask struct {
	sa  *ikeSA
	cfg *ChildConfig
	x   *childExchange
	// passive is the Child SA that the peer made for the same purpose meanwhile.
	passive *childSA
}

func (c *createChildTask) start() {
	local, remote := c.sa.t.proposedTS(c.cfg.Name, c.sa.narrowed(c.cfg.LocalTS, false), c.sa.narrowed(c.cfg.RemoteTS, true))
	c.x = &childExchange{
		sa: c.sa, cfg: c.cfg, offer: c.sa.t.childOffer(c.cfg), localTS: local, remoteTS: remote,
		failed: c.failed, succeeded: c.succeeded,
	}
	c.x.begin(preferredGroup(c.cfg.Proposals))
}

func (c *createChildTask) abandon() { c.x.abandon() }

func (c *createChildTask) deletedEarly(spi uint32) { c.x.noteEarly(spi) }

func (c *createChildTask) failed(err *Error) {
	t := c.sa.t
	c.sa.finish()
	if c.passive != nil && c.passive.live() {
		t.childUp(c.passive) // the peer has made it
		return
	}
	if c.sa.enough(c.cfg, err) {
		return
	}
	if err.Remote && err.Notify == wire.NotifyTemporaryFailure {
		t.slot(c.cfg.Name).delay(t.now.Add(t.retryDelay()))
		c.sa.refusedForNow(err)
		return
	}
	if len(t.childrenOf(c.sa)) == 0 && t.outgrown(c.sa, err) {
		t.slot(c.cfg.Name).delay(t.now.Add(t.retryDelay()))
		return
	}
	t.childFailed(c.cfg.Name, err)
}

func (s *slot) delay(until time.Time) {
	if s != nil {
		s.notBefore = until
	}
}

func (c *createChildTask) succeeded(child *childSA) {
	t := c.sa.t
	c.sa.finish()
	c.sa.refused = refusals{}
	for _, s := range c.sa.series {
		if s.spec != nil && s.spec.replaces == nil && s.spec.cfg.Name == child.name {
			s.crossed = child
		}
	}
	for _, o := range t.children {
		if o != child && o != c.passive && o.name == child.name && o.known() && o.ike == c.sa && !o.wantDelete {
			o.replacedBy = child
			o.end(ReasonReconfigured)
		}
	}
	if c.passive != nil && c.passive.live() {
		t.childUp(t.resolveChildren(child, c.passive))
		return
	}
	t.takeTraffic(child)
	t.childUp(child)
}

// resolveChildren decides between two Child SAs that both ends made for the same
// purpose at the same time, and returns the one that stays. The lowest nonce
// loses; the survivor's maker deletes the other, for it knows that the survivor is
// up at both ends.
func (t *Tunnel) resolveChildren(ours, theirs *childSA) *childSA {
	if bytes.Compare(ours.lowestNonce, theirs.lowestNonce) > 0 {
		theirs.redundant, theirs.replacedBy = true, ours
		t.promote(ours)
		theirs.end(ReasonRedundant)
		return ours
	}
	ours.redundant, ours.replacedBy = true, theirs
	ours.endAt = t.now.Add(redundantTime)
	return theirs
}

func preferredGroup(ps []suite.ESPProposal) wire.KeyExchangeID {
	if len(ps) > 0 && len(ps[0].KeyExchange) > 0 {
		return ps[0].KeyExchange[0]
	}
	return wire.KeyExchangeNone
}

func offersGroup(ps []suite.ESPProposal, group wire.KeyExchangeID) bool {
	return slices.ContainsFunc(ps, func(p suite.ESPProposal) bool { return slices.Contains(p.KeyExchange, group) })
}

// begin makes the private value for group and sends the request.
func (x *childExchange) begin(group wire.KeyExchangeID) {
	if x.spi == 0 {
		spi, err := x.sa.t.allocateSPI(x.cfg)
		if err != nil {
			x.failed(&Error{Op: x.op(), Kind: KindDataPlane, Exchange: wire.ExchangeCreateChildSA, Err: fmt.Errorf("allocate SPI: %w", err)})
			return
		}
		x.spi = spi
		x.ni = x.sa.m.nonce()
	}
	if group == wire.KeyExchangeNone {
		x.send()
		return
	}
	x.sa.makeKeyExchange(group, ClassEstablished, func(ke *suite.KeyExchange, err error) {
		if err != nil {
			x.fail(&Error{Op: x.op(), Kind: KindInternal, Exchange: wire.ExchangeCreateChildSA, Payload: wire.PayloadKE, Err: err})
			return
		}
		x.ke = ke
		x.send()
	})
}

func (x *childExchange) op() string {
	if x.old != nil {
		return "rekey Child SA"
	}
	return "create Child SA"
}

func (x *childExchange) send() {
	var payloads []wire.Payload
	if x.old != nil {
		// RFC 7296, Section 1.3.3: the SPI that we expect in inbound packets.
		payloads = append(payloads, &wire.Notify{Protocol: x.old.suite.Protocol(), SPI: put32(x.old.inbound), Kind: wire.NotifyRekeySA})
	} else {
		payloads = append(payloads, x.sa.requestInternal()...)
	}
	payloads = append(payloads, childPayloads(x.offer, x.spi, x.ni, x.ke, x.localTS, x.remoteTS, x.cfg)...)
	payloads = append(payloads, resourceInfo(x.cfg)...)
	x.sa.ask(wire.ExchangeCreateChildSA, payloads, x.answered)
}

func (x *childExchange) answered(m *message) {
	if n := m.notify(wire.NotifyInvalidKEPayload); n != nil {
		x.retry(n.Data)
		return
	}
	if n := m.errorNotify(); n != nil && find[*wire.SA](m) == nil {
		x.fail(&Error{Op: x.op(), Exchange: m.Exchange, Notify: n.Kind, Remote: true})
		return
	}
	if x.old == nil {
		x.sa.takeInternal(m)
	}
	spec, nr, err := x.read(m)
	if err != nil {
		// The peer has the SA now and we do not. Make it forget it.
		spi := x.spi
		x.fail(&Error{Op: x.op(), Exchange: m.Exchange, Err: err})
		x.sa.orphan(answeredProtocol(m), spi)
		return
	}
	if x.deletedAtOnce(spec) {
		return
	}
	if len(spec.suite.KeyExchanges()) > 1 && x.lost != nil && x.lost(spec.lowestNonce) {
		return
	}
	x.derive(m, spec, nr)
}

// deletedAtOnce ends the exchange if the peer has deleted its outcome already.
func (x *childExchange) deletedAtOnce(spec childSpec) bool {
	if !slices.Contains(x.early, spec.outbound) {
		return false
	}
	x.fail(&Error{
		Op: x.op(), Exchange: wire.ExchangeCreateChildSA, Payload: wire.PayloadDelete,
		Err: errors.New("peer deleted the new SA at once"),
	})
	return true
}

// retry begins again with the key exchange method that the peer wants (RFC 7296,
// Section 1.3), unless the reason to do so has gone meanwhile.
func (x *childExchange) retry(data []byte) {
	invalid := groupError(x.op(), wire.ExchangeCreateChildSA, data)
	if len(data) != 2 || x.retries >= maxKERetries {
		x.fail(invalid)
		return
	}
	group := wire.KeyExchangeID(binary.BigEndian.Uint16(data))
	superseded := x.old != nil && (x.old.passive != nil || x.old.state != childInstalled)
	if !offersGroup(x.offer, group) || group == wire.KeyExchangeNone || superseded {
		x.fail(invalid)
		return
	}
	x.retries++
	x.destroyKE()
	x.begin(group)
}

// read checks an answer that grants the Child SA.
func (x *childExchange) read(m *message) (childSpec, []byte, error) {
	if err := x.sa.checkInternal(); err != nil && x.old == nil {
		return childSpec{}, nil, err
	}
	spec, err := x.sa.readChildAnswer(m, x.cfg, x.offer, len(x.cfg.Proposals), x.localTS, x.remoteTS)
	if err == nil {
		err = x.sa.checkPasses(spec.suite)
	}
	if err != nil {
		return spec, nil, err
	}
	ke, nr := find[*wire.KE](m), find[*wire.Nonce](m)
	switch {
	case nr == nil || bytes.Equal(nr.Data, x.ni):
		return spec, nil, errors.New("nonce is missing or our own")
	case spec.suite.KeyExchange != 0 && (ke == nil || x.ke == nil || ke.Group != spec.suite.KeyExchange || ke.Group != x.ke.Group()):
		return spec, nil, errors.New("key exchange of the answer does not fit its proposal")
	case x.old != nil && !(ts.Covers(spec.localTS, x.old.localTS) && ts.Covers(spec.remoteTS, x.old.remoteTS)):
		// RFC 7296, Section 2.9.2.
		return spec, nil, &mismatch{
			kind: KindSelectors, ours: []string{selectorText(x.old.localTS, x.old.remoteTS)},
			theirs: []string{selectorText(spec.localTS, spec.remoteTS)},
			text:   "answer narrows the selectors of the SA being rekeyed",
		}
	}
	if err := checkLink(m, len(spec.suite.KeyExchanges())-1); err != nil {
		return spec, nil, err
	}
	spec.inbound, spec.replaces = x.spi, x.old
	spec.lowestNonce = lower(x.ni, nr.Data)
	return spec, nr.Data, nil
}

// derive makes the key exchanges that are left, computes the keys and orders the
// inbound SA.
func (x *childExchange) derive(m *message, spec childSpec, nr []byte) {
	sa, ni, ikeSuite := x.sa, x.ni, x.sa.suite
	x.series = &keySeries[*suite.ChildKeys]{
		sa: sa, op: x.op(), ke: x.ke,
		derive: func(skD []byte, secrets [][]byte) (*suite.ChildKeys, error) {
			return suite.DeriveChildKeys(ikeSuite, skD, secrets, ni, nr, spec.suite)
		},
		done: func(keys *suite.ChildKeys, made bool, err *Error) {
			switch {
			case err != nil:
				x.fail(err)
				if made {
					sa.orphan(spec.suite.Protocol(), spec.inbound)
				}
			case x.deletedAtOnce(spec):
				keys.Destroy()
			default:
				spec.keys = keys
				x.install(spec)
			}
		},
	}
	x.ke = nil // the series' from here on
	x.series.begin(m, spec.suite.KeyExchanges())
}

func (x *childExchange) install(spec childSpec) {
	sa, t := x.sa, x.sa.t
	x.spi = 0 // the Child SA's from here on
	t.install(sa, spec, false, func(c *childSA, err error) {
		if err != nil {
			x.failed(&Error{
				Op: x.op(), Kind: KindDataPlane, Exchange: wire.ExchangeCreateChildSA,
				Err: fmt.Errorf("install inbound SA: %w", err),
			})
			sa.orphan(spec.suite.Protocol(), spec.inbound)
			return
		}
		x.succeeded(c)
	})
}

func (x *childExchange) fail(err *Error) {
	x.abandon()
	x.sa.distrust(err)
	x.failed(err)
}

func (x *childExchange) abandon() {
	if x == nil {
		return
	}
	if x.spi != 0 {
		x.sa.t.releaseSPI(x.spi)
		x.spi = 0
	}
	x.destroyKE()
	x.series.abandon()
}

func (x *childExchange) destroyKE() {
	if x.ke != nil {
		x.ke.Destroy()
		x.ke = nil
	}
}

func (x *childExchange) noteEarly(spi uint32) {
	if x != nil && len(x.early) < 16 {
		x.early = append(x.early, spi)
	}
}
