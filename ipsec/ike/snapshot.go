package ike

import "slices"

// Status returns a copy of what the tunnel is now.
func (t *Tunnel) Status() Status {
	s := Status{Name: t.cfg.Name, State: t.state(), LastError: t.lastError, NextAttempt: t.outside(t.connectAt), Path: t.pathMTU.status(), Stats: t.stats}
	for _, sa := range t.sas {
		if sa.state == stateListening {
			continue // another one stands for the attempt, or it has failed
		}
		s.IKE = append(s.IKE, sa.status())
	}
	for _, c := range t.children {
		s.Children = append(s.Children, c.status())
	}
	return s
}

func (t *Tunnel) state() State {
	switch {
	case t.closing:
		return StateClosing
	case t.primary() != nil:
		for i := range t.slots {
			s := &t.slots[i]
			ch := &t.cfg.Children[i]
			if ch.queue == 0 && (ch.Start == StartNow || s.acquired) && !t.hasSender(s.name) {
				return StatePartial
			}
		}
		return StateUp
	case t.wanted && (t.mayInitiate() || t.hasLarval()):
		return StateConnecting
	default:
		return StateDown
	}
}

func (t *Tunnel) hasLarval() bool {
	return slices.ContainsFunc(t.sas, func(sa *ikeSA) bool { return sa.state.in(stateLarval &^ stateListening) })
}

func (sa *ikeSA) status() IKEStatus {
	state := sa.state.String()
	if sa.state == stateEstablished && sa.redundant {
		state = "redundant"
	}
	return IKEStatus{
		LocalSPI: sa.localSPI, RemoteSPI: sa.remoteSPI, State: state, Initiator: sa.initiator,
		Local: sa.local, Remote: sa.remote, LocalID: sa.localID, RemoteID: sa.remoteID, RemoteAuth: sa.remoteAuth, PPK: sa.ppk, Suite: sa.suite,
		LocalNAT: sa.localNAT, RemoteNAT: sa.remoteNAT, Encap: sa.encap && !sa.tcp, TCP: sa.tcp, MOBIKE: sa.mobike, Internal: sa.internal, Suspect: sa.suspect, Resumed: sa.resumed,
		Established: sa.m.outside(sa.established), Rekey: sa.m.outside(sa.rekeyAt), Expire: sa.m.outside(sa.expireAt), Reauth: sa.m.outside(sa.authAt()),
	}
}

func (c *childSA) status() ChildStatus {
	state := c.state.String()
	switch {
	case c.state == childInstalled && c.redundant:
		state = "redundant"
	case c.rekey != nil:
		state = "rekeying"
	}
	return ChildStatus{
		Name: c.name, State: state, InboundSPI: c.inbound, OutboundSPI: c.outbound, Outbound: c.sending,
		IKE: c.ike.localSPI, Suite: c.suite,
		LocalTS: slices.Clone(c.localTS), RemoteTS: slices.Clone(c.remoteTS),
		Installed: c.t.outside(c.installed), Rekey: c.t.outside(c.rekeyAt), Expire: c.t.outside(c.expireAt),
	}
}
