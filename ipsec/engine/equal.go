package engine

import (
	"crypto"
	"reflect"
	"slices"

	"github.com/swanherd/swanherd/ipsec/ident"
)

// sameConfig reports whether two configurations mean the same, so that
// applying the second on top of the first is not a change. Private keys are
// compared by their public half. Of Peer.CheckRevoked only matters whether there
// is one: functions cannot be compared, and this one is to look up what is
// revoked when it is called.
func sameConfig(x, y *TunnelConfig) bool {
	a, b := *x, *y
	if !slices.EqualFunc(signers(a.Credentials), signers(b.Credentials), sameSigner) ||
		!a.Credentials.Equal(b.Credentials) || !a.Peer.Equal(b.Peer) || !a.Peer.Revocations.Equal(b.Peer.Revocations) ||
		(a.Peer.CheckRevoked == nil) != (b.Peer.CheckRevoked == nil) {
		return false
	}
	for _, c := range []*TunnelConfig{&a, &b} {
		c.Credentials, c.Peer = ident.Local{}, ident.Remote{}
	}
	return reflect.DeepEqual(a, b)
}

// signers returns the keys of all credentials.
func signers(l ident.Local) []crypto.Signer {
	out := []crypto.Signer{l.Signer}
	for _, c := range l.Alternatives {
		out = append(out, c.Signer)
	}
	return out
}

func sameSigner(a, b crypto.Signer) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	public, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b.Public())
}
