package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/model"
)

// A Wrapper wraps keys with one that it does not give out: a key management service.
type Wrapper interface {
	// Name tells which key wraps, such as `vault:https://vault:8200/transit/swanherd`.
	Name() string
	Wrap(ctx context.Context, key []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped []byte) ([]byte, error)
}

const dataKeysName = "dataKeys/all"

// wrapTimeout bounds how long a key management service may take.
const wrapTimeout = 10 * time.Second

// ErrNoWrapper: the keys that seal secrets are in a file, where whoever has the file
// replaces them.
var ErrNoWrapper = errors.New("the key that seals secrets is in the key file; put a new one on a line before it at every replica, and start them again")

// A KeyRing keeps the Sealer's keys in the store, wrapped.
type KeyRing struct {
	store   *Store
	wrapper Wrapper // nil: the keys are in a file
	sealer  *Sealer
	fixed   map[string]sealKey // from a file, whatever is in the store
	loaded  int64              // revision of the keys that the sealer has
}

// OpenKeyRing has the wrapper unwrap the keys of the store, and makes the first one of a
// store that has none. sealer opens what was sealed before, with keys from a file; from
// here on it seals with the store's. Without a wrapper it stays as it is.
func (s *Store) OpenKeyRing(ctx context.Context, w Wrapper, sealer *Sealer) (*KeyRing, error) {
	r := &KeyRing{store: s, wrapper: w, sealer: sealer}
	sealer.mu.RLock()
	r.fixed = maps.Clone(sealer.keys)
	sealer.mu.RUnlock()
	row, err := s.DataKeys.Get(ctx, dataKeysName)
	switch {
	case errors.Is(err, ErrNotFound) && w == nil:
		return r, nil
	case errors.Is(err, ErrNotFound):
		if row, err = r.first(ctx); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	if w == nil {
		return nil, fmt.Errorf("secrets in this store are sealed with keys that %s wraps; name it with --kms-vault and what goes with that", row.Value.GetKeys()[0].GetWrapper())
	}
	return r, r.load(ctx, row)
}

// first makes the first key of a store, unless another replica is faster.
func (r *KeyRing) first(ctx context.Context) (row model.Row[*storev1.DataKeys], _ error) {
	key, err := r.make(ctx, time.Now())
	if err != nil {
		return row, err
	}
	_, err = r.store.DataKeys.Create(ctx, dataKeysName, &storev1.DataKeys{Keys: []*storev1.DataKey{key}})
	if err != nil && !errors.Is(err, ErrExists) {
		return row, err
	}
	return r.store.DataKeys.Get(ctx, dataKeysName)
}

// make makes a key and has it wrapped. The Sealer gets it from what is stored.
func (r *KeyRing) make(ctx context.Context, now time.Time) (*storev1.DataKey, error) {
	key := make([]byte, sealKeySize)
	rand.Read(key)
	defer clear(key)
	made := &storev1.DataKey{Id: keyID(key), CreateTime: timestamppb.New(now)}
	return made, r.wrap(ctx, made, key)
}

func (r *KeyRing) wrap(ctx context.Context, into *storev1.DataKey, key []byte) error {
	ctx, cancel := context.WithTimeout(ctx, wrapTimeout)
	defer cancel()
	wrapped, err := r.wrapper.Wrap(ctx, key)
	if err != nil {
		return fmt.Errorf("wrap a key with %s: %w", r.wrapper.Name(), err)
	}
	into.Wrapped, into.Wrapper = wrapped, r.wrapper.Name()
	return nil
}

func (r *KeyRing) unwrap(ctx context.Context, k *storev1.DataKey) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wrapTimeout)
	defer cancel()
	key, err := r.wrapper.Unwrap(ctx, k.GetWrapped())
	if err != nil {
		return nil, fmt.Errorf("unwrap key %s, which %s wrapped: %w", k.GetId(), k.GetWrapper(), err)
	}
	if len(key) != sealKeySize || keyID(key) != k.GetId() {
		clear(key)
		return nil, fmt.Errorf("unwrap key %s, which %s wrapped: it became another key", k.GetId(), k.GetWrapper())
	}
	return key, nil
}

// load gives the sealer the keys of a row: all of them, or none when one does not unwrap.
func (r *KeyRing) load(ctx context.Context, row model.Row[*storev1.DataKeys]) error {
	fresh := &Sealer{keys: maps.Clone(r.fixed)}
	for _, k := range row.Value.GetKeys() {
		if known, ok := r.sealer.key(k.GetId()); ok {
			fresh.keys[k.GetId()] = known
			continue
		}
		key, err := r.unwrap(ctx, k)
		if err != nil {
			return err
		}
		_, err = fresh.add(key)
		clear(key)
		if err != nil {
			return err
		}
	}
	r.sealer.mu.Lock()
	defer r.sealer.mu.Unlock()
	r.sealer.keys, r.sealer.active = fresh.keys, row.Value.GetKeys()[0].GetId()
	r.loaded = row.Revision
	return nil
}

// Follow gives the sealer the keys that other replicas make, until ctx ends.
func (r *KeyRing) Follow(ctx context.Context) {
	if r.wrapper == nil {
		return
	}
	sub := r.store.Subscribe()
	defer sub.Close()
	retry := time.NewTicker(wrapTimeout)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sub.Changed():
		case <-retry.C: // of a service that did not answer
		}
		row, ok := r.store.Snapshot().DataKeys.Get(dataKeysName)
		if !ok || row.Revision <= r.loaded {
			continue
		}
		if err := r.load(ctx, row); err != nil && ctx.Err() == nil {
			r.store.log.Warn("cannot load the keys of secrets; trying again", "error", err)
		}
	}
}

// WrapperName tells which key wraps; empty: the keys are in a file.
func (r *KeyRing) WrapperName() string {
	if r.wrapper == nil {
		return ""
	}
	return r.wrapper.Name()
}

// Active is the id of the key that seals at this replica.
func (r *KeyRing) Active() string { return r.sealer.Active() }

// Rotate makes another key seal from now on, at every replica, as a part of t; what is
// sealed is sealed anew by Reseal.
func (r *KeyRing) Rotate(ctx context.Context, t *Txn, now time.Time) (id string, _ error) {
	row, err := r.current(ctx)
	if err != nil {
		return "", err
	}
	key, err := r.make(ctx, now)
	if err != nil {
		return "", err
	}
	changed := proto.CloneOf(row.Value)
	changed.Keys[0].RetireTime = timestamppb.New(now)
	changed.Keys = append([]*storev1.DataKey{key}, changed.GetKeys()...)
	r.store.DataKeys.UpdateIn(t, dataKeysName, changed, row.Revision)
	return key.GetId(), nil
}

// Rewrap has every key wrapped anew, with the newest version of the service's key or with
// another service, as a part of t.
func (r *KeyRing) Rewrap(ctx context.Context, t *Txn) error {
	row, err := r.current(ctx)
	if err != nil {
		return err
	}
	changed := proto.CloneOf(row.Value)
	for _, k := range changed.GetKeys() {
		key, err := r.unwrap(ctx, k)
		if err != nil {
			return err
		}
		err = r.wrap(ctx, k, key)
		clear(key)
		if err != nil {
			return err
		}
	}
	r.store.DataKeys.UpdateIn(t, dataKeysName, changed, row.Revision)
	return nil
}

func (r *KeyRing) current(ctx context.Context) (row model.Row[*storev1.DataKeys], _ error) {
	if r.wrapper == nil {
		return row, ErrNoWrapper
	}
	return r.store.DataKeys.Get(ctx, dataKeysName)
}
