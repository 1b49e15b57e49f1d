package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newUser(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "People who have signed in or have a role by name, and who is locked out"}
	cmd.AddCommand(newUserList(s), newUserDisable(s), newUserEnable(s))
	return cmd
}

func newUserList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List people, their roles, and when they signed in last", Args: cobra.NoArgs,
		RunE: s.connected(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, userKind(), listing{})
		}),
	}
}

func userKind() kind {
	return kind{
		plural: "users", singular: "user", segment: "users", root: true,
		header: []string{"MEMBER", "EMAIL", "ROLES", "LAST SIGN-IN", "FROM", "API TOKENS", "STATE"},
		row: func(m proto.Message, now time.Time) []string {
			u := m.(*swanherdv1.User)
			var roles []string
			for _, g := range u.GetGrants() {
				roles = append(roles, fmt.Sprintf("%s in %s", strings.ToLower(enumWord(g.GetRole())), whereText(g.GetNetworks(), g.GetMatchLabels())))
			}
			state := "enabled"
			if u.GetDisabled() {
				state = "disabled by " + u.GetDisabledBy()
			}
			return []string{
				u.GetMember(), u.GetEmail(), strings.Join(roles, "; "), age(u.GetLastSignInTime(), now), u.GetLastSignInAddress(),
				fmt.Sprint(len(u.GetApiTokens())), state,
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.users.ListUsers(ctx, &swanherdv1.ListUsersRequest{PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.users.GetUser(ctx, &swanherdv1.GetUserRequest{Name: name})
		},
	}
}

// userNamed finds the user that somebody calls by member, e-mail address or name.
func userNamed(ctx context.Context, c *client, called string) (*swanherdv1.User, error) {
	var found []*swanherdv1.User
	for token := ""; ; {
		page, err := c.users.ListUsers(ctx, &swanherdv1.ListUsersRequest{PageSize: pageSize, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, u := range page.GetUsers() {
			if u.GetName() == called || strings.EqualFold(u.GetMember(), called) || strings.EqualFold(u.GetMember(), "email:"+called) ||
				u.GetEmail() != "" && strings.EqualFold(u.GetEmail(), strings.TrimPrefix(called, "email:")) {
				found = append(found, u)
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	switch len(found) {
	case 0:
		return nil, usagef("nobody is known as %q; see `swanherd user list`", called)
	case 1:
		return found[0], nil
	}
	return nil, usagef("%d people are known as %q; name one by its member, as in `swanherd user list`", len(found), called)
}

func newUserDisable(s *session) *cobra.Command {
	req := &swanherdv1.DisableUserRequest{}
	cmd := &cobra.Command{
		Use: "disable MEMBER", Short: "Lock somebody out, at once", Args: exactly(1, "whom, as `user list` shows it, or an e-mail address"),
		Example: "  swanherd user disable alice@example.net --reason left --delete-tokens",
		RunE: s.connected(func(cmd *cobra.Command, c *client, args []string) error {
			u, err := userNamed(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			req.Name = u.GetName()
			if u, err = c.users.DisableUser(cmd.Context(), req); err != nil {
				return err
			}
			return s.printUser(u, fmt.Sprintf("%s is locked out; %d API tokens that it made go on", u.GetMember(), len(u.GetApiTokens())))
		}),
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for the audit log")
	cmd.Flags().BoolVar(&req.DeleteApiTokens, "delete-tokens", false, "delete the API tokens, too, that they made")
	return cmd
}

func newUserEnable(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "enable MEMBER", Short: "Let somebody in again", Args: exactly(1, "whom, as `user list` shows it, or an e-mail address"),
		RunE: s.connected(func(cmd *cobra.Command, c *client, args []string) error {
			u, err := userNamed(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if u, err = c.users.EnableUser(cmd.Context(), &swanherdv1.EnableUserRequest{Name: u.GetName()}); err != nil {
				return err
			}
			return s.printUser(u, u.GetMember()+" may sign in")
		}),
	}
}

func (s *session) printUser(u *swanherdv1.User, text string) error {
	if s.output != "table" {
		return s.printMessage(u)
	}
	fmt.Fprintln(s.Out, text)
	return nil
}
