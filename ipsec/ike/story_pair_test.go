package ike

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/ident"
)

func (s *story) pair(d *datadriven.TestData) {
	storyCA().serial = 1 // whatever ran before
	seed := max(1, uint64(s.number(d, "seed")))
	s.w = pair(seed, func(a, b *Config) {
		configurePair(s.t, a, "a", d.CmdArgs)
		configurePair(s.t, b, "b", d.CmdArgs)
	})
	if !s.mute {
		s.w.log = func(f string, args ...any) { fmt.Fprintf(&s.out, f, args...) }
	}
	s.w.announcements = s.arg(d, "announcements") != ""
	s.w.lossless = s.arg(d, "lossless") != ""
	s.w.a.later = s.arg(d, "work") == "later"
	s.w.b.later = s.w.a.later
	s.w.mutate, s.w.trace = s.mutate, s.trace
	s.w.b.redirectsAll = s.arg(d, "redirects") == "all"
	s.w.ways = s.arg(d, "ways") != ""
	s.w.b.halfFragments = s.arg(d, "half-fragments") != ""
	s.w.a.without = notifyNamed(s.arg(d, "a.without"))
	if s.arg(d, "b.connect") != "no" {
		s.w.b.step(Connect{})
	}
	if s.arg(d, "up") != "" {
		s.w.a.step(Connect{})
		s.w.settle()
		if s.arg(d, "up") == "quiet" {
			s.out.Reset()
		}
		s.w.note("%s%s", s.w.a.state(), s.w.b.state())
	}
}

// configurePair applies the keys of a pair or reconfigure command. A key with a
// prefix "a." or "b." is for that node only.
func configurePair(t testing.TB, c *Config, name string, args []datadriven.CmdArg) {
	for _, a := range args {
		key, mine := a.Key, true
		if p, rest, ok := strings.Cut(key, "."); ok {
			key, mine = rest, p == name
		}
		if !mine || len(a.Vals) == 0 {
			continue
		}
		v := a.Vals[0]
		switch key {
		case "up", "half-fragments", "announcements", "ways", "without", "seed", "work", "lossless", "nonces", "nonce", "connect", "redirects": // for the pair, or its nodes, as a whole
		case "certificates":
			authenticateByCertificates(c, name, v)
		case "mobike", "trust", "no-nat", "within", "locals", "remotes":
			configureMobility(&c.Mobility, key, a.Vals)
		case "fragment":
			c.FragmentSize, _ = strconv.Atoi(v)
		case "role":
			c.Role = map[string]Role{"either": RoleEither, "initiator": RoleInitiator, "responder": RoleResponder}[v]
		case "ike":
			c.Proposals = mustIKE(a.Vals...)
		case "ppk":
			c.PPKs = storyPPKs(a.Vals)
		case "ppk-required":
			c.PPKRequired = v == "yes"
		case "esp":
			c.Children[0].Proposals = mustESP(a.Vals...)
		case "local":
			c.Children[0].LocalTS = mustTS(a.Vals...)
		case "remote":
			c.Children[0].RemoteTS = mustTS(a.Vals...)
		case "tcp":
			c.TCP.Mode = map[string]TCPMode{"never": TCPNever, "fallback": TCPFallback, "only": TCPOnly}[v]
		case "id":
			c.Credentials.ID = mustID(v)
		case "peer-id":
			c.Peer.ID = ident.ID{}
			if v != "any" {
				c.Peer.ID = mustID(v)
			}
		case "own", "accept", "legacy", "padding", "expiry":
			configureAuth(t, c, key, a.Vals)
		case "psk":
			c.Credentials.PSK, c.Peer.PSK = ident.PSK(v), ident.PSK(v)
		case "children":
			second := c.Children[0]
			second.Name = v
			second.LocalTS, second.RemoteTS = mustTS("10.3.0.0/16"), mustTS("10.4.0.0/16")
			if name == "b" {
				second.LocalTS, second.RemoteTS = second.RemoteTS, second.LocalTS
			}
			c.Children = append(c.Children, second)
		case "label":
			c.Children[0].Label = v
		case "second-label": // with the selectors of the first
			second := c.Children[0]
			second.Name, second.Label = "second", v
			c.Children = append(c.Children, second)
		case "only":
			c.Children = []ChildConfig{*c.child(v)}
		case "start":
			if v == "traffic" {
				c.Children[0].Start = StartOnTraffic
			}
		case "mode":
			if v == "transport" {
				c.Children[0].Mode = dataplane.Transport
			}
		case "queues":
			c.Children[0].Queues, _ = strconv.Atoi(v)
		case "childless":
			c.Childless = map[string]Childless{"prefer": ChildlessPrefer, "force": ChildlessForce, "never": ChildlessNever}[v]
		case "gateways":
			c.Gateways = nil
			for _, v := range a.Vals {
				c.Gateways = append(c.Gateways, parseTestGateway(v))
			}
		case "redirect":
			c.RedirectTo = parseTestGateway(v)
		case "resume":
			c.Resume = v == "yes"
		case "qcd":
			c.Runtime.Tokens = testTokens(name)
		case "encap":
			c.ForceEncap = true
		case "request", "ask", "pool", "dns", "subnets", "require":
			configureInternal(t, c, key, a.Vals)
		case "peer":
			c.Remote, _ = netip.ParseAddrPort(v) // "any" is none
		case "at":
			c.Local = netip.MustParseAddrPort(v)
		case "rekey-child", "rekey-ike", "reauth", "dpd", "overtime", "retransmit", "takeover", "reconnect-max", "half-open", "keepalive", "patience", "silence", "pathmtu", "eager":
			configureTiming(t, &c.Timing, key, v)
		case "jitter":
			c.Timing.Jitter = mustFloat(v)
		case "backoff":
			c.Timing.RetransmitBackoff = mustFloat(v)
		case "selectors":
			for i := range int(mustFloat(v)) {
				c.Children[0].LocalTS = append(c.Children[0].LocalTS, mustTS(fmt.Sprintf("192.168.%d.0/25", i))...)
				c.Children[0].RemoteTS = append(c.Children[0].RemoteTS, mustTS(fmt.Sprintf("192.168.%d.0/25", i))...)
			}
		default:
			t.Fatalf("unknown key %q", a.Key)
		}
	}
}

// authenticateByCertificates gives both ends certificates, and this one as many in
// its chain as asked for: the more, the longer IKE_AUTH.
func authenticateByCertificates(c *Config, name, number string) {
	ca := storyAuthority()
	withCertificates(ca)(c, &Config{})
	if name == "b" {
		withCertificates(ca)(&Config{}, c)
	}
	n, _ := strconv.Atoi(number)
	for range n - 1 {
		c.Credentials.Chain = append(c.Credentials.Chain, ca.credentials("extra.example").Chain...)
	}
}

var storyAuthority = sync.OnceValue(func() *authority { return newAuthority("Story CA", newEd25519) })

func configureTiming(t testing.TB, timing *Timing, key, v string) {
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	switch key {
	case "rekey-child":
		timing.RekeyChild = d
	case "rekey-ike":
		timing.RekeyIKE = d
	case "reauth":
		timing.Reauth = d
	case "dpd":
		timing.DPD = d
	case "silence":
		timing.Silence = d
	case "pathmtu":
		timing.PathMTU = d
	case "patience":
		timing.Patience = d
	case "keepalive":
		timing.KeepAlive = d
	case "overtime":
		timing.OverTime = d
	case "retransmit":
		timing.RetransmitBase = d
	case "takeover":
		timing.TakeOver = d
	case "eager":
		timing.Eager = d
	case "reconnect-max":
		timing.ReconnectMax = d
	case "half-open":
		timing.HalfOpen = d
	}
}

func mustFloat(v string) float64 {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		panic(err)
	}
	return f
}
