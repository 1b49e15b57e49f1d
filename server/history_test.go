package server_test

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server"
)

func (c *controller) history(name string) (*swanherdv1.History, error) {
	return swanherdv1.NewHistoryServiceClient(c.dial(c.token)).QueryHistory(c.t.Context(), &swanherdv1.QueryHistoryRequest{Name: name})
}

// reportSA reports the edge's tunnel as established, with what went through its SA.
func (e *testEdge) reportSA(octetsIn uint64) {
	e.t.Helper()
	probes, lost := octetsIn/10, octetsIn/1000
	quality := &swanherdv1.PathQuality{
		WindowProbes: 100, WindowLost: 1, RttAvgUs: 2100, Probes: probes, ProbesLost: lost,
		RttSumUs: 2000 * (probes - lost), JitterSumUs: 300 * probes, JitterCount: probes,
	}
	e.send(&swanherdv1.EdgeMessage{Message: &swanherdv1.EdgeMessage_Status{Status: &swanherdv1.StatusReport{Sequence: 1, Full: true, Tunnels: []*swanherdv1.TunnelReport{{
		Tunnel: "networks/demo/tunnels/berlin--oslo", State: swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED, Quality: quality,
		ChildSas: []*swanherdv1.ChildSa{{SpiIn: "1", Counters: &swanherdv1.SaCounters{OctetsIn: octetsIn, PacketsIn: octetsIn / 100, Missing: octetsIn / 1000}}},
	}}}}})
}

// What edges report becomes history, of the tunnel and of its network, each octet once,
// and it survives a restart.
func TestHistoryOfATunnel(t *testing.T) {
	c := startController(t)
	c.cfg.CounterInterval = time.Second
	c.restart()
	c.apply()
	berlin, oslo := c.enrolled("berlin"), c.enrolled("oslo")
	for _, e := range []*testEdge{berlin, oslo} {
		e.open()
		e.until("berlin--oslo")
		e.reportSA(1000)
	}
	const name = "networks/demo/tunnels/berlin--oslo/history"
	until := func(what string, ok func(*swanherdv1.HistoryPoint) bool) {
		t.Helper()
		var last *swanherdv1.HistoryPoint
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			h, err := c.history(name)
			if err != nil {
				t.Fatal(err)
			}
			if last = h.GetTotal(); ok(last) {
				return
			}
		}
		t.Fatalf("no %s; there is %v", what, last)
	}
	until("time up", func(p *swanherdv1.HistoryPoint) bool { return p.GetUpSamples() > 0 })
	for _, e := range []*testEdge{berlin, oslo} { // of which one counts
		e.reportSA(8000)
	}
	until("traffic", func(p *swanherdv1.HistoryPoint) bool { return p.GetOctetsIn() == 7000 && p.GetPacketsIn() == 70 })
	until("figures of probes", func(p *swanherdv1.HistoryPoint) bool {
		return p.GetProbes() == 700 && p.GetProbesLost() == 7 && p.GetMissing() == 7 &&
			p.GetLatency().AsDuration() == 2*time.Millisecond && p.GetJitter().AsDuration() == 300*time.Microsecond
	})
	c.terminal().says(0, "", "tunnel quality", "berlin--oslo", "2.10 ms", "1.0 %")
	c.terminal().says(0, "", "tunnel quality berlin--oslo -o yaml", "rttAvgUs: 2100")
	oslo.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_FAILED)
	until("time down", func(p *swanherdv1.HistoryPoint) bool { return p.GetUpSamples() < p.GetSamples() })
	c.restart()
	of, err := c.history(name)
	if err != nil || of.GetTotal().GetOctetsIn() != 7000 || of.GetStep().GetSeconds() != 60 || len(of.GetPoints()) == 0 {
		t.Errorf("after a restart: %v, %v", of, err)
	}
	all, err := c.history("networks/demo/history")
	if err != nil || all.GetTotal().GetOctetsIn() != 7000 {
		t.Errorf("of the network: %v, %v", all, err)
	}
	x := c.terminal()
	x.says(0, "", "history tunnel berlin--oslo --since 1d", "UP", "6.8 KiB", "70", "2.00 ms", "0.30 ms", "1.00 %")
	x.says(0, "", "history network --since 30d --step 1d", "total")
	x.says(4, "", "history tunnel berlin--paris", "does not exist")
	x.says(64, "", "history network --since yesterday", "is no time such as 90m, 24h or 7d")
	if resp, body := c.rest("GET", "/v1/"+name+"?step=600s", c.token, ""); resp.StatusCode != 200 {
		t.Errorf("REST: %s", body)
	}
}

func TestHistoryOfWhatTime(t *testing.T) {
	c := startController(t)
	c.apply()
	client := swanherdv1.NewHistoryServiceClient(c.dial(c.token))
	for field, req := range map[string]*swanherdv1.QueryHistoryRequest{
		"start_time": {StartTime: timestamppb.New(time.Now().Add(time.Hour))},
		"end_time":   {EndTime: &timestamppb.Timestamp{Seconds: 1 << 60}},
		"step":       {Step: durationpb.New(-time.Second)},
	} {
		req.Name = "networks/demo/history"
		if _, err := client.QueryHistory(t.Context(), req); status.Code(err) != codes.InvalidArgument || violated(err)[0] != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	long, err := client.QueryHistory(t.Context(), &swanherdv1.QueryHistoryRequest{
		Name: "networks/demo/history", StartTime: timestamppb.New(time.Unix(0, 0)), EndTime: timestamppb.New(time.Now().Add(1000 * time.Hour)),
	})
	if err != nil || len(long.GetPoints()) > 1500 {
		t.Errorf("since 1970: %v, %v", long, err)
	}
}

// Whichever replica is asked tells what all of them have, and whose part is missing.
func TestHistoryOfAllReplicas(t *testing.T) {
	way := startProxy(t)
	replicas := startReplicas(t, func(member int, cfg *server.Config) {
		cfg.CounterInterval = time.Second
		if member == 0 {
			cfg.ReplicaListen, cfg.AdvertiseReplica = way.target, way.Addr().String()
		}
	})
	a, b, c := replicas[0], replicas[1], replicas[2]
	a.apply()
	berlin, oslo := b.enrolled("berlin"), c.enrolled("oslo")
	// all asks replicas until each tells the same, which is more than that many samples.
	all := func(than uint64, missing int, asked ...*controller) uint64 {
		t.Helper()
		var told []uint64
		b.eventually(fmt.Sprintf("the same history of each replica, of more than %d samples, without %d replicas", than, missing), func() bool {
			told = nil
			for _, r := range asked {
				h, err := r.history("networks/demo/tunnels/berlin--oslo/history")
				if err == nil && len(h.GetMissingReplicas()) == missing {
					told = append(told, h.GetTotal().GetSamples())
				}
			}
			return len(told) == len(asked) && told[0] > than && slices.Min(told) == slices.Max(told)
		})
		return told[0]
	}
	oslo.at(b)
	berlin.at(a) // who keeps the tunnel's history, for it is the first end
	for _, e := range []*testEdge{berlin, oslo} {
		e.until("berlin--oslo")
		e.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	}
	had := all(0, 0, replicas...)

	berlin.at(c) // who keeps it from now on
	berlin.report(swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED)
	had = all(had, 0, replicas...)

	way.cut()
	all(0, 1, b, c)
	b.terminal().says(0, "", "history tunnel berlin--oslo", "without what replicas/")
	all(had, 0, a) // who reaches everybody
}

// proxy is a way to an address that can be cut.
type proxy struct {
	net.Listener
	target string

	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

func startProxy(t *testing.T) *proxy {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: lis, target: freeAddresses(t, 1)[0]}
	t.Cleanup(p.cut)
	go p.serve()
	return p
}

func (p *proxy) serve() {
	for {
		near, err := p.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		if !p.took(near, far) {
			return
		}
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			go func() {
				_, _ = io.Copy(way[0], way[1])
				way[0].Close()
			}()
		}
	}
}

func (p *proxy) took(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conns...)
	if p.isCut {
		p.hangUp()
	}
	return !p.isCut
}

func (p *proxy) cut() {
	p.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = true
	p.hangUp()
}

func (p *proxy) hangUp() {
	for _, c := range p.conns {
		c.Close()
	}
}
