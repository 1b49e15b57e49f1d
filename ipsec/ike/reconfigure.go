package ike

import (
	"reflect"
	"slices"
)

// reconfigure changes what differs between the old and the new configuration.
func (t *Tunnel) reconfigure(cfg Config) {
	cfg.Name, cfg.Runtime = t.cfg.Name, t.cfg.Runtime
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		t.report(&Error{Op: "reconfigure", Err: err})
		return
	}
	old := t.cfg
	t.cfg = cfg
	t.timing, t.natPort = cfg.Timing, cfg.NATPort
	t.slots = makeSlots(t.slots, cfg.Children)
	t.reconfigureChildren(old.Children, cfg.Children)
	t.reconfigureIKE(old, cfg)
}

func (t *Tunnel) reconfigureChildren(old, fresh []ChildConfig) {
	var gone, changed []ChildConfig
	for _, o := range old {
		i := slices.IndexFunc(fresh, func(n ChildConfig) bool { return n.Name == o.Name })
		switch {
		case i < 0:
			gone = append(gone, o)
			t.endChildren(o.Name)
		case !samePolicy(o, fresh[i]):
			changed = append(changed, fresh[i])
			t.outdateChildren(o.Name)
		case !reflect.DeepEqual(o.Proposals, fresh[i].Proposals):
			t.requestChildRekey(o.Name)
		}
	}
	for _, n := range fresh {
		if !slices.ContainsFunc(old, func(o ChildConfig) bool { return n.Name == o.Name }) {
			changed = append(changed, n)
		}
	}
	if t.wanted {
		t.setPolicies(changed)
		t.removePolicies(gone)
	}
}

// samePolicy reports whether SAs of one configuration serve the other as well.
func samePolicy(a, b ChildConfig) bool {
	return slices.Equal(a.LocalTS, b.LocalTS) && slices.Equal(a.RemoteTS, b.RemoteTS) &&
		a.Mode == b.Mode && a.ReplayWindow == b.ReplayWindow && a.Priority == b.Priority
}

// endChildren deletes the Child SAs of a name that is no longer configured.
func (t *Tunnel) endChildren(name string) {
	for _, c := range t.children {
		if c.name == name {
			c.end(ReasonReconfigured)
		}
	}
}

// outdateChildren has the Child SAs of a name replaced: a new one is made first,
// and deletes them when it is up.
func (t *Tunnel) outdateChildren(name string) {
	for _, c := range t.children {
		if c.name == name && c.live() {
			c.redundant = true
			c.endAt = t.now.Add(redundantTime)
		}
	}
}

// reconfigureIKE rekeys for new proposals, and begins a new IKE SA for what only
// IKE_AUTH can change. A responder cannot begin, so it gives the peer, which is
// being reconfigured as well, some time to do so before it deletes its IKE SA.
func (t *Tunnel) reconfigureIKE(old, fresh Config) {
	sa := t.primary()
	if !sameParties(old, fresh) {
		for _, o := range t.sas {
			if o.state.in(stateLarval) {
				o.die()
			}
		}
		t.connectAt, t.failures = t.now, 0
		switch {
		case sa == nil || !t.wanted:
		case t.mayInitiate():
			t.initiate(sa)
		default:
			sa.reason, sa.endAt = ReasonReconfigured, t.now.Add(redundantTime)
		}
		return
	}
	if sa != nil && !reflect.DeepEqual(old.Proposals, fresh.Proposals) {
		sa.wantRekey = true
	}
}

// sameParties reports whether both configurations are between the same ends
// with the same proofs of identity.
func sameParties(a, b Config) bool {
	return a.Local == b.Local && a.Remote == b.Remote && a.ForceEncap == b.ForceEncap && a.NATPort == b.NATPort &&
		a.Role == b.Role && sameCredentials(a, b)
}

func sameCredentials(a, b Config) bool {
	x, y := a.Credentials, b.Credentials
	if !x.ID.Equal(y.ID) || string(x.PSK) != string(y.PSK) || len(x.Chain) != len(y.Chain) {
		return false
	}
	for i := range x.Chain {
		if !x.Chain[i].Equal(y.Chain[i]) {
			return false
		}
	}
	p, q := a.Peer, b.Peer
	return p.ID.Equal(q.ID) && string(p.PSK) == string(q.PSK) && reflect.DeepEqual(p.Roots, q.Roots)
}
