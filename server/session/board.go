package session

import (
	"sync"

	"github.com/swanherd/swanherd/proto/digest"
)

// Intent is what the controller wants on one edge. It is immutable.
type Intent struct {
	// Revision is the store revision at which it became what it is.
	Revision  int64
	Resources *digest.Set
}

// Digest is the digest of the resources, see package digest.
func (i *Intent) Digest() []byte { return i.Resources.Digest() }

// Board holds the newest intent of every edge. Whoever plans posts to it;
// sessions read from it. Its zero value is not usable, see NewBoard.
type Board struct {
	mu    sync.Mutex
	slots map[string]*slot
}

type slot struct {
	intent  *Intent
	changed chan struct{} // closed by the next post
}

// NewBoard returns an empty board.
func NewBoard() *Board { return &Board{slots: map[string]*slot{}} }

// Post replaces the intent of an edge; nil takes it off the board.
func (b *Board) Post(edge string, intent *Intent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slot(edge)
	s.intent = intent
	close(s.changed)
	s.changed = make(chan struct{})
	if intent == nil {
		delete(b.slots, edge)
	}
}

// Look returns the intent of an edge, nil when nothing was planned for it yet,
// and a channel that closes when that changes.
func (b *Board) Look(edge string) (*Intent, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slot(edge)
	return s.intent, s.changed
}

func (b *Board) slot(edge string) *slot {
	s := b.slots[edge]
	if s == nil {
		s = &slot{changed: make(chan struct{})}
		b.slots[edge] = s
	}
	return s
}
