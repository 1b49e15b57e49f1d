package ike

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// InternalRequest is what an initiator asks of its peer by a Configuration
// payload (RFC 7296, Section 2.19). It asks with the first Child SA, and with
// the next one if it got nothing. A Child SA whose LocalTS holds an address that
// this end was given is narrowed to such addresses.
type InternalRequest struct {
	// Addresses has one entry for each address that is asked for, one to eight
	// of a family: the address that is preferred, or an unspecified one. Later
	// the ones that this end had before are preferred.
	Addresses []netip.Addr
	// DNS and Subnets ask for the name servers and the networks behind the
	// peer. What the peer says of them unasked is taken too.
	DNS, Subnets bool
	// Required: without an address there is no Child SA.
	Required bool
}

// InternalOffer is what a responder gives to its peer. A Child SA whose RemoteTS
// holds an address that the peer was given is narrowed to such addresses; what
// the peer may use besides goes into another Child SA.
type InternalOffer struct {
	// Pool lends the addresses. A peer has the same ones again while it has an
	// IKE SA, whatever it asks for; they are free when its last one has ended.
	Pool    *Pool
	DNS     []netip.Addr
	Subnets []netip.Prefix
	// Required: a peer that does not ask for an address gets no Child SA, and
	// neither does one for which there is none. Otherwise RemoteTS alone says
	// what such a peer may use.
	Required bool
}

// Internal is the internal configuration that goes with an IKE SA and those that
// replace it by rekeying.
type Internal struct {
	// Given is true if this end gave it, false if it was given it.
	Given     bool
	Addresses []netip.Addr
	DNS       []netip.Addr
	Subnets   []netip.Prefix
}

// String lists everything in one line, for people.
func (c *Internal) String() string {
	if c == nil {
		return "none"
	}
	var b strings.Builder
	if c.Given {
		b.WriteString("peer ")
	}
	b.WriteString("has")
	for _, a := range c.Addresses {
		b.WriteString(" " + a.String())
	}
	for _, a := range c.DNS {
		b.WriteString(", name server " + a.String())
	}
	for _, n := range c.Subnets {
		b.WriteString(", network " + n.String())
	}
	return b.String()
}

// Configured says what internal configuration an IKE SA has from now on.
type Configured struct{ SA IKEStatus }

func (Configured) effect() {}

const (
	// maxInternal bounds the addresses of one family that a peer can have, and
	// the name servers that it can name.
	maxInternal = 8
	// maxSubnets bounds the networks that it can name.
	maxSubnets = 64
)

var errNoInternalAddress = &mismatch{
	kind: KindConfiguration, payload: wire.PayloadCP, remedy: "let the peer assign addresses to this end, or do not require one",
	text: "the peer gave no internal address, which is required here",
}

func (r *InternalRequest) validate() error {
	if r == nil {
		return nil
	}
	n := 0
	for _, a := range r.Addresses {
		if !a.IsUnspecified() && !assignable(a) {
			return errors.New("internal request: " + a.String() + " is no address for a host")
		}
		if a.Is4() {
			n++
		}
	}
	if len(r.Addresses) == 0 || n > maxInternal || len(r.Addresses)-n > maxInternal {
		return errors.New("internal request: ask for one to eight addresses of a family (RFC 7296, Section 2.19)")
	}
	return nil
}

func (o *InternalOffer) validate(role Role) error {
	switch {
	case o == nil:
		return nil
	case o.Pool == nil:
		return errors.New("internal offer: Pool is missing")
	case role != RoleResponder:
		return errors.New("internal offer: only a responder gives addresses")
	case len(o.DNS) > maxInternal || len(o.Subnets) > maxSubnets:
		return errors.New("internal offer: too many name servers (8) or networks (64)")
	}
	for _, a := range o.DNS {
		if !assignable(a) {
			return errors.New("internal offer: name server " + a.String() + " is no address of a host")
		}
	}
	for _, n := range o.Subnets {
		if !n.IsValid() || n.Addr().Is4In6() || n != n.Masked() {
			return errors.New("internal offer: " + n.String() + " is no network")
		}
	}
	return nil
}

// requestInternal is the CFG_REQUEST that goes into a request for a Child SA,
// none if nothing is to be asked.
func (sa *ikeSA) requestInternal() []wire.Payload {
	r := sa.t.cfg.InternalRequest
	if r == nil || sa.internal != nil {
		return nil
	}
	cp := &wire.CP{Kind: wire.CPRequest}
	had := slices.Clone(sa.t.hadInternal)
	for _, a := range r.Addresses {
		if i := slices.IndexFunc(had, func(h netip.Addr) bool { return h.Is4() == a.Is4() }); i >= 0 {
			a = had[i]
			had = slices.Delete(had, i, i+1)
		}
		cp.Attributes = append(cp.Attributes, addressAttribute(a))
	}
	for _, v6 := range []bool{false, true} {
		if !slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool { return a.Is6() == v6 }) {
			continue
		}
		if r.DNS {
			cp.Attributes = append(cp.Attributes, wire.CPAttribute{Kind: dnsKind(v6)})
		}
		if r.Subnets && !v6 { // that of IPv6 is never empty (RFC 7296, Section 3.15.1)
			cp.Attributes = append(cp.Attributes, wire.CPAttribute{Kind: wire.CPInternalIP4Subnet})
		}
	}
	return []wire.Payload{cp}
}

// takeInternal reads the CFG_REPLY to a CFG_REQUEST. Addresses beyond those that
// were asked for are not taken (RFC 7296, Section 3.15.1).
func (sa *ikeSA) takeInternal(m *message) {
	r, cp := sa.t.cfg.InternalRequest, find[*wire.CP](m)
	if r == nil || sa.internal != nil || cp == nil || cp.Kind != wire.CPReply {
		return
	}
	given := readInternal(cp)
	var n [2]int
	for _, a := range r.Addresses {
		n[familyIndex(a)]++
	}
	given.Addresses = slices.DeleteFunc(given.Addresses, func(a netip.Addr) bool {
		n[familyIndex(a)]--
		return n[familyIndex(a)] < 0
	})
	if len(given.Addresses) == 0 {
		return
	}
	sa.t.hadInternal = given.Addresses
	sa.setInternal(given)
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// setInternal makes c the internal configuration of sa. It is not changed after.
func (sa *ikeSA) setInternal(c *Internal) {
	sa.internal = c
	sa.m.emit(Configured{sa.status()})
}

// checkInternal reports that this end needs an internal address and did not get
// one (RFC 7296, Section 3.15.4).
func (sa *ikeSA) checkInternal() error {
	if r := sa.t.cfg.InternalRequest; r != nil && r.Required && sa.internal == nil {
		return errNoInternalAddress
	}
	return nil
}

// refuseWithoutInternal refuses a Child SA that the peer makes while this end
// needs an internal address and has none.
func (sa *ikeSA) refuseWithoutInternal(m *message) *Error {
	if err := sa.checkInternal(); err != nil {
		return &Error{Op: "create Child SA", Exchange: m.Exchange, Notify: wire.NotifyTSUnacceptable, Err: err}
	}
	return nil
}

// addressDelay is how long to wait before an internal address is asked for
// again: several minutes, for the pool has to empty first (RFC 7296, Section
// 3.15.4).
func (t *Tunnel) addressDelay(err *Error) time.Duration {
	if err.Remote && err.Notify == wire.NotifyInternalAddressFailure || errors.Is(err, errNoInternalAddress) {
		return 2*time.Minute + t.jitter(time.Minute)
	}
	return 0
}

// answerInternal answers what a request for a Child SA asks for besides, before
// its SA payload (RFC 7296, Section 2.19).
func (sa *ikeSA) answerInternal(m *message) ([]wire.Payload, *Error) {
	offer, cp := sa.t.cfg.InternalOffer, find[*wire.CP](m)
	switch {
	case offer == nil:
		return nil, nil // RFC 7296, Section 3.15.4: ignored
	case cp != nil && cp.Kind == wire.CPRequest:
		return sa.assign(cp, m.Exchange)
	case offer.Required && sa.internal == nil:
		return nil, internalError(m.Exchange, wire.NotifyFailedCPRequired, "the peer did not ask for an internal address, which is required here",
			"let the peer request an address, or do not require it here")
	}
	return nil, nil
}

// awaitsRequest reports whether this end gives addresses and the peer has not asked
// for one: then it does not make Child SAs by itself, whose selectors could not be
// narrowed.
func (sa *ikeSA) awaitsRequest() bool { return sa.t.cfg.InternalOffer != nil && sa.internal == nil }

// childlessInternal is what an IKE_AUTH answer without a Child SA has in its
// place (RFC 6023, Section 4).
func (sa *ikeSA) childlessInternal(m *message) []wire.Payload {
	cp := find[*wire.CP](m)
	if sa.t.cfg.InternalOffer == nil || cp == nil || cp.Kind != wire.CPRequest {
		return nil
	}
	return sa.assignOrRefuse(cp, m.Exchange)
}

func (sa *ikeSA) assignOrRefuse(cp *wire.CP, x wire.ExchangeType) []wire.Payload {
	reply, err := sa.assign(cp, x)
	if err != nil {
		sa.t.report(err)
		return []wire.Payload{&wire.Notify{Kind: err.Notify}}
	}
	return reply
}

func internalError(x wire.ExchangeType, kind wire.NotifyType, text, remedy string) *Error {
	return &Error{
		Op: "assign internal address", Exchange: x, Notify: kind,
		Err: &mismatch{kind: KindConfiguration, payload: wire.PayloadCP, remedy: remedy, text: text},
	}
}

// assign lends the peer what it asks for. Of a family that the pool does not
// have nothing is said (RFC 7296, Section 3.15.4).
func (sa *ikeSA) assign(cp *wire.CP, x wire.ExchangeType) ([]wire.Payload, *Error) {
	t, offer := sa.t, sa.t.cfg.InternalOffer
	wanted := readWanted(cp, offer.Pool)
	got := t.lease(sa, offer.Pool, wanted)
	if len(got) == 0 && (len(wanted) > 0 || offer.Required) {
		return nil, internalError(x, wire.NotifyInternalAddressFailure, "no address of the pool is left, or of the family that the peer wants",
			"enlarge the pool, or let the peer ask for what the pool has")
	}
	given := &Internal{Given: true, DNS: offer.DNS, Subnets: offer.Subnets}
	if before := sa.internal; before != nil {
		given.Addresses = slices.Clone(before.Addresses)
	}
	for _, a := range got {
		if !slices.Contains(given.Addresses, a) {
			given.Addresses = append(given.Addresses, a)
		}
	}
	if len(given.Addresses) > 0 && (sa.internal == nil || len(given.Addresses) != len(sa.internal.Addresses)) {
		sa.setInternal(given)
	}
	return []wire.Payload{offer.reply(cp, got)}, nil
}

// reply is the CFG_REPLY to a CFG_REQUEST: the addresses, the name servers of
// the families asked for, and the networks of the families of the addresses.
func (o *InternalOffer) reply(request *wire.CP, addresses []netip.Addr) *wire.CP {
	asks := func(kind wire.CPAttributeType) bool {
		return slices.ContainsFunc(request.Attributes, func(a wire.CPAttribute) bool { return a.Kind == kind })
	}
	cp := &wire.CP{Kind: wire.CPReply}
	for _, a := range addresses {
		cp.Attributes = append(cp.Attributes, addressAttribute(a))
	}
	for _, a := range o.DNS {
		if asks(dnsKind(a.Is6())) {
			cp.Attributes = append(cp.Attributes, wire.CPAttribute{Kind: dnsKind(a.Is6()), Value: a.AsSlice()})
		}
	}
	for _, s := range o.Subnets {
		if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == s.Addr().Is4() }) {
			cp.Attributes = append(cp.Attributes, subnetAttribute(s))
		}
	}
	if asks(wire.CPSupportedAttributes) {
		var kinds []byte
		for _, k := range supportedAttributes {
			kinds = append(kinds, byte(k>>8), byte(k))
		}
		cp.Attributes = append(cp.Attributes, wire.CPAttribute{Kind: wire.CPSupportedAttributes, Value: kinds})
	}
	return cp
}

// supportedAttributes are those that mean something here (RFC 7296, Section
// 3.15.1).
var supportedAttributes = []wire.CPAttributeType{
	wire.CPInternalIP4Address, wire.CPInternalIP4DNS, wire.CPInternalIP6Address, wire.CPInternalIP6DNS,
	wire.CPInternalIP4Subnet, wire.CPSupportedAttributes, wire.CPInternalIP6Subnet,
}

// leaseNote is an address that this tunnel has lent.
type leaseNote struct {
	pool *Pool
	Lease
}

// lease takes addresses for the peer of sa from the pool. They are given back by
// releaseLeases, so nobody needs to remember to.
func (t *Tunnel) lease(sa *ikeSA, pool *Pool, wanted []netip.Addr) []netip.Addr {
	// By identity: an IKE SA that replaces another one, or is beside it for a
	// while, has the same addresses.
	holder := t.cfg.Name + " " + sa.remoteID.Key()
	got := pool.Lease(holder, wanted)
	for _, a := range got {
		note := leaseNote{pool, Lease{a, holder}}
		if !slices.Contains(t.leases, note) {
			t.leases = append(t.leases, note)
		}
	}
	return got
}

// releaseLeases gives back the addresses that no IKE SA has any more.
func (t *Tunnel) releaseLeases() {
	t.leases = slices.DeleteFunc(t.leases, func(l leaseNote) bool {
		for _, sa := range t.sas {
			if sa.state.in(stateUsable) && sa.internal != nil && sa.internal.Given && slices.Contains(sa.internal.Addresses, l.Address) {
				return false
			}
		}
		l.pool.Release(l.Holder, l.Address)
		return true
	})
}

// narrowed returns the part of a policy that holds internal addresses of the end
// that it is about, or all of it if it holds none.
func (sa *ikeSA) narrowed(policy []ts.Selector, theirs bool) []ts.Selector {
	if sa.internal == nil || sa.internal.Given != theirs {
		return policy
	}
	var hosts []ts.Selector
	for _, a := range sa.internal.Addresses {
		hosts = append(hosts, ts.FromPrefix(netip.PrefixFrom(a, a.BitLen())))
	}
	if n := ts.Narrow(policy, hosts); len(n) > 0 {
		return n
	}
	return policy
}
