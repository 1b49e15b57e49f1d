package api

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/fleet"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

const (
	// frameInterval bounds a viewer to four frames a second: more than a person
	// reads, and changes in between merge.
	frameInterval = 250 * time.Millisecond
	// viewerHeartbeat is how often a viewer gets a frame without changes.
	viewerHeartbeat = time.Second
	// firstRows is how many rows a frame of the first picture holds, so that a
	// screen has something to show before everything is there.
	firstRows = 500
)

// Fleet implements FleetService.
type Fleet struct {
	swanherdv1.UnimplementedFleetServiceServer

	store   *store.Store
	sealer  *store.Sealer
	fleet   *fleet.Fleet
	keeper  *access.Keeper
	command Command
	version string
}

// Command gives a command to an edge, whichever replica has its session, and waits until
// the edge has begun. Its error is a gRPC status.
type Command func(ctx context.Context, edge string, c *swanherdv1.Command) error

// FleetConfig is what a Fleet needs; all of it is required.
type FleetConfig struct {
	Store   *store.Store
	Sealer  *store.Sealer
	Fleet   *fleet.Fleet
	Keeper  *access.Keeper
	Command Command
	// Version is the server's build.
	Version string
}

// NewFleet returns the service.
func NewFleet(c FleetConfig) *Fleet {
	return &Fleet{store: c.Store, sealer: c.Sealer, fleet: c.Fleet, keeper: c.Keeper, command: c.Command, version: c.Version}
}

// GetTunnel implements FleetService.
func (f *Fleet) GetTunnel(_ context.Context, req *swanherdv1.GetTunnelRequest) (*swanherdv1.Tunnel, error) {
	if _, err := model.ParseTunnelName(req.GetName()); err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	t, ok := f.fleet.Tunnel(req.GetName())
	if !ok {
		return nil, status.Errorf(codes.NotFound, "%s does not exist", req.GetName())
	}
	return t, nil
}

// ListTunnels implements FleetService.
func (f *Fleet) ListTunnels(ctx context.Context, req *swanherdv1.ListTunnelsRequest) (*swanherdv1.ListTunnelsResponse, error) {
	if err := checkParent(&f.store.Snapshot().Topology, req.GetParent()); err != nil {
		return nil, err
	}
	q, err := newQuery(ctx, req, (&swanherdv1.Tunnel{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	tunnels := f.fleet.Tunnels(req.GetParent())
	start, _ := slices.BinarySearchFunc(tunnels, q.first()+"\x00", func(t *swanherdv1.Tunnel, name string) int {
		return cmp.Compare(t.GetName(), name)
	})
	scope := scopeOf(ctx, f.store.Snapshot())
	page, next := page(q, func(yield func(*swanherdv1.Tunnel) bool) {
		for _, t := range tunnels[start:] {
			wanted := len(req.GetStatuses()) == 0 || slices.Contains(req.GetStatuses(), t.GetStatus())
			if wanted && seesTunnel(scope, t) && !yield(t) {
				return
			}
		}
	})
	return &swanherdv1.ListTunnelsResponse{Tunnels: page, NextPageToken: next}, nil
}

// ListEvents implements FleetService.
func (f *Fleet) ListEvents(ctx context.Context, req *swanherdv1.ListEventsRequest) (*swanherdv1.ListEventsResponse, error) {
	snap := f.store.Snapshot()
	if err := checkParent(&snap.Topology, req.GetParent()); err != nil {
		return nil, err
	}
	q, err := newQuery(ctx, req, (&swanherdv1.Event{}).ProtoReflect().Descriptor())
	if err != nil {
		return nil, err
	}
	if strings.ContainsRune(q.token.After, '/') {
		return nil, errPageToken
	}
	scope := scopeOf(ctx, snap)
	wanted, err := f.eventQuery(ctx, snap, req.GetParent())
	if err != nil {
		return nil, access.StoreError(err)
	}
	wanted.Before, wanted.Limit = q.token.After, q.size
	resp := &swanherdv1.ListEventsResponse{}
	left, full := room(maxAnswer), false
	for read := 0; ; {
		events, err := f.store.ListEvents(ctx, wanted)
		if err != nil {
			return nil, access.StoreError(err)
		}
		for _, e := range events {
			shown := q.filter.Matches(e.ProtoReflect()) && showsEvent(scope, e)
			if full = shown && !left.takes(e); full {
				break
			}
			wanted.Before = store.EventID(e)
			if shown {
				resp.Events = append(resp.Events, e)
			}
			if full = len(resp.Events) == q.size; full {
				break
			}
		}
		if read += len(events); full || read >= maxEventsRead && len(events) == q.size {
			resp.NextPageToken = q.next(wanted.Before, 0)
			return resp, nil
		}
		if len(events) < q.size {
			return resp, nil
		}
	}
}

// GetEvent implements FleetService.
func (f *Fleet) GetEvent(ctx context.Context, req *swanherdv1.GetEventRequest) (*swanherdv1.Event, error) {
	parts := strings.Split(req.GetName(), "/")
	if len(parts) != 4 || parts[0] != "networks" || parts[2] != "events" || parts[1] == "" || parts[3] == "" {
		return nil, access.Invalid("name", "is not a name of the form networks/{network}/events/{event}")
	}
	if parts[1] == store.NoNetwork.Network && !access.PrincipalFrom(ctx).Global() {
		return nil, status.Error(codes.PermissionDenied, "what belongs to no network is for who is bound to none")
	}
	scope := scopeOf(ctx, f.store.Snapshot())
	e, err := f.store.Event(ctx, req.GetName(), access.PrincipalFrom(ctx).Global())
	switch {
	case scope.Limited() && (errors.Is(err, store.ErrNotFound) || err == nil && !showsEvent(scope, e)):
		return nil, scope.Denied(req.GetName())
	case err != nil:
		return nil, access.StoreError(err)
	}
	return e, nil
}

// showsEvent says whether the caller sees what an event is about. Who is limited to
// labels has what of a network carries them, and not what is of all.
func showsEvent(scope access.Scope, e *swanherdv1.Event) bool {
	return !scope.Limited() || scope.Sees(e.GetResource())
}

// maxEventsRead bounds how many events one page of a filtered list looks at; it may
// be shorter than asked for then (AIP-158).
const maxEventsRead = 5000

// VerifyAuditLog implements FleetService.
func (f *Fleet) VerifyAuditLog(ctx context.Context, req *swanherdv1.VerifyAuditLogRequest) (*swanherdv1.VerifyAuditLogResponse, error) {
	network := store.NoNetwork
	global := access.PrincipalFrom(ctx).Global()
	missing := checkParent(&f.store.Snapshot().Topology, req.GetParent())
	switch {
	case missing != nil && (!global || status.Code(missing) != codes.NotFound):
		return nil, missing
	case req.GetParent() != fleet.AllNetworks:
		network = networkOf(req.GetParent())
	case !global:
		return nil, status.Error(codes.PermissionDenied, "what belongs to no network is for who is bound to none")
	}
	audit, err := f.store.VerifyAudit(ctx, network, f.sealer)
	if err != nil {
		return nil, access.StoreError(err)
	}
	if missing != nil && audit.Last == nil && audit.Events == 0 { // nor was it ever there
		return nil, missing
	}
	return &swanherdv1.VerifyAuditLogResponse{
		Events: audit.Events, Unsealed: audit.Unsealed, Removed: audit.Removed,
		Hash: audit.Last.GetHash(), ThroughRevision: audit.Last.GetThroughRevision(), SealTime: audit.Last.GetTime(),
		Problem: audit.Problem,
	}, nil
}

// eventQuery is of which networks the caller gets events. Who is bound to no network also
// gets those that belong to none, and those of networks that were deleted.
func (f *Fleet) eventQuery(ctx context.Context, snap *store.Snapshot, parent string) (store.EventQuery, error) {
	if parent != fleet.AllNetworks {
		return store.EventQuery{Networks: []model.NetworkName{networkOf(parent)}}, nil
	}
	p := access.PrincipalFrom(ctx)
	if p.Global() {
		networks, err := f.store.EventNetworks(ctx)
		return store.EventQuery{Networks: networks, Former: true}, err
	}
	var q store.EventQuery
	for row := range snap.Networks.All() {
		if p.Sees(row.Name) {
			q.Networks = append(q.Networks, networkOf(row.Name))
		}
	}
	return q, nil
}

// WatchTunnels implements FleetService.
func (f *Fleet) WatchTunnels(req *swanherdv1.WatchTunnelsRequest, stream swanherdv1.FleetService_WatchTunnelsServer) error {
	v, err := f.newViewer(stream.Context(), req.GetParent())
	if err != nil {
		return err
	}
	ticker := time.NewTicker(frameInterval)
	defer ticker.Stop()
	for synced := false; ; {
		if err := v.tellStale(stream); err != nil {
			return err
		}
		d, err := v.next()
		if err != nil {
			return err
		}
		if err := sendTunnels(stream, d); err != nil {
			return err
		}
		if !synced {
			synced = true
			if err := stream.Send(&swanherdv1.WatchTunnelsResponse{Kind: swanherdv1.WatchTunnelsResponse_KIND_SYNCED}); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case now := <-ticker.C:
			if err := stillValid(f.keeper, v.who, now); err != nil {
				return err
			}
		}
	}
}

// tellStale says when the replica ceases to learn of changes, and when it does again.
func (v *viewer) tellStale(stream swanherdv1.FleetService_WatchTunnelsServer) error {
	switch {
	case !v.stale.turned():
		return nil
	case v.stale.since == nil:
		return stream.Send(&swanherdv1.WatchTunnelsResponse{Kind: swanherdv1.WatchTunnelsResponse_KIND_CURRENT})
	default:
		return stream.Send(&swanherdv1.WatchTunnelsResponse{Kind: swanherdv1.WatchTunnelsResponse_KIND_STALE, StaleSinceTime: v.stale.since})
	}
}

func sendTunnels(stream swanherdv1.FleetService_WatchTunnelsServer, d fleet.Delta) error {
	for _, t := range d.Tunnels {
		if err := stream.Send(&swanherdv1.WatchTunnelsResponse{Kind: swanherdv1.WatchTunnelsResponse_KIND_UPSERTED, Tunnel: t}); err != nil {
			return err
		}
	}
	for _, name := range d.RemovedTunnels {
		if err := stream.Send(&swanherdv1.WatchTunnelsResponse{
			Kind: swanherdv1.WatchTunnelsResponse_KIND_REMOVED, Tunnel: &swanherdv1.Tunnel{Name: name},
		}); err != nil {
			return err
		}
	}
	return nil
}

// WatchFleet implements FleetService.
func (f *Fleet) WatchFleet(req *swanherdv1.WatchFleetRequest, stream swanherdv1.FleetService_WatchFleetServer) error {
	v, err := f.newViewer(stream.Context(), req.GetParent())
	if err != nil {
		return err
	}
	counts, err := f.firstPicture(v, stream)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(frameInterval)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case now := <-ticker.C:
			if err := stillValid(f.keeper, v.who, now); err != nil {
				return err
			}
		}
		d, err := v.next()
		if err != nil {
			return err
		}
		frame := takeFrame(&d, len(d.Tunnels))
		if c := v.counts(); !proto.Equal(c, counts) {
			frame.Counts, counts = c, c
		}
		if turned := v.stale.turned(); !turned && proto.Size(frame) == 0 && time.Since(last) < viewerHeartbeat-frameInterval/2 {
			continue
		}
		for ; frame != nil; frame = moreFrame(&d, len(d.Tunnels)) {
			frame.ServerTime, frame.StaleSinceTime = timestamppb.Now(), v.stale.since
			if err := stream.Send(frame); err != nil {
				return err
			}
		}
		last = time.Now()
	}
}

// firstPicture sends everything there is: counts and edges, then tunnels with
// the worst first.
func (f *Fleet) firstPicture(v *viewer, stream swanherdv1.FleetService_WatchFleetServer) (*swanherdv1.FleetCounts, error) {
	d, err := v.next()
	if err != nil {
		return nil, err
	}
	counts := v.counts()
	v.stale.turned()
	slices.SortFunc(d.Tunnels, problemsFirst)
	frame := takeFrame(&d, firstRows)
	frame.Counts, frame.ServerBuild = counts, f.version
	for {
		next := moreFrame(&d, firstRows)
		frame.Synced = next == nil
		frame.ServerTime, frame.StaleSinceTime = timestamppb.Now(), v.stale.since
		if err := stream.Send(frame); err != nil {
			return nil, err
		}
		if frame = next; frame == nil {
			return counts, nil
		}
	}
}

// takeFrame moves what changed to a frame, as far as it has room: edges, what is gone, then
// at most so many tunnels.
func takeFrame(d *fleet.Delta, tunnels int) *swanherdv1.WatchFleetResponse {
	frame, left := &swanherdv1.WatchFleetResponse{}, room(maxAnswer)
	frame.Edges, d.Edges = takeRows(d.Edges, len(d.Edges), &left)
	frame.RemovedEdges, d.RemovedEdges = takeNames(d.RemovedEdges, &left)
	frame.RemovedTunnels, d.RemovedTunnels = takeNames(d.RemovedTunnels, &left)
	frame.Tunnels, d.Tunnels = takeRows(d.Tunnels, tunnels, &left)
	return frame
}

// moreFrame is takeFrame, nil when nothing is left.
func moreFrame(d *fleet.Delta, tunnels int) *swanherdv1.WatchFleetResponse {
	if len(d.Edges)+len(d.RemovedEdges)+len(d.RemovedTunnels)+len(d.Tunnels) == 0 {
		return nil
	}
	return takeFrame(d, tunnels)
}

func takeRows[T proto.Message](rows []T, most int, left *room) (first, rest []T) {
	n := 0
	for n < min(most, len(rows)) && left.takes(rows[n]) {
		n++
	}
	return rows[:n], rows[n:]
}

func takeNames(names []string, left *room) (first, rest []string) {
	n := 0
	for n < len(names) && left.has(len(names[n])) {
		n++
	}
	return names[:n], names[n:]
}

// severity orders statuses for people who look for trouble.
var severity = map[swanherdv1.TunnelStatus]int{
	swanherdv1.TunnelStatus_TUNNEL_STATUS_DOWN:        0,
	swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED:    1,
	swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE:       2,
	swanherdv1.TunnelStatus_TUNNEL_STATUS_NEGOTIATING: 3,
	swanherdv1.TunnelStatus_TUNNEL_STATUS_UP:          4,
}

func problemsFirst(a, b *swanherdv1.Tunnel) int {
	return cmp.Or(cmp.Compare(severity[a.GetStatus()], severity[b.GetStatus()]), cmp.Compare(a.GetName(), b.GetName()))
}
