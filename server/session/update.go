package session

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// maxChunk is the size in octets that a message of an update stays below, far
// from gRPC's limit of 4 MiB and small enough that health passes between
// chunks. A single resource larger than that gets a chunk to itself.
const maxChunk = 256 << 10

// chunkOverhead covers what a chunk holds besides its resources.
const chunkOverhead = 1 << 10

// update is an intent on its way to an edge.
type update struct {
	intent *Intent
	nonce  uint64
	full   bool
	chunks []*swanherdv1.IntentChunk
	begun  time.Time
	octets int  // of its resources and of the names of those that go
	whole  bool // all of it was handed to the stream
	// received: the edge has it whole.
	received bool
}

// state is how far the update is, while it is not answered.
func (u *update) state() swanherdv1.IntentState {
	switch {
	case u.received:
		return swanherdv1.IntentState_INTENT_STATE_RECEIVED
	case u.whole:
		return swanherdv1.IntentState_INTENT_STATE_SENT
	}
	return swanherdv1.IntentState_INTENT_STATE_PENDING
}

// newUpdate makes the update that leads from base to intent; base nil means
// that what the edge has is unknown, and everything is sent.
func newUpdate(nonce uint64, cfg Config, base, intent *Intent) *update {
	u := &update{intent: intent, nonce: nonce, full: base == nil, begun: time.Now()}
	var have *digest.Set
	var baseDigest []byte
	if base != nil {
		have, baseDigest = base.Resources, base.Digest()
	}
	upserts, removals := digest.Difference(have, intent.Resources)
	chunk := &swanherdv1.IntentChunk{}
	size := 0
	room := func(n int) *swanherdv1.IntentChunk {
		n += 1 + protowire.SizeVarint(uint64(n)) // as a field
		if size+n > maxChunk-chunkOverhead && size > 0 {
			u.chunks = append(u.chunks, chunk)
			chunk, size = &swanherdv1.IntentChunk{}, 0
		}
		size += n
		u.octets += n
		return chunk
	}
	for _, r := range upserts {
		c := room(proto.Size(r))
		c.Upserts = append(c.Upserts, r)
	}
	for _, name := range removals {
		c := room(len(name))
		c.Removals = append(c.Removals, name)
	}
	u.chunks = append(u.chunks, chunk)
	for i, c := range u.chunks {
		c.Nonce, c.Epoch, c.SourceRevision, c.Full = nonce, cfg.Epoch, intent.Revision, u.full
		c.BaseDigest, c.ResultDigest = baseDigest, intent.Digest()
		c.Chunk, c.ChunkCount = uint32(i), uint32(len(u.chunks))
		c.ConfirmWithin = durationpb.New(cfg.ConfirmWithin)
	}
	return u
}

// takeChunks returns the chunks, which the update does not keep.
func (u *update) takeChunks() []*swanherdv1.IntentChunk {
	chunks := u.chunks
	u.chunks = nil
	return chunks
}
