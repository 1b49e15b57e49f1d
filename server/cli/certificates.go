package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newCertificates(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "cert", Short: "Certificates of edges, and revocations"}
	cmd.AddCommand(newCertList(s), newCertRevocations(s))
	return cmd
}

func newCertList(s *session) *cobra.Command {
	var within time.Duration
	cmd := &cobra.Command{
		Use: "list", Short: "List certificates in use, what expires next first", Args: cobra.NoArgs,
		Example: "  swanherd cert list --within 168h",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			want := listing{orderBy: "expire_time"}
			if within > 0 {
				want.filter = fmt.Sprintf("expire_time < %q", time.Now().Add(within).UTC().Format(time.RFC3339))
			}
			return s.list(cmd.Context(), c, certificateKind(), want)
		}),
	}
	cmd.Flags().DurationVar(&within, "within", 0, "only those that expire within this time; 0: all")
	return cmd
}

func certificateKind() kind {
	return kind{
		plural: "certificates", singular: "certificate", segment: "certificates", of: "edges",
		header: []string{"EDGE", "PURPOSE", "EXPIRES", "ISSUER", "SERIAL"},
		row: func(m proto.Message, now time.Time) []string {
			x := m.(*swanherdv1.Certificate)
			return []string{base(x.GetEdge()), enumWord(x.GetPurpose()), age(x.GetExpireTime(), now), shortHash(x.GetIssuerPin()), x.GetSerial()}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.certificates.ListCertificates(ctx, &swanherdv1.ListCertificatesRequest{
				Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy,
			})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.certificates.GetCertificate(ctx, &swanherdv1.GetCertificateRequest{Name: name})
		},
	}
}

// shortHash is enough of a hash for a person to tell one from another.
func shortHash(hash string) string { return hash[:min(len(hash), 16)] }

func newCertRevocations(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "revocations", Short: "List revoked certificates, and how many edges know of each", Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, revocationKind(), listing{})
		}),
	}
}

func revocationKind() kind {
	return kind{
		plural: "revocations", singular: "revocation", segment: "revocations",
		header: []string{"SERIAL", "EDGE", "KNOWN TO", "REVOKED", "EXPIRES", "REASON"},
		row: func(m proto.Message, now time.Time) []string {
			r := m.(*swanherdv1.Revocation)
			return []string{
				base(r.GetName()), base(r.GetEdge()), fmt.Sprintf("%d/%d", r.GetAcknowledged(), r.GetEdges()),
				age(r.GetRevokeTime(), now), age(r.GetExpireTime(), now), r.GetReason(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.certificates.ListRevocations(ctx, &swanherdv1.ListRevocationsRequest{
				Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy,
			})
		},
	}
}

// authorityKind is for who watches: there is one of each network, which `swanherd ca` shows.
func authorityKind() kind {
	return kind{
		plural: "certificateauthorities", singular: "certificateauthority", segment: "certificateAuthorities",
		header: []string{"NAME", "PIN", "EXPIRES", "REPLACEMENT"},
		row: func(m proto.Message, now time.Time) []string {
			a := m.(*swanherdv1.CertificateAuthority)
			replacement := ""
			if r := a.GetRotation(); r != nil {
				replacement = enumWord(r.GetPhase())
			}
			return []string{a.GetName(), shortHash(a.GetPin()), age(a.GetExpireTime(), now), replacement}
		},
	}
}

func newAuthority(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "The authority of a network, or of the controller: show it, and replace it without losing a tunnel"}
	cmd.PersistentFlags().BoolVar(&s.controllerCA, "controller", false, "the controller's own authority, in place of a network's")
	var within, overlap time.Duration
	var external bool
	var signedBy string
	rotate := s.authorityCommand("rotate", "Begin to replace the authority: edges trust both, renew, then the old one is dropped",
		func(cmd *cobra.Command, c *client, name string) (*swanherdv1.CertificateAuthority, error) {
			req := &swanherdv1.RotateCertificateAuthorityRequest{Name: name, External: external, ExternalAuthority: signedBy}
			if within > 0 {
				req.RenewWithin = durationpb.New(within)
			}
			if cmd.Flags().Changed("overlap") {
				req.Overlap = durationpb.New(overlap)
			}
			return c.certificates.RotateCertificateAuthority(cmd.Context(), req)
		})
	rotate.Flags().DurationVar(&within, "renew-within", 0, "time over which edges spread their renewals; 0: as long as so many need")
	rotate.Flags().DurationVar(&overlap, "overlap", 0, "with --controller: how long the old one stays good for what pins it (default 720h)")
	rotate.Flags().BoolVar(&external, "external", false, "an authority of yours signs the new one: it prints what to sign, and `swanherd ca import` goes on")
	rotate.Flags().StringVar(&signedBy, "signed-by", "", "the external authority of this name in the server's configuration signs the new one, and the ones after it")
	cmd.AddCommand(
		newAuthorityImport(s),
		s.authorityCommand("show", "Show the authority, and how far its replacement is",
			func(cmd *cobra.Command, c *client, name string) (*swanherdv1.CertificateAuthority, error) {
				return c.certificates.GetCertificateAuthority(cmd.Context(), &swanherdv1.GetCertificateAuthorityRequest{Name: name})
			}),
		rotate,
		s.authorityCommand("force", "End the phase that a replacement is in without the edges that it waits for; they lose their tunnels",
			func(cmd *cobra.Command, c *client, name string) (*swanherdv1.CertificateAuthority, error) {
				a, err := c.certificates.GetCertificateAuthority(cmd.Context(), &swanherdv1.GetCertificateAuthorityRequest{Name: name})
				if err != nil {
					return nil, err
				}
				if a.GetRotation() == nil {
					return nil, usagef("%s is not being replaced", name)
				}
				return c.certificates.ForceCertificateAuthority(cmd.Context(), &swanherdv1.ForceCertificateAuthorityRequest{
					Name: name, Phase: a.GetRotation().GetPhase(),
				})
			}),
		s.authorityCommand("cancel", "Give a replacement up, as long as the new authority has issued nothing",
			func(cmd *cobra.Command, c *client, name string) (*swanherdv1.CertificateAuthority, error) {
				return c.certificates.CancelCertificateAuthority(cmd.Context(), &swanherdv1.CancelCertificateAuthorityRequest{Name: name})
			}),
	)
	return cmd
}

func (s *session) authorityCommand(use, short string,
	do func(*cobra.Command, *client, string) (*swanherdv1.CertificateAuthority, error),
) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: s.over(s.dialAuthority, func(cmd *cobra.Command, c *client, _ []string) error {
			a, err := do(cmd, c, c.parent)
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(a)
			}
			s.printAuthority(a)
			return nil
		}),
	}
}

// dialAuthority connects for a command about an authority, whose name is the client's parent.
func (s *session) dialAuthority() (*client, error) {
	dial := s.dialNetwork
	if s.controllerCA {
		dial = s.dial
	}
	c, err := dial()
	if err != nil {
		return nil, err
	}
	if c.parent += "/certificateAuthority"; s.controllerCA {
		c.parent = "certificateAuthorities/controller"
	}
	return c, nil
}

func newAuthorityImport(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "Bring what your authority signed: the certificate, then what it chains to, in PEM", Args: exactly(1, "the file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			chain, err := os.ReadFile(args[0])
			if err != nil {
				return usageError{err}
			}
			c, err := s.dialAuthority()
			if err != nil {
				return err
			}
			defer c.close()
			a, err := c.certificates.ImportCertificateAuthority(cmd.Context(), &swanherdv1.ImportCertificateAuthorityRequest{
				Name: c.parent, CertificateChain: string(chain),
			})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(a)
			}
			s.printAuthority(a)
			return nil
		},
	}
}

func (s *session) printAuthority(a *swanherdv1.CertificateAuthority) {
	fmt.Fprintf(s.Out, "%s\n  pin sha256:%s, expires %s\n", a.GetName(), a.GetPin(), a.GetExpireTime().AsTime().Format(time.DateOnly))
	if by := a.GetExternalAuthority(); by != "" {
		fmt.Fprintf(s.Out, "  signed by %s, which is asked for the next one on %s\n", by, a.GetRenewTime().AsTime().Format(time.DateOnly))
	}
	r := a.GetRotation()
	if r == nil {
		return
	}
	if by := r.GetExternalAuthority(); by != "" && r.GetPhase() == swanherdv1.CertificateAuthority_PHASE_AWAITING_CERTIFICATE {
		s.printAsked(r)
		return
	}
	if request := r.GetCertificateRequest(); request != "" {
		fmt.Fprintf(s.Out, "  waits since %s for your authority to sign this, as an authority itself; then `swanherd ca import FILE`\n%s",
			age(r.GetPhaseTime(), time.Now()), request)
		return
	}
	if end := r.GetOverlapEndTime(); end != nil {
		fmt.Fprintf(s.Out, "  being replaced since %s: it issues, and whatever trusts or pins sha256:%s gets in until %s; `swanherd ca force --controller` ends that at once\n"+
			"  %d enrollment tokens that may still be used pin the old one\n  %d of %d edges trust the new one\n",
			age(r.GetStartTime(), time.Now()), r.GetOtherPin(), end.AsTime().Format(time.RFC3339), r.GetEnrollmentTokens(), r.GetDone(), r.GetEdges())
		s.printWaiting(r)
		return
	}
	words := map[swanherdv1.CertificateAuthority_Phase]string{
		swanherdv1.CertificateAuthority_PHASE_DISTRIBUTING: "edges learn to trust sha256:%s beside it",
		swanherdv1.CertificateAuthority_PHASE_REISSUING:    "edges renew certificates of sha256:%s, which goes",
	}
	fmt.Fprintf(s.Out, "  being replaced since %s: "+words[r.GetPhase()]+"\n  %d of %d edges are done\n",
		age(r.GetStartTime(), time.Now()), r.GetOtherPin(), r.GetDone(), r.GetEdges())
	s.printWaiting(r)
}

// printAsked says how far the controller came with an external authority.
func (s *session) printAsked(r *swanherdv1.CertificateAuthority_Rotation) {
	now, f := time.Now(), r.GetSigningFailure()
	fmt.Fprintf(s.Out, "  being replaced since %s: %s is asked to sign the new one\n", age(r.GetStartTime(), now), r.GetExternalAuthority())
	if f != nil {
		fmt.Fprintf(s.Out, "  it did not, %d times since %s: %s\n  it is asked again at %s; or have the request (-o json) signed by hand, and `swanherd ca import FILE`\n",
			f.GetAttempts(), age(f.GetSinceTime(), now), safe(f.GetReason()), f.GetRetryTime().AsTime().Format(time.RFC3339))
	}
}

func (s *session) printWaiting(r *swanherdv1.CertificateAuthority_Rotation) {
	for _, w := range r.GetWaiting() {
		edge, since := base(w.GetEdge()), ""
		if s.controllerCA {
			edge = w.GetEdge() // they are of several networks
		}
		if w.GetSinceTime() != nil {
			since = ", for " + age(w.GetSinceTime(), time.Now())
		}
		fmt.Fprintf(s.Out, "  waiting for %s: %s%s\n", edge, safe(w.GetReason()), since)
	}
}
