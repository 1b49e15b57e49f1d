package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/edge/enroll"
	"github.com/swanherd/swanherd/edge/health"
	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/job"
	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/probe"
	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/edge/session"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/xfrm"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// eventBuffer is how many events of the engine wait for the health tracker.
const eventBuffer = 256

// agent is a running edge.
type agent struct {
	cfg     Config
	started time.Time
	reason  string // for the data plane
	ended   bool   // in order, so that nothing is to be protected any more

	dir        *state.Dir
	tpm        TPM // nil: the control key is a file
	keyLog     []*os.File
	host       *hostnet.Host
	segments   []*segmentPlace
	uplinks    *hostnet.Uplinks
	ways       *waysOut // to the controller
	outside    *outside
	plane      hostPlane
	engine     *engine.Engine
	reconciler *reconcile.Reconciler
	tracker    *health.Tracker
	probes     *probe.Service
	chooser    *chooser // nil: the data plane knows no ranks
	runner     *runner
	jobs       *job.Runner // nil without a controller
	identity   atomic.Pointer[state.Identity]
	renewer    *enroll.Renewer                // nil without a controller
	client     atomic.Pointer[session.Client] // nil without a controller
	endpoints  atomic.Pointer[state.Endpoints]
}

// Run runs an agent until ctx ends, and then stops it in order. An error means
// that it could not begin, or that a part of it without which it cannot go on
// has ended.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	a := &agent{cfg: cfg, started: time.Now()}
	defer a.close()
	if err := a.open(); err != nil {
		return err
	}
	err := a.run(ctx)
	a.ended = err == nil
	return err
}

// Release lets go what an agent that ended keeps from leaving in clear. It is an error
// while one runs with that state directory.
func Release(stateDir, tunnelInterface string, segments []Segment, logger *slog.Logger) error {
	dir, err := state.Open(stateDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	host, err := hostnet.Open(logger)
	if err != nil {
		return err
	}
	defer host.Close()
	open, err := openSegments(segments, logger)
	if err != nil {
		return err
	}
	defer closeSegments(open)
	return errors.Join(host.Release(tunnelInterface), release(open, tunnelInterface), host.ReleaseUplinks())
}

// open takes hold of what the agent needs of the host. Close gives back what
// was taken, however far it came.
func (a *agent) open() error {
	name, reason, err := chooseDataPlane(a.cfg, xfrm.Probe)
	if err != nil {
		return err
	}
	a.reason = reason
	if a.dir, a.tpm, err = OpenState(a.cfg.StateDir, a.cfg.TPM); err != nil {
		return err
	}
	if a.host, err = hostnet.Open(a.cfg.Logger); err != nil {
		return err
	}
	if a.segments, err = openSegments(a.cfg.Segments, a.cfg.Logger); err != nil {
		return err
	}
	// The interface in the kernel outlives an agent that was killed, and what is
	// routed into it stays protected: those routes go when others take their place.
	if name != DataPlaneKernel {
		if err := a.host.Flush(a.cfg.Interface); err != nil {
			return fmt.Errorf("remove routes of an earlier run: %w", err)
		}
	}
	if a.uplinks, err = a.host.NewUplinks(a.uplinksConfig()); err != nil {
		return err
	}
	a.ways = &waysOut{uplinks: a.uplinks.Current, down: a.uplinks.Down, connect: session.ConnectFrom}
	if a.plane, err = openDataPlane(name, a.cfg, a.segments, a.cfg.Logger); err != nil {
		return err
	}
	a.cfg.Logger.Info("data plane", "data_plane", name, "reason", reason, "interface", a.plane.Interface())
	ec := engine.Config{Plane: a.plane, Store: a.dir.EngineMemory(), Mark: mark(name), Logger: a.cfg.Logger}
	if dir := a.cfg.UnsafeKeyLog; dir != "" {
		if ec.KeyLog, a.keyLog, err = openKeyLog(dir); err != nil {
			return err
		}
		a.cfg.Logger.Warn("THE KEYS OF ALL TUNNELS ARE WRITTEN TO A FILE: whoever gets it reads all traffic; run without --unsafe-key-log and remove it when the fault is found", "directory", dir)
	}
	if a.cfg.IKEPort != 0 {
		ec.IKEAddr = netip.AddrPortFrom(netip.IPv6Unspecified(), a.cfg.IKEPort)
	}
	if a.cfg.TCPPort != 0 {
		ec.TCPAddr = netip.AddrPortFrom(netip.IPv6Unspecified(), a.cfg.TCPPort)
	}
	if a.engine, err = engine.New(ec); err != nil {
		return err
	}
	a.outside = newOutside(a.outsideSource())
	a.probes = probe.New(probe.Config{
		Interface: a.plane.Interface(), Logger: a.cfg.Logger,
		Up: func() map[string]bool { return a.tracker.Established() }, Received: a.received,
	})
	taker, takes := a.plane.(dataplane.StreamTaker)
	var noTCP error
	if takes {
		if noTCP = taker.TakesStreams(); noTCP != nil {
			a.cfg.Logger.Info("tunnels go by UDP alone", "reason", noTCP)
		}
	}
	paths, _ := a.plane.(dataplane.RoutedPlane)
	var chooses reconcile.Chooser
	if plane, ok := a.plane.(dataplane.RankingPlane); ok {
		a.chooser = newChooser(plane, a.probes, func() map[string]bool { return a.tracker.Established() }, path.Config{
			Logger: a.cfg.Logger, Switched: func(path.Switch) { a.tracker.Poke() },
		})
		chooses = a.chooser
	}
	a.reconciler = reconcile.New(reconcile.Config{
		Engine: a.engine, Host: a.host, Interface: a.plane.Interface(), Segments: places(a.segments, a.cfg.Interface),
		DataPlane: reconcile.DataPlane{
			NoTCP: noTCP != nil, NoTCPTransport: takes, NoDummies: name == DataPlaneKernel, Intercepts: name == DataPlaneUserspace, Queues: a.plane.Workers(),
		},
		Paths: paths, Probes: a.probes, Chooser: chooses, Uplinks: a.uplinks.Current, Down: a.uplinks.Down, Waiting: func() { a.tracker.Poke() }, Identity: a.identity.Load, Drifted: a.drifted, Logger: a.cfg.Logger,
	})
	a.tracker = health.New(health.Source{
		Status: a.engine.Status, Counters: a.plane.Counters, Deferred: a.reconciler.Deferred, Stranded: a.reconciler.Stranded,
		Quality: a.probes.Quality, Violations: a.probes.Violations, Uses: a.chooser.uses,
	})
	a.runner = newRunner(a.reconciler, a.cfg.Logger)
	a.runner.carriers = agentCarriers{a.tracker, a.probes}
	return nil
}

// uplinksConfig is what is known of the uplinks before the host is looked at.
func (a *agent) uplinksConfig() hostnet.UplinksConfig {
	known, err := a.dir.LoadUplinks()
	if err != nil {
		a.cfg.Logger.Warn("uplinks that are found may have other names than before", "error", err)
	}
	return hostnet.UplinksConfig{
		Configured: a.cfg.Uplinks, Known: known, Tunnel: a.cfg.Interface, Port: DefaultNATPort,
		Changed: a.uplinksChanged,
		Remember: func(known []state.KnownUplink) {
			if err := a.dir.SaveUplinks(known); err != nil {
				a.cfg.Logger.Warn("after a restart uplinks may have other names", "error", err)
			}
		},
	}
}

// uplinksChanged has the session go by another uplink when its own is down.
func (a *agent) uplinksChanged() {
	if client := a.client.Load(); client != nil && a.ways.Lost() {
		a.cfg.Logger.Info("the uplink of the session with the controller is down: opening another")
		client.Reconnect()
	}
}

// close gives everything back; it may be called after a part of open.
func (a *agent) close() {
	if a.plane != nil {
		if err := a.host.Flush(a.plane.Interface()); err != nil {
			a.cfg.Logger.Warn("cannot remove routes", "error", err)
		}
		for _, at := range a.segments {
			if err := at.host.Flush(a.cfg.Interface); err != nil {
				a.cfg.Logger.Warn("cannot remove routes", "segment", at.Name, "error", err)
			}
		}
		if err := a.plane.Close(); err != nil {
			a.cfg.Logger.Warn("cannot close the data plane", "error", err)
		}
	}
	closeAll(a.keyLog)
	if a.ended && !a.cfg.FailClosed {
		if err := errors.Join(a.host.Release(a.cfg.Interface), release(a.segments, a.cfg.Interface)); err != nil {
			a.cfg.Logger.Warn("cannot remove guards of routes and rules", "error", err)
		}
	}
	if a.ended {
		if err := a.host.ReleaseUplinks(); err != nil {
			a.cfg.Logger.Warn("cannot remove the routing tables of uplinks", "error", err)
		}
	}
	closeSegments(a.segments)
	if a.host != nil {
		a.host.Close()
	}
	if a.dir != nil {
		if err := a.dir.Close(); err != nil {
			a.cfg.Logger.Warn("cannot unlock the state directory", "error", err)
		}
	}
}

// run runs the parts. What needs the engine stops before the engine does, so
// that a tunnel that closes is not taken for one that failed.
func (a *agent) run(ctx context.Context) error {
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	engineDone := make(chan error, 1)
	go func() {
		err := a.engine.Run(engineCtx)
		if err != nil {
			err = fmt.Errorf("run IKE: %w", err)
			stop(err)
		}
		engineDone <- err
	}()
	var parts sync.WaitGroup
	parts.Go(func() {
		select {
		case err := <-a.plane.Failed():
			stop(fmt.Errorf("move packets: %w", err))
		case <-ctx.Done():
		}
	})
	if p, ok := a.plane.(dataplane.DriftingPlane); ok {
		parts.Go(func() { a.tellDrifts(ctx, p.Drifts()) })
	}
	err := a.start(ctx, &parts)
	if err == nil {
		<-ctx.Done()
	}
	stop(err)
	parts.Wait()
	a.cfg.Logger.Info("stopping: telling the peers")
	stopEngine()
	if engineErr := <-engineDone; engineErr != nil {
		return engineErr
	}
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// start starts the parts beside the engine. They end with ctx.
func (a *agent) start(ctx context.Context, parts *sync.WaitGroup) error {
	events := a.engine.Subscribe(eventBuffer)
	parts.Go(func() { defer events.Close(); a.tracker.Run(ctx, events) })
	parts.Go(func() { a.uplinks.Run(ctx) })
	parts.Go(func() { a.probes.Run(ctx) })
	parts.Go(func() { a.choose(ctx) })
	if err := a.serveStatus(ctx, parts); err != nil {
		return err
	}
	if err := a.serveMetrics(ctx, parts); err != nil {
		return err
	}
	var err error
	if a.cfg.IntentFile != "" {
		err = a.startFromFile(ctx)
	} else {
		err = a.startManaged(ctx, parts)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped while starting
		}
		return err
	}
	parts.Go(func() { a.reconciler.Run(ctx, a.uplinks.HostChanged()) })
	return nil
}

// startFromFile runs an intent file.
func (a *agent) startFromFile(ctx context.Context) error {
	intent, content, err := ReadIntent(a.cfg.IntentFile)
	if err != nil {
		return err
	}
	err = a.runner.Apply(ctx, &state.Intent{Epoch: "file", Resources: digest.NewSet(resources(intent))}, 0)
	var rejected *session.RejectedError
	if errors.As(err, &rejected) {
		return fmt.Errorf("run intent:\n%w", locateErrors(a.cfg.IntentFile, content, rejected.Errors))
	}
	if err == nil {
		a.cfg.Logger.Info("running an intent file without a controller", "file", a.cfg.IntentFile, "tunnels", len(intent.GetTunnels()))
	}
	return err
}

// startManaged runs what the controller wants: at first the stored intent, for
// which no controller is needed.
func (a *agent) startManaged(ctx context.Context, parts *sync.WaitGroup) error {
	id, err := a.dir.LoadIdentity()
	if errors.Is(err, state.ErrNotEnrolled) && (a.cfg.Token != "" || len(a.cfg.Controllers) > 0) {
		id, err = a.enroll(ctx)
	}
	if err != nil {
		return err
	}
	a.identity.Store(id)
	renewer := enroll.NewRenewer(a.dir, a.cfg.Logger, a.renewed)
	a.renewer, a.runner.dir, a.runner.trusted = renewer, a.dir, renewer.Trust
	if err := a.runner.resume(); err != nil {
		return err
	}
	places, err := a.dir.LoadEndpoints(id.SessionEndpoints)
	if err != nil {
		a.cfg.Logger.Warn("cannot tell where the controller was last", "error", err)
	}
	a.endpoints.Store(&places)
	a.jobs = a.newJobs(ctx)
	parts.Go(a.jobs.Wait)
	client := session.New(session.Config{
		Dial: a.dial, Endpoints: places.Current, Last: places.Last, Keep: a.keepEndpoints,
		AgentVersion: Version(), DataPlane: a.plane.Name(),
		Intent: a.runner, Health: a.tracker, Uplinks: a.outside, Welcomed: a.outside.Welcomed, Command: a.command, Logger: a.cfg.Logger,
	})
	a.client.Store(client)
	renewer.Endpoints = func() []string { return a.endpoints.Load().Current }
	parts.Go(func() { a.outside.Run(ctx) })
	parts.Go(func() { a.openNATs(ctx) })
	parts.Go(func() { client.Run(ctx) })
	parts.Go(func() { renewer.Run(ctx, id) })
	return nil
}

// enroll asks until the controller answers, one way or the other.
func (a *agent) enroll(ctx context.Context) (*state.Identity, error) {
	token, err := a.cfg.Credential()
	if err != nil {
		return nil, err
	}
	cfg := enroll.Config{
		Dir: a.dir, Token: token, EdgeID: a.cfg.EdgeID, SerialNumber: a.cfg.SerialNumber,
		AgentVersion: Version(), Logger: a.cfg.Logger, TPM: a.tpm,
	}
	return enroll.UntilAnswered(ctx, cfg)
}

// dial connects with the identity of the moment.
func (a *agent) dial(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+endpoint,
		grpc.WithTransportCredentials(a.renewer.TLS(a.identity.Load(), endpoint)), grpc.WithContextDialer(a.ways.Dial),
		grpc.WithUserAgent("swanherd-edge/"+Version()))
}

// tellDrifts has the controller told of what the data plane found.
func (a *agent) tellDrifts(ctx context.Context, drifts <-chan dataplane.Drift) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-drifts:
			kind := swanherdv1.DriftReport_KIND_UNREPAIRABLE
			if d.Repaired {
				kind = swanherdv1.DriftReport_KIND_REPAIRED
			}
			a.drifted(&swanherdv1.DriftReport{Kind: kind, Subject: "policies and SAs", Message: d.Message, Time: timestamppb.Now()})
		}
	}
}

// drifted has the controller told of a drift.
func (a *agent) drifted(d *swanherdv1.DriftReport) {
	if client := a.client.Load(); client != nil {
		client.Drifted(d)
	}
}

// keepEndpoints notes where the controller is, for the next start and for renewals.
func (a *agent) keepEndpoints(endpoints []string, last string) {
	before := a.endpoints.Load()
	slices.Sort(endpoints)
	if slices.Equal(endpoints, before.Current) && last == before.Last {
		return
	}
	now := &state.Endpoints{Enrolled: before.Enrolled, Current: endpoints, Last: last}
	a.endpoints.Store(now)
	if err := a.dir.SaveEndpoints(*now); err != nil {
		a.cfg.Logger.Warn("after a restart the edge begins with the endpoints before", "error", err)
	}
}

// renewed puts new certificates to use.
func (a *agent) renewed(id *state.Identity) {
	a.identity.Store(id)
	a.client.Load().Reconnect()
	if err := a.reconciler.Resync(); err != nil {
		a.cfg.Logger.Warn("tunnels do not have the new certificate yet; trying again", "error", err)
	}
}
