package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/engine"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// resyncInterval is how often everything is held against the plan, in case
	// that somebody else changed it.
	resyncInterval = 30 * time.Second
	// Following the paths of tunnels takes at most one part in restFactor of the time.
	restFactor = 10
	// patience is how long a tunnel waits for its peer to initiate before it
	// does so itself, restartPatience how long after a restart: peers may hold
	// SAs of the run before and find out by their liveness check alone. An edge
	// with many tunnels answers some thousands of peers a second, and waits a
	// second longer for each thousand, or both ends would begin.
	patience        = 6 * time.Second
	restartPatience = time.Second
	patienceTunnels = 1000
)

// Engine is what the reconciler needs of package engine.
type Engine interface {
	Apply(desired []engine.TunnelConfig) []engine.TunnelResult
	// Reachable says that there is a way to the peer of a tunnel again.
	Reachable(tunnel string) error
	// Revalidate has the certificates of connected peers verified again.
	Revalidate()
}

// Host is what the reconciler needs of package hostnet.
type Host interface {
	SetLink(name string, mtu int) error
	SetRoutes(name string, want []hostnet.Route) error
	Drift(name string, mtu int, routes []hostnet.Route, way hostnet.Default) ([]string, error)
	SetDefault(name string, want hostnet.Default) error
	Intercept(name string, to []netip.Addr) error
	EnableForwarding(hostnet.Forwarding) error
	AddressIn(prefixes []netip.Prefix, v4 bool, except string) (netip.Addr, error)
	SourceTo(remote netip.Addr) (netip.Addr, error)
	MTU(name string) (int, error)
	SetLocal(name string, prefix netip.Prefix) error
	HasIPv6(name string) bool
}

// Config is what a Reconciler needs.
type Config struct {
	Engine Engine
	Host   Host
	// Interface is the tunnel interface.
	Interface string
	// Segments are the places of segments on this host.
	Segments map[string]Place
	// Uplinks are the WAN attachments of now.
	Uplinks func() []*swanherdv1.Uplink
	// Down are those of them that nothing can leave by, and why; nil: there are none.
	Down func() map[string]string
	// Identity is the enrolled identity of now, nil without one.
	Identity  func() *state.Identity
	DataPlane DataPlane
	// Paths tells how long packets into tunnels may be, for their routes. Nil: the data
	// plane sees to it itself.
	Paths Paths
	// Probes measures tunnels; nil: none are.
	Probes Probes
	// Chooser chooses among tunnels that carry the same prefixes; nil: the data plane does.
	Chooser Chooser
	// Drifted is told what on the host was not as it was left; nil: nobody is. It must
	// not block.
	Drifted func(*swanherdv1.DriftReport)
	// Waiting is told that Deferred or Stranded have changed; nil: nobody is. It must not block.
	Waiting func()
	// LookUp returns the addresses of a domain name; nil: by the host's resolver.
	LookUp func(ctx context.Context, host string) ([]netip.Addr, error)
	Logger *slog.Logger
}

// Place is where the packets of a segment come from and go to.
type Place struct {
	Host Host
	// Interface is the segment's tunnel interface.
	Interface string
}

// Paths is what the reconciler needs of a dataplane.RoutedPlane.
type Paths interface {
	InnerMTUs() map[string]int
	InnerMTUsChanged() <-chan struct{}
}

// Reconciler keeps the engine and the host at what the intent says.
type Reconciler struct {
	cfg     Config
	revoked Revocation
	hosts   *hosts

	mu     sync.Mutex
	intent *swanherdv1.EdgeIntent // nil before the first
	places []*place               // that without a segment, then the others by name
	mtu    int                    // that the interfaces were given last, 0 for none
	ends   map[string]ends        // that tunnels had last, by name
	// deferred are the tunnels that have to wait for the host, and why, and stranded those
	// whose SAs have to.
	deferred map[string]error
	stranded map[string]Stranding
	patience time.Duration // of tunnels that are to wait for their peer
	unprobed string        // and about probes
	drift    string        // what was last told that it cannot be repaired
}

// ends are the addresses between which a tunnel may be.
type ends struct {
	local   netip.Addr
	locals  []netip.Addr // further ones
	remote  netip.AddrPort
	remotes []netip.Addr
}

// place is a Place with what it was brought to last.
type place struct {
	Place
	segment string   // empty: the default one
	routing *Routing // nil before the first
	warned  string   // the last warning about forwarding
}

// New returns a Reconciler that has nothing to do yet.
func New(cfg Config) *Reconciler {
	r := &Reconciler{
		cfg: cfg, intent: nil, ends: map[string]ends{},
		patience: patience, hosts: newHosts(cfg.LookUp, cfg.Logger), places: []*place{{Place: Place{cfg.Host, cfg.Interface}}},
	}
	for _, segment := range slices.Sorted(maps.Keys(cfg.Segments)) {
		r.places = append(r.places, &place{Place: cfg.Segments[segment], segment: segment})
	}
	return r
}

// ApplyError says what of a valid intent could not be brought about.
type ApplyError struct{ Errors Errors }

func (e *ApplyError) Error() string { return "apply intent: " + e.Errors.Error() }

// Apply makes the edge run intent. If the intent is wrong, which is an error of
// type Errors, or cannot be brought about, an *ApplyError, the one before goes
// on.
func (r *Reconciler) Apply(intent *swanherdv1.EdgeIntent) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.patience = patience + time.Duration(len(intent.GetTunnels())/patienceTunnels)*time.Second
	err := r.reach(intent)
	if err == nil {
		r.intent = intent
		return nil
	}
	var failed *ApplyError
	if errors.As(err, &failed) && r.intent != nil {
		if back := r.reach(r.intent); back != nil {
			r.cfg.Logger.Error("cannot go back to the intent before; it is tried again", "error", back)
		}
	}
	return err
}

// Adopt makes intent, which ran before the agent stopped, the one to run,
// whether or not it can be brought about now: after a start the host may not be
// ready yet. Until there is another intent, peers are not waited for as long as
// usual.
func (r *Reconciler) Adopt(intent *swanherdv1.EdgeIntent) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intent, r.patience = intent, restartPatience
	return r.reach(intent)
}

// Resync brings everything back to the intent, and tells what was not as it was left.
func (r *Reconciler) Resync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.intent == nil {
		return nil
	}
	drift := r.lookForDrift()
	err := r.reach(r.intent)
	if len(drift) > 0 || r.drift != "" {
		r.tellDrift(drift, err)
	}
	return err
}

// Deferred returns the tunnels that have to wait for the host, and why.
func (r *Reconciler) Deferred() map[string]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.deferred)
}

// Stranded returns the tunnels that the engine has and whose uplink nothing can leave by, and
// why.
func (r *Reconciler) Stranded() map[string]Stranding {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.stranded)
}

// Run keeps to the intent until ctx ends: after each change of the host, and at
// intervals.
func (r *Reconciler) Run(ctx context.Context, hostChanged <-chan struct{}) {
	resync := time.NewTicker(resyncInterval)
	defer resync.Stop()
	paths := r.pathsChanged()
	var rested <-chan time.Time
	said := ""
	var lookups sync.WaitGroup
	defer lookups.Wait()
	lookups.Go(func() { r.hosts.run(ctx) })
	for {
		do := r.Resync
		select {
		case <-ctx.Done():
			return
		case <-hostChanged:
		case <-r.hosts.changed:
		case <-resync.C:
		case <-rested:
			paths = r.pathsChanged()
			continue
		case <-paths:
			do = func() error {
				began := time.Now()
				err := r.followPaths()
				paths, rested = nil, time.After(restFactor*time.Since(began))
				return err
			}
		}
		text := ""
		if err := do(); err != nil {
			text = err.Error()
		}
		if text != "" && text != said {
			r.cfg.Logger.Warn("the host or the engine is not as the intent wants it; trying again", "error", text)
		}
		said = text
	}
}

// pathsChanged is sent to when the routes may need other MTUs; nil for never.
func (r *Reconciler) pathsChanged() <-chan struct{} {
	if r.cfg.Paths == nil {
		return nil
	}
	return r.cfg.Paths.InnerMTUsChanged()
}

// reach brings the engine and the host to the intent.
func (r *Reconciler) reach(intent *swanherdv1.EdgeIntent) error {
	material, errs := LoadMaterial(intent, r.cfg.Identity())
	plan, more := NewPlan(intent, material, r.environment(intent))
	if errs = append(errs, more...); len(errs) > 0 {
		return errs
	}
	otherRevoked := r.revoked.Set(plan.Revoked)
	ready, deferred := r.locate(plan.Tunnels, plan.Stranded)
	var failed Errors
	for _, result := range r.cfg.Engine.Apply(ready) {
		if result.Err != nil {
			failed.add(result.Name, "", result.Err.Error())
		}
	}
	r.wait(deferred, plan.Stranded)
	if otherRevoked {
		r.cfg.Engine.Revalidate()
	}
	if err := r.reachHost(plan); err != nil {
		failed.add("", "", err.Error())
	}
	r.reachProbes(plan)
	if len(failed) > 0 {
		return &ApplyError{failed}
	}
	return nil
}

// wait notes which tunnels have to wait for the host: those that are not in the engine, and
// those whose uplink nothing can leave by. Those that no longer do go on at once.
func (r *Reconciler) wait(deferred map[string]error, stranded map[string]Stranding) {
	for name, err := range deferred {
		if r.deferred[name] == nil {
			r.cfg.Logger.Warn("tunnel waits for the host", "tunnel", name, "reason", err)
		}
	}
	for name, s := range stranded {
		if r.stranded[name].Why == nil {
			r.cfg.Logger.Warn("tunnel waits for its uplink", "tunnel", name, "reason", s.Why)
		}
	}
	for name := range r.stranded {
		if stranded[name].Why == nil {
			_ = r.cfg.Engine.Reachable(name) // an error says that the tunnel is gone
		}
	}
	changed := !maps.EqualFunc(r.deferred, deferred, func(a, b error) bool { return a.Error() == b.Error() }) ||
		!maps.EqualFunc(r.stranded, stranded, func(a, b Stranding) bool { return a.Why.Error() == b.Why.Error() })
	r.deferred, r.stranded = deferred, stranded
	if changed && r.cfg.Waiting != nil {
		r.cfg.Waiting()
	}
}

func (r *Reconciler) reachHost(plan *Plan) error {
	r.mtu = plan.MTU
	for _, at := range r.places {
		if plan.MTU != 0 {
			if err := at.Host.SetLink(at.Interface, plan.MTU); err != nil {
				return at.wrap(err)
			}
		}
		at.routing = plan.Routing
		if at.segment != "" {
			at.routing = plan.Segments[at.segment]
		}
	}
	if err := r.setRoutes(); err != nil {
		return err
	}
	if err := r.cfg.Host.Intercept(r.cfg.Interface, plan.Intercepted); err != nil {
		return err
	}
	for _, at := range r.places {
		r.forward(at)
	}
	return nil
}

// wrap names the segment in an error.
func (p *place) wrap(err error) error {
	if p.segment == "" {
		return err
	}
	return fmt.Errorf("segment %s: %w", p.segment, err)
}

// forward makes the kernel forward what is of a place.
func (r *Reconciler) forward(at *place) {
	f := hostnet.Forwarding{IPv4: at.routing.Forwarding.IPv4, IPv6: at.routing.Forwarding.IPv6, Tunnel: at.Interface}
	if at.segment == "" {
		for _, up := range r.cfg.Uplinks() {
			f.Uplinks = append(f.Uplinks, up.GetInterface())
		}
	}
	// A host that may not be changed can be set up to forward by its operator,
	// so this is no reason to refuse an intent.
	text := ""
	if err := at.Host.EnableForwarding(f); err != nil {
		text = at.wrap(err).Error()
	}
	if text != "" && text != at.warned {
		r.cfg.Logger.Warn("cannot make the kernel forward", "error", text)
	}
	at.warned = text
}

// followPaths gives the routes the MTUs of the tunnels' paths.
func (r *Reconciler) followPaths() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.places[0].routing == nil {
		return nil
	}
	return r.setRoutes()
}

func (r *Reconciler) setRoutes() error {
	var inner map[string]int
	if r.cfg.Paths != nil {
		inner = r.cfg.Paths.InnerMTUs()
	}
	for _, at := range r.places {
		// The default route leaves to the others what is theirs, and comes after them.
		if err := at.Host.SetRoutes(at.Interface, at.routing.limitedTo(inner)); err != nil {
			return at.wrap(err)
		}
		if err := at.Host.SetDefault(at.Interface, at.routing.defaultLimitedTo(inner)); err != nil {
			return at.wrap(err)
		}
	}
	return nil
}

// environment looks at the host.
func (r *Reconciler) environment(intent *swanherdv1.EdgeIntent) Environment {
	env := Environment{
		Uplinks: r.cfg.Uplinks(), Down: r.down(), DataPlane: r.cfg.DataPlane, Hosts: r.hosts.of(intent),
		Patience: r.patience, CheckRevoked: r.revoked.Check,
	}
	env.IPv6 = r.cfg.Probes != nil && r.cfg.Host.HasIPv6(r.cfg.Interface)
	for _, up := range env.Uplinks {
		if mtu, err := r.cfg.Host.MTU(up.GetInterface()); err == nil && (env.UplinkMTU == 0 || mtu < env.UplinkMTU) {
			env.UplinkMTU = mtu
		}
	}
	env.Source4, env.Source6 = r.sources(r.places[0], LocalPrefixes(intent.GetSettings()))
	env.Segments = map[string]SegmentEnvironment{}
	for _, at := range r.places[1:] {
		var in SegmentEnvironment
		in.Source4, in.Source6 = r.sources(at, parsePrefixes(segmentPrefixes(intent.GetSettings(), at.segment)))
		env.Segments[at.segment] = in
	}
	return env
}

func (r *Reconciler) down() map[string]string {
	if r.cfg.Down == nil {
		return nil
	}
	return r.cfg.Down()
}

// sources are addresses of this host, of each family, inside prefixes of the site; the zero
// Addr where there is none.
func (r *Reconciler) sources(at *place, local []netip.Prefix) (source4, source6 netip.Addr) {
	for v4, to := range map[bool]*netip.Addr{true: &source4, false: &source6} {
		addr, err := at.Host.AddressIn(local, v4, at.Interface)
		if err != nil {
			r.cfg.Logger.Warn("cannot look for an address of this host inside the site's prefixes", "error", at.wrap(err))
			continue
		}
		*to = addr
	}
	return source4, source6
}

// locate gives each tunnel that leaves it to routing its local address. A tunnel to which
// there is no route, and one that is stranded, keeps the addresses that it had; one that
// never had any is deferred, and not stranded. Ready is in the place of tunnels.
func (r *Reconciler) locate(tunnels []engine.TunnelConfig, stranded map[string]Stranding) (ready []engine.TunnelConfig, deferred map[string]error) {
	deferred = map[string]error{}
	now := make(map[string]ends, len(tunnels))
	ready = tunnels[:0]
	for _, t := range tunnels {
		at := ends{t.Local.Addr(), t.Mobility.Local, t.Remote, t.Mobility.Remote}
		s, isStranded := stranded[t.Name]
		err := s.Why
		before := r.ends[t.Name]
		switch {
		case isStranded && before.local.IsValid():
			if at = before; len(s.But) > 0 {
				at.locals = s.But // for MOBIKE to go on from
			}
		case !at.local.IsValid() && !isStranded:
			if at.local, err = r.cfg.Host.SourceTo(t.Remote.Addr()); err != nil {
				at.local, err = before.local, fmt.Errorf("no local address: %w", err)
			}
		}
		if !at.local.IsValid() {
			deferred[t.Name] = err
			delete(stranded, t.Name)
			continue
		}
		now[t.Name] = at
		t.Local, t.Mobility.Local = netip.AddrPortFrom(at.local, t.Local.Port()), at.locals
		t.Remote, t.Mobility.Remote = at.remote, at.remotes
		ready = append(ready, t)
	}
	r.ends = now
	return ready, deferred
}
