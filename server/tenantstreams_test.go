package server_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// What happens in another network comes to nobody who is bound to one, however long they
// watch. Every method that streams is tried, of the own network and of all.
func TestStreamsAreOfOnesOwnNetwork(t *testing.T) {
	c := startController(t)
	own, other := c.populated("networks/alpha"), c.populated("networks/beta")
	token, err := c.access().CreateApiToken(t.Context(), &swanherdv1.CreateApiTokenRequest{ApiToken: &swanherdv1.ApiToken{
		Role: swanherdv1.Role_ROLE_ADMIN, Networks: []string{own.network},
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn := c.dial(token.GetSecret())
	var streams []*watched
	for _, m := range publicMethods(t) {
		if !m.IsStreamingServer() {
			continue
		}
		for _, parent := range []string{own.network, "networks/-"} {
			streams = append(streams, watch(t, conn, m, own, parent))
		}
	}
	if len(streams) < 6 {
		t.Fatalf("%d streams, want those of Watch, WatchFleet and WatchTunnels at least", len(streams))
	}
	for _, s := range []*samples{other, own} { // what the own network shows is after all of the other
		s.happens(c)
	}
	for _, w := range streams {
		w.until("marked", "TUNNEL_STATE_FAILED")
	}
}

// happens changes what there is in the network, and how it is.
func (s *samples) happens(c *controller) {
	c.t.Helper()
	ctx := c.t.Context()
	s.edge.open()
	s.edge.until("berlin--oslo", "berlin--partner.gw")
	s.edge.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	s.edge.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	if _, err := c.topology().UpdateSite(ctx, &swanherdv1.UpdateSiteRequest{
		Site:       &swanherdv1.Site{Name: s.network + "/sites/rome", DisplayName: "marked"},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	}); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.topology().DeleteAssertion(ctx, &swanherdv1.DeleteAssertionRequest{Name: s.network + "/assertions/tills"}); err != nil {
		c.t.Fatal(err)
	}
}

// watched is a stream of one who is bound to networks/alpha.
type watched struct {
	testing.TB
	name  string
	texts chan string
}

func watch(t testing.TB, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, own *samples, parent string) *watched {
	t.Helper()
	w := &watched{TB: t, name: string(m.Name()) + " of " + parent, texts: make(chan string, 1)}
	req := own.request(t, m)
	req.ProtoReflect().Set(req.ProtoReflect().Descriptor().Fields().ByName("parent"), protoreflect.ValueOfString(parent))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fullName(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(req); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	first := newMessage(t, m.Output())
	if err := stream.RecvMsg(first); err != nil { // so it has begun
		t.Fatalf("%s: %v", w.name, err)
	}
	go func() {
		defer close(w.texts)
		for resp := first; ; resp = newMessage(t, m.Output()) {
			if resp != first {
				if err := stream.RecvMsg(resp); err != nil {
					return
				}
			}
			select {
			case w.texts <- prototext.Format(resp):
			case <-ctx.Done():
				return
			}
		}
	}()
	return w
}

// until reads on to a message of the own network that has one of the marks, and wants
// nothing of the other one on the way.
func (w *watched) until(marks ...string) {
	w.Helper()
	for text := range w.texts {
		if strings.Contains(text, "beta") {
			w.Errorf("%s shows what is in another network: %s", w.name, text)
			return
		}
		for _, mark := range marks {
			if strings.Contains(text, mark) && strings.Contains(text, "alpha") {
				return
			}
		}
	}
	w.Errorf("%s shows nothing of what happened in the own network", w.name)
}
