package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/swanherd/swanherd/edge/hostnet"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// resyncInterval is how often everything is held against the plan, in case
	// that somebody else changed it.
	resyncInterval = 30 * time.Second
	// watchInterval is how often tunnels are looked at that wait for their
	// peer, patience how long they wait before they initiate themselves.
	watchInterval = 2 * time.Second
	patience      = 6 * time.Second
)

// Engine is what the reconciler needs of package engine.
type Engine interface {
	Apply(desired []engine.TunnelConfig) []engine.TunnelResult
	Status() []engine.TunnelStatus
}

// Host is what the reconciler needs of package hostnet.
type Host interface {
	SetLink(name string, mtu int) error
	SetRoutes(name string, want []hostnet.Route) error
	EnableForwarding(hostnet.Forwarding) error
	AddressIn(prefixes []netip.Prefix, v4 bool, except string) (netip.Addr, error)
	SourceTo(remote netip.Addr) (netip.Addr, error)
	MTU(name string) (int, error)
}

// Config is what a Reconciler needs.
type Config struct {
	Engine Engine
	Host   Host
	// Interface is the tunnel interface.
	Interface string
	// Uplinks are the WAN attachments of now.
	Uplinks func() []*swanherdv1.Uplink
	// Identity is the enrolled identity of now, nil without one.
	Identity func() *state.Identity
	Logger   *slog.Logger
}

// Reconciler keeps the engine and the host at what the intent says.
type Reconciler struct {
	cfg     Config
	revoked Revocation

	mu     sync.Mutex
	intent *swanherdv1.EdgeIntent // nil before the first
	locals map[string]netip.Addr  // local addresses that routing chose, by tunnel
	// deferred are the tunnels that have to wait for the host, and why.
	deferred map[string]error
	// waiting is since when responders wait for their peer; insistent are
	// those that no longer do.
	waiting   map[string]time.Time
	insistent map[string]bool
	warned    string // the last warning about forwarding
}

// New returns a Reconciler that has nothing to do yet.
func New(cfg Config) *Reconciler {
	return &Reconciler{
		cfg: cfg, intent: nil, locals: map[string]netip.Addr{}, deferred: map[string]error{},
		waiting: map[string]time.Time{}, insistent: map[string]bool{},
	}
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
	err := r.reach(intent)
	if err == nil {
		r.intent = intent
		r.forgetWaiting()
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
// ready yet. Peers may hold SAs of the run before, so they are not waited for
// as long as usual.
func (r *Reconciler) Adopt(intent *swanherdv1.EdgeIntent) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intent = intent
	for _, t := range intent.GetTunnels() {
		r.waiting[t.GetName()] = time.Now().Add(-patience)
	}
	return r.reach(intent)
}

// Resync brings everything back to the intent.
func (r *Reconciler) Resync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.intent == nil {
		return nil
	}
	return r.reach(r.intent)
}

// Renewed is Resync after the edge got another identity. It has to be shown in a
// new IKE SA; the peers do not know of it, so tunnels that wait for their peer
// would be cut rather than replaced: they initiate.
func (r *Reconciler) Renewed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.intent == nil {
		return nil
	}
	for _, t := range r.intent.GetTunnels() {
		if t.GetRole() == swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER {
			r.insistent[t.GetName()] = true
		}
	}
	return r.reach(r.intent)
}

// forgetWaiting forgets tunnels that are no longer. Those that initiate out of
// turn go on to: another role would mean another IKE SA.
func (r *Reconciler) forgetWaiting() {
	wanted := map[string]bool{}
	for _, t := range r.intent.GetTunnels() {
		wanted[t.GetName()] = true
	}
	maps.DeleteFunc(r.insistent, func(name string, _ bool) bool { return !wanted[name] })
	maps.DeleteFunc(r.waiting, func(name string, _ time.Time) bool { return !wanted[name] })
}

// Deferred returns the tunnels that have to wait for the host, and why.
func (r *Reconciler) Deferred() map[string]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.deferred)
}

// Run keeps to the intent until ctx ends: after each change of the host, at
// intervals, and when a peer stays silent.
func (r *Reconciler) Run(ctx context.Context, hostChanged <-chan struct{}) {
	resync, watch := time.NewTicker(resyncInterval), time.NewTicker(watchInterval)
	defer resync.Stop()
	defer watch.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-hostChanged:
		case <-resync.C:
		case now := <-watch.C:
			if !r.losePatience(now) {
				continue
			}
		}
		text := ""
		if err := r.Resync(); err != nil {
			text = err.Error()
		}
		if text != "" && text != said {
			r.cfg.Logger.Warn("the host or the engine is not as the intent wants it; trying again", "error", text)
		}
		said = text
	}
}

// losePatience finds responders whose peer stays silent, and reports whether
// there are new ones. Usually the peer initiates; but one that does not know
// yet that we lost our SAs will only find out by its liveness check.
func (r *Reconciler) losePatience(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	down := map[string]bool{}
	for _, s := range r.cfg.Engine.Status() {
		down[s.Name] = s.State == ike.StateDown
	}
	lost := false
	for _, t := range r.intent.GetTunnels() {
		name := t.GetName()
		switch {
		case t.GetRole() != swanherdv1.TunnelRole_TUNNEL_ROLE_RESPONDER || len(t.GetRemoteEndpoints()) == 0 || r.insistent[name]:
		case !down[name]:
			delete(r.waiting, name)
		case r.waiting[name].IsZero():
			r.waiting[name] = now
		case now.Sub(r.waiting[name]) >= patience:
			delete(r.waiting, name)
			r.insistent[name], lost = true, true
		}
	}
	return lost
}

// reach brings the engine and the host to the intent.
func (r *Reconciler) reach(intent *swanherdv1.EdgeIntent) error {
	material, errs := LoadMaterial(intent, r.cfg.Identity())
	plan, more := NewPlan(intent, material, r.environment(intent))
	if errs = append(errs, more...); len(errs) > 0 {
		return errs
	}
	r.revoked.Set(plan.Revoked)
	ready, deferred := r.locate(plan.Tunnels)
	var failed Errors
	for _, result := range r.cfg.Engine.Apply(ready) {
		if result.Err != nil {
			failed.add(result.Name, "", result.Err.Error())
		}
	}
	if err := r.reachHost(plan); err != nil {
		failed.add("", "", err.Error())
	}
	if len(failed) > 0 {
		return &ApplyError{failed}
	}
	for name, err := range deferred {
		if r.deferred[name] == nil {
			r.cfg.Logger.Warn("tunnel waits for the host", "tunnel", name, "reason", err)
		}
	}
	r.deferred = deferred
	return nil
}

func (r *Reconciler) reachHost(plan *Plan) error {
	if plan.MTU != 0 {
		if err := r.cfg.Host.SetLink(r.cfg.Interface, plan.MTU); err != nil {
			return err
		}
	}
	if err := r.cfg.Host.SetRoutes(r.cfg.Interface, plan.Routes); err != nil {
		return err
	}
	f := hostnet.Forwarding{IPv4: plan.Forwarding.IPv4, IPv6: plan.Forwarding.IPv6, Tunnel: r.cfg.Interface}
	for _, up := range r.cfg.Uplinks() {
		f.Uplinks = append(f.Uplinks, up.GetInterface())
	}
	// A host that may not be changed can be set up to forward by its operator,
	// so this is no reason to refuse an intent.
	text := ""
	if err := r.cfg.Host.EnableForwarding(f); err != nil {
		text = err.Error()
	}
	if text != "" && text != r.warned {
		r.cfg.Logger.Warn("cannot make the kernel forward", "error", text)
	}
	r.warned = text
	return nil
}

// environment looks at the host.
func (r *Reconciler) environment(intent *swanherdv1.EdgeIntent) Environment {
	env := Environment{Uplinks: r.cfg.Uplinks(), Insistent: r.insistent, CheckRevoked: r.revoked.Check}
	for _, up := range env.Uplinks {
		if mtu, err := r.cfg.Host.MTU(up.GetInterface()); err == nil && (env.UplinkMTU == 0 || mtu < env.UplinkMTU) {
			env.UplinkMTU = mtu
		}
	}
	local := LocalPrefixes(intent.GetSettings())
	for v4, to := range map[bool]*netip.Addr{true: &env.Source4, false: &env.Source6} {
		addr, err := r.cfg.Host.AddressIn(local, v4, r.cfg.Interface)
		if err != nil {
			r.cfg.Logger.Warn("cannot look for an address of this host inside the site's prefixes", "error", err)
			continue
		}
		*to = addr
	}
	return env
}

// locate gives each tunnel that leaves it to routing its local address. A
// tunnel to which there is no route keeps the address that it had; one that
// never had any is deferred.
func (r *Reconciler) locate(tunnels []engine.TunnelConfig) (ready []engine.TunnelConfig, deferred map[string]error) {
	deferred = map[string]error{}
	locals := map[string]netip.Addr{}
	for _, t := range tunnels {
		if !t.Local.Addr().IsValid() {
			addr, err := r.cfg.Host.SourceTo(t.Remote.Addr())
			if err != nil {
				if addr = r.locals[t.Name]; !addr.IsValid() {
					deferred[t.Name] = fmt.Errorf("no local address: %w", err)
					continue
				}
			}
			locals[t.Name] = addr
			t.Local = netip.AddrPortFrom(addr, t.Local.Port())
		}
		ready = append(ready, t)
	}
	r.locals = locals
	return ready, deferred
}
