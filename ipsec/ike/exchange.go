package ike

import (
	"fmt"
	"slices"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// rule is one row of the exchange table: in which states of the IKE SA a
// message may come, which payloads it must have (once each) and may have.
// A message that no row allows is dropped before it is decrypted; one that lacks
// or repeats a payload is refused before any handler sees it.
type rule struct {
	exchange wire.ExchangeType
	response bool
	states   saState
	forms    []form
	handle   func(*ikeSA, *message)
}

// form is one shape that a message can have.
type form struct {
	name     string
	required []wire.PayloadType
	optional []wire.PayloadType
}

// An error response holds notifications only (RFC 7296, Section 2.21).
var formError = form{"error", []wire.PayloadType{wire.PayloadNotify}, []wire.PayloadType{wire.PayloadVendorID}}

var anyExtras = []wire.PayloadType{wire.PayloadNotify, wire.PayloadVendorID}

func extras(more ...wire.PayloadType) []wire.PayloadType { return append(more, anyExtras...) }

// exchanges is filled by init, because handlers refer to functions that
// consult it.
var exchanges []rule

func init() {
	const (
		sa, ke, nonce = wire.PayloadSA, wire.PayloadKE, wire.PayloadNonce
		idi, idr      = wire.PayloadIDi, wire.PayloadIDr
		auth          = wire.PayloadAuth
		tsi, tsr      = wire.PayloadTSi, wire.PayloadTSr
		cert, certreq = wire.PayloadCert, wire.PayloadCertReq
		cp            = wire.PayloadCP
	)
	type types = []wire.PayloadType
	exchanges = []rule{
		// RFC 7296, Section 1.2.
		{wire.ExchangeIKESAInit, true, stateInit | stateListening, []form{
			{"accept", types{sa, ke, nonce}, extras(certreq)}, formError,
		}, (*ikeSA).handleInitResponse},
		// RFC 5723, Section 4.3.2.
		{wire.ExchangeIKESessionResume, true, stateInit | stateListening, []form{
			{"accept", types{nonce}, extras()}, formError,
		}, (*ikeSA).handleResumeResponse},
		// RFC 9370, Section 2.2.2, and RFC 9867. Which payloads there must be, the
		// suite says.
		{wire.ExchangeIKEIntermediate, false, stateIntermediate, []form{
			{"intermediate", nil, extras(ke)},
		}, (*ikeSA).answerIntermediate},
		{wire.ExchangeIKEIntermediate, false, stateHalfOpen, []form{
			{"intermediate with nothing to agree on", nil, extras()},
		}, (*ikeSA).answerSpare},
		{wire.ExchangeIKEIntermediate, true, stateIntermediate, []form{
			{"intermediate", nil, extras(ke)},
		}, (*ikeSA).handleAnswer},
		{wire.ExchangeIKEAuth, false, stateHalfOpen, []form{
			{"auth", types{idi, auth, sa, tsi, tsr}, extras(idr, cert, certreq, cp)},
			{"auth without Child SA", types{idi, auth}, extras(idr, cert, certreq, cp)}, // RFC 6023, Section 5
		}, (*ikeSA).identify},
		{wire.ExchangeIKEAuth, true, stateAuth, []form{
			{"auth", types{idr, auth, sa, tsi, tsr}, extras(cert, cp)},
			{"auth without Child SA", types{idr, auth}, extras(cert, cp)},
			formError,
		}, (*ikeSA).handleAnswer},
		// RFC 7296, Section 1.3.
		{wire.ExchangeCreateChildSA, false, stateUsable, []form{
			{"Child SA", types{sa, nonce, tsi, tsr}, extras(ke, cp)},
			{"rekey IKE SA", types{sa, nonce, ke}, extras()},
		}, (*ikeSA).handleCreateChild},
		{wire.ExchangeCreateChildSA, true, stateUsable, []form{
			{"Child SA", types{sa, nonce, tsi, tsr}, extras(ke, cp)},
			{"rekey IKE SA", types{sa, nonce, ke}, extras()},
			formError,
		}, (*ikeSA).handleAnswer},
		// RFC 9370, Section 2.2.4.
		{wire.ExchangeIKEFollowupKE, false, stateUsable, []form{
			{"key exchange", types{ke, wire.PayloadNotify}, extras()},
		}, (*ikeSA).handleFollowup},
		{wire.ExchangeIKEFollowupKE, true, stateUsable, []form{
			{"key exchange", types{ke}, extras()}, formError,
		}, (*ikeSA).handleAnswer},
		// RFC 7296, Section 1.4.
		{wire.ExchangeInformational, false, stateUsable, []form{
			{"informational", nil, extras(wire.PayloadDelete, cp)},
		}, (*ikeSA).handleInformational},
		{wire.ExchangeInformational, true, stateUsable, []form{
			{"informational", nil, extras(wire.PayloadDelete, cp)},
		}, (*ikeSA).handleAnswer},
	}
}

// ruleFor returns the row for a message in that state, or nil if none allows it.
func ruleFor(h wire.Header, state saState) *rule {
	for i := range exchanges {
		r := &exchanges[i]
		if r.exchange == h.Exchange && r.response == h.IsResponse() && state.in(r.states) {
			return r
		}
	}
	return nil
}

// repeatable are payload types of which a message may have several.
var repeatable = []wire.PayloadType{
	wire.PayloadNotify, wire.PayloadVendorID, wire.PayloadCert, wire.PayloadCertReq, wire.PayloadDelete,
}

// check returns an error unless the payloads fit one form of the rule. Payloads
// of unknown types are not its business: the critical ones were refused when
// parsing, the others are ignored (RFC 7296, Section 2.5).
func (r *rule) check(payloads []wire.Payload) error {
	var first error
	for _, f := range r.forms {
		err := f.check(payloads)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return fmt.Errorf("%s: %w", r.exchange, first)
}

func (f *form) check(payloads []wire.Payload) error {
	seen := make(map[wire.PayloadType]int)
	for _, p := range payloads {
		if _, unknown := p.(*wire.Unknown); unknown {
			continue
		}
		t := p.PayloadType()
		seen[t]++
		switch {
		case !slices.Contains(f.required, t) && !slices.Contains(f.optional, t):
			return fmt.Errorf("payload %s does not belong in form %q", t, f.name)
		case seen[t] > 1 && !slices.Contains(repeatable, t):
			return fmt.Errorf("payload %s is there twice", t)
		}
	}
	for _, t := range f.required {
		if seen[t] == 0 {
			return fmt.Errorf("payload %s is missing", t)
		}
	}
	return nil
}
