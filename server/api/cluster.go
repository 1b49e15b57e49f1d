package api

import (
	"context"
	"errors"
	"regexp"
	"slices"
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
	if req.GetValidateOnly() {
		return req.GetClusterMember(), c.checkAddress(ctx, address)
	}
	return done(ctx, c.store, req, deed[*swanherdv1.ClusterMember]{
		network: store.NoNetwork,
		event:   access.Audit(access.PrincipalFrom(ctx).Actor, "clusterMembers/-", "clusterMember.create", "at "+address),
		do: func() (*swanherdv1.ClusterMember, error) {
			made, err := c.store.AddMember(ctx, address)
			return shownMember(made), membershipStatus(err)
		},
	})
}

// checkAddress refuses the address of a member that there is.
func (c *Cluster) checkAddress(ctx context.Context, address string) error {
	members, err := c.store.Members(ctx)
	if err != nil {
		return membershipStatus(err)
	}
	for _, m := range members {
		if slices.Contains(m.PeerURLs, address) {
			return status.Errorf(codes.AlreadyExists, "%s is at %s already", clusterMembers+m.ID, address)
		}
	}
	return nil
}

var memberID = regexp.MustCompile(`^[0-9a-f]{1,16}$`)

// DeleteClusterMember implements ClusterService.
func (c *Cluster) DeleteClusterMember(ctx context.Context, req *swanherdv1.DeleteClusterMemberRequest) (*emptypb.Empty, error) {
	id, ok := strings.CutPrefix(req.GetName(), clusterMembers)
	if !ok || !memberID.MatchString(id) {
		return nil, access.Invalid("name", "is not a name of the form clusterMembers/{id}, with the id in hexadecimal")
	}
	if req.GetValidateOnly() {
		return &emptypb.Empty{}, c.checkMember(ctx, id)
	}
	return done(ctx, c.store, req, deed[*emptypb.Empty]{
		network: store.NoNetwork,
		event:   access.Audit(access.PrincipalFrom(ctx).Actor, req.GetName(), "clusterMember.delete", ""),
		do: func() (*emptypb.Empty, error) {
			return &emptypb.Empty{}, membershipStatus(c.store.RemoveMember(ctx, id))
		},
	})
}

// checkMember says whether there is a member with the id.
func (c *Cluster) checkMember(ctx context.Context, id string) error {
	members, err := c.store.Members(ctx)
	if err != nil {
		return membershipStatus(err)
	}
	if !slices.ContainsFunc(members, func(m store.Member) bool { return m.ID == id }) {
		return status.Errorf(codes.NotFound, "%s does not exist", clusterMembers+id)
	}
	return nil
}

func membershipStatus(err error) error {
	if errors.Is(err, store.ErrNoCluster) || errors.Is(err, store.ErrMembership) {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return access.StoreError(err)
}
