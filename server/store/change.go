package store

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/server/model"
)

// ChangeTopologyIn makes the topology from into to as a part of t: it creates,
// updates and deletes the networks, profiles, segments, sites, meshes, gateways, assertions
// and edges in which they differ, each on the condition that it is still at from's revision.
//
// What a state may be is a question of the whole, such as that no prefixes
// overlap: so in every network that is touched the change also depends on nobody
// else having changed it since from's revision. Commit answers ErrConflict then;
// validate again on a newer snapshot and retry.
func (s *Store) ChangeTopologyIn(t *Txn, from, to *model.Topology) {
	networks := map[string]bool{}
	changeIn(t, s.Networks, from.Networks, to.Networks, networks)
	changeIn(t, s.Profiles, from.Profiles, to.Profiles, networks)
	changeIn(t, s.Segments, from.Segments, to.Segments, networks)
	changeIn(t, s.Sites, from.Sites, to.Sites, networks)
	changeIn(t, s.Meshes, from.Meshes, to.Meshes, networks)
	changeIn(t, s.Gateways, from.Gateways, to.Gateways, networks)
	changeIn(t, s.Assertions, from.Assertions, to.Assertions, networks)
	changeIn(t, s.Edges, from.Edges, to.Edges, networks)
	for network := range networks {
		s.GuardTopologyIn(t, model.NetworkName{Network: network}, from.Revision)
	}
}

// GuardTopologyIn makes t depend on nobody having changed the network's topology since
// a revision, and is itself such a change to everybody else.
func (s *Store) GuardTopologyIn(t *Txn, network model.NetworkName, revision int64) {
	key := guardLayout.prefix() + network.Network
	t.conditions = append(t.conditions, condition{name: "the topology of " + network.String(), key: key, notAfter: revision})
	t.write("guard of "+network.Network, key, clientv3.OpPut(key, ""))
}

// TopologyRevisionOf is the revision at which somebody last changed the network's
// topology.
func (s *Store) TopologyRevisionOf(ctx context.Context, network model.NetworkName) (int64, error) {
	resp, err := ask(ctx, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, guardLayout.prefix()+network.Network, clientv3.WithKeysOnly())
	})
	if err != nil {
		return 0, fmt.Errorf("read the guard of %s: %w", network, err)
	}
	if len(resp.Kvs) == 0 {
		return 0, nil
	}
	return resp.Kvs[0].ModRevision, nil
}

// guardLayout is where a key per network is written with each change of its
// topology. Its revision is all that it says.
var guardLayout = newLayout("guards", "networks/*")

func changeIn[T proto.Message](t *Txn, c *Collection[T], from, to model.Table[T], networks map[string]bool) {
	for change := range model.Diff(from, to) {
		switch {
		case change.Old == nil:
			c.CreateIn(t, change.Name, change.New.Value)
		case change.New == nil:
			c.DeleteIn(t, change.Name, change.Old.Revision)
		default:
			c.UpdateIn(t, change.Name, change.New.Value, change.Old.Revision)
		}
		network, err := model.NetworkOf(change.Name)
		if err != nil {
			t.fail(fmt.Errorf("change topology: %w", err))
			continue
		}
		networks[network.Network] = true
	}
}
