package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// audited is a store with a leader and a network whose audit log is sealed by hand.
type audited struct {
	*Store
	t       *testing.T
	ctx     context.Context
	sealer  *Sealer
	leader  *Leadership
	network model.NetworkName
	keys    []string // of the events, in the order in which they were written
}

func newAudited(t *testing.T) *audited {
	s := openTemp(t)
	sealer, err := LoadSealer(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	leader := stand(t, s, "replicas/a").wins(t)
	return &audited{Store: s, t: t, ctx: within(t, time.Minute), sealer: sealer, leader: leader, network: model.NetworkName{Network: "demo"}}
}

func (a *audited) write(n int) {
	a.t.Helper()
	for range n {
		event := &swanherdv1.Event{Kind: swanherdv1.Event_KIND_AUDIT, Actor: "token:ops", Action: "site.update", Message: fmt.Sprint(len(a.keys))}
		if err := a.AppendEvent(a.ctx, a.network, event); err != nil {
			a.t.Fatal(err)
		}
		key, err := auditLayout.key(event.GetName())
		if err != nil {
			a.t.Fatal(err)
		}
		a.keys = append(a.keys, key)
	}
}

func (a *audited) seal() {
	a.t.Helper()
	if err := a.sealNetwork(a.ctx, a.leader, a.sealer, a.network); err != nil {
		a.t.Fatal(err)
	}
}

func (a *audited) verify() Audit {
	a.t.Helper()
	found, err := a.VerifyAudit(a.ctx, a.network, a.sealer)
	if err != nil {
		a.t.Fatal(err)
	}
	return found
}

func TestAuditLogIsSealed(t *testing.T) {
	a := newAudited(t)
	if got := a.verify(); got.Events != 0 || got.Problem != "" || got.Last != nil {
		t.Errorf("an empty log: %+v", got)
	}
	a.write(5)
	a.seal()
	a.seal() // nothing new
	a.write(3)
	a.seal()
	a.write(2)
	if got := a.verify(); got.Events != 10 || got.Unsealed != 2 || got.Last.GetEvents() != 8 || got.Problem != "" {
		t.Errorf("the log: %+v", got)
	}
}

// What was done to a network before it was deleted, and is too new for a seal then, gets one.
func TestAuditLogOfADeletedNetworkIsSealed(t *testing.T) {
	a := newAudited(t) // whose network is not there
	a.write(3)
	ctx, stop := context.WithCancel(a.ctx)
	defer stop()
	due := map[string]bool{a.network.Network: true, NoNetwork.Network: true}
	a.sealDue(ctx, a.leader, a.sealer, due)
	if got := a.verify(); got.Events != 3 || got.Unsealed != 0 || got.Problem != "" || len(due) != 0 {
		t.Errorf("the log: %+v, due are %v", got, due)
	}
	a.write(1)
	stop()
	due[a.network.Network] = true
	a.sealDue(ctx, a.leader, a.sealer, due)
	if !due[a.network.Network] {
		t.Error("what could not be sealed is not tried again")
	}
}

// Who can write to the store, but has no key, cannot alter what was sealed unseen.
func TestAlteredAuditLog(t *testing.T) {
	for name, c := range map[string]struct {
		alter func(a *audited) clientv3.Op
		want  string
	}{
		"an event is another": {
			func(a *audited) clientv3.Op { return clientv3.OpPut(a.keys[1], "\x22\x03me!") }, "covers 5 events, and 4 are there",
		},
		"an event is gone": {
			func(a *audited) clientv3.Op { return clientv3.OpDelete(a.keys[6]) }, "covers 8 events, and 7 are there",
		},
		"the last sealed event is gone": {
			func(a *audited) clientv3.Op { return clientv3.OpDelete(a.keys[7]) }, "covers 8 events, and 7 are there",
		},
		"a seal is gone, with what it covers": {
			func(a *audited) clientv3.Op {
				return clientv3.OpTxn(nil, []clientv3.Op{
					clientv3.OpDelete(a.sealKey(0)), clientv3.OpDelete(a.keys[0], clientv3.WithRange(a.keys[4]+"\x00")),
				}, nil)
			}, "covers 8 events, and 3 are there",
		},
		"a seal is called the base": {
			func(a *audited) clientv3.Op {
				log, err := a.readAudit(a.ctx, a.network)
				if err != nil {
					a.t.Fatal(err)
				}
				other, err := LoadSealer(filepath.Join(a.t.TempDir(), "another key"))
				if err != nil {
					a.t.Fatal(err)
				}
				other.active, other.keys = a.sealer.active, map[string]sealKey{a.sealer.active: other.keys[other.active]}
				log.seals[0].Base = true
				txn := a.Txn()
				a.putSealIn(txn, other, log.seals[0])
				return txn.writes[0]
			}, "it was not made by this controller",
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAudited(t)
			a.write(5)
			a.seal()
			a.write(3)
			a.seal()
			if _, err := a.client.Do(a.ctx, c.alter(a)); err != nil {
				t.Fatal(err)
			}
			if got := a.verify(); !strings.Contains(got.Problem, c.want) {
				t.Errorf("found %q, want %q", got.Problem, c.want)
			}
		})
	}
}

// Two events that change places in time are found by the hash, not by the count.
func TestAuditEventsThatChangedPlaces(t *testing.T) {
	a := newAudited(t)
	a.write(2)
	a.seal()
	resp, err := a.client.Get(a.ctx, auditLayout.networkPrefix("demo"), clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	last := chain(nil, resp.Kvs)
	resp.Kvs[0].ModRevision, resp.Kvs[1].ModRevision = resp.Kvs[1].ModRevision, resp.Kvs[0].ModRevision
	if string(chain(nil, resp.Kvs)) == string(last) {
		t.Error("the order of events is not in their hash")
	}
}

func (a *audited) sealKey(i int) string {
	log, err := a.readAudit(a.ctx, a.network)
	if err != nil {
		a.t.Fatal(err)
	}
	key, err := sealLayout.key(log.seals[i].GetName())
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

// The retention takes whole seals, and the log can be verified from where it begins.
func TestAuditRetention(t *testing.T) {
	a := newAudited(t)
	a.auditRetention = 10
	for range 6 {
		a.write(4)
		a.seal()
	}
	got := a.verify()
	if got.Problem != "" || got.Events != 12 || got.Removed != 12 || got.Last.GetEvents() != 24 {
		t.Errorf("the log: %+v", got)
	}
	events, err := a.ListEvents(a.ctx, EventQuery{Networks: []model.NetworkName{a.network}, Former: true, Limit: 100})
	if err != nil || len(events) != 12 || events[11].GetMessage() != "12" {
		t.Errorf("%d events are listed, %v", len(events), err)
	}
	// However many transitions there are, what people did stays.
	a.eventRetention = 1
	for range 5 {
		if err := a.AppendEvent(a.ctx, a.network, &swanherdv1.Event{Kind: swanherdv1.Event_KIND_TRANSITION, Action: "tunnel.down"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.trimNetwork(a.ctx, a.network); err != nil {
		t.Fatal(err)
	}
	if events, err = a.ListEvents(a.ctx, EventQuery{Networks: []model.NetworkName{a.network}, Former: true, Limit: 100}); err != nil || len(events) != 13 || events[0].GetAction() != "tunnel.down" {
		t.Errorf("%d events are listed, %v", len(events), err)
	}
	if got := a.verify(); got.Problem != "" {
		t.Error(got.Problem)
	}
}

// Who led before seals no longer.
func TestSealsAreFenced(t *testing.T) {
	a := newAudited(t)
	a.write(1)
	a.leader = &Leadership{key: a.leader.key, revision: a.leader.revision - 1}
	if err := a.sealNetwork(a.ctx, a.leader, a.sealer, a.network); err == nil {
		t.Error("a seal of who does not lead")
	}
}
