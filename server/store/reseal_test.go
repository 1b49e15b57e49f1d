package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/kms/kmstest"
	"github.com/swanherd/swanherd/server/model"
)

// vaulted is a store with secrets that a key from a file sealed, with a leader.
type vaulted struct {
	t       *testing.T
	s       *Store
	file    string
	transit *kmstest.Transit
	lead    *Leadership
	secrets map[string]string // by authority
}

const sealedAuthorities = 50 // more than go into one transaction

func newVaulted(t *testing.T) *vaulted {
	t.Helper()
	v := &vaulted{t: t, s: openTemp(t), file: filepath.Join(t.TempDir(), "secret.key"), transit: kmstest.Start(t), secrets: map[string]string{}}
	v.lead = stand(t, v.s, "replicas/a").wins(t)
	old := loadSealer(t, v.file)
	for i := range sealedAuthorities {
		v.authority(old, fmt.Sprintf("certificateAuthorities/networks/n%d", i), nil)
	}
	v.authority(old, "certificateAuthorities/networks/replaced", &storev1.AuthorityRotation{Actor: "x"})
	key, err := AnswerKey("token:a", "id")
	if err != nil {
		t.Fatal(err)
	}
	txn := v.s.Txn()
	if err := v.s.AnswerIn(t.Context(), txn, "token:a", "id", &storev1.AnsweredRequest{SealedResponse: old.Seal(key, []byte("the answer"))}); err != nil {
		t.Fatal(err)
	}
	demo := model.NetworkName{Network: "demo"}
	v.s.AppendEventIn(txn, demo, &swanherdv1.Event{Kind: swanherdv1.Event_KIND_AUDIT, Action: "site.create"})
	if _, err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := v.s.sealNetwork(t.Context(), v.lead, old, demo); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vaulted) authority(sealer *Sealer, name string, rotation *storev1.AuthorityRotation) {
	v.t.Helper()
	key, err := v.s.Authorities.Key(name)
	if err != nil {
		v.t.Fatal(err)
	}
	v.secrets[name] = "the key of " + name
	if rotation != nil {
		rotation.OtherKey = sealer.Seal(key, []byte("the other key of "+name))
	}
	_, err = v.s.Authorities.Put(v.t.Context(), name, &storev1.CertificateAuthority{Name: name, Key: sealer.Seal(key, []byte(v.secrets[name])), Rotation: rotation})
	if err != nil {
		v.t.Fatal(err)
	}
}

// ring is as a replica opens it that starts now; with or without the key file.
func (v *vaulted) ring(file string) *KeyRing {
	v.t.Helper()
	sealer, err := OldKeys(file)
	if err != nil {
		v.t.Fatal(err)
	}
	r, err := v.s.OpenKeyRing(v.t.Context(), v.transit.Wrapper(), sealer)
	if err != nil {
		v.t.Fatal(err)
	}
	return r
}

// opens checks that the ring opens every secret, and that the audit log is intact.
func (v *vaulted) opens(r *KeyRing) {
	v.t.Helper()
	rows, _, err := v.s.Authorities.List(v.t.Context(), model.NetworkName{})
	if err != nil || len(rows) != len(v.secrets) {
		v.t.Fatalf("%d authorities, %v", len(rows), err)
	}
	for _, row := range rows {
		key, err := v.s.Authorities.Key(row.Name)
		if err != nil {
			v.t.Fatal(err)
		}
		if got, err := r.sealer.Open(key, row.Value.GetKey()); err != nil || string(got) != v.secrets[row.Name] {
			v.t.Fatalf("%s: %q, %v", row.Name, got, err)
		}
	}
	a, _, err := v.s.Answered(v.t.Context(), "token:a", "id")
	key, keyErr := AnswerKey("token:a", "id")
	if err != nil || keyErr != nil || a == nil {
		v.t.Fatalf("answer %v, %v, %v", a, err, keyErr)
	}
	if got, err := r.sealer.Open(key, a.GetSealedResponse()); err != nil || string(got) != "the answer" {
		v.t.Fatalf("answer: %q, %v", got, err)
	}
	audit, err := v.s.VerifyAudit(v.t.Context(), model.NetworkName{Network: "demo"}, r.sealer)
	if err != nil || audit.Problem != "" {
		v.t.Fatalf("audit: %+v, %v", audit, err)
	}
}

func (v *vaulted) uses(r *KeyRing) map[string]KeyUse {
	v.t.Helper()
	uses, err := r.Uses(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	return uses
}

// From a file to a key management service, and on to another key: what is killed in the
// middle is gone on with, nothing is lost at any point, and in the end the old keys are
// needed by nothing.
func TestReseal(t *testing.T) {
	v := newVaulted(t)
	fileKey := loadSealer(t, v.file).Active()
	r := v.ring(v.file)
	later := time.Now().Add(time.Minute)
	v.killedAfter(r, later, 1)
	v.opens(r)
	if uses := v.uses(r); uses[fileKey].Secrets == 0 || uses[r.Active()].Secrets == 0 {
		t.Errorf("killed in the middle, uses are %v", uses)
	}
	r = v.ring(v.file) // another process
	if err := r.resealOnce(t.Context(), v.lead, later); err != nil {
		t.Fatal(err)
	}
	v.opens(r)
	if uses := v.uses(r); uses[fileKey] != (KeyUse{Secrets: 2}) { // of the authority that is being replaced
		t.Errorf("uses are %v", uses)
	}
	v.authority(loadSealer(t, v.file), "certificateAuthorities/networks/replaced", nil) // it was
	if err := r.resealOnce(t.Context(), v.lead, later); err != nil {
		t.Fatal(err)
	}
	r = v.ring("/nothing") // the file is gone
	v.opens(r)
	lease := v.lease()
	if lease == 0 {
		t.Error("an answer lost its lease, and stays for ever")
	}

	first := r.Active()
	txn := v.s.Txn()
	if _, err := r.Rotate(t.Context(), txn, later); err != nil {
		t.Fatal(err)
	}
	v.commit(txn)
	r = v.ring("/nothing")
	if r.Active() == first {
		t.Fatal("the key before still seals")
	}
	v.opens(r)
	if err := r.resealOnce(t.Context(), v.lead, later.Add(resealAfter/2)); err != nil { // the others do not know the key yet
		t.Fatal(err)
	}
	if v.uses(r)[first].Secrets == 0 {
		t.Error("sealed anew before every replica may know the key")
	}
	v.killedAfter(r, later.Add(time.Minute), 2)
	v.opens(r)
	if err := r.resealOnce(t.Context(), v.lead, later.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if have := len(v.keys()); have != 2 {
		t.Errorf("%d keys, the one before was retired a minute ago", have)
	}
	if err := r.resealOnce(t.Context(), v.lead, later.Add(2*retireAfter)); err != nil {
		t.Fatal(err)
	}
	if have := len(v.keys()); have != 1 {
		t.Errorf("%d keys", have)
	}
	v.opens(v.ring("/nothing"))
	if v.lease() != lease {
		t.Error("the answer's lease is another one")
	}
}

func (v *vaulted) commit(txn *Txn) {
	v.t.Helper()
	revision, err := txn.Commit(v.t.Context())
	if err == nil {
		_, err = v.s.WaitRevision(v.t.Context(), revision)
	}
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *vaulted) keys() []*storev1.DataKey {
	v.t.Helper()
	row, err := v.s.DataKeys.Get(v.t.Context(), dataKeysName)
	if err != nil {
		v.t.Fatal(err)
	}
	return row.Value.GetKeys()
}

func (v *vaulted) lease() int64 {
	v.t.Helper()
	resp, err := v.s.client.Get(v.t.Context(), requestLayout.prefix(), clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 {
		v.t.Fatalf("%v, %v", resp, err)
	}
	return resp.Kvs[0].Lease
}

// killedAfter seals anew until that many transactions were made, and no further.
func (v *vaulted) killedAfter(r *KeyRing, now time.Time, transactions int) {
	v.t.Helper()
	ctx, cancel := context.WithCancel(v.t.Context())
	defer cancel()
	watch := v.s.client.Watch(ctx, root+"cas/", clientv3.WithPrefix())
	done := make(chan error, 1)
	go func() { done <- r.resealOnce(ctx, v.lead, now) }()
	for range transactions {
		<-watch
	}
	cancel()
	<-done
}

func TestKeysAreRefusedThatAreNotOurs(t *testing.T) {
	v := newVaulted(t)
	v.ring(v.file)
	sealer := loadSealer(t, v.file)
	if _, err := v.s.OpenKeyRing(t.Context(), nil, sealer); err == nil || !strings.Contains(err.Error(), "--kms-vault") || !strings.Contains(err.Error(), "transit/swanherd") {
		t.Errorf("without the service: %v", err)
	}
	v.transit.Seal(true)
	if _, err := v.s.OpenKeyRing(t.Context(), v.transit.Wrapper(), sealer); err == nil || !strings.Contains(err.Error(), "unseal it") {
		t.Errorf("a sealed service: %v", err)
	}
	v.transit.Seal(false)
	row, err := v.s.DataKeys.Get(t.Context(), dataKeysName)
	if err != nil {
		t.Fatal(err)
	}
	swapped := proto.CloneOf(row.Value)
	if swapped.Keys[0].Wrapped, err = v.transit.Wrapper().Wrap(t.Context(), []byte("a key that somebody else made ...")[:32]); err != nil {
		t.Fatal(err)
	}
	if _, err := v.s.DataKeys.Put(t.Context(), dataKeysName, swapped); err != nil {
		t.Fatal(err)
	}
	if _, err := v.s.OpenKeyRing(t.Context(), v.transit.Wrapper(), sealer); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("a key that was put in: %v", err)
	}
}

// After the service's key was rotated and the keys wrapped anew, its old versions are
// needed by nothing.
func TestRewrap(t *testing.T) {
	v := newVaulted(t)
	r := v.ring(v.file)
	txn := v.s.Txn()
	if _, err := r.Rotate(t.Context(), txn, time.Now()); err != nil {
		t.Fatal(err)
	}
	v.commit(txn)
	v.transit.Rotate()
	txn = v.s.Txn()
	if err := r.Rewrap(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	v.commit(txn)
	v.transit.Retire()
	v.opens(v.ring(v.file))
}

// A replica learns of a key that another one made.
func TestKeysAreFollowed(t *testing.T) {
	v := newVaulted(t)
	a, b := v.ring(v.file), v.ring(v.file)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { b.Follow(ctx); close(done) }()
	txn := v.s.Txn()
	id, err := a.Rotate(t.Context(), txn, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	v.commit(txn)
	timeout := time.After(15 * time.Second)
	for b.Active() != id {
		select {
		case <-timeout:
			t.Fatal("the replica does not learn of the key")
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	<-done
	if calls := v.transit.Calls(); calls > 8 {
		t.Errorf("the service was called %d times", calls)
	}
}
