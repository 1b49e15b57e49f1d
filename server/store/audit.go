package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/model"
)

// sealInterval is how long an audit event waits for its seal.
const sealInterval = 10 * time.Second

var sealLayout = newLayout("audit_seals", "networks/*/auditSeals/*")

// sealName orders seals by the revision up to which they cover.
func sealName(network model.NetworkName, through int64) string {
	return fmt.Sprintf("%s/auditSeals/%020d", network, through)
}

// SealAudit seals audit events as they come, and removes those beyond the retention,
// until ctx ends. It is the leader's to call.
//
// Events are not chained as they are written: then every two changes would be in each
// other's way. A seal covers what was written since the one before.
func (s *Store) SealAudit(ctx context.Context, l *Leadership, sealer *Sealer) {
	written := s.client.Watch(clientv3.WithRequireLeader(ctx), auditLayout.prefix(), clientv3.WithPrefix(), clientv3.WithFilterDelete())
	ticker := time.NewTicker(sealInterval)
	defer ticker.Stop()
	due := map[string]bool{}
	all := true // what came before this leadership
	for {
		select {
		case <-ctx.Done():
			return
		case resp, ok := <-written:
			for _, e := range resp.Events {
				if name, err := auditLayout.name(string(e.Kv.Key)); err == nil {
					if n, err := eventNetwork(name); err == nil {
						due[n.Network] = true
					}
				}
			}
			if !ok || resp.Err() != nil { // look at everything, now and then
				written, all = nil, true
			}
			continue
		case <-ticker.C:
		}
		if all {
			networks, err := s.EventNetworks(ctx)
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("seal audit logs", "error", err)
				}
				continue
			}
			for _, n := range networks {
				due[n.Network] = true
			}
		}
		s.sealDue(ctx, l, sealer, due)
		all = written == nil
	}
}

// sealDue seals the logs of networks, also of those that were deleted since their last event,
// and takes them from due.
func (s *Store) sealDue(ctx context.Context, l *Leadership, sealer *Sealer, due map[string]bool) {
	for network := range due {
		n := model.NetworkName{Network: network}
		if err := s.sealNetwork(ctx, l, sealer, n); err == nil {
			delete(due, network)
		} else if ctx.Err() == nil {
			s.log.Warn("seal the audit log", "network", n, "error", err)
		}
	}
}

// eventNetwork is NetworkOf for events, which may belong to no network.
func eventNetwork(name string) (model.NetworkName, error) {
	if rest := NoNetwork.String() + "/"; len(name) > len(rest) && name[:len(rest)] == rest {
		return NoNetwork, nil
	}
	return model.NetworkOf(name)
}

func (s *Store) sealNetwork(ctx context.Context, l *Leadership, sealer *Sealer, network model.NetworkName) error {
	last, err := s.lastSeal(ctx, network)
	if err != nil {
		return err
	}
	resp, err := s.client.Get(ctx, auditLayout.networkPrefix(network.Network), clientv3.WithPrefix(),
		clientv3.WithMinModRev(last.GetThroughRevision()+1))
	if err != nil {
		return fmt.Errorf("list audit events of %s: %w", network, err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	seal := &storev1.AuditSeal{
		Name:            sealName(network, resp.Header.Revision),
		ThroughRevision: resp.Header.Revision,
		Events:          last.GetEvents() + int64(len(resp.Kvs)),
		Hash:            chain(last.GetHash(), resp.Kvs),
		Time:            timestamppb.Now(),
	}
	t := s.Txn()
	l.FenceIn(t)
	s.putSealIn(t, sealer, seal)
	if _, err := t.Commit(ctx); err != nil {
		return err
	}
	s.log.Info("sealed the audit log", "network", network.String(), "through_revision", seal.GetThroughRevision(),
		"events", seal.GetEvents(), "hash", fmt.Sprintf("%x", seal.GetHash()))
	return s.trimAudit(ctx, l, sealer, network)
}

func (s *Store) putSealIn(t *Txn, sealer *Sealer, seal *storev1.AuditSeal) {
	seal.KeyId, seal.Mac = sealer.Authenticate(sealed(seal))
	key, err := sealLayout.key(seal.GetName())
	if err != nil {
		t.fail(err)
		return
	}
	b, err := proto.Marshal(seal)
	if err != nil {
		t.fail(fmt.Errorf("encode %s: %w", seal.GetName(), err))
		return
	}
	t.write(seal.GetName(), key, clientv3.OpPut(key, string(b)))
}

// chain goes on from the hash before over events in the order in which they were written.
func chain(before []byte, events []*mvccpb.KeyValue) []byte {
	events = slices.Clone(events)
	slices.SortFunc(events, func(a, b *mvccpb.KeyValue) int {
		return cmp.Or(cmp.Compare(a.ModRevision, b.ModRevision), cmp.Compare(string(a.Key), string(b.Key)))
	})
	h := sha256.New()
	h.Write(append(make([]byte, 0, sha256.Size), before...))
	if before == nil {
		h.Write(make([]byte, sha256.Size))
	}
	for _, kv := range events {
		for _, part := range [][]byte{kv.Key, kv.Value} {
			h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
			h.Write(part)
		}
	}
	return h.Sum(nil)
}

// sealed is what a seal's MAC is over.
func sealed(seal *storev1.AuditSeal) []byte {
	var b []byte
	for _, part := range [][]byte{[]byte(seal.GetName()), seal.GetHash()} {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(part))), part...)
	}
	for _, n := range []int64{seal.GetThroughRevision(), seal.GetEvents(), seal.GetTime().GetSeconds(), int64(seal.GetTime().GetNanos())} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if seal.GetBase() {
		return append(b, 1)
	}
	return append(b, 0)
}

func (s *Store) lastSeal(ctx context.Context, network model.NetworkName) (*storev1.AuditSeal, error) {
	resp, err := s.client.Get(ctx, sealLayout.networkPrefix(network.Network), clientv3.WithLastKey()...)
	if err != nil {
		return nil, fmt.Errorf("read the last seal of %s: %w", network, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, nil
	}
	return decodeSeal(resp.Kvs[0])
}

func decodeSeal(kv *mvccpb.KeyValue) (*storev1.AuditSeal, error) {
	seal := &storev1.AuditSeal{}
	if err := proto.Unmarshal(kv.Value, seal); err != nil {
		return nil, fmt.Errorf("decode seal %s: %w", kv.Key, err)
	}
	return seal, nil
}

// auditLog is all that there is of a network's audit, as of one revision.
type auditLog struct {
	events []*mvccpb.KeyValue // by revision
	seals  []*storev1.AuditSeal
}

func (s *Store) readAudit(ctx context.Context, network model.NetworkName) (auditLog, error) {
	var log auditLog
	revision, err := s.scan(ctx, auditLayout.networkPrefix(network.Network), 0, func(kv *mvccpb.KeyValue) error {
		log.events = append(log.events, kv)
		return nil
	})
	if err != nil {
		return log, err
	}
	slices.SortFunc(log.events, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) })
	_, err = s.scan(ctx, sealLayout.networkPrefix(network.Network), revision, func(kv *mvccpb.KeyValue) error {
		seal, err := decodeSeal(kv)
		if err != nil {
			return err
		}
		if key, err := sealLayout.key(seal.GetName()); err != nil || key != string(kv.Key) {
			return fmt.Errorf("seal %s says that it is %q", kv.Key, seal.GetName())
		}
		log.seals = append(log.seals, seal)
		return nil
	})
	return log, err
}

// trimAudit removes the oldest audit events beyond the retention, whole seals of them,
// and leaves the last one of these seals as the base of the log.
func (s *Store) trimAudit(ctx context.Context, l *Leadership, sealer *Sealer, network model.NetworkName) error {
	count, err := s.client.Get(ctx, auditLayout.networkPrefix(network.Network), clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("count audit events of %s: %w", network, err)
	}
	excess := count.Count - int64(s.auditRetention)
	if excess <= 0 {
		return nil
	}
	log, err := s.readAudit(ctx, network)
	if err != nil {
		return err
	}
	base := -1
	for i, seal := range log.seals {
		if covered(log.events, seal) <= int(excess) {
			base = i
		}
	}
	if base < 0 || log.seals[base].GetBase() {
		return nil
	}
	t := s.Txn()
	l.FenceIn(t)
	log.seals[base].Base = true
	s.putSealIn(t, sealer, log.seals[base])
	if _, err := t.Commit(ctx); err != nil {
		return err
	}
	// From here on the log begins behind the base, whatever is left of what is before it.
	for _, seal := range log.seals[:base] {
		if key, err := sealLayout.key(seal.GetName()); err == nil {
			if err := s.remove(ctx, clientv3.OpDelete(key)); err != nil {
				return fmt.Errorf("remove %s: %w", seal.GetName(), err)
			}
		}
	}
	for part := range slices.Chunk(log.events[:covered(log.events, log.seals[base])], s.maxTxnOps) {
		var drop []clientv3.Op
		for _, kv := range part {
			drop = append(drop, clientv3.OpDelete(string(kv.Key)))
		}
		if err := s.remove(ctx, drop...); err != nil {
			return fmt.Errorf("remove the oldest audit events of %s: %w", network, err)
		}
	}
	return nil
}

// covered is how many of the events a seal and those before it cover.
func covered(events []*mvccpb.KeyValue, seal *storev1.AuditSeal) int {
	n, _ := slices.BinarySearchFunc(events, seal.GetThroughRevision()+1, func(kv *mvccpb.KeyValue, revision int64) int {
		return cmp.Compare(kv.ModRevision, revision)
	})
	return n
}

// Audit is what VerifyAudit found.
type Audit struct {
	// Events there are; Unsealed of them are too new for a seal; Removed were there before.
	Events, Unsealed, Removed int64
	// Last is the newest seal; nil: none was made yet.
	Last *storev1.AuditSeal
	// Problem says what is wrong; empty: nothing.
	Problem string
}

// VerifyAudit checks that the audit events of a network are those that were sealed.
func (s *Store) VerifyAudit(ctx context.Context, network model.NetworkName, sealer *Sealer) (Audit, error) {
	log, err := s.readAudit(ctx, network)
	if err != nil {
		return Audit{}, err
	}
	a := Audit{Events: int64(len(log.events))}
	var before *storev1.AuditSeal
	rest := log.events
	for i, seal := range log.seals {
		n := covered(rest, seal)
		some := rest[:n]
		rest = rest[n:]
		if a.Problem == "" {
			a.Problem = wrongSeal(sealer, before, seal, some, i == 0 && seal.GetBase())
		}
		if i == 0 && seal.GetBase() {
			a.Removed = seal.GetEvents()
			a.Events -= int64(n) // the retention has not come to the end of removing them
		}
		before = seal
	}
	a.Last, a.Unsealed = before, int64(len(rest))
	if before != nil && a.Problem == "" && before.GetEvents() != a.Removed+a.Events-a.Unsealed {
		a.Problem = fmt.Sprintf("the last seal covers %d events, and %d are there", before.GetEvents(), a.Removed+a.Events-a.Unsealed)
	}
	return a, nil
}

// wrongSeal says what is wrong with a seal over events that follow the one before; empty:
// nothing. Of a base the events are gone, or going.
func wrongSeal(sealer *Sealer, before, seal *storev1.AuditSeal, events []*mvccpb.KeyValue, base bool) string {
	at := fmt.Sprintf("the seal of revision %d, made %s", seal.GetThroughRevision(), seal.GetTime().AsTime().Format(time.RFC3339))
	if err := sealer.Authentic(seal.GetKeyId(), sealed(seal), seal.GetMac()); err != nil {
		return fmt.Sprintf("%s: %v", at, err)
	}
	if base {
		return ""
	}
	if have := before.GetEvents() + int64(len(events)); have != seal.GetEvents() {
		return fmt.Sprintf("%s covers %d events, and %d are there: between revisions %d and %d events were taken out or put in",
			at, seal.GetEvents(), have, before.GetThroughRevision(), seal.GetThroughRevision())
	}
	if string(chain(before.GetHash(), events)) != string(seal.GetHash()) {
		return fmt.Sprintf("%s: between revisions %d and %d an event is another than the one that was sealed",
			at, before.GetThroughRevision(), seal.GetThroughRevision())
	}
	return ""
}
