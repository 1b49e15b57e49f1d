package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/swanherd/swanherd/edge/session"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// actPause is between two breaches of a hostile edge, and actLimit how long one that
	// ends by itself may take.
	actPause = time.Second
	actLimit = 30 * time.Second
	// giant is the size in octets of what is too large for the controller to take.
	giant = 5 << 20
	// reportSize is the size of the reports of a flood.
	reportSize = 1000
	// pingPause is between the pings of who reads nothing.
	pingPause = 5 * time.Millisecond
)

// hostile has each edge break one of the rules, over and over, with a client of its own
// in place of the agent's.
func hostile(ctx context.Context, t *trouble) {
	together(t.edges, func(e *edge) {
		e.end()
		a := acts[e.index%len(acts)]
		for {
			s := newStranger(ctx, t, e, a.name)
			s.tell(a.do(s))
			s.close()
			if pause(ctx, actPause) != nil {
				break
			}
		}
		e.start()
	})
}

// acts are what hostile edges do, the first edge the first, and so on.
var acts = []struct {
	name string
	do   func(*stranger) error
}{
	{"a giant Hello", giantHello},
	{"a giant report", giantReport},
	{"an ack from the future", futureAck},
	{"a wrong digest", wrongDigest},
	{"a flood of reports", flood},
	{"a session without Hello", mute},
	{"a connection without handshake", halfOpen},
	{"a reader that reads nothing", noReader},
}

// stranger is who has the certificate of an edge, and not its manners.
type stranger struct {
	*trouble
	edge *edge
	name string
	// until ends the trouble, and ctx what the stranger does.
	until, ctx context.Context
	cancel     context.CancelFunc
	limit      *time.Timer // nil for what goes on until the trouble ends

	conn   *grpc.ClientConn
	stream grpc.BidiStreamingClient[swanherdv1.EdgeMessage, swanherdv1.ControllerMessage]
}

func newStranger(until context.Context, t *trouble, e *edge, name string) *stranger {
	s := &stranger{trouble: t, edge: e, name: name, until: until}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.limit = time.AfterFunc(actLimit, s.cancel)
	return s
}

// hold notes what was done, and has the act go on until the trouble ends.
func (s *stranger) hold(did string) {
	s.note(s.edge, s.name+": "+did)
	if s.limit != nil {
		s.limit.Stop()
		s.limit = nil
		context.AfterFunc(s.until, s.cancel)
	}
}

func (s *stranger) endpoint() string { return s.edge.identity.Load().SessionEndpoints[0] }

func (s *stranger) close() {
	s.cancel()
	if s.conn != nil {
		s.conn.Close()
	}
}

// tell counts how an act ended, unless it was the stranger who ended it.
func (s *stranger) tell(err error) {
	switch {
	case s.ctx.Err() != nil && s.limit == nil:
	case s.ctx.Err() != nil:
		s.note(s.edge, fmt.Sprintf("%s: nothing in %s", s.name, actLimit))
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		s.note(s.edge, s.name+": closed")
	default:
		s.note(s.edge, s.name+": "+status.Code(err).String())
	}
}

// open opens a session and says nothing.
func (s *stranger) open() (err error) {
	if s.conn, err = s.edge.dial(s.endpoint()); err != nil {
		return err
	}
	s.stream, err = swanherdv1.NewEdgeControlServiceClient(s.conn).Session(s.ctx)
	return err
}

// greet opens a session and waits for Welcome.
func (s *stranger) greet() error {
	if err := s.open(); err != nil {
		return err
	}
	s.say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: s.hello()}})
	_, err := s.stream.Recv()
	return err
}

func (s *stranger) hello() *swanherdv1.Hello {
	return &swanherdv1.Hello{ProtocolVersion: 1, BootId: "hostile", Uplinks: uplinks{s.edge}.Current()}
}

// say sends; that the session is over end says, with the reason.
func (s *stranger) say(m *swanherdv1.EdgeMessage) bool { return s.stream.Send(m) == nil }

// end waits for the session's end, which is its error.
func (s *stranger) end() error {
	for {
		if _, err := s.stream.Recv(); err != nil {
			return err
		}
	}
}

func giantHello(s *stranger) error {
	if err := s.open(); err != nil {
		return err
	}
	hello := s.hello()
	hello.AgentVersion = strings.Repeat("x", giant)
	s.say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Hello{Hello: hello}})
	return s.end()
}

func report(size int) *swanherdv1.EdgeMessage {
	return &swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{
		Sequence: 1, Full: true, Removed: []string{strings.Repeat("x", size)},
	}}}
}

func giantReport(s *stranger) error {
	if err := s.greet(); err != nil {
		return err
	}
	s.say(report(giant))
	return s.end()
}

func futureAck(s *stranger) error {
	if err := s.greet(); err != nil {
		return err
	}
	s.say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{Nonce: 1 << 60}}})
	return s.end()
}

// wrongDigest says of each update that it runs another.
func wrongDigest(s *stranger) error {
	if err := s.greet(); err != nil {
		return err
	}
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if c := m.GetIntent(); c != nil && c.GetChunk()+1 == c.GetChunkCount() {
			s.say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ack{Ack: &swanherdv1.Ack{
				Nonce: c.GetNonce(), Stage: swanherdv1.Ack_STAGE_APPLIED,
				Running: &swanherdv1.AppliedIntent{Epoch: c.GetEpoch(), SourceRevision: c.GetSourceRevision(), SetDigest: bytes.Repeat([]byte{1}, digest.VersionSize)},
			}}})
			s.hold("acknowledged")
		}
	}
}

// flood reports as fast as the controller takes it.
func flood(s *stranger) error {
	if err := s.greet(); err != nil {
		return err
	}
	for s.say(report(reportSize)) {
		s.hold("taken")
	}
	return s.end()
}

func mute(s *stranger) error {
	if err := s.open(); err != nil {
		return err
	}
	s.hold("opened")
	return s.end()
}

func halfOpen(s *stranger) error {
	conn, err := session.Connect(s.ctx, s.endpoint())
	if err != nil {
		return err
	}
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	s.hold("opened")
	_, err = io.Copy(io.Discard, conn)
	return cmp.Or(err, io.EOF)
}

// noReader asks and asks, and takes no answer.
func noReader(s *stranger) error {
	if err := s.greet(); err != nil {
		return err
	}
	for s.say(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Ping{Ping: &swanherdv1.Ping{}}}) {
		s.hold("asked")
		_ = pause(s.ctx, pingPause)
	}
	return s.end()
}
