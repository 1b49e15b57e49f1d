package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// credential is the file that the controller writes at its first start.
type credential struct {
	Server string `json:"server"`
	CAPin  string `json:"ca_pin"`
	Token  string `json:"token"`
}

func newLogin(s *session) *cobra.Command {
	var x Context
	var file, caFile string
	var withOIDC, device bool
	cmd := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Sign in to a controller and remember it as a context",
		Long: `Sign in to a controller and remember it as a context.

At its first start the controller writes a credential file and prints the same:
its address, the pin of its authority's key, and an administrator's token.

With --oidc you sign in with your organisation's identity provider, in a browser of
this machine, or with --device in one of any other. The sign-in is renewed by itself
for as long as the provider lets it, and ends with "swanherd logout".`,
		Example: "  swanherd login --credential /var/lib/swanherd/admin-credential\n" +
			"  swanherd login ctrl.example.net:7443 --ca-pin sha256:... --token swa_...\n" +
			"  swanherd login ctrl.example.net:7443 --ca-pin sha256:... --oidc\n" +
			"  swanherd login ctrl.example.net:7443 --ca-pin sha256:... --certificate me.pem --key me.key",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("login takes one server; see `%s --help`", cmd.CommandPath())
			}
			if file != "" {
				c, err := ReadCredential(file)
				if err != nil {
					return err
				}
				x.Server, x.CAPin, x.Token = c.Server, c.CAPin, c.Token
			}
			if len(args) == 1 {
				x.Server = args[0]
			}
			if err := x.useCertificate(); err != nil {
				return err
			}
			if x.Server == "" || x.CAPin == "" || x.Token == "" && x.Certificate == "" && !withOIDC {
				return usagef("give --credential FILE, or SERVER with --ca-pin, and --token, --oidc or --certificate")
			}
			x.Network = strings.TrimPrefix(s.network, "networks/")
			if withOIDC {
				if err := s.signIn(cmd.Context(), &x, caFile, device); err != nil {
					return err
				}
			}
			return s.login(cmd, &x)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "credential", "", "credential file that the controller wrote")
	flags.StringVar(&x.Name, "name", "default", "name of the context")
	flags.StringVar(&x.CAPin, "ca-pin", "", "pin of the controller authority's key, sha256:...")
	flags.StringVar(&x.Token, "token", "", "API token; better from the environment variable SWANHERD_TOKEN")
	flags.StringVar(&x.Certificate, "certificate", "", "PEM file of a client certificate to sign in with")
	flags.StringVar(&x.Key, "key", "", "PEM file of its key")
	flags.BoolVar(&withOIDC, "oidc", false, "sign in with the identity provider, in a browser")
	flags.BoolVar(&device, "device", false, "with --oidc: in a browser of another device")
	flags.StringVar(&caFile, "oidc-ca", "", "PEM file of the authorities of the identity provider's certificate (default the system's)")
	cmd.PreRun = func(*cobra.Command, []string) {
		if x.Token == "" {
			x.Token = os.Getenv("SWANHERD_TOKEN")
		}
	}
	return cmd
}

// useCertificate makes the context one that signs in with its client certificate, if it
// has one.
func (x *Context) useCertificate() (err error) {
	if (x.Certificate == "") != (x.Key == "") {
		return usagef("--certificate and --key go together; give both")
	}
	if x.Certificate == "" {
		return nil
	}
	x.Token = "" // the environment's, or none: a token would count, not the certificate
	if x.Certificate, err = filepath.Abs(x.Certificate); err != nil {
		return err
	}
	x.Key, err = filepath.Abs(x.Key)
	return err
}

// ReadCredential reads the file that the controller writes at its first start.
func ReadCredential(file string) (*Context, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, usagef("read credential: %w", err)
	}
	var c credential
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, usagef("%s: %w", file, err)
	}
	return &Context{Server: c.Server, CAPin: c.CAPin, Token: c.Token}, nil
}

// signIn makes the context one of a person who signs in with the identity provider.
func (s *session) signIn(ctx context.Context, x *Context, caFile string, device bool) error {
	x.Token = ""
	session, err := identityProvider(ctx, x)
	if err != nil {
		return err
	}
	if caFile != "" {
		if session.CAFile, err = filepath.Abs(caFile); err != nil {
			return err
		}
	}
	x.OIDC = session
	if device {
		return s.signInByDevice(ctx, session)
	}
	return s.signInByBrowser(ctx, session)
}

func newLogout(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the current context and what it signs in with", Args: cobra.NoArgs,
		Long: `Forget the current context and what it signs in with.

A sign-in with the identity provider is ended there too, if it can. An API token stays
good, as others may use it: "swanherd apitoken delete self" ends it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(s.configFile)
			if err != nil {
				return err
			}
			x, err := cfg.find(s.context)
			if err != nil {
				return err
			}
			cfg.remove(x.Name)
			if err := cfg.save(s.configFile); err != nil {
				return err
			}
			if x.OIDC != nil {
				if err := x.OIDC.revoke(cmd.Context()); err != nil {
					fmt.Fprintf(s.Err, "warning: the sign-in is forgotten here, but the identity provider may not know: %v\n", err)
				}
			}
			fmt.Fprintf(s.Err, "signed out of %s, context %q is forgotten\n", x.Server, x.Name)
			return nil
		},
	}
}

// login proves the credential before it is stored.
func (s *session) login(cmd *cobra.Command, x *Context) error {
	c, err := s.newClient(x)
	if err != nil {
		return err
	}
	defer c.close()
	who, err := c.access.WhoAmI(cmd.Context(), &swanherdv1.WhoAmIRequest{})
	if err != nil {
		return err
	}
	cfg, err := loadConfig(s.configFile)
	if err != nil {
		return err
	}
	cfg.set(x)
	if err := cfg.save(s.configFile); err != nil {
		return err
	}
	fmt.Fprintf(s.Err, "signed in to %s as %s (%s), context %q\n", x.Server, who.GetActor(), enumWord(who.GetRole()), x.Name)
	return nil
}

func newWhoAmI(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show who the controller takes you for", Args: cobra.NoArgs,
		RunE: s.connected(func(cmd *cobra.Command, c *client, _ []string) error {
			who, err := c.access.WhoAmI(cmd.Context(), &swanherdv1.WhoAmIRequest{})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(who)
			}
			t := newTable(s.Out, "ACTOR", "ROLE", "NETWORKS", "LABELS", "SERVER VERSION")
			for _, g := range who.GetGrants() {
				t.row(who.GetActor(), enumWord(g.GetRole()), orAll(g.GetNetworks()), labels(g.GetMatchLabels()), who.GetServerVersion())
			}
			return t.flush()
		}),
	}
}
