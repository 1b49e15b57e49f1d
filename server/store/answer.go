package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// answerTimeout bounds how long a caller waits for etcd.
	answerTimeout = 5 * time.Second
	// lookInterval is how often the watch cache is compared with etcd.
	lookInterval = 2 * time.Second
	// staleAfter is for how long the cache may be not known to be current before what is
	// read from it counts as stale.
	staleAfter = 6 * time.Second
)

// ask calls etcd on behalf of a caller, who learns in time when it does not answer: the
// error is ErrUnavailable then.
func ask[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	answer, err := call(bounded)
	if err != nil && ctx.Err() == nil && unanswered(err) {
		return answer, fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return answer, err
}

func unanswered(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		return etcd.Code() == codes.Unavailable || etcd.Code() == codes.DeadlineExceeded
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

const (
	// catchUpTimeout bounds how long CatchUp waits, and catchUpInterval how often it asks
	// etcd, whoever makes it do so.
	catchUpTimeout  = time.Second
	catchUpInterval = 50 * time.Millisecond
)

// CatchUp returns a snapshot that has what etcd had a moment ago, or the present one when
// etcd does not answer in time. It is for who does not find what another replica may just
// have written. However many call, etcd is asked at most every 50 ms.
func (s *Store) CatchUp(ctx context.Context) *Snapshot {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	if s.schema.isSuperseded() {
		return s.Snapshot()
	}
	s.catchUp.Lock()
	defer s.catchUp.Unlock()
	if time.Since(s.caughtUp) >= catchUpInterval {
		if resp, err := s.client.Get(ctx, epochKey); err == nil && s.waitProgress(ctx, resp.Header.Revision) == nil {
			s.caughtUp = time.Now()
		}
	}
	return s.Snapshot()
}

// waitProgress waits until the watch cache has the revision, which need not be one of a
// key that it watches.
func (s *Store) waitProgress(ctx context.Context, revision int64) error {
	if s.Snapshot().Revision < revision {
		if err := s.client.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
			return fmt.Errorf("ask the watch how far it is: %w", err)
		}
	}
	_, err := s.WaitRevision(ctx, revision)
	return err
}

// StaleSince says since when the snapshots are not known to be what is in etcd; ok is
// false while they are.
func (s *Store) StaleSince() (since time.Time, ok bool) {
	since = time.Unix(0, s.current.Load())
	return since, time.Since(since) > staleAfter
}

// look compares the watch cache with etcd until ctx ends: that etcd answers is not
// enough when the watch has fallen behind, and that the watch is silent says nothing
// while nobody writes.
func (s *Store) look(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	var asked time.Time // when etcd was at revision
	var revision int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s.schema.isSuperseded() { // the snapshot stays as it is
			return
		}
		if s.Snapshot().Revision >= revision && !asked.IsZero() {
			s.current.Store(asked.UnixNano())
		}
		now := time.Now()
		probe, cancel := context.WithTimeout(ctx, lookInterval)
		resp, err := s.client.Get(probe, epochKey)
		cancel()
		if err != nil {
			continue
		}
		asked, revision = now, resp.Header.Revision
		if s.Snapshot().Revision >= revision {
			s.current.Store(now.UnixNano())
		} else if err := s.client.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
			s.log.Debug("ask the watch how far it is", "error", err)
		}
	}
}
