package access

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Grant is a role, and where somebody has it.
type Grant struct {
	Role swanherdv1.Role
	// Networks it is for, `networks/{network}`; empty: all, and, without Labels, the
	// controller as a whole.
	Networks []string
	// Labels limit it to what carries all of them; empty: no limit.
	Labels map[string]string
}

// covers says whether the grant is for the network, or for a part of it.
func (g Grant) covers(network string) bool {
	return len(g.Networks) == 0 || slices.Contains(g.Networks, network)
}

// carried says whether the labels have all that the grant asks for.
func (g Grant) carried(labels map[string]string) bool {
	for k, v := range g.Labels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
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
	// needed is the role that Grants were narrowed to, and whole that they were to those
	// without labels.
	needed swanherdv1.Role
	whole  bool
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

// Whole is the principal without the grants that labels limit.
func (p Principal) Whole() Principal {
	p.Grants = slices.DeleteFunc(slices.Clone(p.Grants), func(g Grant) bool { return len(g.Labels) > 0 })
	p.whole = true
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

// Global is true when the principal is bound neither to certain networks nor to labels.
func (p Principal) Global() bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool { return len(g.Networks) == 0 && len(g.Labels) == 0 })
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

// Sees says whether the principal may act in the network, `networks/{network}`, or in a
// part of it; in which, a Scope says.
func (p Principal) Sees(network string) bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool { return g.covers(network) })
}

// SeesAll says whether the principal may act in the whole network.
func (p Principal) SeesAll(network string) bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool { return g.covers(network) && len(g.Labels) == 0 })
}

// carried says whether what carries the labels in the network is in reach.
func (p Principal) carried(network string, labels map[string]string) bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool { return g.covers(network) && g.carried(labels) })
}

// limited says whether labels limit any of the grants.
func (p Principal) limited() bool {
	return slices.ContainsFunc(p.Grants, func(g Grant) bool { return len(g.Labels) > 0 })
}

// limits are the labels that the grants for the network ask for, for people:
// `region=emea`, or `region=emea or tier=1,region=apac`.
func (p Principal) limits(network string) string {
	var all []string
	for _, g := range p.Grants {
		if len(g.Labels) > 0 && (network == "" || g.covers(network)) {
			all = append(all, LabelText(g.Labels))
		}
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), " or ")
}

// LabelText is how people write labels, `key=value,key=value`.
func LabelText(labels map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, k+"="+labels[k])
	}
	return strings.Join(parts, ",")
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
