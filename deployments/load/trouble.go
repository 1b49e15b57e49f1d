package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/swanherd/swanherd/edge/session"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A knob is a kind of trouble that a share of the edges makes.
type knob struct {
	Name string
	// Edges from this one on make it.
	From int
	// Every is how often it comes, and By how much longer things take, for those kinds
	// that have such.
	Every, By time.Duration
}

const (
	// absence is how long an edge is away.
	absence = time.Second
	// flapEvery is how long tunnels are down, and then up.
	flapEvery = time.Second
	// patience bounds the wait until each edge has made its trouble once.
	patience = 3 * time.Minute
)

// trouble is a knob that is turned on, for those edges of a crew that make it.
type trouble struct {
	knob
	edges []*edge
	stop  context.CancelFunc
	done  chan struct{}

	mu    sync.Mutex
	acted map[int]bool // by the edges' numbers
	tally tally
}

// tally is what troublesome edges did, and what they were told.
type tally struct {
	Counts map[string]int `json:",omitempty"`
	// Returns are the times from an edge's begin to come back to its Welcome.
	Returns []time.Duration `json:",omitempty"`
}

func (t *tally) add(other tally) {
	if t.Counts == nil {
		t.Counts = map[string]int{}
	}
	for what, n := range other.Counts {
		t.Counts[what] += n
	}
	t.Returns = append(t.Returns, other.Returns...)
}

// is says whether there is trouble, and of that kind.
func (t *trouble) is(name string) bool { return t != nil && t.Name == name }

// note counts what an edge did.
func (t *trouble) note(e *edge, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acted[e.index] = true
	t.tally.Counts[what]++
}

// disturb implements crew.
func (h *hands) disturb(k knob) error {
	disturb, ok := makers[k.Name]
	if !ok {
		return fmt.Errorf("there is no knob %q", k.Name)
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &trouble{knob: k, stop: stop, done: make(chan struct{}), acted: map[int]bool{}, tally: tally{Counts: map[string]int{}}}
	for _, e := range h.edges {
		if e.index >= k.From {
			t.edges = append(t.edges, e)
			e.join(t)
		}
	}
	h.trouble = t
	go func() {
		defer close(t.done)
		if len(t.edges) > 0 {
			disturb(ctx, t)
		}
	}()
	return nil
}

// calm implements crew. Each of the edges has made its trouble once by then.
func (h *hands) calm() (tally, error) {
	t := h.trouble
	h.trouble = nil
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := t.wait(ctx, t.everybody)
	t.stop()
	<-t.done
	if err == nil {
		err = t.wait(ctx, t.returned)
	}
	for _, e := range t.edges {
		e.join(nil)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tally, err
}

// wait waits until of all edges something is so.
func (t *trouble) wait(ctx context.Context, missing func() int) error {
	for {
		n := missing()
		if n == 0 {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("after %s, %d of the %d edges of -%s have not done their part, or are not back: %w", patience, n, len(t.edges), t.Name, err)
		}
	}
}

// everybody is how many edges have not acted yet.
func (t *trouble) everybody() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.edges) - len(t.acted)
}

// returned is how many edges are not back yet.
func (t *trouble) returned() (away int) {
	for _, e := range t.edges {
		e.mu.Lock()
		if !e.returning.IsZero() {
			away++
		}
		e.mu.Unlock()
	}
	return away
}

// makers are how each kind of trouble is made, until ctx ends; then all is as it was.
var makers = map[string]func(context.Context, *trouble){
	"churn": churn, "storm": storm, "flap": flap, "hostile": hostile,
	// What these do they do when an intent comes.
	"slow": inert, "refuse": inert, "revert": inert,
}

func inert(ctx context.Context, _ *trouble) { <-ctx.Done() }

// churn has one edge after the other leave and come back.
func churn(ctx context.Context, t *trouble) {
	var away sync.WaitGroup
	defer away.Wait()
	for i := 0; ; i++ {
		if i == len(t.edges) { // who left first is back before it leaves again
			away.Wait()
			i = 0
		}
		away.Go(func() { t.leave(t.edges[i]); t.comeBack(t.edges[i]) })
		if pause(ctx, t.Every/time.Duration(len(t.edges))) != nil {
			return
		}
	}
}

// storm has all leave at once and come back at the same moment: at once, and then when
// the clock is at a multiple of their distance, in all processes.
func storm(ctx context.Context, t *trouble) {
	for {
		together(t.edges, t.leave)
		together(t.edges, t.comeBack)
		now := time.Now()
		if pause(ctx, now.Truncate(t.Every).Add(t.Every).Sub(now)) != nil {
			return
		}
	}
}

// leave ends an edge's session, and keeps it away for a while.
func (t *trouble) leave(e *edge) {
	e.end()
	t.note(e, "left and came back")
	time.Sleep(absence)
}

func (t *trouble) comeBack(e *edge) {
	e.mu.Lock()
	e.returning = time.Now()
	e.mu.Unlock()
	e.start()
}

// welcomed notes that the edge has a session.
func (e *edge) welcomed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.trouble; t != nil && !e.returning.IsZero() {
		t.mu.Lock()
		t.tally.Returns = append(t.tally.Returns, time.Since(e.returning))
		t.mu.Unlock()
	}
	e.returning = time.Time{}
}

// flap has tunnels go down and come up.
func flap(ctx context.Context, t *trouble) {
	for down := true; ; down = !down {
		for _, e := range t.edges {
			e.flip(down)
			t.note(e, "all its tunnels went down or came up")
		}
		if pause(ctx, flapEvery) != nil {
			break
		}
	}
	for _, e := range t.edges {
		e.flip(false)
	}
}

// flip has the edge report all tunnels down, or up.
func (e *edge) flip(down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down, e.changed = down, nil
	e.changed = e.all()
	nudge(e.transitions)
}

// join has the edge take part in trouble, or in none.
func (e *edge) join(t *trouble) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trouble = t
}

func (e *edge) joined() *trouble {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.trouble
}

// object is what the edge has against an intent that it is to run, nil for nothing.
func (e *edge) object(ctx context.Context) error {
	t := e.joined()
	switch {
	case t.is("slow"):
		defer t.note(e, "took its time for an intent")
		return pause(ctx, t.By)
	case t.is("refuse"):
		t.note(e, "refused an intent")
		code := swanherdv1.Nack_CODE_INVALID
		if e.index%2 == 1 {
			code = swanherdv1.Nack_CODE_APPLY_FAILED // which the controller tries again
		}
		return &session.RejectedError{Code: code, Errors: []*swanherdv1.ResourceError{{Message: "refused, to see who else feels it"}}}
	}
	return nil
}

// revert takes back what is on trial, for who holds mu, as if the controller's word to
// keep it had come too late.
func (e *edge) revert() {
	e.reverted = &swanherdv1.Reverted{
		SetDigest: e.running.Digest(), Reason: swanherdv1.Reverted_REASON_NOT_CONFIRMED, Attempts: 1, Running: e.before.Applied(),
	}
	e.take(e.before, false)
	e.trouble.note(e, "took an intent back")
	nudge(e.tookBack)
}

// lazyConn is the connection of an edge that may be slow to read.
type lazyConn struct {
	net.Conn
	e *edge
}

func (c lazyConn) Read(p []byte) (int, error) {
	if t := c.e.joined(); t.is("slow") {
		time.Sleep(t.By)
	}
	return c.Conn.Read(p)
}
