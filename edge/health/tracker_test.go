package health

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/swanherd/swanherd/edge/path"
	"github.com/swanherd/swanherd/edge/reconcile"
	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/userspace"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/wire"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// plant is a double of the engine and the data plane.
type plant struct {
	tunnels  []engine.TunnelStatus
	counters []dataplane.Counters
	deferred map[string]error
	stranded map[string]reconcile.Stranding
	quality  *swanherdv1.PathQuality
	over     []*swanherdv1.SlaViolation
}

func (p *plant) tracker() *Tracker {
	return New(Source{
		Uses:       func() map[string]*swanherdv1.PathUse { return nil },
		Status:     func() []engine.TunnelStatus { return p.tunnels },
		Counters:   func() []dataplane.Counters { return p.counters },
		Deferred:   func() map[string]error { return p.deferred },
		Stranded:   func() map[string]reconcile.Stranding { return p.stranded },
		Quality:    func(string) *swanherdv1.PathQuality { return p.quality },
		Violations: func(string) []*swanherdv1.SlaViolation { return p.over },
	})
}

func up(name string) engine.TunnelStatus {
	return engine.TunnelStatus{Status: ike.Status{
		Path: ike.PathStatus{MTU: 1400, Limited: true, Search: "complete"},
		Name: name, State: ike.StateUp,
		IKE: []ike.IKEStatus{{
			State: "established", Initiator: true, LocalSPI: wire.SPI{1}, RemoteSPI: wire.SPI{2}, Established: time.Unix(1, 0),
			Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"),
		}},
		Children: []ike.ChildStatus{
			{Name: "net", State: "installed", InboundSPI: 0x100, OutboundSPI: 0x200},
			{Name: "net", State: "deleting", InboundSPI: 0x101, OutboundSPI: 0x201},
		},
	}}
}

func down(name string, err *ike.Error) engine.TunnelStatus {
	return engine.TunnelStatus{Status: ike.Status{Name: name, State: ike.StateConnecting, LastError: err, NextAttempt: time.Unix(100, 0)}}
}

// changes are the news, as "name state".
func changes(t *Tracker) string {
	changed, removed := t.Transitions()
	var out []string
	for _, r := range changed {
		out = append(out, r.GetTunnel()+" "+StateWord(r.GetState()))
	}
	for _, name := range removed {
		out = append(out, name+" gone")
	}
	return strings.Join(out, ", ")
}

func TestTransitions(t *testing.T) {
	p := &plant{tunnels: []engine.TunnelStatus{up("a"), {Status: ike.Status{Name: "b"}}}}
	tr := p.tracker()
	look := func(second int64, want string) {
		t.Helper()
		tr.Look(time.Unix(second, 0))
		select {
		case <-tr.Changed():
			if want == "" {
				t.Error("a signal without news")
			}
		default:
			if want != "" {
				t.Error("news without a signal")
			}
		}
		if got := changes(tr); got != want {
			t.Errorf("at %d: %q, want %q", second, got, want)
		}
	}
	look(10, "a established, b idle")
	look(11, "")
	p.counters = []dataplane.Counters{{Tunnel: "a", Child: "net", SPI: 0x100, Direction: dataplane.Inbound, Packets: 5}}
	p.quality = &swanherdv1.PathQuality{Probes: 5, RttAvgUs: 700}
	look(12, "") // counters are no news, nor is what probes show
	if c := tr.Counters(); len(c) != 1 || c[0].GetQuality().GetRttAvgUs() != 700 {
		t.Errorf("counters = %v", c)
	}
	p.over = []*swanherdv1.SlaViolation{{Metric: swanherdv1.SlaMetric_SLA_METRIC_LOSS, Measured: 7, Limit: 1}}
	look(12, "a established, b idle") // but that it is not good enough
	p.over = nil
	look(12, "a established, b idle")
	p.tunnels = []engine.TunnelStatus{down("a", &ike.Error{Op: "IKE_AUTH", Err: ike.ErrNoAnswer})}
	p.deferred = map[string]error{"c": errors.New("no route")}
	look(13, "a failed, c failed, b gone")
	if r := tr.Reports()[0]; r.GetStateTime().AsTime().Unix() != 13 || r.GetLastError().GetCode() != codeSilent {
		t.Errorf("report = %v", r)
	}
	look(14, "")
	p.tunnels, p.deferred = nil, nil
	look(15, "a gone, c gone")
}

// Many changes between two reads leave the last one.
func TestLatestWins(t *testing.T) {
	p := &plant{}
	tr := p.tracker()
	for i := range 1000 {
		p.tunnels = []engine.TunnelStatus{down("a", &ike.Error{Op: fmt.Sprint("try ", i)})}
		tr.Look(time.Unix(int64(i), 0))
	}
	changed, _ := tr.Transitions()
	if len(changed) != 1 || changed[0].GetLastError().GetMessage() != "try 999" {
		t.Errorf("news = %v", changed)
	}
}

func TestFullTakesTheNews(t *testing.T) {
	p := &plant{
		tunnels: []engine.TunnelStatus{up("a")},
		counters: []dataplane.Counters{
			{Tunnel: "a", SPI: 0x100, Direction: dataplane.Inbound, Packets: 5, Bytes: 500, ReplayDrops: 1},
			{Tunnel: "a", SPI: 0x200, Direction: dataplane.Outbound, Packets: 7, Bytes: 700},
			{Tunnel: "other", SPI: 0x200, Direction: dataplane.Outbound, Packets: 99},
		},
	}
	tr := p.tracker()
	tr.Look(time.Unix(1, 0))
	full := tr.Full()
	if len(full) != 1 || len(full[0].GetChildSas()) != 1 {
		t.Fatalf("full = %v", full)
	}
	c := full[0].GetChildSas()[0].GetCounters()
	if c.GetPacketsIn() != 5 || c.GetOctetsIn() != 500 || c.GetPacketsOut() != 7 || c.GetReplayDrops() != 1 {
		t.Errorf("counters = %v", c)
	}
	if got := full[0].GetIkeSa().GetInitiatorSpi(); got != (wire.SPI{1}).String() {
		t.Errorf("initiator's SPI = %s", got)
	}
	if got := changes(tr); got != "" {
		t.Errorf("news after Full: %s", got)
	}
	if list := tr.Counters(); len(list) != 1 || list[0].GetChildren()[0].GetSpiIn() != "00000100" {
		t.Errorf("Counters = %v", list)
	}
}

func TestReportStates(t *testing.T) {
	suspect := up("a")
	suspect.IKE[0].Suspect = true
	for name, tc := range map[string]struct {
		in    engine.TunnelStatus
		state swanherdv1.TunnelState
		code  string
	}{
		"up":         {up("a"), swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED, ""},
		"suspect":    {suspect, swanherdv1.TunnelState_TUNNEL_STATE_ESTABLISHED, codeSilent},
		"refused":    {down("a", &ike.Error{Op: "IKE_AUTH", Notify: wire.NotifyAuthenticationFailed, Remote: true}), swanherdv1.TunnelState_TUNNEL_STATE_FAILED, "AUTHENTICATION_FAILED"},
		"connecting": {engine.TunnelStatus{Status: ike.Status{State: ike.StateConnecting}}, swanherdv1.TunnelState_TUNNEL_STATE_CONNECTING, ""},
		"partial":    {engine.TunnelStatus{Status: ike.Status{State: ike.StatePartial}}, swanherdv1.TunnelState_TUNNEL_STATE_PARTIAL, ""},
		"waiting":    {engine.TunnelStatus{Status: ike.Status{State: ike.StateDown}}, swanherdv1.TunnelState_TUNNEL_STATE_IDLE, ""},
		"panicked":   {engine.TunnelStatus{Panicked: "secret details"}, swanherdv1.TunnelState_TUNNEL_STATE_FAILED, codePanic},
	} {
		r := report(tc.in)
		if r.GetState() != tc.state || r.GetLastError().GetCode() != tc.code || strings.Contains(r.String(), "secret") {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// A failure's report holds all that the engine knows of it.
func TestReportFailure(t *testing.T) {
	for k := ike.KindUnknown + 1; k.String() != "unknown"; k++ {
		if kinds[k] == swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_UNSPECIFIED || KindWord(kinds[k]) != k.String() {
			t.Errorf("kind %s is reported as %s", k, kinds[k])
		}
	}
	s := down("a", &ike.Error{
		Op: "create Child SA", Child: "lan", Kind: ike.KindSelectors, Exchange: wire.ExchangeIKEAuth, Payload: wire.PayloadTSi,
		Notify: wire.NotifyTSUnacceptable, Remote: true, Ours: []string{"x to y"}, Theirs: []string{"z"}, Remedy: "mirror them",
	})
	want := &swanherdv1.TunnelError{
		Code: "TS_UNACCEPTABLE", Notify: "TS_UNACCEPTABLE", Remote: true, Kind: swanherdv1.TunnelErrorKind_TUNNEL_ERROR_KIND_SELECTORS,
		Message:  "create Child SA: peer answered TS_UNACCEPTABLE: none of our traffic selectors fits its policy",
		Exchange: "IKE_AUTH", Payload: "TSi", Child: "lan", Ours: []string{"x to y"}, Theirs: []string{"z"}, Remedy: "mirror them",
	}
	if got := report(s).GetLastError(); !proto.Equal(got, want) {
		t.Errorf("reported %v, want %v", got, want)
	}
	s.LastError, s.Refused = nil, s.LastError
	want.Message = "refused somebody at the peer's address: " + want.GetMessage()
	if got := report(s).GetLastError(); !proto.Equal(got, want) {
		t.Errorf("of a refusal reported %v, want %v", got, want)
	}
}

// A rekey resets no counter, and a tunnel that is gone leaves no series.
func TestMetrics(t *testing.T) {
	p := &plant{tunnels: []engine.TunnelStatus{up("a")}}
	tr := p.tracker()
	tr.Look(time.Unix(1, 0))
	m := NewMetrics(tr, func() engine.Counters { return engine.Counters{Received: 3} }, func() bool { return true })
	registry := prometheus.NewPedanticRegistry() // holds Collect against Describe
	registry.MustRegister(m)
	want := func(series ...string) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range families {
			if f.GetName() != "swanherd_edge_child_packets_total" {
				continue
			}
			for _, metric := range f.GetMetric() {
				var labels []string
				for _, l := range metric.GetLabel() {
					labels = append(labels, l.GetValue())
				}
				got = append(got, fmt.Sprint(strings.Join(labels, " "), " ", metric.GetCounter().GetValue()))
			}
		}
		if !slices.Equal(got, series) {
			t.Errorf("series = %v, want %v", got, series)
		}
	}
	p.counters = []dataplane.Counters{{Tunnel: "a", Child: "net", SPI: 0x100, Direction: dataplane.Inbound, Packets: 5}}
	want("net in a 5")
	p.counters = []dataplane.Counters{{Tunnel: "a", Child: "net", SPI: 0x300, Direction: dataplane.Inbound, Packets: 2}}
	want("net in a 7")
	p.tunnels, p.counters = nil, nil
	tr.Look(time.Unix(2, 0))
	want()
}

// Packets that come late take some loss back; what an SA reports anew after that was
// counted before.
func TestMissingDoesNotDrift(t *testing.T) {
	p := &plant{tunnels: []engine.TunnelStatus{up("a")}}
	tr := p.tracker()
	tr.Look(time.Unix(1, 0))
	m := NewMetrics(tr, func() engine.Counters { return engine.Counters{} }, func() bool { return true })
	sample := func(spi uint32, missing uint64) uint64 {
		p.counters = []dataplane.Counters{{Tunnel: "a", Child: "net", SPI: spi, Direction: dataplane.Inbound, Missing: missing}}
		m.accumulate()
		return m.totals[childKey{"a", "net", dataplane.Inbound}].missing
	}
	for _, x := range []struct {
		spi           uint32
		missing, want uint64
	}{
		{0x100, 64, 64}, {0x100, 0, 64}, {0x100, 64, 64}, {0x100, 10, 64}, {0x100, 65, 65},
		{0x300, 3, 68}, // after a rekey
	} {
		if got := sample(x.spi, x.missing); got != x.want {
			t.Errorf("SA %x reports %d: %d in all, want %d", x.spi, x.missing, got, x.want)
		}
	}
}

// Dashboards and alarms are made from the package's documentation.
func TestEveryMetricIsDocumented(t *testing.T) {
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	p := &plant{
		tunnels:  []engine.TunnelStatus{up("a"), down("b", &ike.Error{Kind: ike.KindNoAnswer})},
		counters: []dataplane.Counters{{Tunnel: "a", Child: "net", SPI: 0x100, Direction: dataplane.Inbound}},
		quality:  &swanherdv1.PathQuality{WindowProbes: 100, RttP50Us: 700},
		over:     []*swanherdv1.SlaViolation{{Metric: swanherdv1.SlaMetric_SLA_METRIC_LOSS, Measured: 7, Limit: 1}},
	}
	tr := p.tracker()
	tr.Look(time.Unix(1, 0))
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(
		NewMetrics(tr, func() engine.Counters { return engine.Counters{} }, func() bool { return true }),
		NewPlaneMetrics(planeDouble()), NewPathMetrics(choosing()),
	)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
		if !strings.Contains(doc, "\t"+f.GetName()) {
			t.Errorf("doc.go does not tell of %s", f.GetName())
		}
	}
	for _, name := range regexp.MustCompile(`\tswanherd_edge_\w+`).FindAllString(doc, -1) {
		if name = strings.TrimSpace(name); !names[name] {
			t.Errorf("doc.go tells of %s, which is not there", name)
		}
	}
	for reason := range (userspace.Drops{}).ByReason() {
		if !strings.Contains(doc, "//\t"+reason+" ") {
			t.Errorf("doc.go does not explain why the data plane drops for %s", reason)
		}
	}
	for _, cause := range path.Causes() {
		if !strings.Contains(doc, "//\t"+cause+" ") {
			t.Errorf("doc.go does not explain switches for the cause %s", cause)
		}
	}
	for reason := range (engine.Counters{}).Drops {
		if word := engine.DropReason(reason).String(); !strings.Contains(doc, "//\t"+word+" ") {
			t.Errorf("doc.go does not explain the drop reason %s", word)
		}
	}
}

// A tunnel whose uplink is down has failed, also while its SAs are there, unless these are at
// another address of it, and is what its SAs are when the uplink is back.
func TestStranded(t *testing.T) {
	p := &plant{tunnels: []engine.TunnelStatus{up("a"), up("b")}}
	tr := p.tracker()
	why := errors.New("no carrier")
	elsewhere := []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	for i, stranded := range []map[string]reconcile.Stranding{nil, {"b": {Why: why, But: elsewhere}, "gone": {Why: why}}, {"a": {Why: why, But: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}} {
		p.stranded = stranded
		tr.Look(time.Unix(int64(100+i), 0))
		changed, removed := tr.Transitions()
		if i > 0 && (len(changed) != 1 || changed[0].GetTunnel() != "b") || len(removed) > 0 {
			t.Errorf("with %v changed %v, removed %v", stranded, changed, removed)
		}
		b := tr.Reports()[1]
		failed := b.GetState() == swanherdv1.TunnelState_TUNNEL_STATE_FAILED && b.GetLastError().GetCode() == "UPLINK_DOWN" && b.GetLastError().GetMessage() == "no carrier"
		if failed != (i == 1) || tr.Established()["b"] == failed || !tr.Established()["a"] {
			t.Errorf("with %v: %v", stranded, b)
		}
	}
}
