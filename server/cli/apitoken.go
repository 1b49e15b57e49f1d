package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newAPIToken(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "apitoken", Short: "Tokens of operators and of programs that use the API"}
	cmd.AddCommand(newAPITokenCreate(s), newAPITokenList(s), newAPITokenRotate(s), s.mayDryRun(newAPITokenDelete(s)))
	return cmd
}

func newAPITokenCreate(s *session) *cobra.Command {
	token := &swanherdv1.ApiToken{}
	var role string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "create --role ROLE", Short: "Make a token and print it; it is not shown again", Args: cobra.NoArgs,
		Example: "  swanherd apitoken create --role viewer --in customer-a --ttl 720h --description grafana",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if token.Role, err = parseRole(role); err != nil {
				return err
			}
			token.Networks = networkNames(token.Networks)
			if ttl > 0 {
				token.ExpireTime = timestamppb.New(time.Now().Add(ttl))
			}
			c, err := s.dial()
			if err != nil {
				return err
			}
			defer c.close()
			made, err := c.access.CreateApiToken(cmd.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: token})
			if err != nil {
				return err
			}
			return s.printSecret(made)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&role, "role", "", "viewer, operator or admin")
	flags.StringSliceVar(&token.Networks, "in", nil, "networks that it is good for; none: all")
	flags.StringToStringVarP(&token.MatchLabels, "labels", "l", nil, "good only for what carries these labels, key=value")
	flags.StringVar(&token.Description, "description", "", "what it is for")
	flags.DurationVar(&ttl, "ttl", 0, "how long it is good; 0: until it is deleted")
	return cmd
}

func (s *session) printSecret(token *swanherdv1.ApiToken) error {
	if s.output != "table" {
		return s.printMessage(token)
	}
	fmt.Fprintln(s.Err, token.GetName())
	fmt.Fprintln(s.Out, token.GetSecret())
	return nil
}

func newAPITokenList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens; their secrets are not known any more", Args: cobra.NoArgs,
		RunE: s.connected(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, apiTokenKind(), listing{})
		}),
	}
}

func apiTokenKind() kind {
	return kind{
		plural: "apitokens", singular: "apitoken", segment: "apiTokens", root: true,
		header: []string{"NAME", "ROLE", "NETWORKS", "LABELS", "EXPIRES", "LAST USED", "ROTATED", "AGE", "DESCRIPTION"},
		row: func(m proto.Message, now time.Time) []string {
			t := m.(*swanherdv1.ApiToken)
			var networks []string
			for _, n := range t.GetNetworks() {
				networks = append(networks, base(n))
			}
			return []string{
				base(t.GetName()), enumWord(t.GetRole()), strings.Join(networks, ","), labels(t.GetMatchLabels()), age(t.GetExpireTime(), now), age(t.GetLastUsedTime(), now),
				age(t.GetRotateTime(), now), age(t.GetCreateTime(), now), t.GetDescription(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.access.ListApiTokens(ctx, &swanherdv1.ListApiTokensRequest{PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.access.GetApiToken(ctx, &swanherdv1.GetApiTokenRequest{Name: name})
		},
	}
}

func newAPITokenRotate(s *session) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "rotate NAME", Short: "Give a token another secret and print it; self is the one in use", Args: exactly(1, "the token's name"),
		RunE: s.connected(func(cmd *cobra.Command, c *client, args []string) error {
			made, err := c.access.RotateApiToken(cmd.Context(), &swanherdv1.RotateApiTokenRequest{
				Name: apiTokenName(args[0]), Grace: durationpb.New(grace),
			})
			if err != nil {
				return err
			}
			return s.printSecret(made)
		}),
	}
	cmd.Flags().DurationVar(&grace, "grace", 0, "how long the secret before goes on to work")
	return cmd
}

func newAPITokenDelete(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a token; it stops to work at once", Args: exactly(1, "the token's name"),
		RunE: s.connected(func(cmd *cobra.Command, c *client, args []string) error {
			name := apiTokenName(args[0])
			if _, err := c.access.DeleteApiToken(cmd.Context(), &swanherdv1.DeleteApiTokenRequest{Name: name}); err != nil {
				return err
			}
			return s.printDeleted(name, s.dryRun)
		}),
	}
}

func apiTokenName(id string) string { return "apiTokens/" + strings.TrimPrefix(id, "apiTokens/") }
