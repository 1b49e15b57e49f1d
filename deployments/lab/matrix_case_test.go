package lab_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// side is one of the two ends.
type side int

const (
	ours side = iota
	theirs
)

func (s side) String() string { return [...]string{"ours", "theirs"}[s] }

// An interopCase is a tunnel between our engine and a peer, what happens to it,
// and what must come out. Traffic flows from the moment when it is up to the
// end.
type interopCase struct {
	name      string
	initiates side
	// Proposals of both ends, in words that are the same here and there;
	// theirIKE and theirESP where theirs differ. wantIKE and wantESP are what
	// must come out, where that is not what was proposed.
	ike, esp           string
	theirIKE, theirESP string
	wantIKE, wantESP   string
	// Auth is "psk", or the kinds of our key and theirs, such as
	// "ed25519+ecdsa256".
	auth               string
	intermediate       bool // certificates come from an authority below the root
	ourID, theirID     string
	ourAuth, theirAuth string // swanctl's auth of the remote and the local end
	// Which ends are behind a NAT that changes ports.
	nat [2]bool
	// kernel has our ESP be that of the kernel, native ours go without UDP;
	// transport has the gateways protect what they themselves say to each other.
	kernel, native, transport bool
	// queues is how many Child SAs share the traffic of each child, 1 if 0.
	queues int
	// Children, "net" if none are named; see lans.
	children []string
	// What else is set: of our tunnel and engine; lines of strongswan.conf,
	// of the connection, of each child and at the top of swanctl.conf. In
	// libreswan's words options are of its setup, and top are further secrets.
	tunnel  func(*engine.TunnelConfig)
	engine  func(*engine.Config)
	options string
	conn    string
	child   string
	top     string
	// before is done when both ends run and no tunnel was begun.
	before []step
	steps  []step
	// fails is what the end that initiates must say, where no tunnel comes up.
	fails string
	// lossy allows lost packets: what happens cannot be without.
	lossy bool
}

// A step is something that happens, or that must be so.
type step struct {
	name string
	do   func(*run)
}

// lan is what a child protects, at our side and at theirs.
type lan struct{ ours, theirs string }

// lans by the name of the child. The hosts have the address .2 in each.
var lans = map[string]lan{
	"net":  {"10.1.0.0/24", "10.2.0.0/24"},
	"net2": {"10.1.1.0/24", "10.2.1.0/24"},
	"net3": {"10.1.2.0/24", "10.2.2.0/24"},
	"host": {ourPublic + "/32", theirPublic + "/32"}, // transport mode
}

const (
	ourPublic, theirPublic = "192.0.2.1", "192.0.2.2"
)

// patience is how long one case may take. A virtual machine is slow.
func patience() time.Duration {
	if inGuest() {
		return 4 * time.Minute
	}
	return 30 * time.Second
}

func (c interopCase) withDefaults() interopCase {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.ike, "aes256gcm16-prfsha384-x25519")
	set(&c.esp, "aes128gcm16-x25519")
	set(&c.theirIKE, c.ike)
	set(&c.theirESP, c.esp)
	set(&c.wantIKE, c.ike)
	set(&c.wantESP, c.esp)
	set(&c.auth, "psk")
	set(&c.ourID, "ours.example")
	set(&c.theirID, "theirs.example")
	if c.transport {
		c.children = []string{"host"}
	}
	if len(c.children) == 0 {
		c.children = []string{"net"}
	}
	return c
}

// run is a case that runs.
type run struct {
	interopCase
	t       testing.TB
	ctx     context.Context
	dir     string // with a short path, for sockets
	net     *lab.Network
	hosts   map[string]*lab.Namespace
	addr    [2]netip.Addr // of the gateways, as they themselves see them
	peer    peer
	gateway *gateway
	config  engine.TunnelConfig
	flow    *flow
	cable   *cable
	// childCount is how many Child SAs there are when all is well, and staleIKE
	// how many IKE SAs the peer keeps that nobody else knows any more.
	childCount, staleIKE int
	wantedBefore         int // of theirs, before there was traffic; see wantedState
}

// runCase runs a case against a peer that start makes.
func runCase(t testing.TB, c interopCase, newPeer func(*run) peer) {
	t.Helper()
	x := newRun(t, c)
	x.peer = newPeer(x)
	x.startOurs()
	x.configure()
	x.peer.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("our log:\n%s", x.gateway.log)
			t.Logf("their SAs:\n%s", x.peer.show())
			t.Logf("their log:\n%s", x.peer.log())
		}
	})
	x.run()
}

func newRun(t testing.TB, c interopCase) *run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience())
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	x := &run{interopCase: c.withDefaults(), t: t, ctx: ctx, dir: dir, hosts: map[string]*lab.Namespace{}}
	x.childCount = len(x.children) * max(1, x.queues)
	x.network()
	return x
}

func (x *run) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// run brings the tunnel up, keeps traffic flowing and does the steps.
func (x *run) run() {
	x.do(x.before)
	x.must(x.gateway.apply(x.config))
	if x.fails != "" {
		x.expectFailure()
		return
	}
	if x.initiates == theirs {
		x.must(x.peer.initiate(x.ctx))
	}
	x.settle("the tunnel to come up")
	x.checkSuites()
	x.startFlow()
	x.do(x.steps)
	x.endFlow()
}

// expectFailure wants the negotiation to fail, for the right reason.
func (x *run) expectFailure() {
	if x.initiates == theirs {
		if err := x.peer.initiate(x.ctx); err == nil {
			x.t.Fatal("their negotiation succeeded")
		}
		theirLog(x.fails).do(x)
		return
	}
	ev := awaitEvent[ike.Failed](x, 0, "our negotiation to fail", nil)
	if text := ev.Err.Detail(); !strings.Contains(text, x.fails) {
		x.t.Errorf("our negotiation failed with:\n%swant: %s", text, x.fails)
	}
}

// startOurs runs our engine without a tunnel, and routes into it.
func (x *run) startOurs() {
	if x.kernel {
		x.gateway = startKernelGateway(x.t, x.hosts["ours"], x.engine)
	} else {
		x.gateway = startWorkersGateway(x.t, x.hosts["ours"], x.queues, x.engine)
	}
	if x.transport {
		if !x.kernel {
			x.must(x.hosts["ours"].Intercept(netip.MustParseAddr(theirPublic), "swan0", gatewayMark))
		}
		return
	}
	for _, name := range x.children {
		x.must(x.hosts["ours"].RouteDevice(netip.MustParsePrefix(lans[name].theirs), "swan0"))
	}
}

func (x *run) do(steps []step) {
	for _, s := range steps {
		begin := time.Now()
		s.do(x)
		x.t.Logf("%s: %v", s.name, time.Since(begin).Round(time.Millisecond))
	}
}

// startFlow lets packets pass in both directions, after the hosts have learnt
// each other's way.
func (x *run) startFlow() {
	var ends [2]flowHost
	for i := range ends {
		ends[i] = x.flowHost(side(i))
		x.await("a ping", func() (bool, string) {
			_, err := ends[i].ns.Ping(x.ctx, ends[i].own, ends[i].far, 1)
			return err == nil, fmt.Sprint(err)
		})
	}
	x.wantedBefore = x.wantedState(theirs)
	var err error
	x.flow, err = startFlow(ends)
	x.must(err)
}

// flowHost is the host at one end of the first child.
func (x *run) flowHost(s side) flowHost {
	names := [2]string{"our-lan", "their-lan"}
	if x.transport {
		names = [2]string{"ours", "theirs"}
	}
	l := x.lan(s, x.children[0])
	return flowHost{ns: x.hosts[names[s]], own: lanHost(l.own), far: lanHost(l.far)}
}

// lan is what a child protects, as one side sees it: in transport mode a NAT shows each
// end another address than the one that the other end has.
func (x *run) lan(s side, child string) (l struct{ own, far string }) {
	l.own, l.far = lans[child].ours, lans[child].theirs
	if x.transport {
		l.own, l.far = x.addr[ours].String()+"/32", theirPublic+"/32"
	}
	if s == theirs {
		l.own, l.far = lans[child].theirs, lans[child].ours
		if x.transport {
			l.own, l.far = x.addr[theirs].String()+"/32", ourPublic+"/32"
		}
	}
	return l
}

func (x *run) endFlow() {
	if x.flow == nil {
		return
	}
	// Late is not lost, where nothing may be lost.
	patience := 10 * time.Second
	if x.lossy {
		patience = time.Second
	}
	there, back := x.flow.end(patience)
	x.flow = nil
	x.t.Logf("traffic: to them %v, to us %v", there, back)
	switch n := x.droppedByThem(back); {
	case x.lossy || there.lost == 0 && back.lost == 0:
	case there.lost == 0 && back.lost == n:
		x.t.Logf("%d packets were dropped by the kernel of the peer, whose SA was removed while they were on their way to it", n)
	default:
		x.t.Error(x.lossReport(there, back))
	}
	for _, s := range []side{ours, theirs} {
		if n := x.cable.clear(s); n > 0 {
			x.t.Errorf("%d packets of %v went between the gateways in clear", n, s)
		}
	}
	if there.twice > 0 || back.twice > 0 {
		x.t.Errorf("packets came twice: to them %v, to us %v", there, back)
	}
	if there.sent == there.lost || back.sent == back.lost {
		x.t.Errorf("no traffic: to them %v, to us %v", there, back)
	}
}

// await asks again and again until what is wanted is so.
func (x *run) await(what string, so func() (bool, string)) {
	x.t.Helper()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		ok, state := so()
		if ok {
			return
		}
		select {
		case <-time.After(pause):
		case <-x.peer.done():
			x.t.Fatalf("waiting for %s: the peer ended", what)
		case <-x.ctx.Done():
			x.t.Fatalf("waited in vain for %s: %s", what, state)
		}
	}
}

// awaitEvent waits for an event after the mark.
func awaitEvent[E any](x *run, mark int, what string, match func(E) bool) E {
	x.t.Helper()
	for {
		events, more := x.gateway.events.since(mark)
		for _, ev := range events {
			if e, ok := ev.What.(E); ok && (match == nil || match(e)) {
				return e
			}
		}
		select {
		case <-more:
		case <-x.ctx.Done():
			x.t.Fatalf("waited in vain for %s; events since: %+v", what, events)
		}
	}
}

// settle waits until both ends have one IKE SA, as many Child SAs as there
// should be, and the same ones.
func (x *run) settle(what string) {
	x.t.Helper()
	x.await(what, func() (bool, string) {
		state := x.gateway.tunnel()
		own := map[[2]uint32]bool{}
		for _, c := range state.Children {
			if c.State == "installed" {
				own[[2]uint32{c.InboundSPI, c.OutboundSPI}] = true
			}
		}
		up := 0
		for _, sa := range state.IKE {
			if sa.State == "established" {
				up++
			}
		}
		far, err := x.peer.sas(x.ctx)
		if err != nil {
			return false, err.Error()
		}
		same := true
		for _, c := range far.children {
			same = same && own[[2]uint32{c.out, c.in}]
		}
		ok := up == 1 && far.ike == 1+x.staleIKE && !far.busy && len(own) == x.childCount && len(far.children) == x.childCount && same
		return ok, fmt.Sprintf("ours: %+v\ntheirs: %+v", state, far)
	})
}

// checkSuites compares what was negotiated with what was to be.
func (x *run) checkSuites() {
	x.t.Helper()
	state := x.gateway.tunnel()
	want, err := suite.ParseIKE(x.wantIKE)
	x.must(err)
	for _, sa := range state.IKE {
		if got := sa.Suite.String(); got != want.String() {
			x.t.Errorf("the IKE SA uses %s, want %s", got, want)
		}
	}
	// The first Child SA has no key exchange of its own.
	esp, err := suite.ParseESP(x.wantESP)
	x.must(err)
	esp = suite.WithoutKeyExchange([]suite.ESPProposal{esp})[0]
	for _, c := range state.Children {
		s := c.Suite
		s.KeyExchange, s.Additional = 0, suite.AdditionalMethods{}
		if got := s.String(); got != esp.String() {
			x.t.Errorf("Child SA %s uses %s, want %s", c.Name, got, esp)
		}
	}
}

// configure makes our tunnel, and routes into it.
func (x *run) configure() {
	role := ike.RoleInitiator
	if x.initiates == theirs {
		role = ike.RoleResponder
	}
	credentials, peer := x.credentials()
	x.config = engine.TunnelConfig{
		Name: "theirs", Role: role, ForceEncap: x.encapsulated(),
		Local: netip.AddrPortFrom(x.addr[ours], 0), Remote: netip.AddrPortFrom(netip.MustParseAddr(theirPublic), 500),
		Credentials: credentials, Peer: peer, Proposals: []suite.IKEProposal{x.parseIKE(x.ike)},
		Timing: ike.Timing{
			RekeyIKE: -1, RekeyChild: -1, DPD: -1, Jitter: 0.01,
			RetransmitBase: 500 * time.Millisecond, RetransmitBackoff: 1.5, RetransmitTries: 4, ReconnectBase: 100 * time.Millisecond,
		},
	}
	for _, name := range x.children {
		l := x.lan(ours, name)
		x.config.Children = append(x.config.Children, ike.ChildConfig{
			Name: name, Proposals: []suite.ESPProposal{x.parseESP(x.esp)}, Mode: x.mode(), Queues: x.queues,
			LocalTS:  []ts.Selector{ts.FromPrefix(netip.MustParsePrefix(l.own))},
			RemoteTS: []ts.Selector{ts.FromPrefix(netip.MustParsePrefix(l.far))},
		})
	}
	if x.tunnel != nil {
		x.tunnel(&x.config)
	}
}

// encapsulated says that ESP goes in UDP without a NAT too.
func (x *run) encapsulated() bool { return !x.kernel && !x.native }

func (x *run) mode() dataplane.Mode {
	if x.transport {
		return dataplane.Transport
	}
	return dataplane.Tunnel
}

func (x *run) parseIKE(s string) suite.IKEProposal {
	p, err := suite.ParseIKE(s)
	x.must(err)
	return p
}

func (x *run) parseESP(s string) suite.ESPProposal {
	p, err := suite.ParseESP(s)
	x.must(err)
	return p
}

// credentials makes those of both ends: ours as values, theirs as files for
// swanctl.
func (x *run) credentials() (ident.Local, ident.Remote) {
	ourID, err := ident.ParseID(x.ourID)
	x.must(err)
	theirID, err := ident.ParseID(x.theirID)
	x.must(err)
	if x.auth == "psk" {
		return ident.Local{ID: ourID, PSK: ident.PSK(psk)}, ident.Remote{ID: theirID, PSK: ident.PSK(psk)}
	}
	ourKind, theirKind, ok := strings.Cut(x.auth, "+")
	if !ok {
		x.t.Fatalf("authentication %q: want psk or two kinds of keys", x.auth)
	}
	ca, err := newAuthority(x.intermediate)
	x.must(err)
	ourKey, ourCert, err := ca.issue(ourKind, "ours", x.ourID)
	x.must(err)
	theirKey, theirCert, err := ca.issue(theirKind, "theirs", x.theirID)
	x.must(err)
	der, err := x509.MarshalPKCS8PrivateKey(theirKey)
	x.must(err)
	x.must(writePEM(filepath.Join(x.dir, "x509ca/root.pem"), "CERTIFICATE", ca.root.Raw))
	x.must(writePEM(filepath.Join(x.dir, "x509/theirs.pem"), "CERTIFICATE", theirCert.Raw))
	x.must(writePEM(filepath.Join(x.dir, "private/theirs.key"), "PRIVATE KEY", der))
	chain := []*x509.Certificate{ourCert}
	if x.intermediate {
		chain = append(chain, ca.issuer)
		x.must(writePEM(filepath.Join(x.dir, "x509ca/intermediate.pem"), "CERTIFICATE", ca.issuer.Raw))
	}
	return ident.Local{ID: ourID, Signer: ourKey, Chain: chain}, ident.Remote{ID: theirID, Roots: ident.NewRoots(ca.root)}
}

func lanHost(prefix string) netip.Addr {
	p := netip.MustParsePrefix(prefix)
	if p.IsSingleIP() {
		return p.Addr()
	}
	return p.Addr().Next().Next()
}
