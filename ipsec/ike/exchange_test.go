package ike

import (
	"fmt"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// TestExchangeTable lists every allowed cell of exchange, role and state; all
// others must be rejected.
func TestExchangeTable(t *testing.T) {
	allowed := map[string]bool{
		"IKE_SESSION_RESUME response init":       true,
		"IKE_SESSION_RESUME response listening":  true,
		"IKE_SA_INIT response listening":         true,
		"IKE_SA_INIT response init":              true,
		"IKE_INTERMEDIATE request intermediate":  true,
		"IKE_INTERMEDIATE response intermediate": true,
		"IKE_INTERMEDIATE request half-open":     true,
		"IKE_AUTH request half-open":             true,
		"IKE_AUTH response auth":                 true,
		"CREATE_CHILD_SA request established":    true,
		"CREATE_CHILD_SA request rekeyed":        true,
		"CREATE_CHILD_SA request deleting":       true,
		"CREATE_CHILD_SA response established":   true,
		"CREATE_CHILD_SA response rekeyed":       true,
		"CREATE_CHILD_SA response deleting":      true,
		"IKE_FOLLOWUP_KE request established":    true,
		"IKE_FOLLOWUP_KE request rekeyed":        true,
		"IKE_FOLLOWUP_KE request deleting":       true,
		"IKE_FOLLOWUP_KE response established":   true,
		"IKE_FOLLOWUP_KE response rekeyed":       true,
		"IKE_FOLLOWUP_KE response deleting":      true,
		"INFORMATIONAL request established":      true,
		"INFORMATIONAL request rekeyed":          true,
		"INFORMATIONAL request deleting":         true,
		"INFORMATIONAL response established":     true,
		"INFORMATIONAL response rekeyed":         true,
		"INFORMATIONAL response deleting":        true,
	}
	for exchange := range 256 {
		for _, flags := range []wire.Flags{0, wire.FlagResponse} {
			for state := stateInit; state <= stateDead; state <<= 1 {
				h := wire.Header{Exchange: wire.ExchangeType(exchange), Flags: flags}
				role := "request"
				if h.IsResponse() {
					role = "response"
				}
				cell := fmt.Sprintf("%s %s %s", h.Exchange, role, state)
				if got := ruleFor(h, state) != nil; got != allowed[cell] {
					t.Errorf("%s: allowed %v, want %v", cell, got, allowed[cell])
				}
			}
		}
	}
}

// TestExchangeForms holds that a message lacking any required payload, or having
// one too many, fits no form.
func TestExchangeForms(t *testing.T) {
	sample := map[wire.PayloadType]wire.Payload{
		wire.PayloadSA: &wire.SA{}, wire.PayloadKE: &wire.KE{}, wire.PayloadNonce: &wire.Nonce{},
		wire.PayloadIDi: &wire.ID{Initiator: true}, wire.PayloadIDr: &wire.ID{}, wire.PayloadAuth: &wire.Auth{},
		wire.PayloadTSi: &wire.TS{Initiator: true}, wire.PayloadTSr: &wire.TS{}, wire.PayloadNotify: &wire.Notify{},
	}
	for _, r := range exchanges {
		for _, f := range r.forms {
			var whole []wire.Payload
			for _, p := range f.required {
				whole = append(whole, sample[p])
			}
			if err := f.check(whole); err != nil {
				t.Errorf("%s %s: %v", r.exchange, f.name, err)
			}
			if f.check(append(whole, &wire.Unknown{Kind: 200})) != nil {
				t.Errorf("%s %s: an unknown payload is refused", r.exchange, f.name)
			}
			if f.check(append(whole, &wire.EAP{})) == nil {
				t.Errorf("%s %s: an EAP payload is accepted", r.exchange, f.name)
			}
			for i := range whole {
				less := append(append([]wire.Payload{}, whole[:i]...), whole[i+1:]...)
				if f.check(less) == nil {
					t.Errorf("%s %s: accepted without %s", r.exchange, f.name, f.required[i])
				}
				if f.required[i] != wire.PayloadNotify && f.check(append(whole, whole[i])) == nil {
					t.Errorf("%s %s: accepted with two %s", r.exchange, f.name, f.required[i])
				}
			}
		}
	}
}
