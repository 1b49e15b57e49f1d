package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	// ErrNoCluster: the store is no cluster of embedded etcds.
	ErrNoCluster = errors.New("this controller's etcd is not a member of a cluster of such (--cluster); members of an etcd cluster of its own are exchanged with etcdctl")
	// ErrMembership: the cluster does not take that change now.
	ErrMembership = errors.New("the cluster does not take that change")
)

// promoteInterval is how often the leader looks whether a member has caught up.
const promoteInterval = 2 * time.Second

// Member is one member of a cluster of embedded etcds.
type Member struct {
	// ID in hexadecimal.
	ID string
	// Name as in Cluster.Member; empty until the member was started for the first time.
	Name string
	// PeerURLs are where the others reach it.
	PeerURLs []string
	// Learner: it gets what the others have, and does not count yet.
	Learner bool
}

func memberOf(m *etcdserverpb.Member) Member {
	return Member{strconv.FormatUint(m.GetID(), 16), m.GetName(), m.GetPeerURLs(), m.GetIsLearner()}
}

// Members are those of the cluster, as a majority of it knows them.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	resp, err := askMembers(ctx, func(ctx context.Context) (*clientv3.MemberListResponse, error) { return s.client.MemberList(ctx) })
	if err != nil {
		return nil, err
	}
	out := make([]Member, len(resp.Members))
	for i, m := range resp.Members {
		out[i] = memberOf(m)
	}
	return out, nil
}

// CheckMember says what is wrong with the address of a member that is to be.
func (s *Store) CheckMember(peerURL string) error {
	if s.cluster == nil {
		return ErrNoCluster
	}
	_, err := s.cluster.peerURL(peerURL)
	return err
}

// AddMember lets a new member come to the cluster, as a learner: until it has what the
// others have it does not count. It is started with Cluster.Join then.
func (s *Store) AddMember(ctx context.Context, peerURL string) (Member, error) {
	if err := s.CheckMember(peerURL); err != nil {
		return Member{}, err
	}
	resp, err := askMembers(ctx, func(ctx context.Context) (*clientv3.MemberAddResponse, error) {
		return s.client.MemberAddAsLearner(ctx, []string{peerURL})
	})
	if err != nil {
		return Member{}, err
	}
	return memberOf(resp.Member), nil
}

// RemoveMember takes a member out of the cluster, for good: its data is worth nothing
// then. etcd refuses when those that are left could not decide anything.
func (s *Store) RemoveMember(ctx context.Context, id string) error {
	if s.cluster == nil {
		return ErrNoCluster
	}
	number, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return fmt.Errorf("cluster member %s: %w", id, ErrNotFound)
	}
	_, err = askMembers(ctx, func(ctx context.Context) (*clientv3.MemberRemoveResponse, error) {
		return s.client.MemberRemove(ctx, number)
	})
	return err
}

// askMembers is ask for calls about members, whose refusals look as if etcd did not
// answer.
func askMembers[T any](ctx context.Context, call func(context.Context) (T, error)) (T, error) {
	bounded, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	answer, err := call(bounded)
	switch {
	case errors.Is(err, rpctypes.ErrMemberNotFound):
		err = fmt.Errorf("cluster member: %w", ErrNotFound)
	case errors.Is(err, rpctypes.ErrPeerURLExist), errors.Is(err, rpctypes.ErrMemberExist):
		err = fmt.Errorf("a cluster member of that address: %w", ErrExists)
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		err = fmt.Errorf("%w: another member is still catching up; start it, or remove it", ErrMembership)
	case errors.Is(err, rpctypes.ErrMemberNotEnoughStarted), errors.Is(err, rpctypes.ErrUnhealthy):
		err = fmt.Errorf("%w: it needs that the members which stay run, and have for 5 seconds; start them, or try again", ErrMembership)
	case err != nil && ctx.Err() == nil && unanswered(err):
		err = fmt.Errorf("%w: %v", ErrUnavailable, err)
	}
	return answer, err
}

// PromoteMembers has learners count as soon as they have what the others have, until ctx
// ends. It is the leader's to call.
func (s *Store) PromoteMembers(ctx context.Context) {
	if s.cluster == nil {
		return
	}
	ticker := time.NewTicker(promoteInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.promote(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("have a new member of the cluster count", "error", err)
		}
	}
}

func (s *Store) promote(ctx context.Context) error {
	// Of this member's own memory: an idle cluster is not asked.
	for _, m := range s.embedded.server.Server.Cluster().Members() {
		if !m.IsLearner {
			continue
		}
		_, err := askMembers(ctx, func(ctx context.Context) (*clientv3.MemberPromoteResponse, error) {
			return s.client.MemberPromote(ctx, uint64(m.ID))
		})
		switch {
		case errors.Is(err, rpctypes.ErrMemberLearnerNotReady) || errors.Is(err, ErrUnavailable):
		case err != nil:
			return err
		default:
			s.log.Info("a new member of the cluster has caught up, and counts", "member", m.Name, "id", m.ID.String())
		}
	}
	return nil
}
