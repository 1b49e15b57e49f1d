package edge

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/health"
	"github.com/swanherd/swanherd/edge/state"
	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Status is what `swanherd-edge status` shows.
type Status struct {
	// Edge is the resource name; empty on an edge that is not enrolled.
	Edge            string    `json:"edge,omitempty"`
	AgentVersion    string    `json:"agent_version"`
	StartTime       time.Time `json:"start_time"`
	DataPlane       string    `json:"data_plane"`
	DataPlaneReason string    `json:"data_plane_reason"`
	Interface       string    `json:"interface"`
	// KeyLog is where the keys of all tunnels are written; empty: nowhere.
	KeyLog string `json:"key_log,omitempty"`

	Session      *SessionStatus     `json:"session,omitempty"`
	Intent       *IntentStatus      `json:"intent,omitempty"`
	Certificates *CertificateStatus `json:"certificates,omitempty"`
	// Uplinks and Tunnels are swanherd.v1.Uplink and swanherd.v1.TunnelReport
	// in the JSON mapping of Protocol Buffers.
	Uplinks []json.RawMessage `json:"uplinks"`
	Tunnels []json.RawMessage `json:"tunnels"`
	// UplinksDown are the names of those that nothing can leave by, and why.
	UplinksDown map[string]string `json:"uplinks_down,omitempty"`
	// Paths are the choices among tunnels that carry the same prefixes.
	Paths []PathStatus `json:"paths,omitempty"`
	// Switches are the last times that one of these changed, the last one last.
	Switches []SwitchStatus `json:"switches,omitempty"`
}

// SwitchStatus is that traffic of a class went another way.
type SwitchStatus struct {
	Time  time.Time `json:"time"`
	Group string    `json:"group"`
	Class string    `json:"class,omitempty"`
	From  []string  `json:"from"`
	To    []string  `json:"to"`
	// Cause is one word, as in the metric of switches.
	Cause  string `json:"cause"`
	Reason string `json:"reason"`
}

// PathStatus is which of a group of tunnels carry a class of traffic.
type PathStatus struct {
	Group string `json:"group"`
	// Class is empty for traffic that is of none.
	Class  string    `json:"class,omitempty"`
	InUse  []string  `json:"in_use"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

// SessionStatus is the state of the session with the controller.
type SessionStatus struct {
	Connected   bool       `json:"connected"`
	Endpoint    string     `json:"endpoint,omitempty"`
	Since       time.Time  `json:"since"`
	RoundTripMs float64    `json:"round_trip_ms,omitempty"`
	LastError   string     `json:"last_error,omitempty"`
	NextAttempt *time.Time `json:"next_attempt,omitempty"`
}

// IntentStatus says which intent runs.
type IntentStatus struct {
	// Epoch is "file" for an intent file.
	Epoch    string `json:"epoch"`
	Revision int64  `json:"revision"`
	Digest   string `json:"digest"`
	// Unconfirmed: the edge goes back to the one before if it is not confirmed. Awaited
	// are the critical tunnels that stand in the way of that.
	Unconfirmed bool     `json:"unconfirmed,omitempty"`
	Awaited     []string `json:"awaited_tunnels,omitempty"`
}

// CertificateStatus says how long the edge's certificates are good.
type CertificateStatus struct {
	ControlExpire time.Time `json:"control_expire_time"`
	IKEExpire     time.Time `json:"ike_expire_time"`
	Renew         time.Time `json:"renew_time"`
}

func (a *agent) status() *Status {
	s := &Status{
		AgentVersion: Version(), StartTime: a.started,
		DataPlane: a.plane.Name(), DataPlaneReason: a.reason, Interface: a.plane.Interface(), KeyLog: a.cfg.UnsafeKeyLog,
		Uplinks: raw(withNATs(a.uplinks.Current(), *a.outside.nats.Load())), Tunnels: raw(a.tracker.Reports()), UplinksDown: a.uplinks.Down(),
		Paths: a.chooser.status(), Switches: a.chooser.switches(),
	}
	if i := a.runner.Running(); i != nil {
		s.Edge = i.EdgeIntent().GetSettings().GetEdge()
		s.Intent = &IntentStatus{
			Epoch: i.Epoch, Revision: i.SourceRevision, Digest: hex.EncodeToString(i.Digest()),
			Unconfirmed: a.runner.Unconfirmed(), Awaited: a.runner.Awaited(),
		}
	}
	if id := a.identity.Load(); id != nil {
		s.Edge = id.Edge
		s.Certificates = &CertificateStatus{ControlExpire: id.ControlChain[0].NotAfter, IKEExpire: id.IKEChain[0].NotAfter, Renew: id.RenewTime}
	}
	if c := a.client.Load(); c != nil {
		st := c.Status()
		s.Session = &SessionStatus{
			Connected: st.Connected, Endpoint: st.Endpoint, Since: st.Since,
			RoundTripMs: float64(st.RoundTrip) / float64(time.Millisecond), LastError: st.LastError,
		}
		if !st.NextAttempt.IsZero() {
			s.Session.NextAttempt = &st.NextAttempt
		}
	}
	return s
}

// raw renders messages in the JSON mapping of Protocol Buffers.
func raw[M proto.Message](list []M) []json.RawMessage {
	out := make([]json.RawMessage, 0, len(list))
	for _, m := range list {
		b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			continue // only text that is not UTF-8 cannot be rendered
		}
		out = append(out, b)
	}
	return out
}

// serveStatus answers on the socket in the state directory.
func (a *agent) serveStatus(ctx context.Context, parts *sync.WaitGroup) error {
	socket := state.StatusSocket(a.dir.Path())
	// Left by an agent that was killed: the directory's lock says that there
	// is no other.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old status socket: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for status: %w; the path of a socket may have 107 characters, choose a shorter --state-dir if this one is longer", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(a.status()) // the reader has gone
	})
	mux.HandleFunc("GET /transcript", a.serveTranscript)
	serve(ctx, parts, l, mux)
	return nil
}

// serveTranscript answers with the transcript of the tunnel that the query
// names, in full or by the last part of its name.
func (a *agent) serveTranscript(w http.ResponseWriter, r *http.Request) {
	wanted := r.URL.Query().Get("tunnel")
	var names []string
	for _, t := range a.engine.Status() {
		names = append(names, path.Base(t.Name))
		if wanted != t.Name && wanted != path.Base(t.Name) {
			continue
		}
		entries, err := a.engine.Transcript(t.Name)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		for _, e := range entries {
			fmt.Fprintln(w, e)
		}
		return
	}
	http.Error(w, fmt.Sprintf("no tunnel %q; there are: %s", wanted, strings.Join(names, ", ")), http.StatusNotFound)
}

// serveMetrics answers Prometheus, if configured.
func (a *agent) serveMetrics(ctx context.Context, parts *sync.WaitGroup) error {
	if !a.cfg.MetricsListen.IsValid() {
		return nil
	}
	l, err := net.Listen("tcp", a.cfg.MetricsListen.String())
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	registry := prometheus.NewRegistry()
	connected := func() bool { c := a.client.Load(); return c != nil && c.Status().Connected }
	registry.MustRegister(
		health.NewMetrics(a.tracker, a.engine.Counters, connected),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	if a.chooser != nil {
		registry.MustRegister(health.NewPathMetrics(health.PathSource{Choices: a.chooser.Choices, Switches: a.chooser.Switches, Lives: a.probes.Lives}))
	}
	if p, ok := a.plane.(*userspace.Plane); ok { // the kernel counts its own elsewhere
		registry.MustRegister(health.NewPlaneMetrics(health.PlaneSource{
			Drops:   func() map[string]uint64 { return p.Drops().ByReason() },
			Latency: p.Latency,
		}))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	serve(ctx, parts, l, mux)
	return nil
}

// serve serves until ctx ends.
func serve(ctx context.Context, parts *sync.WaitGroup, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	parts.Go(func() { _ = srv.Serve(l) }) // ends by Close
	context.AfterFunc(ctx, func() { _ = srv.Close() })
}

// ReadStatus asks the agent that runs in the state directory dir.
func ReadStatus(ctx context.Context, dir string) (*Status, error) {
	b, err := ask(ctx, dir, "/status")
	if err != nil {
		return nil, err
	}
	s := &Status{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("parse the agent's answer: %w", err)
	}
	return s, nil
}

// ReadTranscript asks the agent that runs in the state directory dir for the last
// messages and events of a tunnel, as text.
func ReadTranscript(ctx context.Context, dir, tunnel string) ([]byte, error) {
	return ask(ctx, dir, "/transcript?tunnel="+url.QueryEscape(tunnel))
}

// ask gets a resource of the agent that runs in the state directory dir.
func ask(ctx context.Context, dir, resource string) ([]byte, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find state directory: %w", err)
	}
	socket := state.StatusSocket(abs)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://edge"+resource, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("no agent runs with the state directory %s; start it with `swanherd-edge run`, or name another with --state-dir", abs)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("may not ask the agent at %s: run as the agent's user", socket)
	case err != nil:
		return nil, fmt.Errorf("ask the agent at %s: %w; is it running?", socket, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("agent answered %s: %s", resp.Status, bytes.TrimSpace(b))
	}
	return b, nil
}

// TunnelReports are the status's tunnels as messages.
func (s *Status) TunnelReports() ([]*swanherdv1.TunnelReport, error) {
	return parse(s.Tunnels, func() *swanherdv1.TunnelReport { return &swanherdv1.TunnelReport{} })
}

// UplinkList are the status's uplinks as messages.
func (s *Status) UplinkList() ([]*swanherdv1.Uplink, error) {
	return parse(s.Uplinks, func() *swanherdv1.Uplink { return &swanherdv1.Uplink{} })
}

func parse[M proto.Message](list []json.RawMessage, make func() M) ([]M, error) {
	var out []M
	for _, b := range list {
		m := make()
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, m); err != nil {
			return nil, fmt.Errorf("parse the agent's answer: %w", err)
		}
		out = append(out, m)
	}
	return out, nil
}
