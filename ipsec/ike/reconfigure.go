package ike

import (
	"net/netip"
	"reflect"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ident"
)

// reconfigure changes what differs between the old and the new configuration.
func (t *Tunnel) reconfigure(cfg Config) {
	cfg.Name, cfg.Runtime = t.cfg.Name, t.cfg.Runtime
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		t.report(&Error{Op: "reconfigure", Kind: KindConfiguration, Err: err})
		return
	}
	old := t.cfg
	t.configure(&cfg)
	t.outdateProposals(old)
	t.reconfigureChildren(old.Children, cfg.Children)
	t.reconfigureIKE(old, &cfg)
	t.reconfigureInternal(old, &cfg)
	if old.Timing.Reauth != cfg.Timing.Reauth {
		t.changeAuthLifetime()
	}
	if cfg.Timing.PathMTU <= 0 {
		t.tellPath(0)
		t.pathMTU.forget()
	}
	if !old.Peer.Revocations.Equal(cfg.Peer.Revocations) || !cfg.Peer.Roots.Covers(old.Peer.Roots) {
		t.revalidate()
	}
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
		slices.Equal(a.CarriedLocal, b.CarriedLocal) && slices.Equal(a.CarriedRemote, b.CarriedRemote) &&
		a.Mode == b.Mode && a.ReplayWindow == b.ReplayWindow && a.Priority == b.Priority &&
		a.Outer == b.Outer && a.TFC == b.TFC && a.Label == b.Label
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
// and deletes them when it is up. Further ones go at once and come again after the
// first: the peer may have no queue free for one more.
func (t *Tunnel) outdateChildren(name string) {
	for _, c := range t.children {
		switch {
		case c.name != name || !c.live():
		case c.queue > 0:
			c.end(ReasonReconfigured)
		default:
			c.redundant = true
			c.endAt = t.now.Add(redundantTime)
		}
	}
}

// reconfigureIKE rekeys for new proposals, and begins a new IKE SA for what only
// IKE_AUTH can change. The one that is there stays until the new one is up, unless
// its address is gone: the peer may get its part of the change later, or never. A
// responder gives it some time to begin before it does so itself or, if it cannot,
// asks the peer to.
//
// Other authorities are no reason for that: what the peer has proved is looked at
// again if one is trusted no longer (revalidate.go), and that is all.
//
// Who is to begin, and where the peer is thought to be, say nothing against an
// IKE SA that is there: a responder often learns the peer's address from the
// intent only after the peer has connected.
func (t *Tunnel) reconfigureIKE(old, fresh *Config) {
	for _, o := range t.sas {
		if o.state.in(stateLarval) && (!sameParties(old, fresh) || o.initiator && !sameEnds(old, fresh)) {
			o.die()
		}
	}
	if !sameParties(old, fresh) || !fresh.Peer.Roots.Covers(old.Peer.Roots) || !fresh.Resume {
		t.dropTicket(true)
	}
	if !sameParties(old, fresh) || !sameEnds(old, fresh) || old.Role != fresh.Role {
		t.failures = 0
		t.attempt()
	}
	t.redirectAll(old)
	sa := t.primary()
	if sa != nil && !sameParties(old, fresh) {
		sa.outdated = true
	}
	switch {
	case sa == nil || !t.wanted:
	case sameParties(old, fresh) && sa.mayStay(old, fresh):
		if sa.mobike {
			t.readdress(sa, old, fresh)
		}
		if !reflect.DeepEqual(old.Proposals, fresh.Proposals) {
			sa.wantRekey = true
		}
	case t.mayInitiate():
		sa.renewAt = t.now
		if at := sa.mayReplaceAt(); !sa.origin.initiator && at.After(t.now) {
			sa.renewAt = at // what the same end began cannot cross
		}
		t.renew(sa)
	default:
		sa.renewAt = t.now.Add(redundantTime / 2)
		if sa.mayStay(old, fresh) {
			break
		}
		sa.reason, sa.endAt = ReasonReconfigured, t.now.Add(redundantTime) // it leads nowhere
	}
}

// sameParties reports whether both configurations prove the same identities to
// each other in the same way, whichever authorities vouch for them.
func sameParties(a, b *Config) bool {
	return sameCredentials(a, b) && (a.ForceEncap || !b.ForceEncap)
}

// sameEnds reports whether an attempt under one configuration goes where one
// under the other would.
func sameEnds(a, b *Config) bool {
	return a.Local == b.Local && a.Remote == b.Remote && a.NATPort == b.NATPort
}

// changeAddresses takes other addresses of this host.
func (t *Tunnel) changeAddresses(in AddressChange) {
	if !usable(in.Local.Unmap()) {
		return // it has none for the moment: to go nowhere would help nobody
	}
	old, cfg := t.cfg, *t.cfg
	cfg.Local = netip.AddrPortFrom(in.Local.Unmap(), old.Local.Port())
	cfg.Mobility.Local = distinct(in.Additional)
	t.configure(&cfg)
	t.reconfigureIKE(old, &cfg)
}

// mayStay reports whether the IKE SA runs between the addresses of the fresh
// configuration, as far as those were changed and are set, or can be moved there
// by MOBIKE: to any address of this host, but of the peer only to one that the
// peer says it has. Another one may be that of another host.
func (sa *ikeSA) mayStay(old, fresh *Config) bool {
	there := func(before, after, at netip.AddrPort) bool {
		return before.Addr() == after.Addr() || !after.Addr().IsValid() || after.Addr().IsUnspecified() || after.Addr() == at.Addr()
	}
	announced := sa.mobike && sa.decides() && slices.Contains(sa.t.peerAddresses, fresh.Remote.Addr())
	return (sa.mobike || there(old.Local, fresh.Local, sa.local)) &&
		(announced || there(old.Remote, fresh.Remote, sa.remote))
}

func sameCredentials(a, b *Config) bool {
	return a.Credentials.Equal(b.Credentials) && a.Peer.EqualBarRoots(b.Peer) &&
		slices.EqualFunc(a.PPKs, b.PPKs, ident.PPK.Equal) && a.PPKRequired == b.PPKRequired
}
