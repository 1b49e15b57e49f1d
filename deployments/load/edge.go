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
	"sync"
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
// up.
type edge struct {
	crew     *hands
	index    int
	identity *state.Identity

	mu        sync.Mutex
	running   *state.Intent
	trial     bool
	confirmed bool
	changed   []*swanherdv1.TunnelReport
	removed   []string

	transitions chan struct{}
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
	id := &state.Identity{Keys: state.Keys{Control: control}, Edge: resp.GetEdge(), SessionEndpoints: resp.GetSessionEndpoints()}
	for _, chain := range []struct {
		to  *[]*x509.Certificate
		der [][]byte
	}{{&id.ControlChain, resp.GetCertificates().GetControlChain()}, {&id.ControllerRoots, resp.GetCertificates().GetControllerRoots()}} {
		for _, der := range chain.der {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, err
			}
			*chain.to = append(*chain.to, cert)
		}
	}
	return id, nil
}

// run keeps a session until ctx ends.
func (e *edge) run(ctx context.Context) {
	session.New(session.Config{
		Dial: func(endpoint string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(enroll.IdentityTLS(e.identity, e.identity.ControllerRoots, endpoint)),
				grpc.WithSharedWriteBuffer(true), grpc.WithReadBufferSize(0), grpc.WithWriteBufferSize(4<<10), grpc.WithContextDialer(session.Connect))
		},
		Endpoints: e.identity.SessionEndpoints, AgentVersion: "load", DataPlane: "userspace",
		Intent: e, Health: health{e}, Uplinks: uplinks{e}, Logger: quiet,
	}).Run(ctx)
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

// Apply implements session.Intent.
func (e *edge) Apply(_ context.Context, i *state.Intent, within time.Duration) error {
	e.mu.Lock()
	before := e.running
	e.running, e.trial = i, within > 0
	e.report(before, i)
	e.mu.Unlock()
	e.crew.applied(e.index, time.Now())
	select {
	case e.transitions <- struct{}{}:
	default:
	}
	return nil
}

// Confirm implements session.Intent.
func (e *edge) Confirm(digest []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running == nil || !bytes.Equal(e.running.Digest(), digest) {
		return false
	}
	e.trial = false
	return true
}

// Reverted implements session.Intent.
func (e *edge) Reverted() *swanherdv1.Reverted { return nil }

// Changed implements session.Intent.
func (e *edge) Changed() <-chan struct{} { return nil }

// report notes the tunnels that came, changed and went.
func (e *edge) report(before, now *state.Intent) {
	var had *digest.Set
	if before != nil {
		had = before.Resources
	}
	upserts, removals := digest.Difference(had, now.Resources)
	for _, r := range upserts {
		if t := r.GetTunnel(); t != nil {
			e.changed = append(e.changed, established(t))
		}
	}
	e.removed = append(e.removed, removals...)
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
	if h.e.running == nil {
		return nil
	}
	var all []*swanherdv1.TunnelReport
	for r := range h.e.running.Resources.All() {
		if t := r.GetTunnel(); t != nil {
			all = append(all, established(t))
		}
	}
	return all
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
