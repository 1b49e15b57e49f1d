package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A Txn gathers conditions and writes over any number of collections; Commit
// stores all of the writes, at one revision, or none.
//
// A transaction is never split: what must hold together has to fit into one.
// etcd takes 128 operations at once by default and the embedded one 4096
// (Config.MaxTxnOps), of which the schema's comparison is one; beyond that Commit
// answers ErrTooLarge. Writes that do not depend on one another, such as statuses
// of edges, belong into several transactions of at most 100.
//
// A Txn is for one goroutine.
type Txn struct {
	store      *Store
	conditions []condition
	writes     []clientv3.Op
	written    map[string]bool
	events     []appended
	resources  map[string]rewritten // by name
	err        error
}

type condition struct {
	name, key string
	want      int64
	// notAfter, when set, takes the place of want: the key must not have been
	// written after that revision.
	notAfter int64
}

func (c condition) compare() clientv3.Cmp {
	switch {
	case c.notAfter > 0:
		return clientv3.Compare(clientv3.ModRevision(c.key), "<", c.notAfter+1)
	case c.want == AnyRevision:
		return clientv3.Compare(clientv3.ModRevision(c.key), ">", 0)
	default:
		return clientv3.Compare(clientv3.ModRevision(c.key), "=", c.want)
	}
}

func (c condition) holds(have int64) bool {
	switch {
	case c.notAfter > 0:
		return have <= c.notAfter
	case c.want == AnyRevision:
		return have > 0
	default:
		return have == c.want
	}
}

// Txn begins a transaction.
func (s *Store) Txn() *Txn {
	return &Txn{store: s, written: map[string]bool{}, resources: map[string]rewritten{}}
}

// Empty says whether the transaction writes nothing.
func (t *Txn) Empty() bool { return len(t.writes) == 0 && len(t.events) == 0 }

func (t *Txn) fail(err error) { t.err = errors.Join(t.err, err) }

func (t *Txn) require(name, key string, want int64) {
	t.conditions = append(t.conditions, condition{name: name, key: key, want: want})
}

func (t *Txn) write(name, key string, op clientv3.Op) {
	if t.written[key] {
		t.fail(fmt.Errorf("%s is written twice in one transaction", name))
		return
	}
	t.written[key] = true
	t.writes = append(t.writes, op)
}

// Commit stores everything and returns the revision, or nothing. When a
// condition did not hold the error is a *ConditionError about the first.
func (t *Txn) Commit(ctx context.Context) (int64, error) {
	if t.err != nil {
		return 0, t.err
	}
	events, err := t.eventOps(ctx)
	if err != nil {
		return 0, err
	}
	return t.do(ctx, append(slices.Clone(t.writes), events...))
}

// Check says whether Commit would find its conditions to hold now, and stores nothing.
// Its errors are those of Commit.
func (t *Txn) Check(ctx context.Context) error {
	if t.err != nil {
		return t.err
	}
	_, err := t.do(ctx, nil)
	return err
}

// do makes the writes if the conditions hold.
func (t *Txn) do(ctx context.Context, writes []clientv3.Op) (int64, error) {
	if n := max(1+len(t.conditions), len(writes)); n > t.store.maxTxnOps {
		return 0, fmt.Errorf("%w: %d operations, etcd takes %d at once; apply in parts, or raise --max-txn-ops of the etcd cluster and --etcd-max-txn-ops here",
			ErrTooLarge, n, t.store.maxTxnOps)
	}
	conditions := append([]condition{t.store.schema.condition()}, t.conditions...)
	compares := make([]clientv3.Cmp, len(conditions))
	reads := make([]clientv3.Op, len(conditions))
	for i, c := range conditions {
		compares[i] = c.compare()
		reads[i] = clientv3.OpGet(c.key, clientv3.WithKeysOnly())
	}
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return t.store.client.Txn(ctx).If(compares...).Then(writes...).Else(reads...).Commit()
	})
	if errors.Is(err, rpctypes.ErrRequestTooLarge) || errors.Is(err, rpctypes.ErrTooManyOps) {
		return 0, fmt.Errorf("%w: %w; apply in parts", ErrTooLarge, err)
	}
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // as after a restore of etcd; the caller tries again
		t.store.requests.forget()
	}
	if err != nil {
		return 0, fmt.Errorf("commit transaction: %w", err)
	}
	if !resp.Succeeded {
		return 0, t.store.violated(conditions, resp)
	}
	return resp.Header.Revision, nil
}

// violated finds the condition that did not hold. The first one is the schema's.
func (s *Store) violated(conditions []condition, resp *clientv3.TxnResponse) error {
	for i, c := range conditions {
		var have int64
		if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			have = kvs[0].ModRevision
		}
		if i == 0 && !c.holds(have) {
			return s.supersede()
		}
		if !c.holds(have) {
			return &ConditionError{Name: c.name, Want: cmp.Or(c.notAfter, c.want), Have: have}
		}
	}
	return fmt.Errorf("commit transaction: etcd refused it though every condition holds")
}
