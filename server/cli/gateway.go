package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func gatewayKind() kind {
	return kind{
		plural: "gateways", singular: "gateway", segment: "gateways",
		header: []string{"NAME", "ADDRESS", "IDENTITY", "AUTH", "ROUTING", "PROFILE", "EDGES", "PREFIXES", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			g := m.(*swanherdv1.Gateway)
			auth := "certificate"
			if psk := g.GetPreSharedKey(); psk != nil {
				auth = "psk " + base(psk.GetKey())
			}
			routing := "policy"
			if g.GetRouting() == swanherdv1.GatewayRouting_GATEWAY_ROUTING_ROUTE {
				routing = "route"
			}
			var edges []string
			for _, a := range g.GetAttachments() {
				edges = append(edges, cmp.Or(base(a.GetEdge()), labels(a.GetSites().GetMatchLabels())))
			}
			return []string{
				base(g.GetName()), g.GetAddress(), cmp.Or(g.GetIdentity(), g.GetAddress()), auth, routing, base(g.GetProfile()),
				strings.Join(edges, ","), strings.Join(g.GetPrefixes(), ","), age(g.GetCreateTime(), now),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListGateways(ctx, &swanherdv1.ListGatewaysRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetGateway(ctx, &swanherdv1.GetGatewayRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeleteGateway(ctx, &swanherdv1.DeleteGatewayRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

func pskKind() kind {
	return kind{
		plural: "psks", singular: "psk", segment: "preSharedKeys",
		header: []string{"NAME", "DISPLAY NAME", "LABELS", "SET", "AGE"},
		row: func(m proto.Message, now time.Time) []string {
			k := m.(*swanherdv1.PreSharedKey)
			return []string{base(k.GetName()), k.GetDisplayName(), labels(k.GetLabels()), age(k.GetSecretTime(), now), age(k.GetCreateTime(), now)}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.topology.ListPreSharedKeys(ctx, &swanherdv1.ListPreSharedKeysRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.topology.GetPreSharedKey(ctx, &swanherdv1.GetPreSharedKeyRequest{Name: name})
		},
		remove: func(ctx context.Context, c *client, want removal) error {
			_, err := c.topology.DeletePreSharedKey(ctx, &swanherdv1.DeletePreSharedKeyRequest{Name: want.name, AllowMissing: want.missing, ValidateOnly: want.dryRun})
			return err
		},
	}
}

// gatewayFormats are the forms of a gateway's configuration by their words.
var gatewayFormats = map[string]swanherdv1.GatewayConfigFormat{
	"strongswan":  swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_STRONGSWAN,
	"cisco-iosxe": swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_CISCO_IOSXE,
	"fortios":     swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_FORTIOS,
	"juniper":     swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_JUNIPER,
	"aws":         swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_AWS,
	"azure":       swanherdv1.GatewayConfigFormat_GATEWAY_CONFIG_FORMAT_AZURE,
}

func formatWords() string {
	words := make([]string, 0, len(gatewayFormats))
	for w := range gatewayFormats {
		words = append(words, w)
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

func newGateway(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "gateway", Short: "Third-party IPsec gateways"}
	format := ""
	config := &cobra.Command{
		Use: "config NAME --format FORMAT", Args: exactly(1, "a gateway"),
		Short:   "Print the configuration of the gateway itself, for what the edges negotiate",
		Example: "  swanherd gateway config partner --format strongswan > swanctl.conf",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			wanted, ok := gatewayFormats[format]
			if !ok {
				return usagef("no format %q; there are %s", format, formatWords())
			}
			name, err := gatewayKind().name(c, args[0])
			if err != nil {
				return err
			}
			out, err := c.topology.RenderGatewayConfig(cmd.Context(), &swanherdv1.RenderGatewayConfigRequest{Name: name, Format: wanted})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(out)
			}
			for _, w := range out.GetWarnings() {
				fmt.Fprintln(s.Err, "note:", safe(w))
			}
			if len(out.GetPlaceholders()) > 0 {
				fmt.Fprintln(s.Err, "fill in:", strings.Join(out.GetPlaceholders(), ", "))
			}
			_, err = io.WriteString(s.Out, out.GetConfig())
			return err
		}),
	}
	config.Flags().StringVar(&format, "format", "", "whose configuration: "+formatWords())
	cmd.AddCommand(config)
	return cmd
}

func newPSK(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "psk", Short: "Pre-shared keys of gateways",
		Long: "Pre-shared keys of gateways. The controller keeps them sealed and gives them to the edges\nthat need them; it never shows them.",
	}
	cmd.AddCommand(s.mayDryRun(newPSKSet(s, "create", "Make a pre-shared key")),
		s.mayDryRun(newPSKSet(s, "set", "Give a pre-shared key another secret; its tunnels authenticate anew")))
	return cmd
}

// newPSKSet is psk create or psk set.
func newPSKSet(s *session, verb, short string) *cobra.Command {
	file, generate := "", false
	var match map[string]string
	cmd := &cobra.Command{
		Use: verb + " NAME (--file FILE | --generate)", Short: short, Args: exactly(1, "a name"),
		Example: "  swanherd psk " + verb + " partner --file partner.psk\n  swanherd psk " + verb + " partner --generate   # prints it, once",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := pskKind().name(c, args[0])
			if err != nil {
				return err
			}
			secret, err := s.readSecret(file, generate)
			if err != nil {
				return err
			}
			key := &swanherdv1.PreSharedKey{Name: name, Secret: secret, Labels: match}
			if verb == "create" {
				key, err = c.topology.CreatePreSharedKey(cmd.Context(), &swanherdv1.CreatePreSharedKeyRequest{Parent: c.parent, PreSharedKeyId: base(name), PreSharedKey: key})
			} else {
				key, err = c.topology.UpdatePreSharedKey(cmd.Context(), &swanherdv1.UpdatePreSharedKeyRequest{
					PreSharedKey: key, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"secret"}},
				})
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(s.Err, "%s: set\n", key.GetName())
			if generate && !s.dryRun {
				fmt.Fprintln(s.Out, secret)
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&file, "file", "", "file with the key; - for standard input; a newline at its end is not part of it")
	cmd.Flags().BoolVar(&generate, "generate", false, "make a random one and print it; it is not shown again")
	if verb == "create" {
		cmd.Flags().StringToStringVarP(&match, "labels", "l", nil, "whose it is: who has a role for what carries these labels may use it, key=value")
	}
	return cmd
}

// secretOctets is how long a key is that is made here.
const secretOctets = 32

// readSecret reads a key, or makes one.
func (s *session) readSecret(file string, generate bool) (string, error) {
	if (file == "") == !generate {
		return "", usagef("give the key with --file, or have one made with --generate")
	}
	if generate {
		b := make([]byte, secretOctets)
		rand.Read(b)
		return base64.RawURLEncoding.EncodeToString(b), nil
	}
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(io.LimitReader(s.In, 4096))
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return "", usagef("read the key: %w", err)
	}
	return string(bytes.TrimRight(b, "\r\n")), nil
}
