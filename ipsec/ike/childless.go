package ike

import (
	"errors"
	"fmt"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Childless says whether an IKE SA may begin without a Child SA (RFC 6023).
type Childless uint8

// The ways. What is not made in IKE_AUTH is made by CREATE_CHILD_SA, and so may
// have a key exchange of its own.
const (
	// ChildlessAllow accepts it, and does it when no Child SA is wanted yet.
	ChildlessAllow Childless = iota
	// ChildlessPrefer does it whenever the peer can.
	ChildlessPrefer
	// ChildlessForce makes no Child SA in IKE_AUTH, in neither role.
	ChildlessForce
	// ChildlessNever neither does nor accepts it.
	ChildlessNever
)

func (c Childless) String() string {
	switch c {
	case ChildlessPrefer:
		return "prefer"
	case ChildlessForce:
		return "force"
	case ChildlessNever:
		return "never"
	default:
		return "allow"
	}
}

// childForAuth is the Child SA that IKE_AUTH is to make, nil for none. Without
// the announcement of the responder there must be one (RFC 6023, Section 3).
func (sa *ikeSA) childForAuth() (*ChildConfig, *Error) {
	t := sa.t
	switch way := t.cfg.Childless; {
	case way == ChildlessNever:
	case sa.childless && (way != ChildlessAllow || !t.wantsChild()):
		return nil, nil
	case !sa.childless && way == ChildlessForce:
		return nil, &Error{
			Kind: KindConfiguration, Exchange: wire.ExchangeIKESAInit, Payload: wire.PayloadNotify, Remote: true,
			Err:    errors.New("the peer cannot begin without a Child SA (RFC 6023), which is forced here"),
			Remedy: "prefer it instead of forcing it, or let the peer allow it",
		}
	}
	return t.firstChild(), nil
}

// wantsChild reports whether a Child SA is to be there now.
func (t *Tunnel) wantsChild() bool {
	for i := range t.cfg.Children {
		if t.cfg.Children[i].Start == StartNow || t.slots[i].acquired {
			return true
		}
	}
	return false
}

// refuseChildless refuses an IKE_AUTH request that asks for no Child SA where
// that was not announced, or not for this tunnel: what RFC 6023, Section 3, does
// not allow is a malformed message. It reports whether it did.
func (sa *ikeSA) refuseChildless(m *message) bool {
	if find[*wire.SA](m) != nil || sa.childless && (sa.t == nil || sa.t.cfg.Childless != ChildlessNever) {
		return false
	}
	sa.refuse(m, wire.NotifyInvalidSyntax, nil)
	err := &Error{Exchange: m.Exchange, Payload: wire.PayloadSA, Notify: wire.NotifyInvalidSyntax, Err: errors.New("no Child SA is asked for (RFC 6023)")}
	if sa.t == nil {
		sa.fail(err)
		return true
	}
	sa.t.report(err)
	sa.linger()
	return true
}

// childlessAnswered is the end of an IKE_AUTH without a Child SA.
func (a *authTask) childlessAnswered(i *initState) {
	a.sa.finish()
	a.settle(i)
}

// refuseFirstChild refuses to make a Child SA in IKE_AUTH where it is to be made
// later. The IKE SA stands (RFC 7296, Section 1.2).
func (t *Tunnel) refuseFirstChild(m *message) *Error {
	if t.cfg.Childless != ChildlessForce {
		return nil
	}
	return &Error{
		Op: "create Child SA", Kind: KindConfiguration, Exchange: m.Exchange, Payload: wire.PayloadSA, Notify: wire.NotifyNoProposalChosen,
		Err:    fmt.Errorf("tunnel %s makes its Child SAs after IKE_AUTH", t.cfg.Name),
		Remedy: "let the peer begin without a Child SA (RFC 6023), or do not force it here",
	}
}
