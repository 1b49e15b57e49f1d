package ike

import (
	"slices"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// policyRetry is how soon a policy is set again that the data plane did not take:
// without it, what should be protected might be sent in clear.
const policyRetry = 5 * time.Second

// unsetPolicies are those that the data plane did not take.
type unsetPolicies struct {
	unset    []string  // their children
	policyAt time.Time // when they are set again
}

// setPolicies sets the policies of Child SAs. They belong to the tunnel and not to
// any SA: what matches one and has no SA is dropped (RFC 4301, Section 4.4.1).
func (t *Tunnel) setPolicies(children []ChildConfig) {
	var ops []dataplane.Op
	var names []string
	for _, ch := range children {
		if ch.queue > 0 {
			continue // that of the first serves
		}
		names = append(names, ch.Name)
		local, remote := ch.carried(ch.LocalTS, ch.RemoteTS)
		ops = append(ops, dataplane.SetPolicy{Policy: dataplane.Policy{
			Tunnel: t.cfg.Name, Child: ch.Name,
			Mode: ch.Mode, LocalTS: local, RemoteTS: remote, Label: ch.Label, Priority: ch.Priority,
		}})
	}
	t.apply(nil, ops, func(errs []error) {
		for i, err := range errs {
			if err == nil {
				continue
			}
			t.report(&Error{Op: "set policy", Kind: KindDataPlane, Err: err})
			t.unset = append(t.unset, names[i])
			t.policyAt = t.now.Add(policyRetry)
		}
	})
}

// retryPolicies sets the policies again that could not be set, if they are still
// wanted.
func (t *Tunnel) retryPolicies() {
	if !t.due(t.policyAt) {
		return
	}
	names := t.unset
	t.unset, t.policyAt = nil, time.Time{}
	if !t.wanted {
		return
	}
	var again []ChildConfig
	for _, ch := range t.cfg.Children {
		if slices.Contains(names, ch.Name) {
			again = append(again, ch)
		}
	}
	t.setPolicies(again)
}

func (t *Tunnel) removePolicies(children []ChildConfig) {
	var ops []dataplane.Op
	for _, ch := range children {
		ops = append(ops, dataplane.RemovePolicy{Tunnel: t.cfg.Name, Child: ch.Name})
	}
	t.apply(nil, ops, nil)
}
