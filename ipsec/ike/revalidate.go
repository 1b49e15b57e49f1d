package ike

import (
	"bytes"
	"errors"
	"time"

	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// What a peer proved when an IKE SA was made holds for as long as its certificate
// does. So the certificates are kept, and verified again when somebody says that
// the revocation information is another ([Revalidate], Reconfigure), when a new
// IKE SA of the peer was refused because its certificate is revoked, and, if
// that is configured, when one of them expires. An IKE SA whose peer would no
// longer be let in ends at once; one whose authority is trusted no longer has time
// for the peer to prove itself anew, for it may have a certificate of another one.

// evidence is what a peer has proved its identity by. IKE SAs that descend from
// each other by rekeying share it.
type evidence struct {
	chain [][]byte // its certificates in DER, its own first; none with a pre-shared key
	// expires is when the first certificate of its path does.
	expires time.Time
	// refuted is true once it does not hold any more.
	refuted bool
	// reauthAt and askedAt are when this end begins to authenticate anew, by
	// its own configuration and at the peer's demand, endAt is when the IKE SA
	// ends if nobody has; see reauth.go.
	reauthAt, askedAt, endAt time.Time
}

// believe notes who the peer is and what shows that.
func (sa *ikeSA) believe(peer *ident.VerifiedPeer, certs []*wire.Cert) {
	sa.remoteID, sa.remoteAuth = peer.ID, peer.Method
	sa.evidence = &evidence{expires: peer.Expires}
	if peer.Leaf == nil {
		return
	}
	for _, c := range certs {
		if c.Encoding == wire.CertX509Signature {
			sa.evidence.chain = append(sa.evidence.chain, bytes.Clone(c.Data))
		}
	}
}

// proven reports whether there are certificates to be verified again, and the
// present configuration still asks for one.
func (sa *ikeSA) proven() bool {
	return sa.evidence != nil && len(sa.evidence.chain) > 0 && !sa.evidence.refuted && sa.t.cfg.Peer.Roots != nil
}

// revalidate has the certificates of all established peers verified again.
func (t *Tunnel) revalidate() {
	for _, sa := range t.sas {
		sa.wantVerify = sa.alive() && sa.proven()
	}
}

// verifyAgain starts the job of a wish for it. It takes the turn of a message, so
// none that comes meanwhile is believed too early.
func (t *Tunnel) verifyAgain(sa *ikeSA) bool {
	if !sa.wantVerify || sa.busy > 0 {
		return false
	}
	sa.wantVerify = false
	if !sa.alive() || !sa.proven() {
		return false
	}
	sa.verifying = true
	e, remote, id, now := sa.evidence, t.cfg.Peer, sa.remoteID, t.outside(t.now)
	chain := e.chain
	remote.ID = id // that another one is wanted now is a change, and no doubt about this one
	runJob(sa, ClassEstablished, func() (*ident.VerifiedPeer, error) {
		certs, err := ident.ParseChain(chain)
		if err != nil {
			return nil, err
		}
		return ident.Revalidate(remote, id, certs, now)
	}, func(peer *ident.VerifiedPeer, err error) {
		sa.verifying = false
		var why *ident.Error
		switch {
		case err == nil:
			e.expires = peer.Expires
		case errors.As(err, &why) && why.Reason == ident.ReasonUntrusted:
			t.demandProof(sa)
		default:
			t.refute(e, err)
		}
	})
	return true
}

// demandProof has the peer prove itself anew in time, or the IKE SA ends.
func (t *Tunnel) demandProof(sa *ikeSA) {
	sa.wantReauth = true
	if e, end := sa.evidence, t.now.Add(2*redundantTime); e.endAt.IsZero() || end.Before(e.endAt) {
		e.endAt = end
	}
}

// refute ends every IKE SA that rests on evidence which does not hold any more,
// and takes its Child SAs out of use without waiting for the peer to agree.
func (t *Tunnel) refute(e *evidence, err error) {
	e.refuted = true
	t.report(&Error{Op: "verify the peer again", Exchange: wire.ExchangeIKEAuth, Err: err})
	for _, sa := range t.sas {
		sa.expel()
	}
}

// expel ends the IKE SA if its peer is no longer to be believed. The peer is told
// why (RFC 7296, Section 2.21.2).
func (sa *ikeSA) expel() {
	if sa.evidence == nil || !sa.evidence.refuted || !sa.state.in(stateEstablished|stateRekeyed) {
		return
	}
	if sa.reason != ReasonUntrusted {
		sa.reason, sa.farewell = ReasonUntrusted, wire.NotifyAuthenticationFailed
		sa.abandonOutstanding()
		sa.end(ReasonUntrusted)
	}
	for _, c := range sa.t.children {
		switch {
		case c.ike != sa:
		case c.state == childLingering:
			sa.t.dropChild(c)
		case c.known() && !c.retired:
			sa.t.retire(c)
			c.end(ReasonUntrusted)
		}
	}
}

// doubtPeer has the IKE SAs that are there verified again if err says that the
// peer's certificate is revoked: they may rest on the same one. If not, they stay.
// Strangers can cause this, so it is not done all the time.
func (t *Tunnel) doubtPeer(err error) {
	var e *ident.Error
	if !errors.As(err, &e) || e.Reason != ident.ReasonRevoked || t.now.Before(t.doubtAt) {
		return
	}
	t.doubtAt = t.now.Add(hintInterval)
	t.revalidate()
}

// expiresAt is when a certificate of the peer ends and its IKE SA has to be looked
// at, zero for never. A certificate is good until the end of that second (RFC
// 5280, Section 4.1.2.5).
func (sa *ikeSA) expiresAt() time.Time {
	if !sa.t.cfg.EndWithCertificate || sa.wantVerify || !sa.alive() || !sa.proven() || sa.evidence.expires.IsZero() {
		return time.Time{}
	}
	return sa.evidence.expires.Add(time.Second + sa.m.ahead)
}
