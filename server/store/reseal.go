package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
)

const (
	// resealInterval is how often the leader looks for what an old key sealed.
	resealInterval = time.Minute
	// retireAfter is for how long a key is kept at least after another one seals, as a
	// replica that was not told in time may still have sealed with it.
	retireAfter = time.Hour
	// resealAfter is how long the others have to learn of a new key before something
	// that they have to open is sealed with it.
	resealAfter = 30 * time.Second
	// resealBatch is how many records one transaction seals anew.
	resealBatch = 20
)

// KeyUse is how much a key has sealed that is still there.
type KeyUse struct {
	// Secrets, and seals of the audit log.
	Secrets, Seals int
}

// Reseal seals with the present key what others sealed, and forgets keys that nothing
// needs any more, until ctx ends. It is the leader's to call. What it has to do it finds in the
// store: it goes on wherever it, or another leader, was killed.
func (r *KeyRing) Reseal(ctx context.Context, l *Leadership) {
	ticker := time.NewTicker(resealInterval)
	defer ticker.Stop()
	for {
		err := r.resealOnce(ctx, l, time.Now())
		if err != nil && ctx.Err() == nil {
			r.store.log.Warn("seal secrets anew", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (r *KeyRing) resealOnce(ctx context.Context, l *Leadership, now time.Time) error {
	if keys := r.Keys(); len(keys) > 0 && now.Sub(keys[0].GetCreateTime().AsTime()) < resealAfter {
		return nil
	}
	batch, sealed := r.store.Txn(), 0
	flush := func(always bool) error {
		if sealed == 0 || sealed < resealBatch && !always {
			return nil
		}
		l.FenceIn(batch)
		_, err := batch.Commit(ctx)
		var condition *ConditionError
		if errors.As(err, &condition) && !condition.Is(ErrNotFound) { // somebody wrote one of them; the next time
			err = nil
		}
		batch, sealed = r.store.Txn(), 0
		return err
	}
	err := r.eachSealed(ctx, func(record sealedRecord) error {
		if !slices.ContainsFunc(record.keyIDs(), func(id string) bool { return id != r.sealer.Active() }) || record.busy() {
			return nil
		}
		b, err := record.reseal(r.sealer)
		if err != nil {
			r.store.log.Warn("cannot seal a record anew", "key", record.key, "error", err)
			return nil
		}
		batch.require(record.key, record.key, record.revision)
		batch.write(record.key, record.key, clientv3.OpPut(record.key, string(b), clientv3.WithIgnoreLease()))
		sealed++
		return flush(false)
	})
	if err == nil {
		err = flush(true)
	}
	if err != nil {
		return err
	}
	return r.forget(ctx, l, now)
}

// forget drops the keys that were retired long enough ago and that nothing needs.
func (r *KeyRing) forget(ctx context.Context, l *Leadership, now time.Time) error {
	if r.wrapper == nil {
		return nil
	}
	row, err := r.store.DataKeys.Get(ctx, dataKeysName)
	if err != nil || len(row.Value.GetKeys()) < 2 {
		return err
	}
	uses, err := r.Uses(ctx)
	if err != nil {
		return err
	}
	changed := proto.CloneOf(row.Value)
	changed.Keys = slices.DeleteFunc(changed.GetKeys(), func(k *storev1.DataKey) bool {
		return k.GetRetireTime() != nil && now.Sub(k.GetRetireTime().AsTime()) >= retireAfter && uses[k.GetId()] == KeyUse{}
	})
	if len(changed.GetKeys()) == len(row.Value.GetKeys()) {
		return nil
	}
	t := r.store.Txn()
	l.FenceIn(t)
	r.store.DataKeys.UpdateIn(t, dataKeysName, changed, row.Revision)
	_, err = t.Commit(ctx)
	return err
}

// Keys are those that wrapped ones of the store are, the one that seals first; none when
// they are in a file.
func (r *KeyRing) Keys() []*storev1.DataKey {
	return r.store.Snapshot().DataKeys.Value(dataKeysName).GetKeys()
}

// Uses tells what each key has sealed, by the key's id.
func (r *KeyRing) Uses(ctx context.Context) (map[string]KeyUse, error) {
	uses := map[string]KeyUse{r.sealer.Active(): {}}
	err := r.eachSealed(ctx, func(record sealedRecord) error {
		for _, id := range record.keyIDs() {
			use := uses[id]
			if _, ok := record.message.(*storev1.AuditSeal); ok {
				use.Seals++
			} else {
				use.Secrets++
			}
			uses[id] = use
		}
		return nil
	})
	return uses, err
}

// sealedRecord is a record that holds secrets, or is a seal.
type sealedRecord struct {
	key      string
	revision int64
	message  proto.Message
}

// eachSealed calls f with each record of the store in which something is sealed.
func (r *KeyRing) eachSealed(ctx context.Context, f func(sealedRecord) error) error {
	kinds := map[string]proto.Message{requestLayout.prefix(): &storev1.AnsweredRequest{}, sealLayout.prefix(): &storev1.AuditSeal{}, r.store.JobOutputs.prefix(): r.store.JobOutputs.message()}
	for _, c := range r.store.cached {
		if holdsSecrets(c.message().ProtoReflect().Descriptor(), map[protoreflect.FullName]bool{}) {
			kinds[c.prefix()] = c.message()
		}
	}
	for prefix, empty := range kinds {
		_, err := r.store.scan(ctx, prefix, 0, func(kv *mvccpb.KeyValue) error {
			record := sealedRecord{string(kv.Key), kv.ModRevision, empty.ProtoReflect().New().Interface()}
			if err := proto.Unmarshal(kv.Value, record.message); err != nil {
				r.store.log.Error("value in the store is unreadable", "key", record.key, "error", err)
				return nil
			}
			if len(record.keyIDs()) == 0 {
				return nil
			}
			return f(record)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var secretType = (&storev1.SealedSecret{}).ProtoReflect().Descriptor().FullName()

// holdsSecrets says whether messages of that type may hold a SealedSecret.
func holdsSecrets(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if seen[d.FullName()] {
		return false
	}
	seen[d.FullName()] = true
	for i := range d.Fields().Len() {
		if m := d.Fields().Get(i).Message(); m != nil && (m.FullName() == secretType || holdsSecrets(m, seen)) {
			return true
		}
	}
	return false
}

func (r sealedRecord) keyIDs() []string {
	if seal, ok := r.message.(*storev1.AuditSeal); ok {
		return []string{seal.GetKeyId()}
	}
	var ids []string
	eachSecret(r.message.ProtoReflect(), func(s *storev1.SealedSecret) { ids = append(ids, s.GetKeyId()) })
	return ids
}

// busy says that the record's revision means something at the moment: edges have to come
// to that of an authority that is being replaced.
func (r sealedRecord) busy() bool {
	authority, ok := r.message.(*storev1.CertificateAuthority)
	return ok && authority.GetRotation() != nil
}

// reseal is the record as it is with everything in it sealed by the present key.
func (r sealedRecord) reseal(sealer *Sealer) ([]byte, error) {
	if seal, ok := r.message.(*storev1.AuditSeal); ok {
		if err := sealer.Authentic(seal.GetKeyId(), sealed(seal), seal.GetMac()); err != nil {
			return nil, err // that it shows is what it is for
		}
		seal.KeyId, seal.Mac = sealer.Authenticate(sealed(seal))
		return proto.Marshal(seal)
	}
	var failed error
	eachSecret(r.message.ProtoReflect(), func(s *storev1.SealedSecret) {
		secret, err := sealer.Open(r.key, s)
		if err != nil {
			failed = errors.Join(failed, err)
			return
		}
		fresh := sealer.Seal(r.key, secret)
		clear(secret)
		s.KeyId, s.Nonce, s.Ciphertext = fresh.GetKeyId(), fresh.GetNonce(), fresh.GetCiphertext()
	})
	if failed != nil {
		return nil, failed
	}
	b, err := proto.Marshal(r.message)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.key, err)
	}
	return b, nil
}

// eachSecret calls f with every SealedSecret in a message.
func eachSecret(m protoreflect.Message, f func(*storev1.SealedSecret)) {
	if s, ok := m.Interface().(*storev1.SealedSecret); ok {
		f(s)
		return
	}
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.IsMap() && d.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				eachSecret(v.Message(), f)
				return true
			})
		case d.IsList() && d.Message() != nil:
			for i := range v.List().Len() {
				eachSecret(v.List().Get(i).Message(), f)
			}
		case !d.IsMap() && d.Message() != nil:
			eachSecret(v.Message(), f)
		}
		return true
	})
}
