package api

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/model"
)

// The methods of TopologyService about segments.

// GetSegment implements TopologyService.
func (s *Topology) GetSegment(_ context.Context, req *swanherdv1.GetSegmentRequest) (*swanherdv1.Segment, error) {
	return get(s, segments, req.GetName())
}

// ListSegments implements TopologyService. The default segment is not stored.
func (s *Topology) ListSegments(ctx context.Context, req *swanherdv1.ListSegmentsRequest) (*swanherdv1.ListSegmentsResponse, error) {
	out, next, err := list(ctx, s, segments, req)
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListSegmentsResponse{Segments: out, NextPageToken: next}, nil
}

// CreateSegment implements TopologyService.
func (s *Topology) CreateSegment(ctx context.Context, req *swanherdv1.CreateSegmentRequest) (*swanherdv1.Segment, error) {
	name, err := childName(req.GetParent(), segments.collection, req.GetSegmentId())
	if err != nil {
		return nil, err
	}
	return create(ctx, s, segments, name, req.GetSegment(), req)
}

// UpdateSegment implements TopologyService.
func (s *Topology) UpdateSegment(ctx context.Context, req *swanherdv1.UpdateSegmentRequest) (*swanherdv1.Segment, error) {
	return update(ctx, s, segments, req.GetSegment(), req, req.GetAllowMissing())
}

// DeleteSegment implements TopologyService; a segment in use stays.
func (s *Topology) DeleteSegment(ctx context.Context, req *swanherdv1.DeleteSegmentRequest) (*emptypb.Empty, error) {
	return deleted(ctx, s, segments, req, func(e *edit) error {
		if err := inUse(e.who.Scope(e.base), req.GetName(), "take it out of it first", usersOfSegment(&e.next, req.GetName())); err != nil {
			return err
		}
		return remove(e, segments, req.GetName(), req.GetEtag())
	})
}

// usersOfSegment returns the sites that have prefixes in the segment and the meshes that
// name it.
func usersOfSegment(t *model.Topology, segment string) []string {
	var out []string
	for row := range t.Sites.InNetwork(networkOf(segment)) {
		for _, s := range row.Value.GetSegments() {
			if s.GetSegment() == segment {
				out = append(out, row.Name)
			}
		}
	}
	for row := range t.Meshes.InNetwork(networkOf(segment)) {
		for _, name := range row.Value.GetSegments() {
			if name == segment {
				out = append(out, row.Name)
			}
		}
	}
	return out
}
