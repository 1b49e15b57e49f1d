package edge

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/nat"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// lookupTimeout bounds the wait for the addresses of the controller's hosts.
	lookupTimeout = 5 * time.Second
	// idleWait is how long there may be nothing to do.
	idleWait = time.Hour
)

// outsideSource is what an outside needs of the agent.
type outsideSource struct {
	// told are the uplinks as the controller is told of them, without NATs; it is sent to
	// changed when they are others.
	told    func() []*swanherdv1.Uplink
	changed <-chan struct{}
	// send sends a STUN request; answered is called on another goroutine.
	send   func(local, remote netip.AddrPort, request []byte, until time.Time, answered func([]byte)) error
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// known is what was known before a restart, and keep is given what is known.
	known  []*swanherdv1.UplinkNat
	keep   func([]*swanherdv1.UplinkNat)
	logger *slog.Logger
}

// outside finds out how the uplinks look from outside, and tells the controller of the
// uplinks with that.
type outside struct {
	outsideSource
	nats    atomic.Pointer[[]*swanherdv1.UplinkNat]
	current atomic.Pointer[[]*swanherdv1.Uplink]
	news    chan struct{}
	answers chan []byte
	places  chan controllerPlaces
	servers chan []netip.AddrPort
}

// controllerPlaces are where the controller is and where it answers STUN, as a new session
// says.
type controllerPlaces struct {
	endpoints []string // that of the session first
	ports     []uint32
}

// outsideSource is what of the agent it takes to know how the uplinks look from outside.
func (a *agent) outsideSource() outsideSource {
	known, err := a.dir.LoadNATs()
	if err != nil {
		a.cfg.Logger.Warn("the controller is told anew how uplinks look from outside", "error", err)
	}
	return outsideSource{
		told: a.uplinks.Told, changed: a.uplinks.Changed(), send: a.engine.SendSTUN, lookup: net.DefaultResolver.LookupNetIP,
		known: known, logger: a.cfg.Logger,
		keep: func(known []*swanherdv1.UplinkNat) {
			if err := a.dir.SaveNATs(known); err != nil {
				a.cfg.Logger.Warn("after a restart the controller is told anew how uplinks look from outside", "error", err)
			}
		},
	}
}

func newOutside(src outsideSource) *outside {
	o := &outside{
		outsideSource: src, news: make(chan struct{}, 1), answers: make(chan []byte, 64),
		places: make(chan controllerPlaces, 1), servers: make(chan []netip.AddrPort, 1),
	}
	o.publish(src.known)
	return o
}

// Current returns the uplinks with what is known of NATs. The caller does not change them.
func (o *outside) Current() []*swanherdv1.Uplink { return *o.current.Load() }

// Changed is sent to when Current has changed.
func (o *outside) Changed() <-chan struct{} { return o.news }

// Welcomed takes note of a session, and has it asked anew. It does not block.
func (o *outside) Welcomed(endpoints []string, ports []uint32) {
	s := controllerPlaces{slices.Clone(endpoints), ports}
	for {
		select {
		case o.places <- s:
			return
		case <-o.places: // an older one
		}
	}
}

// publish makes known what the uplinks and their NATs are, and reports whether that is
// something else than before.
func (o *outside) publish(nats []*swanherdv1.UplinkNat) bool {
	o.nats.Store(&nats)
	next := withNATs(o.told(), nats)
	before := o.current.Swap(&next)
	return before == nil || !slices.EqualFunc(*before, next, func(a, b *swanherdv1.Uplink) bool { return proto.Equal(a, b) })
}

// withNATs are uplinks with what is known of how they look from outside.
func withNATs(uplinks []*swanherdv1.Uplink, nats []*swanherdv1.UplinkNat) []*swanherdv1.Uplink {
	out := make([]*swanherdv1.Uplink, 0, len(uplinks))
	for _, up := range uplinks {
		up = proto.Clone(up).(*swanherdv1.Uplink)
		for _, n := range nats {
			if slices.Contains(up.GetAddresses(), n.GetAddress()) {
				up.Nats = append(up.Nats, n)
			}
		}
		out = append(out, up)
	}
	return out
}

// localPorts are the addresses of the uplinks with the port of IKE and ESP.
func (o *outside) localPorts() []netip.AddrPort {
	var out []netip.AddrPort
	for _, up := range o.told() {
		for _, text := range up.GetAddresses() {
			addr, err := netip.ParseAddr(text)
			at := netip.AddrPortFrom(addr.Unmap(), uint16(up.GetPort()))
			if err == nil && addr.IsGlobalUnicast() && !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	return out
}

// Run asks until ctx ends.
func (o *outside) Run(ctx context.Context) {
	p := nat.NewProber(nat.Config{
		Transaction: func() (id [12]byte) { rand.Read(id[:]); return id },
		Vary:        mathrand.N[time.Duration],
	})
	known := map[string]*swanherdv1.UplinkNat{}
	for _, n := range o.known {
		known[n.GetAddress()] = n
	}
	p.SetSources(time.Now(), o.localPorts(), known)
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.changed:
			p.SetSources(time.Now(), o.localPorts(), known)
		case s := <-o.places:
			go o.resolve(ctx, s)
		case servers := <-o.servers:
			p.SetServers(time.Now(), servers)
			p.AskNow(time.Now())
		case b := <-o.answers:
			p.Receive(time.Now(), b)
		case <-alarm.C:
		}
		o.sendAll(ctx, p.Step(time.Now()))
		o.tell(p.Known())
		wait := idleWait
		if at, ok := p.Deadline(); ok {
			wait = time.Until(at)
		}
		alarm.Reset(wait)
	}
}

// tell publishes what is known, and has it kept and the controller told if that is new.
func (o *outside) tell(nats []*swanherdv1.UplinkNat) {
	if !o.publish(nats) {
		return
	}
	if !slices.EqualFunc(nats, o.known, func(a, b *swanherdv1.UplinkNat) bool { return proto.Equal(a, b) }) {
		for _, n := range nats {
			o.logger.Info("how an uplink looks from outside", "address", n.GetAddress(), "mapping", n.GetMapping(),
				"mapped_address", n.GetMappedAddress(), "mapped_port", n.GetMappedPort(), "carrier_grade", n.GetCarrierGrade())
		}
		o.known = nats
		o.keep(nats)
	}
	select {
	case o.news <- struct{}{}:
	default:
	}
}

func (o *outside) sendAll(ctx context.Context, requests []nat.Request) {
	for _, r := range requests {
		err := o.send(r.Local, r.Remote, r.Message, r.Until, func(b []byte) {
			select {
			case o.answers <- slices.Clone(b):
			case <-ctx.Done():
			default: // it is asked again
			}
		})
		if err != nil { // as good as lost on the way
			o.logger.Debug("cannot ask how an uplink looks from outside", "local", r.Local, "server", r.Remote, "error", err)
		}
	}
}

// resolve finds the STUN servers at the controller's hosts: both ports of the one that has
// the session, as two destinations are what tells a mapping, and one of each other.
func (o *outside) resolve(ctx context.Context, s controllerPlaces) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var out []netip.AddrPort
	for i, endpoint := range s.endpoints {
		host, _, err := net.SplitHostPort(endpoint)
		if err != nil || len(s.ports) == 0 {
			continue
		}
		addrs, err := o.lookup(ctx, "ip", host)
		if err != nil {
			o.logger.Debug("cannot find the controller's host to ask it how uplinks look from outside", "host", host, "error", err)
			continue
		}
		ports := s.ports
		if i > 0 {
			ports = ports[:1]
		}
		for _, port := range ports {
			for _, addr := range addrs {
				at := netip.AddrPortFrom(addr.Unmap(), uint16(port))
				if port > 0 && port < 1<<16 && !slices.Contains(out, at) {
					out = append(out, at)
				}
			}
		}
	}
	if len(out) == 0 && len(s.ports) > 0 {
		return // those of before may still be right
	}
	select {
	case <-o.servers: // of an older session
	default:
	}
	select {
	case o.servers <- out:
	default:
	}
}
