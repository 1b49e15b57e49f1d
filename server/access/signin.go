package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/swanherd/swanherd/server/store"
)

// maxSignIns bounds the memory that ID tokens cost which were seen.
const maxSignIns = 1 << 14

// signIns remembers which ID tokens and certificates were seen at this replica, so that
// the audit log has each once: the controller makes no session of its own that it could record.
type signIns struct {
	audits *auditLimiter

	mu   sync.Mutex
	seen map[[sha256.Size]byte]time.Time // until when the token is good
}

func newSignIns() *signIns {
	return &signIns{audits: newAuditLimiter(), seen: map[[sha256.Size]byte]time.Time{}}
}

// first says whether to record the token. One that limits leave out is recorded when it
// comes again.
func (s *signIns) first(token string, expire, now time.Time) bool {
	sum := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[sum]; ok {
		return false
	}
	if _, ok := s.audits.allow(); !ok {
		return false
	}
	if len(s.seen) >= maxSignIns {
		s.forget(now)
	}
	if len(s.seen) >= maxSignIns {
		return false
	}
	s.seen[sum] = expire
	return true
}

// forget drops the tokens that have expired. How often it searches is bounded as what is
// recorded is.
func (s *signIns) forget(now time.Time) {
	for sum, expire := range s.seen {
		if now.After(expire) {
			delete(s.seen, sum)
		}
	}
}

// recordSignIn writes to the audit log that somebody comes with another ID token or client
// certificate, and whether it is good for anything. refused is why not.
func (g *Guard) recordSignIn(ctx context.Context, method, credential string, p Principal, refused error) {
	if p.identity == nil || !g.keeper.signIns.first(credential, p.ExpireTime, time.Now()) {
		return
	}
	source, now := g.withSource(WithPrincipal(ctx, p), method, nil), time.Now()
	t := g.keeper.store.Txn()
	action, message := "signIn.accept", fmt.Sprintf("%s, until %s", p.identity, p.ExpireTime.UTC().Format(time.RFC3339))
	if status.Code(refused) == codes.PermissionDenied {
		action, message = "signIn.refuse", status.Convert(refused).Message()
	}
	if refused == nil {
		g.keeper.noteSignInIn(t, p.identity, g.source(ctx).Unmap().String(), now)
	}
	g.keeper.store.AppendEventIn(t, store.NoNetwork, Audit(p.Actor, method, action, message))
	write, cancel := context.WithTimeout(context.WithoutCancel(source), 5*time.Second)
	defer cancel()
	_, err := t.Commit(write)
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) { // another replica notes the same person
		err = g.keeper.store.AppendEvent(write, store.NoNetwork, Audit(p.Actor, method, action, message))
	}
	if err != nil {
		g.log.WarnContext(ctx, "cannot record a sign-in", "actor", p.Actor, "error", err)
	}
}
