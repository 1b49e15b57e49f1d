package lab_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/strongswan/govici/vici"

	"github.com/swanherd/swanherd/deployments/lab"
	"github.com/swanherd/swanherd/ipsec/engine"
	"github.com/swanherd/swanherd/ipsec/ident"
	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// BenchmarkHandshakes has a fleet come up at once, as after a restart of its
// hub: every site begins in the same moment, each from an address of its own, or
// all from one and the same, as behind a carrier's NAT. In one run come our engine
// in the process of the benchmark with our agent as the hub; our engine with
// strongSwan's charon as the hub; and two charons. All have ESP in userspace. A hub
// shares the processors with the sites. At 10,000 charon is left out: its cost of
// a tunnel grows with their number. Of sites with one address it does not get
// 1,500 up within five minutes.
func BenchmarkHandshakes(b *testing.B) {
	lab.Require(b, lab.CharonPrograms...)
	tree, err := lab.OpenTree(lab.TreeStrongSwan)
	if err != nil {
		b.Fatal(err)
	}
	agent := buildAgent(b)
	for _, from := range []struct {
		name    string
		charon  int // as many tunnels as it is asked for at most
		address func(int) netip.Addr
	}{
		{"each from its address", 1500, func(n int) netip.Addr { return hostOf(fleetAddresses, n) }},
		{"all from one address", 400, func(int) netip.Addr { return netip.MustParseAddr("192.0.2.1") }},
	} {
		for _, count := range []int{400, 1500, 10000} {
			b.Run(fmt.Sprintf("%s/%d", from.name, count), func(b *testing.B) {
				measure(b, fleet{tree: tree, agent: agent, count: count, address: from.address}, count <= from.charon)
			})
		}
	}
}

func measure(b *testing.B, f fleet, charon bool) {
	var our, theirHub, their []fleetUp
	for b.Loop() {
		newFleet := func() *fleet {
			f := f
			f.pair = newPair(b, 5*time.Minute)
			return &f
		}
		our = append(our, newFleet().comeUp((*fleet).agentHub, (*fleet).ourSites))
		if charon {
			theirHub = append(theirHub, newFleet().comeUp((*fleet).charonHub, (*fleet).ourSites))
			their = append(their, newFleet().comeUp((*fleet).charonHub, (*fleet).charonSites))
		}
	}
	report(b, "", our)
	if len(their) > 0 {
		report(b, "strongswan-hub-", theirHub)
		report(b, "strongswan-", their)
		b.ReportMetric(median(rates(our))/median(rates(their)), "times-strongswan")
	}
	b.ReportMetric(0, "ns/op") // the time is that of the measurement itself
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

// fleet is a hub and its sites.
type fleet struct {
	*pair
	tree    lab.Tree // strongSwan's
	agent   string   // our program
	count   int
	address func(site int) netip.Addr
	hub     *lab.Program
}

// sites are all sites of a fleet: begin has them make their tunnels, and returns
// when these are up.
type sites struct{ begin, stop func() }

// comeUp starts a hub, has all sites begin, and measures until all are up.
func (f *fleet) comeUp(hub func(*fleet) *lab.Program, prepare func(*fleet) sites) fleetUp {
	f.t.Helper()
	f.must(f.ours.RouteLocal(fleetAddresses))
	f.must(f.theirs.Route(fleetAddresses, netip.MustParseAddr("192.0.2.1")))
	f.hub = hub(f)
	defer f.hub.Stop(5 * time.Second)
	all := prepare(f)
	defer all.stop()
	before := processorTime(f.t, f.hub)
	start := time.Now()
	all.begin()
	took := time.Since(start)
	return fleetUp{
		rate:   float64(f.count) / took.Seconds(),
		hubCPU: float64((processorTime(f.t, f.hub) - before).Microseconds()) / 1000 / float64(f.count),
	}
}

// ourSites are tunnels of one engine in the process of the benchmark.
func (f *fleet) ourSites() sites {
	g := startGateway(f.t, f.ours, nil)
	var tunnels []engine.TunnelConfig
	for n := range f.count {
		tunnels = append(tunnels, f.site(n))
	}
	return sites{func() {
		f.must(g.apply(tunnels...))
		f.awaitAll(g)
	}, g.stop}
}

// site is the tunnel of one site to the hub. Requests are repeated late, so that
// a hub that is behind gets no more of them.
func (f *fleet) site(n int) engine.TunnelConfig {
	f.t.Helper()
	own, err := ident.ParseID(siteName(n))
	f.must(err)
	hub, err := ident.ParseID("theirs.example")
	f.must(err)
	ikeProposal, err := suite.ParseIKE("aes256gcm16-prfsha384-x25519")
	f.must(err)
	espProposal, err := suite.ParseESP("aes128gcm16")
	f.must(err)
	lan := netip.PrefixFrom(hostOf(fleetLANs, n), 32)
	return engine.TunnelConfig{
		Name: siteName(n), Role: ike.RoleInitiator,
		Local:       netip.AddrPortFrom(f.address(n), 4500),
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
func (f *fleet) awaitAll(g *gateway) {
	f.t.Helper()
	up := map[string]bool{}
	mark := 0
	for len(up) < f.count {
		events, more := g.events.since(mark)
		mark += len(events)
		for _, ev := range events {
			if _, ok := ev.What.(ike.ChildUp); ok {
				up[ev.Tunnel] = true
			}
		}
		if len(up) >= f.count {
			return
		}
		select {
		case <-more:
		case <-f.hub.Done():
			f.t.Fatalf("the hub ended:\n%s", f.hub.Output())
		case <-f.ctx.Done():
			f.t.Fatalf("%d of %d tunnels came up\n%s\nSITES\n%s", len(up), f.count, f.hub.Output(), g.log.String())
		}
	}
}

// processorTime is what a program has used (proc(5), /proc/pid/stat).
func processorTime(b testing.TB, p *lab.Program) time.Duration {
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
func (f *fleet) agentHub() *lab.Program {
	f.write("psk", psk)
	var text strings.Builder
	fmt.Fprintf(&text, "settings: {localPrefixes: [%s]}\ntunnels:\n", hubLAN)
	for n := range f.count {
		fmt.Fprintf(&text, `  - name: %[1]s
    role: TUNNEL_ROLE_RESPONDER
    localAddress: 192.0.2.2
    remoteEndpoints: [{address: %[2]s, port: 4500}]
    authentication: {localId: theirs.example, remoteId: %[1]s, psk: {file: %[5]s/psk}}
    ikeProposals: [aes256gcm16-prfsha384-x25519]
    children: [{name: net, espProposals: [aes128gcm16], localTs: [%[3]s], remoteTs: [%[4]s/32]}]
`, siteName(n), f.address(n), hubLAN, hostOf(fleetLANs, n), f.dir)
	}
	intent := f.write("hub.yaml", text.String())
	state := f.sub("state")
	p, err := f.theirs.Start(nil, nil, f.agent, "run", "--intent", intent, "--state-dir", state)
	f.must(err)
	f.t.Cleanup(func() { p.Stop(5 * time.Second) })
	for {
		out, err := f.theirs.Run(f.ctx, f.agent, "status", "--state-dir", state)
		if err == nil && strings.Count(out, "site") >= f.count {
			return p
		}
		if f.ctx.Err() != nil {
			f.t.Fatalf("our agent does not come to %d tunnels: %v\n%s", f.count, err, p.Output())
		}
	}
}

// charonHub runs strongSwan with one connection that takes every site. What it
// refuses of a flood by default is switched off; our agent's limits are its own.
func (f *fleet) charonHub() *lab.Program {
	dir := f.sub("charon")
	charon, err := lab.CharonConfig{
		Tree: f.tree,
		Swanctl: fmt.Sprintf(`connections {
  hub {
    version = 2
    local_addrs = 192.0.2.2
    remote_addrs = %%any
    proposals = aes256gcm16-prfsha384-x25519
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
	}.Start(f.ctx, f.theirs, dir)
	f.must(err)
	f.t.Cleanup(func() { charon.Stop(5 * time.Second) })
	return charon.Program
}

// charonSites runs one strongSwan with a connection for each site.
func (f *fleet) charonSites() sites {
	var text strings.Builder
	text.WriteString("connections {\n")
	for n := range f.count {
		fmt.Fprintf(&text, `  site%[1]d {
    version = 2
    local_addrs = %[2]s
    remote_addrs = 192.0.2.2
    proposals = aes256gcm16-prfsha384-x25519
    local {
      auth = psk
      id = %[3]s
    }
    remote {
      auth = psk
      id = theirs.example
    }
    children {
      net%[1]d {
        local_ts = %[4]s/32
        remote_ts = %[5]s
        esp_proposals = aes128gcm16
      }
    }
  }
`, n, f.address(n), siteName(n), hostOf(fleetLANs, n), hubLAN)
	}
	fmt.Fprintf(&text, "}\nsecrets {\n  ike-any {\n    secret = %q\n  }\n}\n", psk)
	charon, err := lab.CharonConfig{Tree: f.tree, Swanctl: text.String(), Quiet: true, Options: `
  retransmit_timeout = 4
  retransmit_tries = 10`}.Start(f.ctx, f.ours, f.sub("sites"))
	f.must(err)
	session, err := charon.Session()
	f.must(err)
	up := make(chan vici.Event, f.count)
	session.NotifyEvents(up)
	f.must(session.Subscribe("child-updown"))
	begin := func() {
		for n := range f.count {
			m := vici.NewMessage()
			f.must(m.Set("child", fmt.Sprintf("net%d", n)))
			f.must(m.Set("timeout", "-1")) // do not wait
			_, err := session.Call(f.ctx, "initiate", m)
			f.must(err)
		}
		for range f.count {
			select {
			case <-up:
			case <-f.hub.Done():
				f.t.Fatalf("the hub ended:\n%s", f.hub.Output())
			case <-charon.Done():
				f.t.Fatalf("the sites ended:\n%s", charon.Output())
			case <-f.ctx.Done():
				f.t.Fatalf("not all of %d tunnels came up\n%s", f.count, charon.Output())
			}
		}
	}
	return sites{begin, func() {
		session.Close()
		charon.Stop(5 * time.Second)
	}}
}
