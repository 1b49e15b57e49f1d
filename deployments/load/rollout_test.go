package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// The leader is killed twice in the middle of a rollout, each time with a batch half
// baked: the next one goes on, and the change is brought to its end.
func TestRolloutOutlivesLeaders(t *testing.T) {
	if testing.Short() {
		return // it builds a controller without the race detector
	}
	f := newFaults(t)
	f.whole(3)
	name := f.rollOut()
	for batch := range uint32(2) {
		f.batch(name, batch)
		lost := f.leader()
		lost.kill()
		f.leader()
		f.again(lost)
	}
	f.until("the rollout to end", func(metric func(string) float64) bool { return metric("swanherd_rollouts") == 0 })
	f.whole(3)
	if r := f.rollout(name); r.GetState() != swanherdv1.Rollout_STATE_COMPLETED || len(r.GetBatchStates()) != 3 {
		t.Errorf("the rollout is %v", r)
	}
}

// rollOut begins a rollout of another profile, in batches of three spokes, five, and the
// rest.
func (f *faults) rollOut() string {
	f.t.Helper()
	profiles, err := f.controller.topology.ListProfiles(f.ctx, &swanherdv1.ListProfilesRequest{Parent: network})
	if err != nil || len(profiles.GetProfiles()) != 1 {
		f.t.Fatalf("the profiles are %v, %v", profiles, err)
	}
	changed := profiles.GetProfiles()[0]
	changed.ReplayWindow = 4096
	rollouts := swanherdv1.NewRolloutServiceClient(f.controller.conn)
	set, err := rollouts.CreateChangeSet(f.ctx, &swanherdv1.CreateChangeSetRequest{
		Parent: network, ChangeSet: &swanherdv1.ChangeSet{Manifest: &swanherdv1.Manifest{Profiles: []*swanherdv1.Profile{changed}}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	r, err := rollouts.CreateRollout(f.ctx, &swanherdv1.CreateRolloutRequest{Parent: network, Rollout: &swanherdv1.Rollout{
		ChangeSet: set.GetName(), Batches: []*swanherdv1.RolloutBatch{{MaxEdges: 3}, {MaxEdges: 5}},
		Policy: &swanherdv1.RolloutPolicy{BakeTime: durationpb.New(5 * time.Second)},
	}})
	if err != nil {
		f.t.Fatal(err)
	}
	return r.GetName()
}

// rollout is how the rollout is, by a controller that runs.
func (f *faults) rollout(name string) *swanherdv1.Rollout {
	f.t.Helper()
	for {
		for _, c := range f.controllers {
			r, err := swanherdv1.NewRolloutServiceClient(c.conn).GetRollout(f.ctx, &swanherdv1.GetRolloutRequest{Name: name})
			if err == nil {
				return r
			}
		}
		if err := pause(f.ctx, 50*time.Millisecond); err != nil {
			f.t.Fatal("nobody tells of the rollout")
		}
	}
}

// batch waits until the rollout has come to a batch.
func (f *faults) batch(name string, batch uint32) {
	f.t.Helper()
	for {
		r := f.rollout(name)
		switch {
		case r.GetState() != swanherdv1.Rollout_STATE_RUNNING:
			f.t.Fatalf("the rollout does not run: %v", r)
		case r.GetBatch() >= batch && r.GetBatchStates()[batch].GetStartTime() != nil:
			return
		}
		if err := pause(f.ctx, 50*time.Millisecond); err != nil {
			f.t.Fatalf("batch %d does not begin: %v", batch, r)
		}
	}
}
