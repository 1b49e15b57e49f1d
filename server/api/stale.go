package api

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/server/store"
)

// staleness tells one stream whether the replica learns of changes.
type staleness struct {
	store *store.Store
	// since when it does not, as of the last look; nil: it does.
	since *timestamppb.Timestamp
}

// turned looks, and returns whether it is otherwise than at the look before. At the first
// one it is if the replica does not learn of changes.
func (s *staleness) turned() bool {
	was := s.since != nil
	s.since = nil
	if since, stale := s.store.StaleSince(); stale {
		s.since = timestamppb.New(since)
	}
	return was != (s.since != nil)
}
