package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/swanherd/swanherd/edge/enroll"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A crew is simulated edges that are run together.
type crew interface {
	// enrol makes the edges known to the controller.
	enrol(context.Context) error
	// connect begins their sessions, which go on until close.
	connect() error
	// disturb has its edges make trouble until calm, which tells what they did.
	disturb(knob) error
	calm() (tally, error)
	close()
}

// hands are a crew in this process.
type hands struct {
	// first is the number of the first edge, count how many there are.
	first, count int
	// enrolAt is the controller that they enrol with, over what edges reach, and with
	// tokens that access makes.
	enrolAt string
	access  swanherdv1.AccessServiceClient
	// applied is told of each intent that an edge runs.
	applied func(index int, at time.Time)
	// dir is where edges store what they renew.
	dir string

	edges   []*edge
	trouble *trouble // that goes on, nil for none
}

// enrolers is how many edges enrol at a time.
const enrolers = 16

func (h *hands) enrol(ctx context.Context) error {
	h.edges = make([]*edge, h.count)
	next, failed := make(chan int), make(chan error, enrolers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for range enrolers {
		all.Go(func() {
			if err := h.enrolSome(ctx, next); err != nil {
				failed <- err
				cancel()
			}
		})
	}
feed:
	for i := range h.edges {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return ctx.Err()
	}
}

func (h *hands) enrolSome(ctx context.Context, next <-chan int) error {
	var client swanherdv1.EnrollmentServiceClient
	for i := range next {
		made, err := h.access.CreateEnrollmentToken(ctx, &swanherdv1.CreateEnrollmentTokenRequest{
			Parent: network, EnrollmentToken: &swanherdv1.EnrollmentToken{Site: siteName(h.first + i)},
		})
		if err != nil {
			return err
		}
		token, err := enroll.ParseToken(made.GetSecret())
		if err != nil {
			return err
		}
		if client == nil {
			conn, err := grpc.NewClient("passthrough:///"+h.enrolAt,
				grpc.WithTransportCredentials(enroll.PinnedTLS(token, h.enrolAt)), grpc.WithNoProxy())
			if err != nil {
				return err
			}
			defer conn.Close()
			client = swanherdv1.NewEnrollmentServiceClient(conn)
		}
		id, err := newIdentity(ctx, client, made.GetSecret())
		if err != nil {
			return fmt.Errorf("edge of %s: %w", siteName(h.first+i), err)
		}
		h.edges[i] = newEdge(h, h.first+i, id)
	}
	return nil
}

func (h *hands) connect() error {
	for _, e := range h.edges {
		e.start()
	}
	return nil
}

func (h *hands) close() {
	if t := h.trouble; t != nil {
		t.stop()
		<-t.done
	}
	together(h.edges, func(e *edge) {
		if e != nil && e.end != nil {
			e.end()
		}
	})
}

// together has all edges do the same at the same time.
func together(edges []*edge, do func(*edge)) {
	var all sync.WaitGroup
	for _, e := range edges {
		all.Go(func() { do(e) })
	}
	all.Wait()
}
