package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// natKinds are the NATs of the table in deployments/docs/nat.md, as nftables has them: what
// leaves from the inside's UDP port 4500, and what is let in. The kernel lets in what answers
// to the very endpoint that was sent to (RFC 4787, Section 5: address- and port-dependent
// filtering), so only a rule of its own makes that wider.
var natKinds = map[string]string{
	"none": ``,
	// One port for all peers, and everybody is let in.
	"cone": `chain out { type nat hook postrouting priority srcnat; oifname "wan0" udp sport 4500 snat to PUBLIC:31022; oifname "wan0" masquerade; };
		chain in { type nat hook prerouting priority dstnat; iifname "wan0" udp dport 31022 dnat to INSIDE:4500; };`,
	// One port for all peers, and only who was sent to is let in.
	"narrow": `chain out { type nat hook postrouting priority srcnat; oifname "wan0" udp sport 4500 snat to PUBLIC:31022; oifname "wan0" masquerade; };`,
	// Another port for each peer.
	"symmetric": `chain out { type nat hook postrouting priority srcnat; oifname "wan0" masquerade fully-random; };`,
	// Two edges behind the same one, which does not send back what it gets from inside.
	"shared": `chain out { type nat hook postrouting priority srcnat;
			oifname "wan0" ip saddr INSIDE udp sport 4500 snat to PUBLIC:31022; oifname "wan0" udp sport 4500 snat to PUBLIC:31023; oifname "wan0" masquerade; };`,
}

// natSeen is what the controller is to be told of each kind.
var natSeen = map[string]string{
	"none": "", "cone": "endpoint-independent NAT", "narrow": "endpoint-independent NAT", "symmetric": "address-dependent NAT", "shared": "endpoint-independent NAT",
}

// natMeets says whether edges behind two kinds of NAT connect directly.
func natMeets(a, b string) bool {
	symmetric := func(k string) bool { return k == "symmetric" }
	open := func(k string) bool { return k == "none" || k == "cone" }
	switch {
	case symmetric(a):
		return open(b)
	case symmetric(b):
		return open(a)
	}
	return true
}

// TestNATs has two edges behind each kind of NAT, all in one mesh, and passes packets through
// each tunnel that can be: whoever begins is told where the other one is, and who waits opens
// its own NAT.
func TestNATs(t *testing.T) {
	lab.Require(t, "ip", "nft", "ping")
	t.Parallel()
	w := newNATWorld(t)
	kinds := []string{"none", "cone", "narrow", "symmetric"}
	for i, kind := range kinds {
		for j := range 2 {
			w.addEdge(fmt.Sprintf("%s-%d", kind, j+1), kind, 2*i+j)
		}
	}
	shared := w.addEdge("shared-1", "shared", 8)
	w.addBehind("shared-2", shared, 9)
	w.start()

	w.eachPair(true, w.awaitPing)
	edges := w.swanherd("get", "edges")
	for _, e := range w.edges {
		line := lineWith(edges, e.name+" ")
		if want := natSeen[e.kind]; want == "" && strings.Contains(line, "NAT") || !strings.Contains(line, want) {
			t.Errorf("%s is to be %q, and the controller says: %s", e.name, want, line)
		}
	}
	w.eachPair(false, func(a, b *natEdge) {
		if w.ping(a, b) {
			t.Errorf("%s and %s connect, which the table says they cannot", a.name, b.name)
		}
	})
	tunnels := w.swanherd("get", "tunnels", "-o", "json")
	w.eachPair(false, func(a, b *natEdge) {
		if !strings.Contains(tunnels, "NATs that have another port") || !strings.Contains(tunnels, fmt.Sprintf("the NAT of %s", a.name)) && !strings.Contains(tunnels, fmt.Sprintf("%s and %s are both", a.name, b.name)) {
			t.Errorf("nobody is told why %s and %s do not connect", a.name, b.name)
		}
	})
	if out := w.swanherd("explain", w.edges[6].lan.String(), w.edges[7].lan.String()); !strings.Contains(out, "it may not come up: symmetric-1 and symmetric-2 are both behind NATs") {
		t.Errorf("the explanation does not say why:\n%s", out)
	}
	// 203.0.113.26 is where symmetric-1 is seen, for which narrow-1 waits in vain.
	if out, err := w.edges[4].router.Run(w.ctx, "nft", "list", "chain", "ip", "nat", "opened"); err != nil || !strings.Contains(out, "counter packets ") || strings.Contains(out, "counter packets 0 ") {
		t.Errorf("narrow-1 does not open its NAT for symmetric-1: %v\n%s", err, out)
	}
	if at := w.remoteOf(shared, "shared-2"); at.Addr() != w.edges[9].inside {
		t.Errorf("edges behind the same NAT are connected by %s, and not inside", at)
	}
}

// eachPair calls f with each pair of edges that meet, or with each that do not, all at once.
func (w *natWorld) eachPair(meet bool, f func(a, b *natEdge)) {
	var all sync.WaitGroup
	for i, a := range w.edges {
		for _, b := range w.edges[i+1:] {
			if natMeets(a.kind, b.kind) == meet {
				all.Go(func() { f(a, b) })
			}
		}
	}
	all.Wait()
}

func lineWith(text, begin string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, begin) {
			return line
		}
	}
	return ""
}

// natWorld is a router that is the Internet, with a controller and edges behind NATs.
type natWorld struct {
	t             *testing.T
	ctx           context.Context
	n             *lab.Network
	programs, dir string
	inet, control *lab.Namespace
	controlAt     netip.Addr
	edges         []*natEdge
	tokens        map[string]string
}

type natEdge struct {
	name, kind   string
	host, router *lab.Namespace
	inside, lan  netip.Addr
	program      *lab.Program
}

func newNATWorld(t *testing.T) *natWorld {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &natWorld{t: t, ctx: ctx, n: lab.New(), programs: buildPrograms(t), dir: t.TempDir(), controlAt: netip.MustParseAddr("198.51.100.2")}
	t.Cleanup(func() { w.n.Close() })
	w.inet, w.control = w.add("inet"), w.add("control")
	w.link(w.inet, "control", "198.51.100.1/30", w.control, "wan0", "198.51.100.2/30")
	w.must(w.control.Route(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("198.51.100.1")))
	return w
}

func (w *natWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *natWorld) add(name string) *lab.Namespace {
	w.t.Helper()
	ns, err := w.n.Add(name)
	w.must(err)
	return ns
}

func (w *natWorld) link(a *lab.Namespace, ifA, addrA string, b *lab.Namespace, ifB, addrB string) {
	w.t.Helper()
	w.must(w.n.Link(lab.End{Host: a, Interface: ifA, Addresses: []netip.Prefix{netip.MustParsePrefix(addrA)}},
		lab.End{Host: b, Interface: ifB, Addresses: []netip.Prefix{netip.MustParsePrefix(addrB)}}))
}

// addEdge makes the edge of a number from 0 on, behind a router of its own.
func (w *natWorld) addEdge(name, kind string, number int) *natEdge {
	w.t.Helper()
	e := &natEdge{name: name, kind: kind, host: w.add(name), router: w.add("nat-" + name)}
	public := netip.AddrFrom4([4]byte{203, 0, 113, byte(4*number + 2)})
	w.link(w.inet, fmt.Sprintf("n%d", number), public.Prev().String()+"/30", e.router, "wan0", public.String()+"/30")
	w.must(e.router.Route(netip.MustParsePrefix("0.0.0.0/0"), public.Prev()))
	w.attach(e, number)
	if kind == "none" {
		w.must(w.inet.Route(netip.PrefixFrom(e.inside, 32), public))
		return e
	}
	// A router drops what nobody has asked for, before its connection tracking takes note.
	rules := strings.NewReplacer("PUBLIC", public.String(), "INSIDE", e.inside.String()).Replace(natKinds[kind])
	_, err := e.router.Run(w.ctx, "nft", "table ip nat { "+rules+` chain deny { type filter hook input priority 0; iifname "wan0" meta l4proto udp drop; };
		chain opened { type filter hook forward priority 0; udp length 9 ip daddr 203.0.113.26 counter; }; }`)
	w.must(err)
	return e
}

// addBehind makes one behind the router of another.
func (w *natWorld) addBehind(name string, other *natEdge, number int) {
	w.t.Helper()
	w.attach(&natEdge{name: name, kind: other.kind, host: w.add(name), router: other.router}, number)
}

func (w *natWorld) attach(e *natEdge, number int) {
	w.t.Helper()
	e.inside = netip.AddrFrom4([4]byte{192, 168, byte(number), 2})
	e.lan = netip.AddrFrom4([4]byte{10, byte(number + 1), 0, 1})
	w.link(e.router, fmt.Sprintf("lan%d", number), e.inside.Prev().String()+"/24", e.host, "wan1", e.inside.String()+"/24")
	w.must(e.host.Route(netip.MustParsePrefix("0.0.0.0/0"), e.inside.Prev()))
	_, err := e.host.Run(w.ctx, "ip", "addr", "add", e.lan.String()+"/32", "dev", "lo")
	w.must(err)
	w.edges = append(w.edges, e)
}

// start starts the controller, with one site for each edge, and the edges.
func (w *natWorld) start() {
	w.t.Helper()
	program := w.run(w.control, "controller", "swanherd-server", "--data-dir", filepath.Join(w.dir, "controller"),
		"--listen", "127.0.0.1:7443", "--edge-listen", w.controlAt.String()+":7444", "--stun-listen", w.controlAt.String()+":3478")
	credential := filepath.Join(w.dir, "controller", "admin-credential")
	for {
		if _, err := os.Stat(credential); err == nil {
			break
		}
		select {
		case <-program.Done():
			w.t.Fatal("the controller ended")
		case <-w.ctx.Done():
			w.t.Fatal("the controller does not start")
		case <-time.After(20 * time.Millisecond):
		}
	}
	w.swanherd("login", "127.0.0.1:7443", "--credential", credential, "--network", "lab")
	fleet := "networks: [{name: networks/lab}]\nprofiles: [{name: networks/lab/profiles/default, tcpEncapsulation: TCP_ENCAPSULATION_NEVER}]\n" +
		"meshes: [{name: networks/lab/meshes/all, profile: networks/lab/profiles/default, fullMesh: {sites: {all: true}}}]\nsites:\n"
	for _, e := range w.edges {
		fleet += fmt.Sprintf("  - {name: networks/lab/sites/%s, prefixes: [%s/32]}\n", e.name, e.lan)
	}
	file := filepath.Join(w.dir, "fleet.yaml")
	w.must(os.WriteFile(file, []byte(fleet), 0o600))
	w.swanherd("apply", "-f", file)
	for _, e := range w.edges {
		token := strings.TrimSpace(w.swanherd("token", "create", "--site", e.name))
		e.program = w.run(e.host, e.name, "swanherd-edge", "run", "--state-dir", filepath.Join(w.dir, e.name), "--edge-id", e.name,
			"--data-plane", "userspace", "--uplink", "name=wan1,interface=wan1,class=broadband", "--token", token[strings.LastIndexByte(token, '\n')+1:])
	}
}

// run starts a program until the end of the test.
func (w *natWorld) run(at *lab.Namespace, what, program string, args ...string) *lab.Program {
	w.t.Helper()
	p, err := at.Start(nil, nil, append([]string{filepath.Join(w.programs, program)}, args...)...)
	w.must(err)
	w.t.Cleanup(func() {
		p.Stop(5 * time.Second)
		if w.t.Failed() {
			w.t.Logf("%s:\n%s", what, p.Output())
		}
	})
	return p
}

func (w *natWorld) swanherd(args ...string) string {
	w.t.Helper()
	out, err := w.control.Run(w.ctx, append([]string{filepath.Join(w.programs, "swanherd"), "--config", filepath.Join(w.dir, "config")}, args...)...)
	if err != nil {
		w.t.Fatalf("swanherd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// ping sends one packet from behind an edge to behind another, and reports whether it came
// back.
func (w *natWorld) ping(a, b *natEdge) bool {
	_, err := a.host.Run(w.ctx, "ping", "-c", "1", "-W", "1", "-I", a.lan.String(), b.lan.String())
	return err == nil
}

func (w *natWorld) awaitPing(a, b *natEdge) {
	w.t.Helper()
	for begin := time.Now(); !w.ping(a, b); {
		if w.ctx.Err() != nil || time.Since(begin) > 45*time.Second {
			w.t.Errorf("%s and %s do not connect:\n%s\n%s", a.name, b.name, w.status(a), w.status(b))
			return
		}
	}
}

func (w *natWorld) status(e *natEdge, args ...string) string {
	out, _ := e.host.Run(context.WithoutCancel(w.ctx), append([]string{filepath.Join(w.programs, "swanherd-edge"), "status", "--state-dir", filepath.Join(w.dir, e.name)}, args...)...)
	return out
}

// remoteOf is where the tunnel of an edge to another one goes.
func (w *natWorld) remoteOf(e *natEdge, peer string) (at netip.AddrPort) {
	w.t.Helper()
	var s struct {
		Tunnels []struct {
			Name   string `json:"tunnel"`
			Remote string `json:"remote_endpoint"`
		}
	}
	w.must(json.Unmarshal([]byte(w.status(e, "-o", "json")), &s))
	for _, tunnel := range s.Tunnels {
		if strings.HasSuffix(tunnel.Name, e.name+"--"+peer) {
			at, _ = netip.ParseAddrPort(tunnel.Remote)
		}
	}
	return at
}
