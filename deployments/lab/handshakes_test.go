package lab_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// BenchmarkHandshakes has a fleet come up at once, as after a restart of its
// hub: every site has an address of its own, and begins in the same moment. The
// sites are our engine in the process of the benchmark; the hub is our agent,
// and strongSwan's charon in the same run, both with ESP in userspace. A hub
// shares the processors with the sites. At 10,000 charon is left out: its cost of
// a tunnel grows with their number.
func BenchmarkHandshakes(b *testing.B) {
	lab.Require(b, lab.CharonPrograms...)
	agent := buildAgent(b)
	for _, count := range []int{400, 1500, 10000} {
		b.Run(strconv.Itoa(count), func(b *testing.B) {
			var our, their []fleetUp
			for b.Loop() {
				our = append(our, comeUp(b, count, func(x *pair) *lab.Program { return x.agentHub(agent, count) }))
				if count <= 1500 {
					their = append(their, comeUp(b, count, (*pair).charonHub))
				}
			}
			report(b, "", our)
			if len(their) > 0 {
				report(b, "strongswan-", their)
				b.ReportMetric(median(rates(our))/median(rates(their)), "times-strongswan")
			}
			b.ReportMetric(0, "ns/op") // the time is that of the measurement itself
		})
	}
}

// fleetUp is one measurement.
type fleetUp struct {
	rate   float64 // tunnels a second
	hubCPU float64 // milliseconds for each tunnel
}

func rates(all []fleetUp) (out []float64) {
	for _, f := range all {
		out = append(out, f.rate)
	}
	return out
}

func report(b *testing.B, prefix string, all []fleetUp) {
	var cpu []float64
	for _, f := range all {
		cpu = append(cpu, f.hubCPU)
	}
	b.ReportMetric(median(rates(all)), prefix+"tunnels/s")
	b.ReportMetric(median(cpu), prefix+"hub-ms/tunnel")
}

// fleetAddresses is what the addresses of sites are from, fleetLANs what is
// behind each, hubLAN what is behind the hub.
var (
	fleetAddresses = netip.MustParsePrefix("198.18.0.0/15")
	fleetLANs      = netip.MustParsePrefix("10.128.0.0/9")
	hubLAN         = netip.MustParsePrefix("10.2.0.0/24")
)

// hostOf is address n of a prefix.
func hostOf(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n)+1)
	return netip.AddrFrom4(b)
}

func siteName(n int) string { return fmt.Sprintf("site%d.example", n) }

// comeUp starts a hub and count sites, and measures until all are up.
func comeUp(b *testing.B, count int, startHub func(*pair) *lab.Program) fleetUp {
	b.Helper()
	x := newPair(b, 5*time.Minute)
	for _, step := range []func() error{
		func() error { return x.ours.RouteLocal(fleetAddresses) },
		func() error { return x.theirs.Route(fleetAddresses, netip.MustParseAddr("192.0.2.1")) },
	} {
		x.must(step())
	}
	hub := startHub(x)
	g := startGateway(b, x.ours, nil)
	defer g.stop()
	defer hub.Stop(5 * time.Second)
	var sites []engine.TunnelConfig
	for n := range count {
		sites = append(sites, site(b, n))
	}
	before := processorTime(b, hub)
	start := time.Now()
	x.must(g.apply(sites...))
	awaitAll(x.ctx, b, g, count, hub)
	took := time.Since(start)
	return fleetUp{
		rate:   float64(count) / took.Seconds(),
		hubCPU: float64((processorTime(b, hub) - before).Microseconds()) / 1000 / float64(count),
	}
}

// site is the tunnel of one site to the hub. Requests are repeated late, so that
// a hub that is behind gets no more of them.
func site(b *testing.B, n int) engine.TunnelConfig {
	b.Helper()
	own, err := ident.ParseID(siteName(n))
	if err != nil {
		b.Fatal(err)
	}
	hub, err := ident.ParseID("theirs.example")
	if err != nil {
		b.Fatal(err)
	}
	ikeProposal, err := suite.ParseIKE("aes256gcm16-prfsha384-x25519")
	if err != nil {
		b.Fatal(err)
	}
	espProposal, err := suite.ParseESP("aes128gcm16")
	if err != nil {
		b.Fatal(err)
	}
	lan := netip.PrefixFrom(hostOf(fleetLANs, n), 32)
	return engine.TunnelConfig{
		Name: siteName(n), Role: ike.RoleInitiator,
		Local:       netip.AddrPortFrom(hostOf(fleetAddresses, n), 4500),
		Remote:      netip.MustParseAddrPort("192.0.2.2:4500"),
		Credentials: ident.Local{ID: own, PSK: ident.PSK(psk)}, Peer: ident.Remote{ID: hub, PSK: ident.PSK(psk)},
		Proposals: []suite.IKEProposal{ikeProposal},
		Children: []ike.ChildConfig{{
			Name: "net", Proposals: []suite.ESPProposal{espProposal},
			LocalTS: []ts.Selector{ts.FromPrefix(lan)}, RemoteTS: []ts.Selector{ts.FromPrefix(hubLAN)},
		}},
		Timing: ike.Timing{RetransmitBase: 4 * time.Second, RetransmitTries: 10},
	}
}

// awaitAll waits for the Child SA of every site.
func awaitAll(ctx context.Context, b *testing.B, g *gateway, count int, hub *lab.Program) {
	b.Helper()
	up := map[string]bool{}
	mark := 0
	for len(up) < count {
		events, more := g.events.since(mark)
		mark += len(events)
		for _, ev := range events {
			if _, ok := ev.What.(ike.ChildUp); ok {
				up[ev.Tunnel] = true
			}
		}
		if len(up) >= count {
			return
		}
		select {
		case <-more:
		case <-hub.Done():
			b.Fatalf("the hub ended:\n%s", hub.Output())
		case <-ctx.Done():
			b.Fatalf("%d of %d tunnels came up\n%s\nSITES\n%s", len(up), count, hub.Output(), g.log.String())
		}
	}
}

// processorTime is what a program has used (proc(5), /proc/pid/stat).
func processorTime(b *testing.B, p *lab.Program) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ
	return time.Duration(ticks) * time.Second / perSecond
}

// agentHub runs our agent with a tunnel for each site.
func (x *pair) agentHub(agent string, count int) *lab.Program {
	x.write("psk", psk)
	var text strings.Builder
	fmt.Fprintf(&text, "settings: {localPrefixes: [%s]}\ntunnels:\n", hubLAN)
	for n := range count {
		fmt.Fprintf(&text, `  - name: %[1]s
    role: TUNNEL_ROLE_RESPONDER
    localAddress: 192.0.2.2
    remoteEndpoints: [{address: %[2]s, port: 4500}]
    authentication: {localId: theirs.example, remoteId: %[1]s, psk: {file: %[5]s/psk}}
    ikeProposals: [aes256gcm16-prfsha384-x25519]
    children: [{name: net, espProposals: [aes128gcm16], localTs: [%[3]s], remoteTs: [%[4]s/32]}]
`, siteName(n), hostOf(fleetAddresses, n), hubLAN, hostOf(fleetLANs, n), x.dir)
	}
	intent := x.write("hub.yaml", text.String())
	state := x.sub("state")
	p, err := x.theirs.Start(nil, nil, agent, "run", "--intent", intent, "--state-dir", state)
	x.must(err)
	x.t.Cleanup(func() { p.Stop(5 * time.Second) })
	for {
		out, err := x.theirs.Run(x.ctx, agent, "status", "--state-dir", state)
		if err == nil && strings.Count(out, "site") >= count {
			return p
		}
		if x.ctx.Err() != nil {
			x.t.Fatalf("our agent does not come to %d tunnels: %v\n%s", count, err, p.Output())
		}
	}
}

// charonHub runs strongSwan with one connection that takes every site. What it
// refuses of a flood by default is switched off; our agent's limits are its own.
func (x *pair) charonHub() *lab.Program {
	dir := x.sub("charon")
	charon, err := lab.CharonConfig{
		Swanctl: fmt.Sprintf(`connections {
  hub {
    version = 2
    local_addrs = 192.0.2.2
    remote_addrs = %%any
    proposals = aes256gcm16-prfsha384-x25519
    unique = never
    local {
      auth = psk
      id = theirs.example
    }
    remote {
      auth = psk
      id = %%any
    }
    children {
      net {
        local_ts = %s
        remote_ts = %s
        esp_proposals = aes128gcm16
      }
    }
  }
}
secrets {
  ike-any {
    secret = %q
  }
}
`, hubLAN, fleetLANs, psk),
		Options: `
  cookie_threshold = 0
  block_threshold = 0
  half_open_timeout = 300`,
		Quiet: true,
	}.Start(x.ctx, x.theirs, dir)
	x.must(err)
	x.t.Cleanup(func() { charon.Stop(5 * time.Second) })
	return charon.Program
}
