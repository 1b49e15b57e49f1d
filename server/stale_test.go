package server_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/cli"
)

// staleStream is a stream of which is heard whether what it shows may be old.
type staleStream struct {
	testing.TB
	name string
	said chan string
}

// staleStreams opens every stream that shows what is stored, and has them tell everything.
func (c *controller) staleStreams() []*staleStream {
	c.t.Helper()
	topology, err1 := c.topology().Watch(c.t.Context(), &swanherdv1.WatchRequest{Parent: "networks/demo"})
	tunnels, err2 := c.fleet().WatchTunnels(c.t.Context(), &swanherdv1.WatchTunnelsRequest{Parent: "networks/demo"})
	fleet, err3 := c.fleet().WatchFleet(c.t.Context(), &swanherdv1.WatchFleetRequest{Parent: "networks/demo"})
	if err := errors.Join(err1, err2, err3); err != nil {
		c.t.Fatal(err)
	}
	stale := false
	frames := func() (string, *timestamppb.Timestamp, error) { // in the words of the other streams
		frame, err := fleet.Recv()
		was, since := stale, frame.GetStaleSinceTime()
		switch stale = since != nil; {
		case frame.GetSynced():
			return "KIND_SYNCED", since, err
		case stale && !was:
			return "KIND_STALE", since, err
		case was && !stale:
			return "KIND_CURRENT", since, err
		}
		return "", since, err
	}
	out := []*staleStream{
		c.hear("Watch", func() (string, *timestamppb.Timestamp, error) {
			m, err := topology.Recv()
			return m.GetKind().String(), m.GetStaleSinceTime(), err
		}),
		c.hear("WatchTunnels", func() (string, *timestamppb.Timestamp, error) {
			m, err := tunnels.Recv()
			return m.GetKind().String(), m.GetStaleSinceTime(), err
		}),
		c.hear("WatchFleet", frames),
	}
	for _, s := range out {
		s.says(c.t.Context(), "KIND_SYNCED")
	}
	return out
}

func (c *controller) hear(name string, next func() (string, *timestamppb.Timestamp, error)) *staleStream {
	s := &staleStream{c.t, name, make(chan string, 100)}
	go func() {
		for {
			what, since, err := next()
			switch {
			case err != nil:
				s.said <- err.Error()
				return
			case what == "KIND_STALE" && since == nil:
				s.said <- "stale, and not since when"
			case what == "KIND_CURRENT" && since != nil:
				s.said <- "current, and since when it is not"
			case what != "" && what != "KIND_UPSERTED" && what != "KIND_REMOVED":
				s.said <- what
			}
		}
	}()
	return s
}

// says waits for what the stream says next of how old it is.
func (s *staleStream) says(ctx context.Context, want string) {
	s.Helper()
	select {
	case said := <-s.said:
		if said != want {
			s.Errorf("%s says %s, want %s", s.name, said, want)
		}
	case <-ctx.Done():
		s.Errorf("%s does not say %s", s.name, want)
	}
}

// streamsAreStale looks at streams that begin while the store does not answer; the token is
// of a stream before.
func (c *controller) streamsAreStale(ctx context.Context, token string) {
	c.t.Helper()
	req := &swanherdv1.WatchRequest{Parent: "networks/demo", Kinds: []string{"sites", "meshes"}}
	watch, err := c.topology().Watch(ctx, req)
	if err != nil {
		c.t.Fatal(err)
	}
	if header, err := watch.Header(); err != nil || len(header.Get("swanherd-stale-since")) != 1 {
		c.t.Errorf("the stream begins with %v, %v", header, err)
	}
	if m, err := watch.Recv(); m.GetKind() != swanherdv1.WatchResponse_KIND_STALE || time.Since(m.GetStaleSinceTime().AsTime()) > time.Minute {
		c.t.Errorf("the stream says %v, %v", m, err)
	}
	(&watcher{t: c.t, stream: watch}).gets("UPSERTED berlin", "UPSERTED oslo", "UPSERTED rome", "UPSERTED all", "SYNCED")
	fleet, err := c.fleet().WatchFleet(ctx, &swanherdv1.WatchFleetRequest{Parent: "networks/demo"})
	if err != nil {
		c.t.Fatal(err)
	}
	for range 3 { // the first picture, and what comes then
		if frame, err := fleet.Recv(); err != nil || time.Since(frame.GetStaleSinceTime().AsTime()) > time.Minute {
			c.t.Errorf("a frame says %v, %v", frame, err)
		}
	}
	// Another replica may know more: to begin anew here would be to go back.
	req.ResumeToken = reviseToken(c.t, token, `"r":`, `"r":99999`)
	if watch, err = c.topology().Watch(ctx, req); err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		c.t.Errorf("a resume_token of a later state: %v, want UNAVAILABLE", err)
	}
	for _, command := range []string{"watch", "watch sites alerts", "get sites --watch"} {
		ctx, cancel := context.WithCancel(ctx)
		warned := &until{text: "the controller does not reach its store", done: cancel}
		code := cli.Main(ctx, append(strings.Fields(command), "--config", c.terminal().config), cli.IO{Out: io.Discard, Err: warned})
		if code != 0 || ctx.Err() != context.Canceled {
			c.t.Errorf("swanherd %s: exit code %d, %v; it says\n%s", command, code, ctx.Err(), warned.seen.String())
		}
		cancel()
	}
	c.terminal().says(0, "", "get sites", "warning: the controller does not reach its store; this is how it was at ", "berlin")
}
