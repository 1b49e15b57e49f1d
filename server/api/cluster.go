package api

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/store"
)

// Cluster implements ClusterService.
type Cluster struct {
	swanherdv1.UnimplementedClusterServiceServer

	store *store.Store
}

// NewCluster returns the service.
func NewCluster(s *store.Store) *Cluster { return &Cluster{store: s} }

const clusterMembers = "clusterMembers/"

// ListClusterMembers implements ClusterService.
func (c *Cluster) ListClusterMembers(ctx context.Context, _ *swanherdv1.ListClusterMembersRequest) (*swanherdv1.ListClusterMembersResponse, error) {
	members, err := c.store.Members(ctx)
	if err != nil {
		return nil, membershipStatus(err)
	}
	out := &swanherdv1.ListClusterMembersResponse{}
	for _, m := range members {
		out.ClusterMembers = append(out.ClusterMembers, shownMember(m))
	}
	return out, nil
}

func shownMember(m store.Member) *swanherdv1.ClusterMember {
	return &swanherdv1.ClusterMember{Name: clusterMembers + m.ID, Member: m.Name, PeerAddress: strings.Join(m.PeerURLs, ","), Learner: m.Learner}
}

// CreateClusterMember implements ClusterService.
func (c *Cluster) CreateClusterMember(ctx context.Context, req *swanherdv1.CreateClusterMemberRequest) (*swanherdv1.ClusterMember, error) {
	address := req.GetClusterMember().GetPeerAddress()
	if err := c.store.CheckMember(address); errors.Is(err, store.ErrNoCluster) {
		return nil, membershipStatus(err)
	} else if err != nil {
		return nil, access.Invalid("cluster_member.peer_address", err.Error())
	}
	var made store.Member
	err := c.change(ctx, "clusterMembers/-", "clusterMember.create", "at "+address, func() (err error) {
		made, err = c.store.AddMember(ctx, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return shownMember(made), nil
}

var memberID = regexp.MustCompile(`^[0-9a-f]{1,16}$`)

// DeleteClusterMember implements ClusterService.
func (c *Cluster) DeleteClusterMember(ctx context.Context, req *swanherdv1.DeleteClusterMemberRequest) (*emptypb.Empty, error) {
	id, ok := strings.CutPrefix(req.GetName(), clusterMembers)
	if !ok || !memberID.MatchString(id) {
		return nil, access.Invalid("name", "is not a name of the form clusterMembers/{id}, with the id in hexadecimal")
	}
	return &emptypb.Empty{}, c.change(ctx, req.GetName(), "clusterMember.delete", "", func() error { return c.store.RemoveMember(ctx, id) })
}

// change does what no transaction of the store is for: it is audited before, so that
// nothing is done that is not, and again when it failed.
func (c *Cluster) change(ctx context.Context, resource, action, message string, do func() error) error {
	actor := access.PrincipalFrom(ctx).Actor
	if err := c.store.AppendEvent(ctx, store.NoNetwork, access.Audit(actor, resource, action, message)); err != nil {
		return access.StoreError(err)
	}
	err := do()
	if err == nil {
		return nil
	}
	err = membershipStatus(err)
	_ = c.store.AppendEvent(ctx, store.NoNetwork, access.Audit(actor, resource, action, "failed: "+status.Convert(err).Message())) // the caller has it
	return err
}

func membershipStatus(err error) error {
	if errors.Is(err, store.ErrNoCluster) || errors.Is(err, store.ErrMembership) {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return access.StoreError(err)
}
