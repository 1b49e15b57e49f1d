package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// mayDryRun gives a command the flag --dry-run: all that it asks the controller for is
// checked and not done (AIP-163).
func (s *session) mayDryRun(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&s.dryRun, "dry-run", false, "check only; change nothing")
	return cmd
}

// onlyCheck makes requests of a command with --dry-run ones that check. What changes things
// and cannot be checked is not sent.
func (s *session) onlyCheck(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	verb := method[strings.LastIndexByte(method, '/')+1:]
	if !s.dryRun || strings.HasPrefix(verb, "Get") || strings.HasPrefix(verb, "List") {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	message, ok := req.(proto.Message)
	if !ok {
		return fmt.Errorf("request of %s is no message", method)
	}
	m := message.ProtoReflect()
	field := m.Descriptor().Fields().ByName("validate_only")
	if field == nil {
		return usagef("--dry-run: the controller cannot check %s without doing it", verb)
	}
	m.Set(field, protoreflect.ValueOfBool(true))
	if err := invoke(ctx, method, req, reply, conn, opts...); err != nil {
		return err
	}
	fmt.Fprintln(s.Err, "--dry-run: nothing is changed; without it:")
	return nil
}
