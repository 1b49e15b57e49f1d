package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

func newDevice(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "device", Short: "Hardware that is registered before it is shipped"}
	cmd.AddCommand(s.mayDryRun(newDeviceCreate(s)), s.mayDryRun(newDeviceUpdate(s)), newDeviceList(s), s.mayDryRun(newDeviceDelete(s)))
	return cmd
}

func newDeviceCreate(s *session) *cobra.Command {
	device := &swanherdv1.Device{}
	cmd := &cobra.Command{
		Use: "create SERIAL --site SITE", Short: "Register a device by its serial number: it enrols without a token", Args: exactly(1, "the serial number"),
		Example: "  swanherd device create FGT60F-0042 --site berlin\n  swanherd enrollment list   # it waits there when it calls",
		RunE: func(cmd *cobra.Command, args []string) error {
			if device.Site == "" {
				return usagef("give the site that the device will serve with --site")
			}
			c, err := s.dialNetwork()
			if err != nil {
				return err
			}
			defer c.close()
			device.SerialNumber, device.Site = args[0], siteName(c, device.Site)
			made, err := c.devices.CreateDevice(cmd.Context(), &swanherdv1.CreateDeviceRequest{Parent: c.parent, Device: device})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(made)
			}
			fmt.Fprintf(s.Out, "%s registered\n", made.GetName())
			return nil
		},
	}
	addDeviceFlags(cmd.Flags(), device)
	return cmd
}

func siteName(c *client, word string) string {
	if word == "" || strings.HasPrefix(word, "networks/") {
		return word
	}
	return c.parent + "/sites/" + word
}

// addDeviceFlags adds the flags that are fields of a device, with dashes in their names.
func addDeviceFlags(flags *pflag.FlagSet, device *swanherdv1.Device) {
	flags.StringVar(&device.Site, "site", "", "site that the device will serve")
	flags.StringVar(&device.EdgeId, "edge-id", "", "name of the edge that it becomes; empty: its site's")
	flags.StringVar(&device.Description, "description", "", "what it is")
	flags.StringVar(&device.KeyFingerprint, "key-fingerprint", "", "what `swanherd-edge fingerprint` prints on the device; then nobody has to approve")
	flags.StringVar(&device.EkFingerprint, "ek-fingerprint", "", "what `swanherd-edge fingerprint --ek --tpm DEVICE` prints: the device has to prove that its key is in that TPM, and nobody has to approve")
}

func newDeviceUpdate(s *session) *cobra.Command {
	device, fields := &swanherdv1.Device{}, pflag.NewFlagSet("device", pflag.ContinueOnError)
	cmd := &cobra.Command{
		Use: "update SERIAL|NAME", Short: "Change what is registered of a device; once it is an edge, its description alone", Args: exactly(1, "the device"),
		Example: "  swanherd device update FGT60F-0042 --site oslo --description 'spare, moved'",
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			mask := &fieldmaskpb.FieldMask{}
			fields.VisitAll(func(f *pflag.Flag) {
				if f.Changed {
					mask.Paths = append(mask.Paths, strings.ReplaceAll(f.Name, "-", "_"))
				}
			})
			if len(mask.Paths) == 0 {
				return usagef("give what is to change, such as --site or --description")
			}
			name, err := deviceName(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			device.Name, device.Site = name, siteName(c, device.Site)
			got, err := c.devices.UpdateDevice(cmd.Context(), &swanherdv1.UpdateDeviceRequest{Device: device, UpdateMask: mask})
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(got)
			}
			fmt.Fprintf(s.Out, "%s changed: %s\n", got.GetName(), strings.Join(mask.Paths, ", "))
			return nil
		}),
	}
	addDeviceFlags(fields, device)
	fields.StringVar(&device.SerialNumber, "serial-number", "", "as the vendor printed it")
	cmd.Flags().AddFlagSet(fields)
	return cmd
}

func newDeviceList(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List registered devices", Args: cobra.NoArgs,
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
			return s.list(cmd.Context(), c, deviceKind(), listing{})
		}),
	}
}

func newDeviceDelete(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "delete SERIAL|NAME", Short: "Forget a device; the edge that it became stays", Args: exactly(1, "the device"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := deviceName(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if _, err := c.devices.DeleteDevice(cmd.Context(), &swanherdv1.DeleteDeviceRequest{Name: name}); err != nil {
				return err
			}
			return s.printDeleted(name, s.dryRun)
		}),
	}
}

// deviceName is the name of the device with that serial number, or the name itself.
func deviceName(ctx context.Context, c *client, word string) (string, error) {
	if strings.HasPrefix(word, "networks/") {
		return word, nil
	}
	req := &swanherdv1.ListDevicesRequest{Parent: c.parent, PageSize: pageSize}
	for {
		page, err := c.devices.ListDevices(ctx, req)
		if err != nil {
			return "", err
		}
		for _, d := range page.GetDevices() {
			if strings.EqualFold(d.GetSerialNumber(), word) || base(d.GetName()) == word {
				return d.GetName(), nil
			}
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			return "", usagef("%s has no device with serial number %q", c.parent, word)
		}
	}
}

func newEnrollment(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "enrollment", Short: "Edges that wait for an operator's approval"}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List requests; compare the key with what the edge's log shows", Args: cobra.NoArgs,
			RunE: s.inNetwork(func(cmd *cobra.Command, c *client, _ []string) error {
				return s.list(cmd.Context(), c, requestKind(), listing{})
			}),
		},
		s.decision("approve", "Admit an edge", func(ctx context.Context, c *client, name string) (*swanherdv1.EnrollmentRequest, error) {
			return c.devices.ApproveEnrollmentRequest(ctx, &swanherdv1.ApproveEnrollmentRequestRequest{Name: name})
		}),
		s.decision("deny", "Turn an edge away; the same key may not ask again", func(ctx context.Context, c *client, name string) (*swanherdv1.EnrollmentRequest, error) {
			return c.devices.DenyEnrollmentRequest(ctx, &swanherdv1.DenyEnrollmentRequestRequest{Name: name})
		}),
	)
	return cmd
}

func (s *session) decision(use, short string, decide func(context.Context, *client, string) (*swanherdv1.EnrollmentRequest, error)) *cobra.Command {
	return &cobra.Command{
		Use: use + " REQUEST", Short: short, Args: exactly(1, "the request's name"),
		RunE: s.inNetwork(func(cmd *cobra.Command, c *client, args []string) error {
			name, err := requestKind().name(c, args[0])
			if err != nil {
				return err
			}
			r, err := decide(cmd.Context(), c, name)
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(r)
			}
			fmt.Fprintf(s.Out, "%s, key %s: %s\n", base(r.GetEdge()), r.GetKeyFingerprint(), strings.ToLower(enumWord(r.GetState())))
			return nil
		}),
	}
}

func deviceKind() kind {
	return kind{
		plural: "devices", singular: "device", segment: "devices",
		header: []string{"SERIAL", "SITE", "EDGE", "CLAIMED", "KEY", "TPM", "DESCRIPTION"},
		row: func(m proto.Message, now time.Time) []string {
			d := m.(*swanherdv1.Device)
			return []string{
				d.GetSerialNumber(), base(d.GetSite()), base(d.GetEdge()), age(d.GetClaimTime(), now), shortHash(d.GetKeyFingerprint()), shortHash(d.GetEkFingerprint()), d.GetDescription(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.devices.ListDevices(ctx, &swanherdv1.ListDevicesRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.devices.GetDevice(ctx, &swanherdv1.GetDeviceRequest{Name: name})
		},
	}
}

// tpmOf is the TPM that a key was proved to be in, and who vouches for it.
func tpmOf(tpm *swanherdv1.AttestedTpm) string {
	switch {
	case tpm == nil:
		return ""
	case tpm.GetIssuer() == "":
		return shortHash(tpm.GetEkFingerprint()) + " of unknown make"
	}
	return shortHash(tpm.GetEkFingerprint()) + " by " + tpm.GetIssuer()
}

func requestKind() kind {
	return kind{
		plural: "enrollmentrequests", singular: "enrollmentrequest", segment: "enrollmentRequests",
		header: []string{"REQUEST", "STATE", "EDGE", "SITE", "FROM", "SERIAL", "VERSION", "ASKED", "EXPIRES", "TPM", "KEY FINGERPRINT"},
		row: func(m proto.Message, now time.Time) []string {
			r := m.(*swanherdv1.EnrollmentRequest)
			return []string{
				base(r.GetName()), enumWord(r.GetState()), base(r.GetEdge()), base(r.GetSite()), r.GetSourceAddress(), r.GetSerialNumber(),
				r.GetAgentVersion(), age(r.GetCreateTime(), now), age(r.GetExpireTime(), now), tpmOf(r.GetTpm()), r.GetKeyFingerprint(),
			}
		},
		list: func(ctx context.Context, c *client, want listing) (proto.Message, error) {
			return c.devices.ListEnrollmentRequests(ctx, &swanherdv1.ListEnrollmentRequestsRequest{Parent: c.parent, PageSize: pageSize, PageToken: want.token, Filter: want.filter, OrderBy: want.orderBy})
		},
		get: func(ctx context.Context, c *client, name string) (proto.Message, error) {
			return c.devices.GetEnrollmentRequest(ctx, &swanherdv1.GetEnrollmentRequestRequest{Name: name})
		},
	}
}
