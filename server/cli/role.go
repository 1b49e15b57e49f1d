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

func newRole(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "role", Short: "What people may do who sign in with the identity provider, or with a certificate"}
	cmd.AddCommand(s.mayDryRun(newRoleGrant(s)), newRoleList(s), s.mayDryRun(newRoleRevoke(s)))
	return cmd
}

// parseRole reads a role as people write it.
func parseRole(word string) (swanherdv1.Role, error) {
	role := swanherdv1.Role(swanherdv1.Role_value["ROLE_"+strings.ToUpper(word)])
	if role == swanherdv1.Role_ROLE_UNSPECIFIED {
		return role, usagef("role %q is not one of viewer, operator, admin", word)
	}
	return role, nil
}

// whereText says where a role is for.
func whereText(networks []string, match map[string]string) string {
	if len(match) == 0 {
		return orAll(networks)
	}
	return orAll(networks) + ", for what carries " + labels(match)
}

// networkNames are the names of networks that people may name by their ids alone.
func networkNames(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = "networks/" + strings.TrimPrefix(w, "networks/")
	}
	return out
}

func newRoleGrant(s *session) *cobra.Command {
	binding := &swanherdv1.RoleBinding{}
	cmd := &cobra.Command{
		Use: "grant ROLE MEMBER", Short: "Give a role to a person or a group of the identity provider, or to a name in client certificates", Args: exactly(2, "a role and whom to give it"),
		Example: "  swanherd role grant operator group:noc\n  swanherd role grant viewer email:alice@example.net --in customer-a\n" +
			"  swanherd role grant operator group:noc-emea --in customer-a --labels region=emea\n" +
			"  swanherd role grant operator cert-uri:spiffe://example.net/ci --in customer-a",
		RunE: func(cmd *cobra.Command, args []string) error {
			role, err := parseRole(args[0])
			if err != nil {
				return err
			}
			binding.Role, binding.Member, binding.Networks = role, args[1], networkNames(binding.Networks)
			c, err := s.dial()
			if err != nil {
				return err
			}
			defer c.close()
			made, err := c.bindings.CreateRoleBinding(cmd.Context(), &swanherdv1.CreateRoleBindingRequest{RoleBinding: binding})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(made)
			}
			fmt.Fprintf(s.Out, "%s: %s is %s in %s\n", base(made.GetName()), made.GetMember(), strings.ToLower(enumWord(made.GetRole())), whereText(made.GetNetworks(), made.GetMatchLabels()))
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&binding.Networks, "in", nil, "networks where they have it; none: all")
	flags.StringToStringVarP(&binding.MatchLabels, "labels", "l", nil, "only for what carries these labels, key=value")
	flags.StringVar(&binding.Description, "description", "", "what it is for")
	return cmd
}

func newRoleList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List who has which role, and where", Args: cobra.NoArgs,
		RunE: s.connected(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, bindingKind(), listing{})
		}),
	}
}

func bindingKind() kind {
	return kind{
		plural: "rolebindings", singular: "rolebinding", segment: "roleBindings", root: true,
		header: []string{"NAME", "ROLE", "MEMBER", "NETWORKS", "LABELS", "AGE", "DESCRIPTION"},
		row: func(m proto.Message, now time.Time) []string {
			b := m.(*swanherdv1.RoleBinding)
			return []string{
				base(b.GetName()), enumWord(b.GetRole()), b.GetMember(), orAll(b.GetNetworks()), labels(b.GetMatchLabels()), age(b.GetCreateTime(), now), b.GetDescription(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.bindings.ListRoleBindings(ctx, &swanherdv1.ListRoleBindingsRequest{PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.bindings.GetRoleBinding(ctx, &swanherdv1.GetRoleBindingRequest{Name: name})
		},
	}
}

func newRoleRevoke(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "Take a role away, at once", Args: exactly(1, "the binding's name, as `role list` shows it"),
		RunE: s.connected(func(cmd *cobra.Command, c *client, args []string) error {
			name := "roleBindings/" + strings.TrimPrefix(args[0], "roleBindings/")
			if _, err := c.bindings.DeleteRoleBinding(cmd.Context(), &swanherdv1.DeleteRoleBindingRequest{Name: name}); err != nil {
				return err
			}
			return s.printDeleted(name, s.dryRun)
		}),
	}
}
