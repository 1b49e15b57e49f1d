package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/model"
)

// maxRevisions is how many changes of each network's topology are kept.
const maxRevisions = 200

var revisionLayout = newLayout("revisions", "networks/*/revisions/*")

// TopologyRevision is a change of a network's topology as it is kept.
type TopologyRevision struct {
	*storev1.TopologyRevision
	Content *storev1.RevisionContent
	// Revision of the store at which the change took effect.
	Revision int64
}

// RecordIn keeps a change of a network's topology as a part of t, which makes it.
func (s *Store) RecordIn(t *Txn, network model.NetworkName, r TopologyRevision) error {
	b, err := proto.Marshal(r.Content)
	if err != nil {
		return fmt.Errorf("encode a revision of %s: %w", network, err)
	}
	r.TopologyRevision.Content = compress(b)
	if b, err = proto.Marshal(r.TopologyRevision); err != nil {
		return fmt.Errorf("encode a revision of %s: %w", network, err)
	}
	id, err := s.ids.next(r.GetTime().AsTime())
	if err != nil {
		return fmt.Errorf("make the id of a revision: %w", err)
	}
	key := revisionLayout.networkPrefix(network.Network) + id.String()
	t.write("revision of "+network.String(), key, clientv3.OpPut(key, string(b)))
	return nil
}

// DropRevisionsIn forgets every change of a network's topology as a part of t.
func (s *Store) DropRevisionsIn(t *Txn, network model.NetworkName) {
	key := revisionLayout.networkPrefix(network.Network)
	t.write("revisions of "+network.String(), key, clientv3.OpDelete(key, clientv3.WithPrefix()))
}

// Revisions returns the changes of a network's topology that took effect from the
// first to the last store revision, newest first.
func (s *Store) Revisions(ctx context.Context, network model.NetworkName, first, last int64) ([]TopologyRevision, error) {
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, revisionLayout.networkPrefix(network.Network), clientv3.WithPrefix(),
			clientv3.WithMinModRev(first), clientv3.WithMaxModRev(last), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))
	})
	if err != nil {
		return nil, fmt.Errorf("list revisions of %s: %w", network, err)
	}
	out := make([]TopologyRevision, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		r := TopologyRevision{TopologyRevision: &storev1.TopologyRevision{}, Content: &storev1.RevisionContent{}, Revision: kv.ModRevision}
		err := proto.Unmarshal(kv.Value, r.TopologyRevision)
		if err == nil {
			var content []byte
			if content, err = decompress(r.TopologyRevision.GetContent()); err == nil {
				err = proto.Unmarshal(content, r.Content)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("decode revision %d of %s: %w", kv.ModRevision, network, err)
		}
		out[i] = r
	}
	return out, nil
}

// TrimRevisions forgets the oldest changes of a network's topology beyond those that
// are kept.
func (s *Store) TrimRevisions(ctx context.Context, network model.NetworkName) error {
	prefix := revisionLayout.networkPrefix(network.Network)
	count, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || count.Count <= maxRevisions {
		return err
	}
	oldest, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(count.Count-maxRevisions),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil || len(oldest.Kvs) == 0 {
		return err
	}
	return s.remove(ctx, clientv3.OpDelete(prefix, clientv3.WithRange(string(oldest.Kvs[len(oldest.Kvs)-1].Key)+"\x00")))
}
