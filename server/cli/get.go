package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func newGet(s *session) *cobra.Command {
	var want listing
	var watch bool
	cmd := &cobra.Command{
		Use:   "get KIND [NAME ...]",
		Short: "List resources, or show the named ones",
		Example: "  swanherd get tunnels --filter 'status != UP'\n  swanherd get sites --filter 'labels.region = emea' --order-by 'create_time desc'\n" +
			"  swanherd get site berlin oslo -o yaml\n  swanherd get sites --watch",
		Args: atLeast(1, "a kind"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := findKind(args[0])
			if err != nil {
				return err
			}
			c, err := s.dialKind(k)
			if err != nil {
				return err
			}
			defer c.close()
			switch {
			case watch && (len(args) > 1 || want != (listing{})):
				return usagef("--watch is for all of a kind; leave names, --filter and --order-by out")
			case watch:
				return s.follow(cmd.Context(), c, k)
			case len(args) == 1:
				return s.list(cmd.Context(), c, k, want)
			}
			if want != (listing{}) {
				return usagef("--filter and --order-by are for lists; leave them or the names out")
			}
			return s.getEach(cmd.Context(), c, k, args[1:])
		},
	}
	cmd.Flags().StringVar(&want.filter, "filter", "", "which ones, as in `labels.region = \"emea\" AND prefixes:\"10.1.*\"` (AIP-160)")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show what there is, then each change, until interrupted")
	cmd.Flags().StringVar(&want.orderBy, "order-by", "", "fields to order by, as in `create_time desc, name`")
	return cmd
}

// dialKind needs a network only for kinds that live in one.
func (s *session) dialKind(k kind) (*client, error) {
	if k.root {
		return s.dial()
	}
	return s.dialNetwork()
}

func (s *session) list(ctx context.Context, c *client, k kind, want listing) error {
	var all proto.Message
	for {
		page, err := k.list(ctx, c, want)
		if err != nil {
			return err
		}
		want.token = takePageToken(page)
		if all == nil {
			all = page
		} else {
			proto.Merge(all, page)
		}
		if want.token == "" {
			break
		}
	}
	if s.output != "table" {
		return s.printMessage(all)
	}
	t := newTable(s.Out, k.header...)
	now := time.Now()
	for _, m := range items(all) {
		t.row(k.row(m, now)...)
	}
	return t.flush()
}

// takePageToken returns the page token of a List answer and clears it, so that
// pages merge into one answer.
func takePageToken(page proto.Message) string {
	r := page.ProtoReflect()
	field := r.Descriptor().Fields().ByName("next_page_token")
	token := r.Get(field).String()
	r.Clear(field)
	return token
}

// items returns the resources of a List answer: its repeated message field.
func items(page proto.Message) []proto.Message {
	var out []proto.Message
	page.ProtoReflect().Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if d.IsList() && d.Kind() == protoreflect.MessageKind {
			for i := range v.List().Len() {
				out = append(out, v.List().Get(i).Message().Interface())
			}
		}
		return true
	})
	return out
}

func (s *session) getEach(ctx context.Context, c *client, k kind, ids []string) error {
	t := newTable(io.Discard)
	if s.output == "table" {
		t = newTable(s.Out, k.header...)
	}
	for _, id := range ids {
		name, err := k.name(c, id)
		if err != nil {
			return err
		}
		m, err := k.get(ctx, c, name)
		if err != nil {
			return err
		}
		if s.output != "table" {
			if err := s.printMessage(m); err != nil {
				return err
			}
			continue
		}
		t.row(k.row(m, time.Now())...)
	}
	return t.flush()
}

func newDescribe(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "describe KIND NAME", Short: "Show everything about one resource", Args: exactly(2, "a kind and a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := findKind(args[0])
			if err != nil {
				return err
			}
			c, err := s.dialKind(k)
			if err != nil {
				return err
			}
			defer c.close()
			name, err := k.name(c, args[1])
			if err != nil {
				return err
			}
			m, err := k.get(cmd.Context(), c, name)
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printMessage(m)
			}
			describe(s.Out, m.ProtoReflect(), "")
			return nil
		},
	}
}

// describe writes the populated fields of m, one a line, nested ones indented.
func describe(out io.Writer, m protoreflect.Message, indent string) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		d := fields.Get(i)
		if !m.Has(d) {
			continue
		}
		label, v := strings.ReplaceAll(string(d.Name()), "_", " "), m.Get(d)
		switch {
		case d.IsMap():
			fmt.Fprintf(out, "%s%s:\n", indent, label)
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				fmt.Fprintf(out, "%s  %s: %s\n", indent, safe(k.String()), safe(v.String()))
				return true
			})
		case d.IsList():
			fmt.Fprintf(out, "%s%s:\n", indent, label)
			for i := range v.List().Len() {
				describeValue(out, d, v.List().Get(i), indent, "-")
			}
		default:
			describeValue(out, d, v, indent, label+":")
		}
	}
}

func describeValue(out io.Writer, d protoreflect.FieldDescriptor, v protoreflect.Value, indent, label string) {
	switch d.Kind() {
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *timestamppb.Timestamp:
			fmt.Fprintf(out, "%s%s %s (%s)\n", indent, label, m.AsTime().Format(time.RFC3339), age(m, time.Now()))
		case *durationpb.Duration:
			fmt.Fprintf(out, "%s%s %s\n", indent, label, m.AsDuration())
		default:
			fmt.Fprintf(out, "%s%s\n", indent, label)
			describe(out, v.Message(), indent+"  ")
		}
	case protoreflect.EnumKind:
		value := d.Enum().Values().ByNumber(v.Enum())
		if value == nil {
			fmt.Fprintf(out, "%s%s %d\n", indent, label, v.Enum())
			return
		}
		prefix := screamingSnake(string(d.Enum().Name())) + "_"
		fmt.Fprintf(out, "%s%s %s\n", indent, label, strings.TrimPrefix(string(value.Name()), prefix))
	default:
		fmt.Fprintf(out, "%s%s %s\n", indent, label, safe(v.String()))
	}
}

func newDelete(s *session) *cobra.Command {
	var want removal
	cmd := &cobra.Command{
		Use: "delete KIND NAME ...", Short: "Delete resources", Args: atLeast(2, "a kind and names"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := findKind(args[0])
			if err != nil {
				return err
			}
			switch {
			case k.plural == "tunnels":
				return usagef("tunnels are planned from meshes and cannot be deleted; change the mesh or its sites")
			case k.remove == nil:
				return usagef("%s are not deleted with this command; see `swanherd --help`", k.plural)
			}
			c, err := s.dialKind(k)
			if err != nil {
				return err
			}
			defer c.close()
			for _, id := range args[1:] {
				name, err := k.name(c, id)
				if err != nil {
					return err
				}
				want.name = name
				if err := k.remove(cmd.Context(), c, want); err != nil {
					return err
				}
				if err := s.printDeleted(name, want.dryRun); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&want.missing, "allow-missing", false, "what is not there is no error")
	cmd.Flags().BoolVar(&want.dryRun, "dry-run", false, "check only; delete nothing")
	return cmd
}
