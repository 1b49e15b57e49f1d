package engine

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
)

// Change is what Apply did with a tunnel.
type Change uint8

// The changes.
const (
	Unchanged Change = iota
	Added
	Changed
	Removed
	Rejected // the configuration cannot be; what was there before goes on
)

var changeNames = [...]string{"unchanged", "added", "changed", "removed", "rejected"}

func (c Change) String() string {
	if int(c) < len(changeNames) {
		return changeNames[c]
	}
	return "unknown"
}

// TunnelResult is what Apply did with one tunnel. Err is set exactly if Change
// is Rejected.
type TunnelResult struct {
	Name   string
	Change Change
	Err    error
}

// Apply makes desired the whole state that is wanted: it begins what is new,
// reconfigures in place what differs, closes what is not named, its Delete
// payload sent, and does not touch what is the same. It returns one result for
// each element of desired in its order, then one for each tunnel removed, by
// name. A tunnel that is rejected does not stop the others.
//
// A tunnel that is up and not named is closed when one that is named, between the same two
// identities and for some of the same packets, is up, or after a minute.
//
// A tunnel whose local address is left to routing is rejected while there is no
// route to its peer, and changed when the address has changed: apply again when
// the host's addresses do.
//
// It waits until the loops have taken the changes, not until the peers have:
// that is seen in Status and by Subscribe. Before Run it waits for Run.
func (e *Engine) Apply(desired []TunnelConfig) []TunnelResult {
	results := make([]TunnelResult, len(desired))
	select {
	case <-e.started:
	case <-e.closing:
	}
	e.applyMu.Lock()
	defer e.applyMu.Unlock()
	if e.isClosing() {
		for i, c := range desired {
			results[i] = TunnelResult{c.Name, Rejected, ErrClosed}
		}
		return results
	}
	e.forgetGone()
	var done sync.WaitGroup
	named := make(map[string]bool)
	between := e.identityPairs(desired)
	for i, c := range desired {
		c.SharedIdentities = between[identityPair(c)] > 1
		results[i] = TunnelResult{Name: c.Name, Change: Rejected}
		if named[c.Name] {
			results[i].Err = fmt.Errorf("tunnel %q is named twice", c.Name)
			continue
		}
		named[c.Name] = true
		results[i].Change, results[i].Err = e.applyOne(c, &done)
	}
	var removed []string
	for _, name := range slices.Sorted(maps.Keys(e.tunnels)) {
		if en := e.tunnels[name]; en.wanted && en.outgoing.IsZero() && !named[name] {
			removed = append(removed, name)
			results = append(results, TunnelResult{Name: name, Change: Removed})
		}
	}
	e.retire(removed, &done)
	e.publishIndex()
	if e.keeper != nil {
		e.keeper.retain(func(name string) bool { en := e.tunnels[name]; return en != nil && en.wanted })
	}
	done.Wait()
	return results
}

// identityPairs counts the tunnels between the same two identities: none of them may say that
// it is the only one (RFC 7296, Section 2.4, INITIAL_CONTACT). What stays for a while though
// it is not desired any more counts too.
func (e *Engine) identityPairs(desired []TunnelConfig) map[[2]string]int {
	pairs := make(map[[2]string]int)
	named, up := make(map[string]bool, len(desired)), map[[2]string]bool{}
	for _, c := range desired {
		between := identityPair(c)
		pairs[between]++
		named[c.Name] = true
		if en := e.tunnels[c.Name]; en != nil && en.isUp() {
			up[between] = true
		}
	}
	for name, en := range e.tunnels {
		if !named[name] && en.wanted && en.isUp() && !up[identityPair(*en.config)] {
			pairs[identityPair(*en.config)]++
		}
	}
	return pairs
}

func identityPair(c TunnelConfig) [2]string {
	return [2]string{c.Credentials.ID.Key(), c.Peer.ID.Key()}
}

// applyOne brings one tunnel to its configuration.
func (e *Engine) applyOne(c TunnelConfig, done *sync.WaitGroup) (Change, error) {
	en := e.tunnels[c.Name]
	if en != nil {
		en.outgoing = time.Time{}
	}
	if en != nil && en.wanted && e.isAs(en, c) {
		return Unchanged, nil
	}
	t := newTunnel(c.Name, nil)
	change := Added
	if en != nil {
		t = en.tunnel
	} else {
		t.shard = e.leastLoaded()
	}
	full, err := e.complete(c, t)
	if err != nil {
		return Rejected, err
	}
	m, err := ike.New(full) // also checks a configuration that only replaces one
	if err != nil {
		return Rejected, err
	}
	if en != nil && en.wanted {
		change = Changed
	}
	if en == nil {
		e.load[t.shard.index]++
	}
	onlyMoved := change == Changed && sameConfig(en.config, &c)
	kept := c
	e.tunnels[c.Name] = &entry{tunnel: t, config: &kept, former: formerProposals(en, &c), local: full.Local, wanted: true}
	inLoop(t, done, func() {
		if onlyMoved && t.machine != nil && !t.closing {
			t.step(time.Now(), ike.AddressChange{Local: full.Local.Addr(), Additional: full.Mobility.Local})
			return
		}
		t.configure(time.Now(), m, &full)
	})
	return change, nil
}

// formerProposals are those that a tunnel had before c, if c has others, or before that.
func formerProposals(en *entry, c *TunnelConfig) []suite.IKEProposal {
	switch {
	case en == nil || !en.wanted:
		return nil
	case reflect.DeepEqual(en.config.Proposals, c.Proposals):
		return en.former
	case len(en.config.Proposals) == 0:
		return usualIKE
	}
	return en.config.Proposals
}

// isAs reports whether a tunnel is what c describes, its local address included
// where routing chooses that. Without a route at this moment it stays as it is.
func (e *Engine) isAs(en *entry, c TunnelConfig) bool {
	if !sameConfig(en.config, &c) || en.tunnel.status.Load().Panicked != "" {
		return false
	}
	if specified(c.Local.Addr()) {
		return true
	}
	local, err := e.localEndpoint(c)
	return err != nil || local == en.local
}

// complete fills in what the engine decides.
func (e *Engine) complete(c TunnelConfig, t *tunnel) (ike.Config, error) {
	if c.Runtime.Rand != nil || c.Runtime.NewSPI != nil || c.Runtime.AllocateSPI != nil {
		return c, fmt.Errorf("tunnel %q: Runtime is the engine's to give", c.Name)
	}
	if c.TCP.Mode != ike.TCPNever && e.streams.lack != nil {
		return c, fmt.Errorf("tunnel %q: %w", c.Name, e.streams.lack)
	}
	c.Runtime = ike.Runtime{
		Rand: e.config.Rand, NewSPI: t.shard.newSPI, AllocateSPI: t.allocateSPI,
		Tokens: e.tokens, Tickets: e.tickets, LogKeys: e.keys.IKE != nil, SinceUDP: e.heard.since,
	}
	if e.keeper != nil {
		c.Runtime.Ticket = e.keeper.ticket(c.Name)
	}
	local, err := e.localEndpoint(c)
	if err != nil {
		return c, fmt.Errorf("tunnel %q: %w", c.Name, err)
	}
	c.Local = local
	return c, nil
}

// localEndpoint completes the local address and port.
func (e *Engine) localEndpoint(c TunnelConfig) (netip.AddrPort, error) {
	addr, port := c.Local.Addr(), c.Local.Port()
	ownPort := e.socket != nil && e.socket.port == c.Remote.Port()
	switch {
	case specified(addr):
	case !specified(c.Remote.Addr()):
		addr = netip.IPv6Unspecified() // the peer comes to us, at whichever
	default:
		at, err := e.sender.LocalFor(c.Remote.Addr())
		if ownPort {
			at, err = e.socket.localFor(c.Remote.Addr())
		}
		if err != nil {
			return netip.AddrPort{}, err
		}
		addr = at.Addr()
	}
	switch {
	case port != 0:
	case ownPort:
		port = e.socket.port
	default:
		port = cmp.Or(c.NATPort, ike.DefaultNATPort)
	}
	return netip.AddrPortFrom(addr, port), nil
}

// configure brings the machine to a configuration, whatever the tunnel is
// doing. M is a new machine of that configuration, used if there is none.
func (t *tunnel) configure(now time.Time, m *ike.Tunnel, config *ike.Config) {
	if t.machine != nil && !t.closing {
		t.step(now, ike.Reconfigure{Config: *config})
		return
	}
	t.start(now, m, config)
}

// inLoop runs f in the loop of t; done waits for it.
func inLoop(t *tunnel, done *sync.WaitGroup, f func()) {
	done.Add(1)
	if !t.shard.post(func() { defer done.Done(); f() }) {
		done.Done()
	}
}

// forgetGone drops the tunnels that have closed.
func (e *Engine) forgetGone() {
	maps.DeleteFunc(e.tunnels, func(_ string, en *entry) bool {
		gone := !en.wanted && en.tunnel.gone.Load()
		if gone {
			e.load[en.tunnel.shard.index]--
		}
		return gone
	})
}

// leastLoaded returns the loop with the fewest tunnels.
func (e *Engine) leastLoaded() *shard { return e.shards[slices.Index(e.load, slices.Min(e.load))] }

// publishIndex lets everybody see the tunnels as they are now.
func (e *Engine) publishIndex() {
	ix := &index{byName: make(map[string]*tunnel)}
	var targets []target
	for _, name := range slices.Sorted(maps.Keys(e.tunnels)) {
		en := e.tunnels[name]
		ix.byName[name] = en.tunnel
		ix.sorted = append(ix.sorted, en.tunnel)
		if en.wanted && en.outgoing.IsZero() {
			targets = append(targets, target{en.tunnel, en.config, en.former})
		}
	}
	ix.matcher = newMatcher(targets, e.front.runtime())
	e.index.Store(ix)
}

// Status returns every tunnel that is wanted or still closing, by name. It
// reads what the loops published and never waits for them.
func (e *Engine) Status() []TunnelStatus {
	ix := e.index.Load()
	out := make([]TunnelStatus, 0, len(ix.sorted))
	for _, t := range ix.sorted {
		if !t.gone.Load() {
			out = append(out, *t.status.Load())
		}
	}
	return out
}

// Subscribe returns a reader of events, each of them up to buffer, see
// [Subscription]. Close it when it is no longer read.
func (e *Engine) Subscribe(buffer int) *Subscription { return e.hub.subscribe(buffer) }

// RekeyIKE rekeys the IKE SA of a tunnel now. An error says that there is no
// such tunnel.
func (e *Engine) RekeyIKE(name string) error { return e.command(name, ike.RekeyIKE{}) }

// Reauthenticate has the two ends of a tunnel prove their identities anew, in an
// IKE SA that replaces the one that is there (RFC 7296, Section 2.8.3). An error
// says that there is no such tunnel.
func (e *Engine) Reauthenticate(name string) error { return e.command(name, ike.Reauthenticate{}) }

// Restart deletes all SAs of a tunnel and has it connect anew. Nothing goes in clear
// meanwhile. An error says that there is no such tunnel.
func (e *Engine) Restart(name string) error { return e.command(name, ike.Restart{}) }

// Reachable says that this host has a way to the peer of a tunnel again, after it had none:
// what waits is done now. An error says that there is no such tunnel.
func (e *Engine) Reachable(name string) error { return e.command(name, ike.Reachable{}) }

// RekeyChild rekeys a Child SA of a tunnel now, all of them if child is empty.
// An error says that there is no such tunnel.
func (e *Engine) RekeyChild(name, child string) error {
	return e.command(name, ike.RekeyChild{Child: child})
}

// Revalidate has the certificates of all peers verified again: it is to be called
// when what Peer.CheckRevoked of the tunnels looks up has changed. Tunnels whose
// peer would no longer be let in go down.
func (e *Engine) Revalidate() {
	for _, t := range e.index.Load().sorted {
		if !t.gone.Load() {
			t.shard.post(func() { t.step(time.Now(), ike.Revalidate{}) })
		}
	}
}

func (e *Engine) command(name string, in ike.Input) error {
	t := e.index.Load().byName[name]
	if t == nil || t.gone.Load() {
		return fmt.Errorf("no tunnel %q", name)
	}
	if !t.shard.post(func() { t.step(time.Now(), in) }) {
		return ErrClosed
	}
	return nil
}
