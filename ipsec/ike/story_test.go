package ike

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/ipsec/dataplane"
)

// TestStories runs the files of testdata: one exchange or collision each,
// message by message. Rewrite their outputs with -rewrite, and commit only what
// you understand. The invariants of invariant_test.go hold after every step.
//
// Commands; NODE is a or b, DIR is a>b or b>a:
//
//	pair [key=value...]      two nodes; keys are in configurePair and pair; with
//	                         announcements=yes the capabilities that the ends
//	                         announce are shown; up=yes lets them connect,
//	                         up=quiet without a word; with b.connect=no b
//	                         does not wait for a; nonces=(NAME,...) names
//	                         nonces, the lowest first, see orders
//	cut NODE                 nothing comes from NODE any more; mend NODE undoes it
//	connect NODE [nonce=HH...]   nonce fixes the first octet of its next nonces,
//	                             or names them
//	rekey NODE [child=NAME] [nonce=HH...]
//	rekey-ike NODE [nonce=HH...]
//	anew NODE                deletes all and connects anew
//	delete NODE child=(NAME,...)   policy no longer wants their present SAs
//	internal                 the internal addresses that the ends have and lend
//	occupy NODE ADDR...      somebody else holds these of its pool; vacate undoes it
//	disconnect NODE
//	reconfigure NODE key=value...
//	deliver [DIR] [n=1] [at=0]   the first packets in flight in that direction,
//	                             or that with at=N others before it
//	drop [DIR] [n=1] [at=0]
//	dup [DIR] [at=0]         delivers the packet and keeps it
//	mutate [DIR] [at=0] off=N xor=HH   delivers a copy with one octet changed
//	readdress [DIR] ADDR:PORT [at=0]   somebody on the way has the packet come
//	                         from there; dup before it lets it come as it was too
//	alter [DIR] [delete=(HH...)] [notify=NAME] [data=HH...]   replaces the payloads
//	                         of the first packet: its sender does it wrong. Data is
//	                         that of the notification before it
//	settle                   delivers all until nothing is in flight
//	tick DURATION            moves the time on and settles after each deadline
//	wait DURATION            moves the time on and delivers nothing
//	traffic NODE             one packet over each outbound SA of NODE, at once
//	send NODE                the same, but put in flight like other packets
//	busy DURATION NODE...    the same each second
//	deaf NODE [no]           IKE datagrams do not reach NODE, packets of SAs do
//	address NODE ADDR...     the addresses that NODE's host has from now on, and
//	                         what the tunnel is told; "quiet" does not tell it
//	tell NODE                tells it then
//	where                    between which addresses the IKE SAs in charge and their
//	                         Child SAs are, and where the peers are besides
//	unreachable NODE ADDR:PORT   the host of NODE says so
//	reachable NODE           the host of NODE has a way to its peer again
//	block ADDR ADDR [no]     nothing passes between the two
//	unblock                  everything passes again
//	event NODE KIND [spi=HH | child=NAME]   from the data plane; or probe, which
//	                         has NODE ask for a sign of life
//	gateway ADDR             b's twin g is there too; a's packets to ADDR reach it
//	forget-tickets NODE      NODE loses the keys of its tickets
//	intruder [silent=yes]    there is one who sees what a sends and can answer as b
//	intercept                the first packet of a in flight reaches the intruder too
//	stray NODE spi=HH        an ESP packet of that SPI comes to NODE from its peer
//	complain NODE spi=HH     a message in the clear says that the peer of NODE does
//	                         not have that SPI
//	fail NODE n=N [policies=N] [moves=N]   the next N installations fail, or
//	                         policies, or moves of SAs to other addresses
//	work NODE [at=0]         gives NODE a result that it waits for (work=later), or
//	                         with all=jobs or all=plane those until it waits for
//	                         no other
//	jump NODE DURATION       the clock of NODE jumps, back if negative
//	calm DURATION            like tick, with traffic every second
//	forget NODE child=NAME   NODE loses that Child SA and does not say so
//	restart NODE             forgets everything
//	nat NODE ADDR:PORT       NODE is behind that NAT from now on, or none: no
//	cookies NODE [forgetful] NODE asks every initiator for a cookie, and knows
//	                         none again if it is forgetful
//	mtu N [NODE]             no larger IP datagrams (of NODE) arrive from now on, 0: all
//	                         do; host=N: what NODE's host knows of the path, and wire=N
//	                         of its interface
//	path                     what the ends know of the path
//	state                    both ends
//	plane NODE               what the data plane has
//	why NODE                 its last failure, with all that is known of it
//	reauth NODE              the ends are to authenticate each other anew
//	revoke NODE              NODE learns that its peer's certificate is revoked
//	revalidate NODE
//	ppk                      the post-quantum preshared keys that are mixed in
//	who                      how the ends have proved themselves to each other
//	udp blocked|open         a firewall on the path
//	heard NODE               another tunnel of NODE hears the peer by UDP
//	tcp refused|open         whether connections come about
//	reset                    breaks the connections
//	transcript NODE          what it remembers, with the seconds since the start
//	check                    holds the invariants of rest
//	gaps                     when traffic was lost since it first arrived
//	uninterrupted            holds that it never was
//	orders                   tells the story again, since pair, for every order of
//	                         its nonces, and says which end made what stays and
//	                         who deleted what
//	run                      the commands in the lines below it, in one go
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasPrefix(path, filepath.Join("testdata", "fuzz")) {
			return // the corpora of the fuzz targets
		}
		s := &story{t: t}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.out.Reset()
			s.t = t
			s.tell(d)
			if s.out.Len() == 0 {
				return "ok\n"
			}
			return s.out.String()
		})
	})
}

type story struct {
	t   testing.TB
	w   *world
	out strings.Builder
	// told are the commands since the last pair.
	told []*datadriven.TestData
	// named are the nonces that have names, from the lowest on. order, if set,
	// is the one to tell the story with.
	named, order []string
	// mute keeps out empty, for speed.
	mute bool
	// mutate and trace are for the world.
	mutate func(*node)
	trace  func(*world, *packet)
}

// tell runs a command, or the commands in the input of run.
func (s *story) tell(d *datadriven.TestData) {
	if d.Cmd != "run" {
		s.tellOne(d)
		return
	}
	for line := range strings.Lines(d.Input) {
		one := &datadriven.TestData{Pos: d.Pos}
		var err error
		if one.Cmd, one.CmdArgs, err = datadriven.ParseLine(line); err != nil {
			s.t.Fatalf("%s: %q: %v", d.Pos, line, err)
		}
		if one.Cmd != "" {
			s.tellOne(one)
		}
	}
}

func (s *story) tellOne(d *datadriven.TestData) {
	switch d.Cmd {
	case "pair":
		s.told, s.named = nil, s.order
		for _, a := range d.CmdArgs {
			if a.Key == "nonces" && s.order == nil {
				s.named = a.Vals
			}
		}
	case "orders":
		s.orders(d)
		return
	}
	again := *d // the caller may use d anew
	s.told = append(s.told, &again)
	s.run(d)
	if s.w != nil && s.w.broken != nil {
		s.t.Fatalf("%s: %s: %s", d.Pos, d.Cmd, s.w.broken)
	}
}

func (s *story) run(d *datadriven.TestData) {
	var n *node
	if s.w != nil && len(d.CmdArgs) > 0 {
		switch d.CmdArgs[0].Key {
		case "a":
			n = s.w.a
		case "b":
			n = s.w.b
		}
	}
	s.nonces(d, n)
	switch d.Cmd {
	case "pair":
		s.pair(d)
	case "connect":
		n.step(Connect{})
	case "disconnect":
		n.step(Disconnect{})
	case "rekey":
		n.step(RekeyChild{Child: s.arg(d, "child")})
	case "rekey-ike":
		n.step(RekeyIKE{})
	case "anew":
		n.step(Restart{})
	case "delete":
		names, _ := d.Arg("child")
		for _, c := range n.t.children {
			if slices.Contains(names.Vals, c.name) && c.live() {
				c.end(ReasonDeletedByUs)
			}
		}
		n.step(Tick{})
	case "reconfigure":
		cfg := *n.t.cfg
		cfg.Children = slices.Clone(cfg.Children)
		configurePair(s.t, &cfg, n.name, d.CmdArgs[1:])
		n.step(Reconfigure{cfg})
	case "reload": // as other implementations do it: what is there is left alone
		cfg := *n.t.cfg
		cfg.Children = slices.Clone(cfg.Children)
		configurePair(s.t, &cfg, n.name, d.CmdArgs[1:])
		n.t.configure(&cfg)
	case "deliver", "drop", "dup", "mutate":
		s.packets(d)
	case "readdress":
		s.readdress(d)
	case "where":
		for _, n := range s.w.nodes() {
			s.w.note("%s\n", n.where())
		}
	case "alter":
		s.alter(d)
	case "work":
		switch s.arg(d, "all") {
		case "":
			n.work(s.number(d, "at"))
		case "jobs":
			n.workAll(false)
		case "plane":
			n.workAll(true)
		}
	case "jump":
		n.skew += s.duration(d, 1)
		n.tick()
	case "calm":
		s.w.calm(s.duration(d, 0))
	case "forget":
		if c := n.t.liveChild(s.arg(d, "child")); c != nil {
			s.w.forgotten = append(s.w.forgotten, c.inbound)
			n.t.dropChild(c)
			n.step(Tick{})
		}
	case "settle":
		s.w.settle()
	case "tick":
		s.w.advance(s.duration(d, 0), s.w.settle)
	case "wait":
		s.w.advance(s.duration(d, 0), nil)
	case "traffic":
		n.traffic()
	case "send":
		n.sendESP()
	case "busy":
		s.busy(d)
	case "deaf":
		s.w.deaf[n] = len(d.CmdArgs) == 1
	case "address":
		s.address(d, n)
		s.w.resetBroken()
	case "tell":
		n.tellAddresses()
	case "unreachable":
		n.step(Unreachable{netip.MustParseAddrPort(d.CmdArgs[1].Key)})
	case "reachable":
		n.step(Reachable{})
	case "unblock":
		clear(s.w.blocked)
	case "block":
		s.w.blocked[linkOf(netip.MustParseAddr(d.CmdArgs[0].Key), netip.MustParseAddr(d.CmdArgs[1].Key))] = len(d.CmdArgs) == 2
		s.w.resetBroken()
	case "event":
		s.event(d, n)
	case "gateway":
		cfg := s.w.b.cfg
		cfg.Local = netip.AddrPortFrom(netip.MustParseAddr(d.CmdArgs[0].Key), 500)
		cfg.RedirectTo = Gateway{}
		s.w.gateway = s.w.newNode("g", cfg)
		s.w.gateway.step(Connect{})
	case "redirect":
		s.w.gateway.t.cfg.RedirectTo = parseTestGateway(d.CmdArgs[1].Key)
		s.w.gateway.redirectsAll = true
	case "forget-tickets":
		n.cfg.Runtime.Tickets = n.ticketKeys(nil)
		n.t.runtime.Tickets = n.cfg.Runtime.Tickets
	case "intruder":
		s.w.addIntruder()
		s.w.silent = s.arg(d, "silent") != ""
	case "intercept":
		p := *s.w.flight[s.find("a>b", 0)]
		p.to = s.w.intruder
		s.w.deliver(&p)
	case "stray", "complain":
		s.outside(d, n)
	case "fail":
		n.failPlane, n.failPolicies, n.failMoves = s.number(d, "n"), s.number(d, "policies"), s.number(d, "moves")
	case "cut", "mend":
		s.w.cut[n] = d.Cmd == "cut"
	case "restart":
		n.restart()
		s.w.reset()
	case "nat":
		s.w.lateNAT = s.w.lateNAT || len(n.t.sas) > 0
		if d.CmdArgs[1].Key == "no" {
			delete(s.w.nat, n)
			break
		}
		s.w.nat[n] = netip.MustParseAddrPort(d.CmdArgs[1].Key)
	case "cookies":
		n.cookies, _ = NewCookieSecret(n.now(), n)
		n.forgetful = len(d.CmdArgs) > 1
	case "mtu":
		s.setMTU(d)
	case "path":
		s.path()
	case "state":
		s.out.WriteString(s.w.a.state() + s.w.b.state())
	case "plane":
		s.plane(n)
	case "udp":
		s.w.tcp.blockUDP = d.CmdArgs[0].Key == "blocked"
	case "tcp":
		s.w.tcp.refuse = d.CmdArgs[0].Key == "refused"
	case "heard":
		n.heard[route{n.cfg.Local, n.cfg.Remote, false}] = n.now()
	case "reset":
		s.w.reset()
	case "transcript":
		for _, e := range n.t.Transcript() {
			s.w.log("%4.0f %s %s\n", e.Time.Sub(epoch).Seconds(), shortSPI(e.SPI), s.w.quiet(e.Text))
		}
	case "why":
		s.why(n)
	case "suites":
		for _, n := range s.w.nodes() {
			if sa := n.t.primary(); sa != nil {
				s.w.note("%s: IKE %s, former %s\n", n.name, sa.suite, texts(n.t.formerIKE))
			}
			for _, c := range n.t.children {
				if c.live() {
					s.w.note("%s: %s %s, former %s\n", n.name, c.name, c.suite, texts(n.t.formerESP(c.name)))
				}
			}
		}
	case "reauth":
		n.step(Reauthenticate{})
	case "revoke":
		n.revoke(s.arg(d, "quietly") == "")
	case "revalidate":
		n.step(Revalidate{})
	case "ppk":
		s.w.ppk()
	case "who":
		s.w.who()
	case "internal":
		s.out.WriteString(s.w.internal())
	case "occupy", "vacate":
		s.occupy(d, n)
	case "check":
		s.w.check(s.t)
	case "gaps":
		for _, g := range s.w.gaps {
			s.w.note("%s\n", g)
		}
		if len(s.w.gaps) == 0 {
			s.w.note("none\n")
		}
	case "uninterrupted":
		for _, g := range s.w.gaps {
			s.t.Errorf("%s: %s", d.Pos, g)
		}
	default:
		s.t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
}

func (s *story) arg(d *datadriven.TestData, key string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key && len(a.Vals) > 0 {
			return a.Vals[0]
		}
	}
	return ""
}

// number returns the value of a key, 0 if it is not there.
func (s *story) number(d *datadriven.TestData, key string) int {
	v := s.arg(d, key)
	if v == "" {
		return 0
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		s.t.Fatalf("%s: %s: %v", d.Pos, key, err)
	}
	return n
}

func (s *story) nonces(d *datadriven.TestData, n *node) {
	for _, a := range d.CmdArgs {
		if a.Key != "nonce" || n == nil {
			continue
		}
		for _, v := range a.Vals {
			if i := slices.Index(s.named, v); i >= 0 {
				n.nonces = append(n.nonces, fixedNonce(byte(0x10*(i+1))))
				continue
			}
			b, err := strconv.ParseUint(v, 16, 8)
			if err != nil {
				s.t.Fatalf("%s: nonce %q is not an octet", d.Pos, v)
			}
			n.nonces = append(n.nonces, fixedNonce(byte(b)))
		}
	}
}

func (s *story) duration(d *datadriven.TestData, i int) time.Duration {
	v, err := time.ParseDuration(d.CmdArgs[i].Key)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	return v
}

// busy has nodes send packets for a while.
func (s *story) busy(d *datadriven.TestData) {
	for end := s.w.now.Add(s.duration(d, 0)); s.w.now.Before(end); {
		for _, a := range d.CmdArgs[1:] {
			map[string]*node{"a": s.w.a, "b": s.w.b}[a.Key].traffic()
		}
		s.w.advance(time.Second, s.w.settle)
	}
}

// packets delivers, drops, duplicates or spoils packets in a direction.
func (s *story) packets(d *datadriven.TestData) {
	count := max(1, s.number(d, "n"))
	for range count {
		i := s.find(direction(d), s.number(d, "at"))
		if i < 0 {
			s.w.note("nothing in flight\n")
			return
		}
		p := s.w.flight[i]
		if d.Cmd == "mutate" && p.esp != 0 {
			return // packets of Child SAs have no content
		}
		if d.Cmd != "dup" && d.Cmd != "mutate" {
			s.w.flight = append(s.w.flight[:i:i], s.w.flight[i+1:]...)
		}
		switch d.Cmd {
		case "drop":
			s.w.note("%s lost\n", p)
			s.w.lossless = false
			continue
		case "mutate":
			spoilt := *p
			spoilt.data = bytes.Clone(p.data)
			xor, _ := strconv.ParseUint(s.arg(d, "xor"), 16, 8)
			spoilt.data[s.number(d, "off")%len(spoilt.data)] ^= byte(xor)
			s.w.note("%s arrives spoilt\n", p)
			s.w.deliver(&spoilt)
			continue
		}
		s.w.note("%s arrives\n", p)
		s.w.deliver(p)
	}
}

// direction returns the argument without a value, a>b or b>a.
func direction(d *datadriven.TestData) string {
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			return a.Key
		}
	}
	return ""
}

// find returns the index of the packet in flight in a direction that has skip
// others before it, or -1.
func (s *story) find(dir string, skip int) int {
	for i, p := range s.w.flight {
		if dir != "" && dir != p.from.name+">"+p.to.name {
			continue
		}
		if skip == 0 {
			return i
		}
		skip--
	}
	return -1
}

func (s *story) event(d *datadriven.TestData, n *node) {
	if d.CmdArgs[1].Key == "probe" {
		n.t.primary().wantProbe = true
		n.step(Tick{})
		return
	}
	kinds := map[string]dataplane.EventKind{
		"acquire": dataplane.Acquire, "soft-expire": dataplane.SoftExpire, "hard-expire": dataplane.HardExpire,
		"mapping-changed": dataplane.MappingChanged,
	}
	e := dataplane.Event{Kind: kinds[d.CmdArgs[1].Key], Tunnel: "t", Child: s.arg(d, "child"), Direction: dataplane.Inbound}
	if v := s.arg(d, "spi"); v != "" {
		spi, _ := strconv.ParseUint(v, 16, 32)
		e.SPI = uint32(spi)
	} else if c := n.t.liveChild(e.Child); c != nil {
		e.SPI = c.inbound
	}
	if v := s.arg(d, "remote"); v != "" {
		e.Remote = netip.MustParseAddrPort(v)
	}
	if v := s.arg(d, "packet"); v != "" {
		source, destination, _ := strings.Cut(v, ">")
		e.Source, e.Destination = netip.MustParseAddr(source), netip.MustParseAddr(destination)
	}
	n.step(PlaneEvent{e})
}

func (s *story) why(n *node) {
	e := n.failed
	if e == nil {
		e = n.t.Status().LastError
	}
	if e == nil {
		s.w.note("no failure\n")
		return
	}
	s.w.note("%s", e.Detail())
}

// outside gives a node what comes outside of any IKE SA.
func (s *story) outside(d *datadriven.TestData, n *node) {
	spi, err := strconv.ParseUint(s.arg(d, "spi"), 16, 32)
	if err != nil {
		s.t.Fatalf("%s: %v", d.Pos, err)
	}
	if d.Cmd == "stray" {
		n.step(UnknownSPI{Remote: n.peer().cfg.Local, SPI: uint32(spi)})
		return
	}
	b, err := InvalidSPI(uint32(spi), n.peer())
	if err != nil {
		s.t.Fatal(err)
	}
	n.step(Complaint{Data: b})
}

func (s *story) plane(n *node) {
	for _, dir := range []dataplane.Direction{dataplane.Inbound, dataplane.Outbound} {
		m := n.in
		if dir == dataplane.Outbound {
			m = n.out
		}
		for _, c := range n.t.children {
			spi := c.inbound
			if dir == dataplane.Outbound {
				spi = c.outbound
			}
			if sa, ok := m[spi]; ok {
				queue := ""
				if sa.Queue > 0 {
					queue = fmt.Sprintf(" queue %d", sa.Queue)
				}
				if sa.Label != "" {
					queue += " label " + sa.Label
				}
				s.w.note("%s %x %s %s -> %s %s %v %v%s\n", dir, spi, sa.Suite, sa.Local, sa.Remote, sa.Mode, sa.LocalTS, sa.RemoteTS, queue)
			}
		}
	}
	for _, ch := range n.t.cfg.Children {
		if p, ok := n.policies[ch.Name]; ok {
			label := ""
			if p.Label != "" {
				label = " label " + p.Label
			}
			s.w.note("policy %s %v %v%s\n", p.Child, p.LocalTS, p.RemoteTS, label)
		}
	}
}
