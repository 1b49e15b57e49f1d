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
	// SupersededEpoch is the epoch whose intent an operator gave up on this edge; empty
	// for none.
	SupersededEpoch string
}

// Digest is the digest of the resources, see package digest.
func (i *Intent) Digest() []byte { return i.Resources.Digest() }

// Board holds the newest intent of every edge. Whoever plans posts to it; the
// sessions of one Server read from it. Its zero value is not usable, see NewBoard.
type Board struct {
	mu       sync.Mutex
	intents  map[string]*Intent
	revision int64
	posted   func(edge string) // the server's
}

// NewBoard returns an empty board.
func NewBoard() *Board {
	return &Board{intents: map[string]*Intent{}, posted: func(string) {}}
}

// Post replaces the intent of an edge; nil takes it off the board.
func (b *Board) Post(edge string, intent *Intent) {
	b.mu.Lock()
	if intent == nil {
		delete(b.intents, edge)
	} else {
		b.intents[edge] = intent
	}
	posted := b.posted
	b.mu.Unlock()
	posted(edge)
}

// Advance says that what is on the board is as of that revision of the store.
func (b *Board) Advance(revision int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.revision = max(b.revision, revision)
}

// Revision returns what the board was advanced to last.
func (b *Board) Revision() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.revision
}

// Look returns the intent of an edge, nil when nothing was planned for it yet.
func (b *Board) Look(edge string) *Intent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.intents[edge]
}

// onPost makes f be called after each post. It must not block.
func (b *Board) onPost(f func(edge string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.posted = f
}
