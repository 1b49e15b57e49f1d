package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A staleStream is a stream of a controller, of which only is told whether it says that it
// may be old.
type staleStream struct {
	name string
	said chan string
}

// staleStreams opens every stream that shows what is stored, at every controller.
func (f *faults) staleStreams() (out []*staleStream) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	f.t.Cleanup(cancel)
	// What an earlier step did to the etcds may still be told.
	f.until("the state to be current", func(metric func(string) float64) bool { return metric("swanherd_store_stale_seconds") == 0 })
	for i, c := range f.controllers {
		topology, err1 := c.topology.Watch(ctx, &swanherdv1.WatchRequest{Parent: network})
		tunnels, err2 := c.fleet.WatchTunnels(ctx, &swanherdv1.WatchTunnelsRequest{Parent: network})
		fleet, err3 := c.fleet.WatchFleet(ctx, &swanherdv1.WatchFleetRequest{Parent: network})
		if err := errors.Join(err1, err2, err3); err != nil {
			f.t.Fatal(err)
		}
		out = append(out, follow(fmt.Sprintf("Watch at controller %d", i), func() (string, error) {
			m, err := topology.Recv()
			return kindOf(m.GetKind(), m.GetStaleSinceTime()), err
		}), follow(fmt.Sprintf("WatchTunnels at controller %d", i), func() (string, error) {
			m, err := tunnels.Recv()
			return kindOf(m.GetKind(), m.GetStaleSinceTime()), err
		}), follow(fmt.Sprintf("WatchFleet at controller %d", i), frames(fleet)))
	}
	for _, s := range out {
		s.says(f, "KIND_SYNCED")
	}
	return out
}

func kindOf(kind fmt.Stringer, since *timestamppb.Timestamp) string {
	if since != nil {
		return kind.String() + " since"
	}
	return kind.String()
}

// frames tells of the frames of a fleet in the words of the other streams.
func frames(stream swanherdv1.FleetService_WatchFleetClient) func() (string, error) {
	stale := false
	return func() (string, error) {
		frame, err := stream.Recv()
		was := stale
		stale = frame.GetStaleSinceTime() != nil
		switch {
		case frame.GetSynced():
			return "KIND_SYNCED", err
		case stale && !was:
			return "KIND_STALE since", err
		case was && !stale:
			return "KIND_CURRENT", err
		}
		return "", err
	}
}

func follow(name string, next func() (string, error)) *staleStream {
	s := &staleStream{name: name, said: make(chan string, 16)}
	told := []string{"KIND_SYNCED", "KIND_BOOKMARK", "KIND_STALE", "KIND_STALE since", "KIND_CURRENT"}
	go func() {
		for {
			what, err := next()
			if err != nil {
				s.said <- err.Error()
				return
			}
			if slices.Contains(told, what) {
				s.said <- what
			}
		}
	}()
	return s
}

// says waits until the stream says that of how old it is. On a busy machine an etcd may be
// slow enough for a state to count as old for a moment, which it says as well.
func (s *staleStream) says(f *faults, want string) {
	f.t.Helper()
	for {
		select {
		case said := <-s.said:
			switch {
			case said == want:
				return
			case !strings.HasPrefix(said, "KIND_"):
				f.t.Fatalf("%s ends with %q, want %s", s.name, said, want)
			}
			f.t.Logf("%s says %s before %s: an etcd was slow for a moment", s.name, said, want)
		case <-f.ctx.Done():
			f.t.Fatalf("%s does not say %s", s.name, want)
		}
	}
}
