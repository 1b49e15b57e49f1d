package access

import (
	"context"
	"slices"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Grant is a role, and where somebody has it.
type Grant struct {
	Role swanherdv1.Role
	// Networks it is for, `networks/{network}`; empty: all, and the controller as a whole.
	Networks []string
}

// Principal is an operator as authenticated. What it may do is what its grants give:
// a role in one network is none in another.
type Principal struct {
	// Actor is how the audit log names it, `token:{id}` or, of who signed in with the
	// identity provider, `email:{address}` or `subject:{sub}`.
	Actor string
	// Grants that it has. To a handler, those that are enough for its method.
	Grants []Grant
	// ExpireTime is when its token expires; zero: never.
	ExpireTime time.Time

	// identity is who it is by the identity provider; nil: it has an API token.
	identity *identity
	// needed is the role that Grants were narrowed to.
	needed swanherdv1.Role
}

// With is the principal with those of its grants that give at least the role, and so
// there where it has that.
func (p Principal) With(role swanherdv1.Role) Principal {
	grants := make([]Grant, 0, len(p.Grants))
	for _, g := range p.Grants {
		if g.Role >= role {
			grants = append(grants, g)
		}
	}
	p.Grants, p.needed = grants, role
	return p
}

// Role is the highest role that it has anywhere.
func (p Principal) Role() swanherdv1.Role {
	var role swanherdv1.Role
	for _, g := range p.Grants {
		role = max(role, g.Role)
	}
	return role
}

// Global is true when the principal is not bound to certain networks.
func (p Principal) Global() bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool { return len(g.Networks) == 0 })
}

// Networks are those that it is bound to; empty: it is bound to none, or may do nothing.
func (p Principal) Networks() []string {
	if p.Global() {
		return nil
	}
	var out []string
	for _, g := range p.Grants {
		out = append(out, g.Networks...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Sees says whether the principal may act in the network, `networks/{network}`.
func (p Principal) Sees(network string) bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool {
		return len(g.Networks) == 0 || slices.Contains(g.Networks, network)
	})
}

// Administers says whether it may manage access to everything.
func (p Principal) Administers() bool { return p.With(admin).Global() }

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
		return Principal{Actor: "anonymous"}
	}
	return p
}
