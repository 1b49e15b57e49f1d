package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/edge/enroll"
	"github.com/swanherd/swanherd/edge/session"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// edge is a simulated one. It runs every intent at once, by saying that all tunnels are
// up, unless it makes trouble.
type edge struct {
	crew     *hands
	index    int
	identity atomic.Pointer[state.Identity]
	// renewer knows the controller by what the running intent says, as the agent does, and
	// renews the certificates once renew was called.
	renewer *enroll.Renewer
	renew   func() error
	client  atomic.Pointer[session.Client]
	// end ends what start began; of who starts and ends it.
	end func()

	mu      sync.Mutex
	running *state.Intent
	trial   bool
	// before is what it ran before what is on trial, and reverted what it last took back.
	before   *state.Intent
	reverted *swanherdv1.Reverted
	changed  []*swanherdv1.TunnelReport
	removed  []string
	// trouble is what the edge takes part in, nil for none, and down that it says its
	// tunnels are. It comes back since returning, zero if it is not away.
	trouble   *trouble
	down      bool
	returning time.Time

	transitions, tookBack chan struct{}
}

func newEdge(crew *hands, index int, id *state.Identity) *edge {
	e := &edge{crew: crew, index: index, transitions: make(chan struct{}, 1), tookBack: make(chan struct{}, 1)}
	e.identity.Store(id)
	e.renewer = enroll.NewRenewer(nil, quiet, e.renewed)
	return e
}

// newIdentity enrols an edge of a site, over a connection that others use too.
func newIdentity(ctx context.Context, client swanherdv1.EnrollmentServiceClient, token string) (*state.Identity, error) {
	control, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, ike, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	req := &swanherdv1.EnrollRequest{Token: token, AgentVersion: "load"}
	for key, to := range map[crypto.Signer]*[]byte{control: &req.ControlCsr, &ike: &req.IkeCsr} {
		if *to, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
			return nil, err
		}
	}
	resp, err := client.Enroll(ctx, req)
	if err != nil {
		return nil, err
	}
	c := resp.GetCertificates()
	id := &state.Identity{
		Keys: state.Keys{Control: control, IKE: ike}, Edge: resp.GetEdge(), SessionEndpoints: resp.GetSessionEndpoints(), RenewTime: c.GetRenewTime().AsTime(),
	}
	for _, chain := range []struct {
		to  *[]*x509.Certificate
		der [][]byte
	}{
		{&id.ControlChain, c.GetControlChain()}, {&id.IKEChain, c.GetIkeChain()},
		{&id.ControllerRoots, c.GetControllerRoots()}, {&id.NetworkRoots, c.GetNetworkRoots()},
	} {
		for _, der := range chain.der {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, err
			}
			*chain.to = append(*chain.to, cert)
		}
	}
	return id, id.Check()
}

// start begins the edge's sessions, which go on until end.
func (e *edge) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	e.end = func() { cancel(); <-done }
	go func() {
		defer close(done)
		e.run(ctx)
	}()
}

// run keeps a session until ctx ends.
func (e *edge) run(ctx context.Context) {
	var renewing sync.WaitGroup
	defer renewing.Wait()
	// A directory and a goroutine of its own are for an edge that renews: of a fleet that
	// lives a quarter of an hour, none does but for another authority.
	e.renew = sync.OnceValue(func() error {
		dir, err := state.Open(filepath.Join(e.crew.dir, fmt.Sprint("edge-", e.index)))
		if err != nil {
			return err
		}
		e.renewer.Dir = dir
		renewing.Go(func() {
			defer dir.Close()
			e.renewer.Run(ctx, e.identity.Load())
		})
		return nil
	})
	client := session.New(session.Config{
		Dial: e.dial, Keep: func([]string, string) { e.welcomed() },
		Endpoints: e.identity.Load().SessionEndpoints, AgentVersion: "load", DataPlane: "userspace",
		Intent: e, Health: health{e}, Uplinks: uplinks{e}, Logger: quiet,
	})
	e.client.Store(client)
	if running := e.Running(); running != nil && e.outdated(running) {
		_ = e.renew() // what is wrong is said of the next intent
	}
	client.Run(ctx)
}

// outdated says whether the intent wants certificates of another authority.
func (e *edge) outdated(i *state.Intent) bool {
	pin := trustOf(i).GetIssuerPin()
	return pin != "" && !e.identity.Load().IssuedBy(pin)
}

func trustOf(i *state.Intent) *swanherdv1.TrustBundle { return i.Resources.Get("trust").GetTrust() }

// renewed takes over certificates that were renewed.
func (e *edge) renewed(id *state.Identity) {
	e.identity.Store(id)
	e.client.Load().Reconnect()
}

func (e *edge) dial(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(e.renewer.TLS(e.identity.Load(), endpoint)),
		grpc.WithSharedWriteBuffer(true), grpc.WithReadBufferSize(0), grpc.WithWriteBufferSize(4<<10),
		grpc.WithContextDialer(func(ctx context.Context, endpoint string) (net.Conn, error) {
			conn, err := session.Connect(ctx, endpoint)
			return lazyConn{conn, e}, err
		}))
}

// Running implements session.Intent.
func (e *edge) Running() *state.Intent {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running
}

// Unconfirmed implements session.Intent.
func (e *edge) Unconfirmed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.trial
}

// Awaited implements session.Intent: no tunnel of a simulated edge is lost.
func (e *edge) Awaited() []string { return nil }

// Apply implements session.Intent.
func (e *edge) Apply(ctx context.Context, i *state.Intent, within time.Duration) error {
	if err := e.object(ctx); err != nil {
		return err
	}
	if e.outdated(i) {
		if err := e.renew(); err != nil {
			return err
		}
	}
	e.mu.Lock()
	if !e.trial {
		e.before = e.running
	}
	e.take(i, within > 0)
	e.reverted = nil
	e.mu.Unlock()
	e.crew.applied(e.index, time.Now())
	return nil
}

// take has the edge run an intent, for who holds mu.
func (e *edge) take(i *state.Intent, trial bool) {
	e.report(e.running, i)
	e.running, e.trial = i, trial
	e.renewer.Trust(trustOf(i))
	nudge(e.transitions)
}

// nudge sends to who listens, without blocking.
func nudge(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Confirm implements session.Intent.
func (e *edge) Confirm(digest []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running == nil || !bytes.Equal(e.running.Digest(), digest) {
		return false
	}
	if e.trouble.is("revert") && e.before != nil {
		e.revert()
		return false
	}
	e.trial = false
	return true
}

// Reverted implements session.Intent.
func (e *edge) Reverted() *swanherdv1.Reverted {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reverted
}

// Changed implements session.Intent.
func (e *edge) Changed() <-chan struct{} { return e.tookBack }

// report notes the tunnels that came, changed and went.
func (e *edge) report(before, now *state.Intent) {
	var had *digest.Set
	if before != nil {
		had = before.Resources
	}
	upserts, removals := digest.Difference(had, now.Resources)
	for _, r := range upserts {
		if t := r.GetTunnel(); t != nil {
			e.changed = append(e.changed, e.says(t))
		}
	}
	e.removed = append(e.removed, removals...)
}

// says is what the edge says of a tunnel.
func (e *edge) says(t *swanherdv1.TunnelIntent) *swanherdv1.TunnelReport {
	if e.down {
		return &swanherdv1.TunnelReport{Tunnel: t.GetName(), State: swanherdv1.TunnelState_TUNNEL_STATE_FAILED, StateTime: timestamppb.Now()}
	}
	return established(t)
}

// all is what the edge says of all its tunnels, for who holds mu.
func (e *edge) all() (all []*swanherdv1.TunnelReport) {
	if e.running == nil {
		return nil
	}
	for r := range e.running.Resources.All() {
		if t := r.GetTunnel(); t != nil {
			all = append(all, e.says(t))
		}
	}
	return all
}

// established is what an edge says of a tunnel that is up.
func established(t *swanherdv1.TunnelIntent) *swanherdv1.TunnelReport {
	now := timestamppb.Now()
	r := &swanherdv1.TunnelReport{
		Tunnel: t.GetName(), State: swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED, StateTime: now,
		IkeSa: &swanherdv1.IkeSa{
			InitiatorSpi: "0123456789abcdef", ResponderSpi: "fedcba9876543210", Suite: "aes256gcm16-prfsha384-x25519", EstablishedTime: now,
		},
	}
	for _, c := range t.GetChildren() {
		r.ChildSas = append(r.ChildSas, &swanherdv1.ChildSa{
			Name: c.GetName(), SpiIn: "01020304", SpiOut: "05060708", Suite: "aes256gcm16-esn", Mode: "tunnel",
			LocalTs: c.GetLocalTs(), RemoteTs: c.GetRemoteTs(), EstablishedTime: now,
		})
	}
	return r
}

// health is what the edge reports.
type health struct{ e *edge }

func (h health) Changed() <-chan struct{} { return h.e.transitions }

func (h health) Full() []*swanherdv1.TunnelReport {
	h.e.mu.Lock()
	defer h.e.mu.Unlock()
	h.e.changed, h.e.removed = nil, nil
	return h.e.all()
}

func (h health) Transitions() (changed []*swanherdv1.TunnelReport, removed []string) {
	h.e.mu.Lock()
	defer h.e.mu.Unlock()
	changed, removed = h.e.changed, h.e.removed
	h.e.changed, h.e.removed = nil, nil
	return changed, removed
}

// Counters stand still, so that an idle fleet is idle.
func (h health) Counters() []*swanherdv1.TunnelCounters { return nil }

type uplinks struct{ e *edge }

func (uplinks) Changed() <-chan struct{} { return nil }

func (u uplinks) Current() []*swanherdv1.Uplink {
	return []*swanherdv1.Uplink{{
		Name: "wan1", Interface: "eth0", Port: 4500,
		Addresses: []string{fmt.Sprintf("198.18.%d.%d", u.e.index>>8&255, u.e.index&255)},
	}}
}
