package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newToken(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Tokens with which edges enrol"}
	cmd.AddCommand(newTokenCreate(s), newTokenList(s), s.mayDryRun(newTokenDelete(s)))
	return cmd
}

func newTokenCreate(s *session) *cobra.Command {
	token := &swanherdv1.EnrollmentToken{}
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "create [--site SITE]", Short: "Make a token and print it; it is not shown again", Args: cobra.NoArgs,
		Example: "  swanherd token create --site berlin\n  swanherd token create --site lab --uses 10 --ttl 72h --approval\n" +
			"  swanherd token create --create-site --uses 500 --from 203.0.113.0/24 --label region=emea   # each edge makes its own site",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if token.Site == "" && !token.CreateSite {
				return usagef("give the site that the edge will serve with --site, or have each edge make its own with --create-site")
			}
			c, err := s.dialNetwork()
			if err != nil {
				return err
			}
			defer c.close()
			if token.Site != "" && !strings.HasPrefix(token.Site, "networks/") {
				token.Site = c.parent + "/sites/" + token.Site
			}
			token.ExpireTime = timestamppb.New(time.Now().Add(ttl))
			return s.createToken(cmd, c, token)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&token.Site, "site", "", "site that edges with this token serve")
	flags.Uint32Var(&token.MaxUses, "uses", 1, "how many edges may use it")
	flags.DurationVar(&ttl, "ttl", 24*time.Hour, "how long it may be used")
	flags.StringVar(&token.Description, "description", "", "what it is for")
	flags.StringSliceVar(&token.AllowedCidrs, "from", nil, "prefixes that edges may call from; none: any")
	flags.BoolVar(&token.ApprovalRequired, "approval", false, "edges wait for `swanherd enrollment approve`")
	flags.BoolVar(&token.AttestationRequired, "attestation", false, "edges have to prove that their key is in a TPM (swanherd-edge --tpm)")
	flags.BoolVar(&token.CreateSite, "create-site", false, "make the site if it is not there; without --site, one for each edge, of its name")
	flags.StringToStringVar(&token.SiteLabels, "label", nil, "label of sites that the token makes, such as region=emea; may be repeated")
	return cmd
}

// createToken makes a token and prints its secret alone, so that it can be piped.
func (s *session) createToken(cmd *cobra.Command, c *client, token *swanherdv1.EnrollmentToken) error {
	made, err := c.access.CreateEnrollmentToken(cmd.Context(), &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: c.parent, EnrollmentToken: token,
	})
	if err != nil {
		return err
	}
	if s.output != "table" {
		return s.printMessage(made)
	}
	fmt.Fprintf(s.Err, "%s: %d use(s), until %s\n", made.GetName(), made.GetMaxUses(), made.GetExpireTime().AsTime().Local().Format(time.DateTime))
	fmt.Fprintln(s.Out, made.GetSecret())
	return nil
}

func newTokenList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens; their secrets are not known any more", Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, tokenKind(), listing{})
		}),
	}
}

func tokenKind() kind {
	return kind{
		plural: "enrollmenttokens", singular: "enrollmenttoken", segment: "enrollmentTokens",
		header: []string{"NAME", "FOR", "USES", "EXPIRES", "FROM", "REQUIRED", "DESCRIPTION"},
		row: func(m proto.Message, now time.Time) []string {
			k := m.(*swanherdv1.EnrollmentToken)
			var required []string
			if k.GetApprovalRequired() {
				required = append(required, "approval")
			}
			if k.GetAttestationRequired() {
				required = append(required, "attestation")
			}
			return []string{
				base(k.GetName()), tokenFor(k), fmt.Sprintf("%d/%d", k.GetUses(), k.GetMaxUses()), age(k.GetExpireTime(), now),
				strings.Join(k.GetAllowedCidrs(), ","), strings.Join(required, ","), k.GetDescription(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.access.ListEnrollmentTokens(ctx, &swanherdv1.ListEnrollmentTokensRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.access.GetEnrollmentToken(ctx, &swanherdv1.GetEnrollmentTokenRequest{Name: name})
		},
	}
}

// tokenFor is what a token is for: a site, the edge whose device is replaced, or sites
// that it makes.
func tokenFor(k *swanherdv1.EnrollmentToken) string {
	switch {
	case k.GetEdge() != "":
		return "edge " + base(k.GetEdge())
	case k.GetSite() != "":
		return "site " + base(k.GetSite())
	default:
		return "new sites"
	}
}

func newTokenDelete(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a token; edges that used it stay", Args: exactly(1, "the token's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := tokenKind().name(c, args[0])
			if err != nil {
				return err
			}
			if _, err := c.access.DeleteEnrollmentToken(cmd.Context(), &swanherdv1.DeleteEnrollmentTokenRequest{Name: name}); err != nil {
				return err
			}
			return s.printDeleted(name, s.dryRun)
		}),
	}
}

func newEvents(s *session) *cobra.Command {
	var limit int32
	var filter string
	cmd := &cobra.Command{
		Use: "events", Short: "Show what happened, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > pageSize {
				return usagef("--limit %d is not within 1 and %d", limit, pageSize)
			}
			c, err := s.dialNetwork()
			if err != nil {
				return err
			}
			defer c.close()
			resp, err := c.fleet.ListEvents(cmd.Context(), &swanherdv1.ListEventsRequest{Parent: c.parent, PageSize: limit, Filter: filter})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(resp)
			}
			t := newTable(s.Out, "TIME", "ACTION", "RESOURCE", "ACTOR", "MESSAGE")
			for _, e := range resp.GetEvents() {
				t.row(e.GetTime().AsTime().Local().Format(time.DateTime), e.GetAction(), e.GetResource(), e.GetActor(), e.GetMessage())
			}
			return t.flush()
		},
	}
	cmd.Flags().Int32Var(&limit, "limit", 50, "how many")
	cmd.Flags().StringVar(&filter, "filter", "", "which ones, as in `action:mesh AND actor = \"token:ops\"` (AIP-160)")
	return cmd
}
