package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// The standard methods of TopologyService.

// GetNetwork implements TopologyService.
func (s *Topology) GetNetwork(_ context.Context, req *swanherdv1.GetNetworkRequest) (*swanherdv1.Network, error) {
	return get(s, networks, req.GetName())
}

// ListNetworks implements TopologyService.
func (s *Topology) ListNetworks(ctx context.Context, req *swanherdv1.ListNetworksRequest) (*swanherdv1.ListNetworksResponse, error) {
	out, next, err := list(ctx, s, networks, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListNetworksResponse{Networks: out, NextPageToken: next}, nil
}

// CreateNetwork implements TopologyService; it makes the network's authority too.
func (s *Topology) CreateNetwork(ctx context.Context, req *swanherdv1.CreateNetworkRequest) (*swanherdv1.Network, error) {
	return create(ctx, s, networks, "networks/"+req.GetNetworkId(), req.GetNetwork(), req)
}

// UpdateNetwork implements TopologyService.
func (s *Topology) UpdateNetwork(ctx context.Context, req *swanherdv1.UpdateNetworkRequest) (*swanherdv1.Network, error) {
	return update(ctx, s, networks, req.GetNetwork(), req, req.GetAllowMissing())
}

// GetSite implements TopologyService.
func (s *Topology) GetSite(_ context.Context, req *swanherdv1.GetSiteRequest) (*swanherdv1.Site, error) {
	return get(s, sites, req.GetName())
}

// ListSites implements TopologyService.
func (s *Topology) ListSites(ctx context.Context, req *swanherdv1.ListSitesRequest) (*swanherdv1.ListSitesResponse, error) {
	out, next, err := list(ctx, s, sites, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListSitesResponse{Sites: out, NextPageToken: next}, nil
}

// CreateSite implements TopologyService.
func (s *Topology) CreateSite(ctx context.Context, req *swanherdv1.CreateSiteRequest) (*swanherdv1.Site, error) {
	name, err := childName(req.GetParent(), sites.collection, req.GetSiteId())
	if err != nil {
		return nil, err
	}
	return create(ctx, s, sites, name, req.GetSite(), req)
}

// UpdateSite implements TopologyService.
func (s *Topology) UpdateSite(ctx context.Context, req *swanherdv1.UpdateSiteRequest) (*swanherdv1.Site, error) {
	return update(ctx, s, sites, req.GetSite(), req, req.GetAllowMissing())
}

// GetMesh implements TopologyService.
func (s *Topology) GetMesh(_ context.Context, req *swanherdv1.GetMeshRequest) (*swanherdv1.Mesh, error) {
	return get(s, meshes, req.GetName())
}

// ListMeshes implements TopologyService.
func (s *Topology) ListMeshes(ctx context.Context, req *swanherdv1.ListMeshesRequest) (*swanherdv1.ListMeshesResponse, error) {
	out, next, err := list(ctx, s, meshes, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListMeshesResponse{Meshes: out, NextPageToken: next}, nil
}

// CreateMesh implements TopologyService.
func (s *Topology) CreateMesh(ctx context.Context, req *swanherdv1.CreateMeshRequest) (*swanherdv1.Mesh, error) {
	name, err := childName(req.GetParent(), meshes.collection, req.GetMeshId())
	if err != nil {
		return nil, err
	}
	return create(ctx, s, meshes, name, req.GetMesh(), req)
}

// UpdateMesh implements TopologyService.
func (s *Topology) UpdateMesh(ctx context.Context, req *swanherdv1.UpdateMeshRequest) (*swanherdv1.Mesh, error) {
	return update(ctx, s, meshes, req.GetMesh(), req, req.GetAllowMissing())
}

// GetProfile implements TopologyService.
func (s *Topology) GetProfile(_ context.Context, req *swanherdv1.GetProfileRequest) (*swanherdv1.Profile, error) {
	return get(s, profiles, req.GetName())
}

// ListProfiles implements TopologyService.
func (s *Topology) ListProfiles(ctx context.Context, req *swanherdv1.ListProfilesRequest) (*swanherdv1.ListProfilesResponse, error) {
	out, next, err := list(ctx, s, profiles, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListProfilesResponse{Profiles: out, NextPageToken: next}, nil
}

// CreateProfile implements TopologyService.
func (s *Topology) CreateProfile(ctx context.Context, req *swanherdv1.CreateProfileRequest) (*swanherdv1.Profile, error) {
	name, err := childName(req.GetParent(), profiles.collection, req.GetProfileId())
	if err != nil {
		return nil, err
	}
	return create(ctx, s, profiles, name, req.GetProfile(), req)
}

// UpdateProfile implements TopologyService.
func (s *Topology) UpdateProfile(ctx context.Context, req *swanherdv1.UpdateProfileRequest) (*swanherdv1.Profile, error) {
	return update(ctx, s, profiles, req.GetProfile(), req, req.GetAllowMissing())
}

// GetGateway implements TopologyService.
func (s *Topology) GetGateway(_ context.Context, req *swanherdv1.GetGatewayRequest) (*swanherdv1.Gateway, error) {
	return get(s, gateways, req.GetName())
}

// ListGateways implements TopologyService.
func (s *Topology) ListGateways(ctx context.Context, req *swanherdv1.ListGatewaysRequest) (*swanherdv1.ListGatewaysResponse, error) {
	out, next, err := list(ctx, s, gateways, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListGatewaysResponse{Gateways: out, NextPageToken: next}, nil
}

// CreateGateway implements TopologyService.
func (s *Topology) CreateGateway(ctx context.Context, req *swanherdv1.CreateGatewayRequest) (*swanherdv1.Gateway, error) {
	name, err := childName(req.GetParent(), gateways.collection, req.GetGatewayId())
	if err != nil {
		return nil, err
	}
	return create(ctx, s, gateways, name, req.GetGateway(), req)
}

// UpdateGateway implements TopologyService.
func (s *Topology) UpdateGateway(ctx context.Context, req *swanherdv1.UpdateGatewayRequest) (*swanherdv1.Gateway, error) {
	return update(ctx, s, gateways, req.GetGateway(), req, req.GetAllowMissing())
}

// GetEdge implements TopologyService.
func (s *Topology) GetEdge(_ context.Context, req *swanherdv1.GetEdgeRequest) (*swanherdv1.Edge, error) {
	e, err := get(s, edges, req.GetName())
	if err != nil {
		return nil, err
	}
	return s.live(e), nil
}

// ListEdges implements TopologyService.
func (s *Topology) ListEdges(ctx context.Context, req *swanherdv1.ListEdgesRequest) (*swanherdv1.ListEdgesResponse, error) {
	out, next, err := list(ctx, s, edges, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListEdgesResponse{Edges: out, NextPageToken: next}, nil
}

// UpdateEdge implements TopologyService.
func (s *Topology) UpdateEdge(ctx context.Context, req *swanherdv1.UpdateEdgeRequest) (*swanherdv1.Edge, error) {
	e, err := update(ctx, s, edges, req.GetEdge(), req, false)
	if err != nil {
		return nil, err
	}
	return s.live(e), nil
}

// live adds to a stored edge what is known of it right now.
func (s *Topology) live(e *swanherdv1.Edge) *swanherdv1.Edge {
	snap := s.store.Snapshot()
	reported := snap.EdgeStatuses.Value(e.GetName())
	e.Uplinks = reported.GetUplinks()
	status := s.fleet.EdgeStatus(e.GetName())
	if status == nil {
		status = reported.GetStatus()
	}
	e.Status, _ = proto.Clone(status).(*swanherdv1.EdgeStatus)
	if e.Status == nil {
		e.Status = &swanherdv1.EdgeStatus{}
	}
	for _, c := range snap.EdgeIdentities.Value(e.GetName()).GetCertificates() {
		if c.GetPurpose() == storev1.IssuedCertificate_PURPOSE_CONTROL {
			e.Status.CertificateExpireTime = c.GetExpireTime() // newest last
		}
	}
	return e
}
