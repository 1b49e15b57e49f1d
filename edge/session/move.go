package session

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// maxEndpoints bounds the endpoints that a Redirect may name.
	maxEndpoints = 32
	// redirectPause keeps controllers that redirect to one another from chasing the edge.
	redirectPause = 10 * time.Minute
)

// move is the way from one session to another that takes its place: the new one is
// welcomed before the old one goes, so that the edge is never without a controller.
type move struct {
	// to are the endpoints, in the order in which they are tried.
	to []string
	// redirect: they take the place of those that the edge has.
	redirect bool

	result chan opened
	cancel context.CancelFunc
}

// opened is what became of a move.
type opened struct {
	session *session
	err     error
}

// begin begins a move in place of one that is under way.
func (s *session) begin(ctx context.Context, m *move) {
	if old := s.move.stop(); old != nil {
		old.close()
	}
	ctx, m.cancel = context.WithCancel(ctx)
	m.result = make(chan opened, 1)
	go func() {
		next, err := s.c.openAny(ctx, m.to)
		if next == nil {
			m.cancel()
		} else {
			next.release = m.cancel
		}
		m.result <- opened{next, err}
	}()
	s.move = m
}

// opened gets a value when the move is decided; m may be nil.
func (m *move) opened() <-chan opened {
	if m == nil {
		return nil
	}
	return m.result
}

// stop ends a move, nil for none. If it has come to a session, it returns that.
func (m *move) stop() *session {
	if m == nil {
		return nil
	}
	select {
	case o := <-m.result:
		return o.session
	default:
	}
	m.cancel()
	if o := <-m.result; o.session != nil {
		o.session.close()
	}
	return nil
}

// moved takes in what became of the move: the session that takes this one's place, nil if
// there is none.
func (s *session) moved(o opened) (*session, error) {
	m := s.move
	s.move = nil
	switch {
	case o.session != nil && m.redirect:
		s.c.cfg.Logger.Info("redirected", "endpoints", m.to)
		s.c.places, s.c.redirected = newPlaces(m.to, o.session.endpoint), time.Now()
		return o.session, nil
	case o.session != nil:
		return o.session, nil
	}
	s.c.cfg.Logger.Warn("cannot open another session; this one goes on", "endpoints", m.to, "error", o.err)
	if !m.redirect {
		return nil, nil // the controller ends this one when its time is over
	}
	return nil, s.redirectFailed(m.to, o.err)
}

func (s *session) redirectFailed(endpoints []string, why error) error {
	return s.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_RedirectResult{
		RedirectResult: &swanherdv1.RedirectResult{Endpoints: endpoints, Message: why.Error()},
	}})
}

// redirect tries the endpoints where the controller says that it is from now on.
func (s *session) redirect(ctx context.Context, endpoints []string) error {
	if len(endpoints) == 0 || len(endpoints) > maxEndpoints {
		return fmt.Errorf("controller redirects to %d endpoints, allowed are 1 to %d", len(endpoints), maxEndpoints)
	}
	for _, endpoint := range endpoints {
		if host, port, err := net.SplitHostPort(endpoint); err != nil || host == "" || port == "" {
			return fmt.Errorf("controller redirects to %q, which is not host:port", endpoint)
		}
	}
	if slices.Equal(slices.Sorted(slices.Values(endpoints)), slices.Sorted(slices.Values(s.c.places.endpoints))) {
		return nil // there it is already
	}
	if since := time.Since(s.c.redirected); since < redirectPause {
		return s.redirectFailed(endpoints, fmt.Errorf("it was redirected %s ago, and waits for %s", since.Round(time.Second), redirectPause))
	}
	p := newPlaces(endpoints, s.endpoint) // where it is already is as good as any
	s.begin(ctx, &move{to: slices.Concat(p.endpoints[p.next:], p.endpoints[:p.next]), redirect: true})
	return nil
}
