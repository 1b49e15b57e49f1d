package server

import (
	"context"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/api"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/pki"
)

const (
	janitorInterval = time.Hour
	// maxForgotten stays below what one transaction of etcd takes, for each of two
	// kinds.
	maxForgotten = 50
)

// forgetExpired removes, until ctx ends, revocations of certificates that have
// expired, which edges need not carry any longer, and enrolment requests that
// waited too long.
func (s *Server) forgetExpired(ctx context.Context) {
	t := time.NewTicker(janitorInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			txn, snap := s.store.Txn(), s.store.Snapshot()
			pki.DropExpiredIn(txn, s.store, snap, now, maxForgotten)
			api.DropExpiredRequestsIn(txn, s.store, snap, now, maxForgotten)
			if txn.Empty() {
				continue
			}
			if _, err := txn.Commit(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Log.Warn("cannot remove what expired", "error", err)
			}
		}
	}
}

// rotator ends the phases of replacements of authorities.
func (s *Server) rotator() *pki.Rotator {
	return &pki.Rotator{
		Keeper: s.pki,
		Audit:  auditAuthority,
		Failed: func(err error) { s.cfg.Log.Warn("cannot go on with a replacement; trying again", "error", err) },
	}
}

// requester has external authorities sign those of networks.
func (s *Server) requester() *pki.Requester {
	return &pki.Requester{
		Keeper:  s.pki,
		Signers: s.cfg.ExternalAuthorities,
		Audit:   auditAuthority,
		Failed:  func(err error) { s.cfg.Log.Warn("cannot have an authority signed; trying again", "error", err) },
	}
}

// auditAuthority is the event that tells what the controller did with an authority by itself.
func auditAuthority(network model.NetworkName, action, message string) *swanherdv1.Event {
	return access.Audit("system", network.AuthorityResource(), action, message)
}

// expiryWatch tells which certificates end.
func (s *Server) expiryWatch() *pki.ExpiryWatch {
	return &pki.ExpiryWatch{
		Store:  s.store,
		Failed: func(err error) { s.cfg.Log.Warn("cannot tell which certificates end; trying again", "error", err) },
	}
}
