package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// reconnectDelay is how long follow waits after a stream broke.
const reconnectDelay = time.Second

func newWatch(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "watch [KIND ...]", Short: "Show tunnels, or resources of these kinds, as they are, then each change, until interrupted",
		Long: "Shows tunnels as they are, then each change, until interrupted; or resources of the kinds named, or of `all` that you may list.",
		Example: "  swanherd watch\n  swanherd watch rollouts alerts jobs\n  swanherd watch enrollmentrequests --network -\n" +
			"  swanherd watch all -o json",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0, len(args) == 1 && (args[0] == "tunnels" || args[0] == "tunnel"):
				return s.followTunnels(cmd.Context())
			case slices.Contains(args, "all") && len(args) > 1:
				return usagef("all are all kinds; leave the others out")
			}
			kinds, err := findFollowed(args)
			if err != nil {
				return err
			}
			dial := s.dialNetwork
			if len(kinds) > 0 && !slices.ContainsFunc(kinds, func(k kind) bool { return !k.root }) {
				dial = s.dial
			}
			c, err := dial()
			if err != nil {
				return err
			}
			defer c.close()
			return s.follow(cmd.Context(), c, kinds...)
		},
	}
}

// findFollowed are the kinds of these words; none for all.
func findFollowed(words []string) (kinds []kind, err error) {
	if slices.Equal(words, []string{"all"}) {
		return nil, nil
	}
	for _, word := range words {
		switch word := strings.ToLower(word); word {
		case "tunnels", "tunnel":
			return nil, usagef("tunnels are watched alone, by `swanherd watch`")
		case authorityKind().plural, authorityKind().singular:
			kinds = append(kinds, authorityKind())
		default:
			k, err := findKind(word)
			if err != nil {
				return nil, err
			}
			kinds = append(kinds, k)
		}
	}
	return kinds, checkFollowed(kinds)
}

// followedKinds are the kinds that the controller tells the changes of, by the collection.
func followedKinds() map[string]kind {
	out := map[string]kind{}
	fields := (&swanherdv1.WatchResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("resource").Fields()
	for i := range fields.Len() {
		collection := collectionOf(fields.Get(i).Message())
		for _, k := range append(kinds(), authorityKind()) {
			if k.segment == collection {
				out[collection] = k
			}
		}
	}
	return out
}

// checkFollowed refuses kinds of whose changes nobody tells.
func checkFollowed(only []kind) error {
	all := followedKinds()
	for _, k := range only {
		if _, ok := all[k.segment]; ok {
			continue
		}
		var words []string
		for _, k := range all {
			words = append(words, k.plural)
		}
		slices.Sort(words)
		return usagef("%s cannot be watched; there are %s, and tunnels by `swanherd watch`", k.plural, strings.Join(words, ", "))
	}
	return nil
}

func collectionOf(d protoreflect.MessageDescriptor) string {
	r, _ := proto.GetExtension(d.Options(), annotations.E_Resource).(*annotations.ResourceDescriptor)
	return r.GetPlural()
}

// follow shows the resources of some kinds, or of all that the caller may list, then each
// change, until ctx ends. A stream that breaks goes on where it was.
func (s *session) follow(ctx context.Context, c *client, only ...kind) error {
	if err := checkFollowed(only); err != nil {
		return err
	}
	req := &swanherdv1.WatchRequest{Parent: c.parent}
	for _, k := range only {
		if !slices.Contains(req.GetKinds(), k.segment) {
			req.Kinds = append(req.Kinds, k.segment)
		}
	}
	if req.Parent == "" {
		req.Parent = "networks/-"
	}
	for {
		err := s.followOnce(ctx, c, req)
		switch {
		case ctx.Err() != nil:
			return nil
		case status.Code(err) == codes.OutOfRange && req.GetResumeToken() != "":
			fmt.Fprintln(s.Err, "away for too long: what follows is all there is")
			req.ResumeToken = ""
		case status.Code(err) != codes.Unavailable:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(reconnectDelay):
		}
	}
}

func (s *session) followOnce(ctx context.Context, c *client, req *swanherdv1.WatchRequest) error {
	stream, err := c.topology.Watch(ctx, req)
	if err != nil {
		return err
	}
	kinds := followedKinds()
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		s.warnStaleStream(m.GetStaleSinceTime(), m.GetKind() == swanherdv1.WatchResponse_KIND_CURRENT)
		if err := s.printFollowed(kinds, m, len(req.GetKinds()) != 1); err != nil {
			return err
		}
		if m.GetResumeToken() != "" {
			req.ResumeToken = m.GetResumeToken()
		}
	}
}

// printFollowed prints a message; named: with the kind, as there are several.
func (s *session) printFollowed(kinds map[string]kind, m *swanherdv1.WatchResponse, named bool) error {
	if s.output != "table" {
		return s.printMessage(m)
	}
	r := followed(m)
	if r == nil {
		return nil
	}
	collection := collectionOf(r.ProtoReflect().Descriptor())
	k, ok := kinds[collection]
	if !ok { // of a controller that is newer
		return nil
	}
	clock, cells := time.Now().Format(time.TimeOnly), k.row(r, time.Now())
	what := "UPSERTED"
	if m.GetKind() == swanherdv1.WatchResponse_KIND_REMOVED {
		name := r.ProtoReflect().Get(r.ProtoReflect().Descriptor().Fields().ByName("name")).String()
		what, cells = "REMOVED ", []string{name} // all that is known of it
	}
	if named {
		what += "  " + k.singular
	}
	_, err := fmt.Fprintf(s.Out, "%s  %s  %s\n", clock, what, safe(strings.Join(cells, "  ")))
	return err
}

// followed is the resource in a message; nil when there is none.
func followed(m *swanherdv1.WatchResponse) proto.Message {
	message := m.ProtoReflect()
	field := message.WhichOneof(message.Descriptor().Oneofs().ByName("resource"))
	if field == nil {
		return nil
	}
	return message.Get(field).Message().Interface()
}

func (s *session) followTunnels(ctx context.Context) error {
	c, err := s.dialNetwork()
	if err != nil {
		return err
	}
	defer c.close()
	stream, err := c.fleet.WatchTunnels(ctx, &swanherdv1.WatchTunnelsRequest{Parent: c.parent})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		s.warnStaleStream(m.GetStaleSinceTime(), m.GetKind() == swanherdv1.WatchTunnelsResponse_KIND_CURRENT)
		if err := s.printWatch(m); err != nil {
			return err
		}
	}
}

func (s *session) printWatch(m *swanherdv1.WatchTunnelsResponse) error {
	if s.output != "table" {
		return s.printMessage(m)
	}
	clock := time.Now().Format(time.TimeOnly)
	t := m.GetTunnel()
	switch m.GetKind() {
	case swanherdv1.WatchTunnelsResponse_KIND_UPSERTED:
		fmt.Fprintf(s.Out, "%s  %-11s %s  %s\n", clock, enumWord(t.GetStatus()), base(t.GetName()), safe(t.GetReason()))
	case swanherdv1.WatchTunnelsResponse_KIND_REMOVED:
		fmt.Fprintf(s.Out, "%s  %-11s %s\n", clock, "REMOVED", base(t.GetName()))
	}
	return nil
}
