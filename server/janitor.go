package server

import (
	"context"
	"time"

	"github.com/swanherd/swanherd/server/pki"
)

const (
	janitorInterval = time.Hour
	// maxForgotten stays below what one transaction of etcd takes.
	maxForgotten = 100
)

// forgetRevocations removes, until ctx ends, revocations of certificates that
// have expired: edges need not carry them any longer.
func (s *Server) forgetRevocations(ctx context.Context) {
	t := time.NewTicker(janitorInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			txn := s.store.Txn()
			if pki.DropExpiredIn(txn, s.store, s.store.Snapshot(), now, maxForgotten) == 0 {
				continue
			}
			if _, err := txn.Commit(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("cannot remove expired revocations", "error", err)
			}
		}
	}
}
