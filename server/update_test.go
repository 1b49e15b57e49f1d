package server_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// An update names what it changes; what the resource must have as a whole it
// has from before (AIP-134).
func TestPartialUpdate(t *testing.T) {
	c := startController(t)
	c.apply()
	topology, ctx := c.topology(), t.Context()
	mesh, err := topology.UpdateMesh(ctx, &swanherdv1.UpdateMeshRequest{
		Mesh:       &swanherdv1.Mesh{Name: "networks/demo/meshes/all", DisplayName: "All"},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	if err != nil || mesh.GetDisplayName() != "All" || mesh.GetProfile() == "" {
		t.Errorf("update of a mesh's display name: %v, %v", mesh, err)
	}
	_, err = topology.UpdateMesh(ctx, &swanherdv1.UpdateMeshRequest{
		Mesh:       &swanherdv1.Mesh{Name: "networks/demo/meshes/all"},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"profile"}},
	})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "mesh.profile") {
		t.Errorf("update that takes the profile away: %v", err)
	}
	if _, err = topology.UpdateMesh(ctx, &swanherdv1.UpdateMeshRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("update of nothing: %v", err)
	}

	edge := c.enrolled("oslo")
	resp, body := c.rest("PATCH", "/v1/"+edge.name, c.token, `{"disabled":true}`)
	if resp.StatusCode != 200 || !strings.Contains(body, `"disabled":true`) {
		t.Errorf("PATCH of an edge: %d %s", resp.StatusCode, body)
	}
	// What was read may be sent back changed: what is the server's is ignored
	// (AIP-203).
	_, got := c.rest("GET", "/v1/"+edge.name, c.token, "")
	resp, body = c.rest("PATCH", "/v1/"+edge.name, c.token, strings.Replace(got, `"displayName":""`, `"displayName":"North"`, 1))
	if resp.StatusCode != 200 || !strings.Contains(body, `"displayName":"North"`) {
		t.Errorf("PATCH of what GET gave: %d %s\n%s", resp.StatusCode, body, got)
	}
	for _, site := range []string{"networks/demo/sites/nowhere", "networks/other/sites/oslo", "x"} {
		_, err := topology.UpdateEdge(ctx, &swanherdv1.UpdateEdgeRequest{Edge: &swanherdv1.Edge{Name: edge.name, Site: site}})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "edge.site") {
			t.Errorf("edge that is moved to %s: %v", site, err)
		}
	}
	if _, err := topology.UpdateEdge(ctx, &swanherdv1.UpdateEdgeRequest{
		Edge: &swanherdv1.Edge{Name: edge.name, Site: "networks/demo/sites/berlin"},
	}); err != nil {
		t.Errorf("edge that is moved to another site: %v", err)
	}
	if _, err := topology.DeleteSite(ctx, &swanherdv1.DeleteSiteRequest{Name: "networks/demo/sites/berlin"}); err != nil {
		t.Errorf("delete the site of an edge: %v", err)
	}
	if _, err := topology.UpdateEdge(ctx, &swanherdv1.UpdateEdgeRequest{
		Edge: &swanherdv1.Edge{Name: edge.name, DisplayName: "Homeless"},
	}); err != nil {
		t.Errorf("update of an edge whose site went: %v", err)
	}
}
