package access

import (
	"context"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/store"
)

// UserAgentHeader carries what a REST client called itself. Whoever sets it says no more
// than with a user agent of its own.
const UserAgentHeader = "swanherd-user-agent"

// maxUserAgent bounds what is kept of it, in octets.
const maxUserAgent = 200

// withSource returns a context whose changes are audited as coming from the call. r is
// its request; nil: there is none yet.
func (g *Guard) withSource(ctx context.Context, method string, r proto.Message) context.Context {
	source := &swanherdv1.EventSource{Credential: credential(ctx), UserAgent: userAgent(ctx), Method: method}
	if a := g.source(ctx); a.IsValid() {
		source.Address = a.Unmap().String()
	}
	if r != nil {
		if f := r.ProtoReflect().Descriptor().Fields().ByName("request_id"); f != nil && f.Kind() == protoreflect.StringKind {
			source.RequestId = r.ProtoReflect().Get(f).String()
		}
	}
	return store.WithSource(ctx, source)
}

// credential is what the caller proved to be with.
func credential(ctx context.Context) string {
	if p, ok := ctx.Value(principalKey{}).(Principal); ok {
		return p.Actor
	}
	if id, err := EdgeFrom(ctx); err == nil {
		return "certificate:" + id.Serial()
	}
	return ""
}

func userAgent(ctx context.Context) string {
	for _, header := range []string{UserAgentHeader, "user-agent"} {
		if values := metadata.ValueFromIncomingContext(ctx, header); len(values) > 0 {
			return PlainUserAgent(values[0])
		}
	}
	return ""
}

// PlainUserAgent is what a client calls itself, of printable ASCII and no great length.
func PlainUserAgent(text string) string { return PlainText(text, maxUserAgent) }

// PlainText is a text of at most so many octets, without what is not printable ASCII.
func PlainText(text string, most int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text[:min(len(text), most)])
}
