package access

import (
	"context"
	"slices"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Principal is an operator as authenticated.
type Principal struct {
	// Actor is how the audit log names it, `token:{id}`.
	Actor string
	Role  swanherdv1.Role
	// Networks it may act in, `networks/{network}`; empty: all.
	Networks []string
	// ExpireTime is when its token expires; zero: never.
	ExpireTime time.Time
}

// Global is true when the principal is not bound to certain networks.
func (p Principal) Global() bool { return len(p.Networks) == 0 }

// Sees says whether the principal may act in the network, `networks/{network}`.
func (p Principal) Sees(network string) bool {
	return p.Global() || slices.Contains(p.Networks, network)
}

type principalKey struct{}

// WithPrincipal returns a context that carries the caller of an API method.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalFrom returns the caller of an API method. Without one it is a
// principal that may do nothing.
func PrincipalFrom(ctx context.Context) Principal {
	p, ok := ctx.Value(principalKey{}).(Principal)
	if !ok {
		return Principal{Actor: "anonymous", Networks: []string{""}}
	}
	return p
}
