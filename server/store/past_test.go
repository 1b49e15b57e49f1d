package store

import (
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
)

// What was is read from memory, from etcd, or not at all once etcd has forgotten it.
func TestSnapshotAt(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)
	first, err := s.Sites.Create(ctx, berlin, site(berlin, "10.1.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := s.WaitRevision(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.Sites.Update(ctx, berlin, site(berlin, "10.2.0.0/16"), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WaitRevision(ctx, last); err != nil {
		t.Fatal(err)
	}
	past, err := s.SnapshotAt(ctx, first)
	if err != nil || past == kept || past.Sites.Value(berlin).GetPrefixes()[0] != "10.1.0.0/16" || past.Revision != first {
		t.Errorf("from etcd: %v, %v", past, err)
	}
	if again, err := s.SnapshotAt(ctx, first); err != nil || again != past {
		t.Errorf("it was not kept: %v", err)
	}
	for _, revision := range []int64{last + 100, 0, -1} {
		if _, err := s.SnapshotAt(ctx, revision); !errors.Is(err, ErrPast) {
			t.Errorf("revision %d: %v, want ErrPast", revision, err)
		}
	}
	if _, err := s.client.Compact(ctx, last, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SnapshotAt(ctx, first-1); !errors.Is(err, ErrPast) {
		t.Errorf("a compacted revision: %v, want ErrPast", err)
	}
	if _, err := s.SnapshotAt(ctx, first); err != nil {
		t.Errorf("a kept revision after compaction: %v", err)
	}
}

// Answers are there once, and end with their lease.
func TestAnswers(t *testing.T) {
	s := openTemp(t)
	ctx := within(t, 30*time.Second)
	answer := &storev1.AnsweredRequest{Method: "m", RequestSha256: []byte{1}, Response: make([]byte, 100_000)}
	commit := func() error {
		txn := s.Txn()
		if err := s.AnswerIn(ctx, txn, "token:a", "1", answer); err != nil {
			t.Fatal(err)
		}
		_, err := txn.Commit(ctx)
		return err
	}
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	if err := commit(); !errors.Is(err, ErrExists) {
		t.Errorf("a second answer: %v, want ErrExists", err)
	}
	got, revision, err := s.Answered(ctx, "token:a", "1")
	if err != nil || revision == 0 || !proto.Equal(got, answer) {
		t.Errorf("answer is %v at %d, %v", got, revision, err)
	}
	if other, _, err := s.Answered(ctx, "token:b", "1"); err != nil || other != nil {
		t.Errorf("somebody else's is %v, %v", other, err)
	}
	if _, err := s.client.Revoke(ctx, s.requests.id); err != nil { // as it ends
		t.Fatal(err)
	}
	if gone, _, err := s.Answered(ctx, "token:a", "1"); err != nil || gone != nil {
		t.Errorf("after the end of the lease: %v, %v", gone, err)
	}
	if err := commit(); err == nil {
		t.Error("an answer was written under a lease that is no more")
	}
	if err := commit(); err != nil {
		t.Errorf("the next one takes no new lease: %v", err)
	}
}
