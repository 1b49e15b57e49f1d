package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// maxUsers bounds the people that are remembered; the audit log has every sign-in.
const maxUsers = 20000

// userName is the name of the user that a member of bindings is, such as
// `subject:{sub}`. Upper and lower case of an address are the same.
func userName(member string) string {
	if kind, address, _ := strings.Cut(member, ":"); kind == "email" || kind == "cert-email" {
		member = kind + ":" + strings.ToLower(address)
	}
	sum := sha256.Sum256([]byte(member))
	return "users/u" + hex.EncodeToString(sum[:12])
}

// members are the names by which bindings can mean this person and nobody else, the one
// that its user is called by first.
func (i *identity) members() []string {
	if len(i.certificate) > 0 {
		return i.certificate
	}
	var out []string
	if i.subject != "" {
		out = append(out, "subject:"+i.subject)
	}
	if i.email != "" {
		out = append(out, "email:"+i.email)
	}
	return out
}

// disabled says whether somebody locked the person out, by whatever of its names.
func disabled(snap *store.Snapshot, who *identity) bool {
	if snap.Users.Len() == 0 {
		return false
	}
	return slices.ContainsFunc(who.members(), func(m string) bool { return snap.Users.Value(userName(m)).GetDisabled() })
}

// noteSignInIn adds to t when somebody signed in last, and as whom. It does not touch
// what an administrator said: who writes that at the same moment goes first.
func (k *Keeper) noteSignInIn(t *store.Txn, who *identity, address string, now time.Time) {
	member := who.members()[0]
	name := userName(member)
	row, exists := k.store.Snapshot().Users.Get(name)
	if !exists && k.store.Snapshot().Users.Len() >= maxUsers {
		return
	}
	user := &swanherdv1.User{Name: name, CreateTime: timestamppb.New(now)}
	if exists {
		user = proto.CloneOf(row.Value)
	}
	user.Member, user.Email, user.Groups, user.CertificateNames = member, who.email, who.groups, who.certificate
	user.LastSignInTime, user.LastSignInAddress = timestamppb.New(now), address
	if exists {
		k.store.Users.UpdateIn(t, name, user, row.Revision)
		return
	}
	k.store.Users.CreateIn(t, name, user)
}

// Users are the people that are known in a snapshot: who has signed in or was locked
// out, and who has a role by name and has not been seen.
func (k *Keeper) Users(snap *store.Snapshot) model.Table[*swanherdv1.User] {
	known := map[string]bool{}
	for row := range snap.Users.All() {
		for _, m := range userIdentity(row.Value).members() {
			known[userName(m)] = true
		}
	}
	var bound []model.Row[*swanherdv1.User]
	for row := range snap.RoleBindings.All() {
		member := row.Value.GetMember()
		if name := userName(member); !strings.HasPrefix(member, "group:") && !known[name] {
			known[name] = true
			bound = append(bound, model.Row[*swanherdv1.User]{Name: name, Value: &swanherdv1.User{Name: name, Member: member}, Revision: row.Revision})
		}
	}
	return snap.Users.Apply(bound, nil)
}

// userIdentity is the person as it was at its last sign-in.
func userIdentity(u *swanherdv1.User) *identity {
	kind, value, _ := strings.Cut(u.GetMember(), ":")
	switch kind {
	case "subject":
		return &identity{subject: value, email: u.GetEmail(), groups: u.GetGroups()}
	case "email":
		return &identity{email: strings.ToLower(value)}
	}
	if len(u.GetCertificateNames()) == 0 { // not seen yet
		return &identity{certificate: []string{u.GetMember()}}
	}
	return &identity{certificate: u.GetCertificateNames()}
}

// ShownUser is a user with the roles and the tokens of the moment.
func (k *Keeper) ShownUser(snap *store.Snapshot, u *swanherdv1.User) *swanherdv1.User {
	out, who := proto.CloneOf(u), userIdentity(u)
	for _, g := range grantsOf(snap, who) {
		out.Grants = append(out.Grants, &swanherdv1.RoleGrant{Role: g.Role, Networks: g.Networks, MatchLabels: g.Labels})
	}
	for row := range snap.APITokens.All() {
		if slices.Contains(who.members(), row.Value.GetActor()) {
			out.ApiTokens = append(out.ApiTokens, row.Name)
		}
	}
	return out
}

// DisableUser is somebody locked out, with the transaction that does so, and that deletes the
// API tokens that they made if that is asked for.
func (k *Keeper) DisableUser(ctx context.Context, req *swanherdv1.DisableUserRequest) (*swanherdv1.User, *store.Txn, error) {
	out, t, err := k.changeUser(ctx, req.GetName(), "user.disable", func(snap *store.Snapshot, t *store.Txn, u *swanherdv1.User) (string, error) {
		p := PrincipalFrom(ctx)
		if p.identity != nil && slices.ContainsFunc(p.identity.members(), func(m string) bool { return userName(m) == u.GetName() }) {
			return "", status.Errorf(codes.FailedPrecondition, "%s is you; let another administrator do it", u.GetMember())
		}
		u.Disabled, u.DisableTime, u.DisabledBy, u.DisableReason = true, timestamppb.Now(), p.Actor, req.GetReason()
		message := req.GetReason()
		if !req.GetDeleteApiTokens() {
			return message, nil
		}
		tokens := k.ShownUser(snap, u).GetApiTokens()
		if len(tokens) > maxRemovals {
			return "", status.Errorf(codes.ResourceExhausted, "%s made %d API tokens; delete some of them first", u.GetMember(), len(tokens))
		}
		for _, name := range tokens {
			row, _ := snap.APITokens.Get(name)
			if err := k.keepAdministrator(t, row.Value.GetToken()); err != nil {
				return "", err
			}
			k.store.APITokens.DeleteIn(t, name, row.Revision)
			k.store.TokenUses.DropIn(t, name)
			k.store.AppendEventIn(t, store.NoNetwork, Audit(p.Actor, name, "apiToken.delete", u.GetMember()+", who made it, is locked out"))
		}
		return strings.TrimPrefix(fmt.Sprintf("%s; %d API tokens deleted", message, len(tokens)), "; "), nil
	})
	if err == nil && req.GetDeleteApiTokens() {
		out.ApiTokens = nil
	}
	return out, t, err
}

// EnableUser is somebody let in again, with the transaction that does so.
func (k *Keeper) EnableUser(ctx context.Context, name string) (*swanherdv1.User, *store.Txn, error) {
	return k.changeUser(ctx, name, "user.enable", func(_ *store.Snapshot, _ *store.Txn, u *swanherdv1.User) (string, error) {
		u.Disabled, u.DisableTime, u.DisabledBy, u.DisableReason = false, nil, "", ""
		return "", nil
	})
}

func (k *Keeper) changeUser(ctx context.Context, name, action string, f func(*store.Snapshot, *store.Txn, *swanherdv1.User) (string, error)) (*swanherdv1.User, *store.Txn, error) {
	snap := k.store.CatchUp(ctx)
	row, ok := k.Users(snap).Get(name)
	if !ok {
		return nil, nil, status.Errorf(codes.NotFound, "%s does not exist", name)
	}
	next, t := proto.CloneOf(row.Value), k.store.Txn()
	message, err := f(snap, t, next)
	if err != nil {
		return nil, nil, err
	}
	stored, exists := snap.Users.Get(name)
	switch seen := next.GetLastSignInTime() != nil; {
	case exists && !seen && !next.GetDisabled(): // nothing is left to remember
		k.store.Users.DeleteIn(t, name, stored.Revision)
	case exists:
		k.store.Users.UpdateIn(t, name, next, stored.Revision)
	case next.GetDisabled():
		k.store.Users.CreateIn(t, name, next)
	}
	if message != "" {
		message = ": " + message
	}
	k.store.AppendEventIn(t, store.NoNetwork, Audit(PrincipalFrom(ctx).Actor, name, action, next.GetMember()+message))
	return k.ShownUser(snap, next), t, nil
}
