package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
)

// Answers to requests are kept under leases: a lease takes the answers of
// leaseAnswers, and etcd removes them with it, at least RequestRetention after the
// last. Nobody has to tidy up.
const (
	RequestRetention = time.Hour
	leaseAnswers     = 30 * time.Minute
)

// requestLayout holds answers by the hash of who asked, and the id that it gave.
var requestLayout = newLayout("requests", "requests/*/*")

// requestLease is the lease that answers of this replica are written under.
type requestLease struct {
	mu      sync.Mutex
	id      clientv3.LeaseID
	granted time.Time
}

func (s *Store) requestLease(ctx context.Context) (clientv3.LeaseID, error) {
	l := &s.requests
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id != 0 && time.Since(l.granted) < leaseAnswers {
		return l.id, nil
	}
	ttl := RequestRetention + leaseAnswers
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return s.client.Grant(ctx, int64(ttl.Seconds()))
	})
	if err != nil {
		return 0, fmt.Errorf("take a lease for answers: %w", err)
	}
	l.id, l.granted = resp.ID, time.Now()
	return l.id, nil
}

// forget makes the next answer take a new lease.
func (l *requestLease) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id = 0
}

func requestName(actor, id string) string {
	sum := sha256.Sum256([]byte(actor))
	return "requests/" + hex.EncodeToString(sum[:16]) + "/" + id
}

// AnswerKey returns the etcd key of the answer to a request; an answer that holds a
// secret is sealed for it.
func AnswerKey(actor, id string) (string, error) { return requestLayout.key(requestName(actor, id)) }

// Answered returns what the actor's request with that id was answered, and the
// revision of what it changed; nil when there was none.
func (s *Store) Answered(ctx context.Context, actor, id string) (*storev1.AnsweredRequest, int64, error) {
	key, err := AnswerKey(actor, id)
	if err != nil {
		return nil, 0, err
	}
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) { return s.client.Get(ctx, key) })
	if err != nil || len(resp.Kvs) == 0 {
		return nil, 0, err
	}
	a := &storev1.AnsweredRequest{}
	if err := proto.Unmarshal(resp.Kvs[0].Value, a); err != nil {
		return nil, 0, fmt.Errorf("decode the answer to a request: %w", err)
	}
	if a.Response, err = decompress(a.GetResponse()); err != nil {
		return nil, 0, fmt.Errorf("decode the answer to a request: %w", err)
	}
	return a, resp.Kvs[0].ModRevision, nil
}

// AnswerIn keeps the answer as a part of t, which depends on there being none yet:
// Commit answers ErrExists when the request was answered in between.
func (s *Store) AnswerIn(ctx context.Context, t *Txn, actor, id string, answer *storev1.AnsweredRequest) error {
	key, err := AnswerKey(actor, id)
	if err != nil {
		return err
	}
	t.require("the answer to request "+id, key, 0)
	return s.SettleIn(ctx, t, actor, id, answer)
}

// SettleIn keeps the answer as a part of t, in the place of one that was a claim.
func (s *Store) SettleIn(ctx context.Context, t *Txn, actor, id string, answer *storev1.AnsweredRequest) error {
	key, err := AnswerKey(actor, id)
	if err != nil {
		return err
	}
	lease, err := s.requestLease(ctx)
	if err != nil {
		return err
	}
	kept := proto.CloneOf(answer)
	kept.Response = compress(kept.GetResponse())
	b, err := proto.Marshal(kept)
	if err != nil {
		return fmt.Errorf("encode the answer to a request: %w", err)
	}
	t.write("the answer to request "+id, key, clientv3.OpPut(key, string(b), clientv3.WithLease(lease)))
	return nil
}

// ForgetIn drops the answer as a part of t: what a claim was for did not come to be.
func (s *Store) ForgetIn(t *Txn, actor, id string) {
	key, err := AnswerKey(actor, id)
	if err != nil {
		t.fail(err)
		return
	}
	t.write("the answer to request "+id, key, clientv3.OpDelete(key))
}
