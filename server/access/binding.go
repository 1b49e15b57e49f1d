package access

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// maxBindings bounds what every call of a person has to look at.
const maxBindings = 10000

// identity is somebody as the identity provider, or a client certificate, names them.
type identity struct {
	subject string
	// email is empty unless the provider verified it.
	email  string
	groups []string
	// certificate has the names in a client certificate, as members of bindings, such
	// as `cert-uri:{uri}`; the first one is for the audit log.
	certificate []string
}

// actor names the person in the audit log: by what people know, if it is sure.
func (i *identity) actor() string {
	if len(i.certificate) > 0 {
		return i.certificate[0]
	}
	if i.email != "" {
		return "email:" + i.email
	}
	return "subject:" + i.subject
}

// String is all by which the person is known beside its groups, for the audit log.
func (i *identity) String() string {
	if len(i.certificate) > 0 {
		return "certificate of " + strings.Join(i.certificate, ", ")
	}
	return fmt.Sprintf("subject %q", i.subject)
}

// is says whether a member of a binding, such as `group:{group}`, is this person.
func (i *identity) is(member string) bool {
	kind, value, _ := strings.Cut(member, ":")
	switch kind {
	case "cert-uri", "cert-cn":
		return slices.Contains(i.certificate, member)
	case "cert-email":
		return slices.Contains(i.certificate, kind+":"+strings.ToLower(value))
	case "subject":
		return i.subject != "" && value == i.subject
	case "email":
		return i.email != "" && strings.EqualFold(value, i.email)
	case "group":
		return slices.Contains(i.groups, value)
	}
	return false
}

// grantsOf is what the bindings give to a person now.
func grantsOf(snap *store.Snapshot, who *identity) []Grant {
	var out []Grant
	for row := range snap.RoleBindings.All() {
		if who.is(row.Value.GetMember()) {
			out = append(out, Grant{Role: row.Value.GetRole(), Networks: row.Value.GetNetworks(), Labels: row.Value.GetMatchLabels()})
		}
	}
	return out
}

// NewRoleBinding is a binding that gives people a role, with the transaction that makes it.
func (k *Keeper) NewRoleBinding(ctx context.Context, want *swanherdv1.RoleBinding) (*swanherdv1.RoleBinding, *store.Txn, error) {
	var found []Violation
	for i, n := range want.GetNetworks() {
		if _, err := model.ParseNetworkName(n); err != nil {
			found = append(found, Violation{fmt.Sprintf("role_binding.networks[%d]", i), err.Error()})
		}
	}
	if len(found) > 0 {
		return nil, nil, InvalidAll(found)
	}
	if k.store.Snapshot().RoleBindings.Len() >= maxBindings {
		return nil, nil, status.Errorf(codes.ResourceExhausted, "there are %d role bindings, as many as there may be; bind groups instead of persons", maxBindings)
	}
	binding := &swanherdv1.RoleBinding{
		Name:        "roleBindings/" + newID(),
		Member:      want.GetMember(),
		Role:        want.GetRole(),
		Networks:    want.GetNetworks(),
		Description: want.GetDescription(),
		CreateTime:  timestamppb.Now(),
		MatchLabels: want.GetMatchLabels(),
	}
	t := k.store.Txn()
	k.store.RoleBindings.CreateIn(t, binding.GetName(), binding)
	k.auditBinding(ctx, t, binding, "roleBinding.create")
	return binding, t, nil
}

// DropRoleBinding returns the transaction that takes a role away at once; its error may be the
// store's. Nobody can lock everybody out so: the administrator's token that nothing ends goes
// on (see keepAdministrator).
func (k *Keeper) DropRoleBinding(ctx context.Context, name string) (*store.Txn, error) {
	row, err := k.store.RoleBindings.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	t := k.store.Txn()
	k.store.RoleBindings.DeleteIn(t, name, row.Revision)
	k.auditBinding(ctx, t, row.Value, "roleBinding.delete")
	return t, nil
}

func (k *Keeper) auditBinding(ctx context.Context, t *store.Txn, b *swanherdv1.RoleBinding, action string) {
	where := "all networks"
	if len(b.GetNetworks()) > 0 {
		where = strings.Join(b.GetNetworks()[:min(len(b.GetNetworks()), maxInMessage)], ", ")
		if more := len(b.GetNetworks()) - maxInMessage; more > 0 {
			where += fmt.Sprintf(" and %d more", more)
		}
	}
	if len(b.GetMatchLabels()) > 0 {
		where += ", for what carries " + LabelText(b.GetMatchLabels())
	}
	role := strings.ToLower(strings.TrimPrefix(b.GetRole().String(), "ROLE_"))
	k.store.AppendEventIn(t, store.NoNetwork, Audit(PrincipalFrom(ctx).Actor, b.GetName(), action, fmt.Sprintf("%s is %s in %s", b.GetMember(), role, where)))
}

// keepAdministrator adds to a transaction that ends or limits the token, that another
// administrator's token stays for good: without one, what the identity provider says
// would be all there is, and the controller could not be had back from a mistake in a
// binding, or from a provider that is gone. Each of two administrators who delete the
// other's token at once requires the other's.
func (k *Keeper) keepAdministrator(t *store.Txn, token *swanherdv1.ApiToken) error {
	if !lasts(token) {
		return nil
	}
	for row := range k.store.Snapshot().APITokens.All() {
		if row.Name != token.GetName() && lasts(row.Value.GetToken()) {
			k.store.APITokens.RequireIn(t, row.Name, row.Revision)
			return nil
		}
	}
	return InUse(token.GetName()+" is the last administrator's token of all networks that does not expire; "+
		"make another one first (swanherd apitoken create --role admin)",
		[]Obstacle{{Subject: token.GetName(), Description: "nobody could manage access without it, should the identity provider or a binding fail"}})
}

// lasts says whether the token is an administrator's of everything, for good.
func lasts(token *swanherdv1.ApiToken) bool {
	return token.GetRole() == admin && len(token.GetNetworks()) == 0 && len(token.GetMatchLabels()) == 0 && token.GetExpireTime() == nil
}

// Holds says whether what the principal may do is still as it was, for streams that
// last longer than that may be.
func (k *Keeper) Holds(p Principal, now time.Time) bool {
	if !p.ExpireTime.IsZero() && !now.Before(p.ExpireTime) {
		return false
	}
	if p.identity != nil {
		snap := k.store.Snapshot()
		if disabled(snap, p.identity) {
			return false
		}
		current := Principal{Grants: grantsOf(snap, p.identity)}.With(p.needed)
		if p.whole {
			current = current.Whole()
		}
		return slices.EqualFunc(current.Grants, p.Grants, func(a, b Grant) bool {
			return a.Role == b.Role && slices.Equal(a.Networks, b.Networks) && maps.Equal(a.Labels, b.Labels)
		})
	}
	id, ok := strings.CutPrefix(p.Actor, "token:")
	if !ok {
		return false
	}
	_, ok = k.store.Snapshot().APITokens.Get("apiTokens/" + id)
	return ok
}
