package engine

import (
	"crypto"
	"crypto/x509"
	"reflect"
	"slices"
)

// sameConfig reports whether two configurations mean the same, so that
// applying the second on top of the first is not a change. Private keys are
// compared by their public half. Of Peer.CheckRevoked only matters whether there
// is one: functions cannot be compared, and this one is to look up what is
// revoked when it is called.
func sameConfig(a, b TunnelConfig) bool {
	if !sameSigner(a.Credentials.Signer, b.Credentials.Signer) ||
		!a.Peer.Roots.Equal(b.Peer.Roots) ||
		!slices.EqualFunc(a.Credentials.Chain, b.Credentials.Chain, (*x509.Certificate).Equal) ||
		(a.Peer.CheckRevoked == nil) != (b.Peer.CheckRevoked == nil) {
		return false
	}
	for _, c := range []*TunnelConfig{&a, &b} {
		c.Credentials.Signer, c.Credentials.Chain = nil, nil
		c.Peer.Roots, c.Peer.CheckRevoked = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

func sameSigner(a, b crypto.Signer) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	public, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b.Public())
}
