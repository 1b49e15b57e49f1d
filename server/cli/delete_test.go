package cli

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Whatever is deleted with --dry-run is not, and with --allow-missing need not be there.
func TestDeletesOfEveryKindTakeTheirFlags(t *testing.T) {
	var asked proto.Message
	record := func(_ context.Context, _ string, req, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
		asked = req.(proto.Message)
		return nil
	}
	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(record))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, deleted := clientOf(conn), 0
	for _, k := range kinds() {
		if k.remove == nil {
			continue
		}
		deleted++
		for _, want := range []removal{{name: "a/b"}, {name: "a/b", dryRun: true}, {name: "a/b", missing: true}} {
			if err := k.remove(t.Context(), c, want); err != nil {
				t.Error(err)
			}
			r := asked.ProtoReflect()
			has := func(field protoreflect.Name) bool { return r.Get(r.Descriptor().Fields().ByName(field)).Bool() }
			if has("validate_only") != want.dryRun || has("allow_missing") != want.missing {
				t.Errorf("%s: of %+v the controller is told %v", k.plural, want, asked)
			}
		}
	}
	if deleted < 8 {
		t.Errorf("%d kinds are deleted", deleted)
	}
}
