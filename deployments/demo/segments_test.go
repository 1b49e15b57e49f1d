package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swanherd/swanherd/deployments/lab"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// TestSegmentsNetns has two sites with two segments beside the default one, and the same
// prefixes in each. Hosts say the name of their own segment all the time, and whoever has a
// LAN or the WAN listens: in each LAN there is only what is of its segment, and on the WAN
// nothing in clear, whatever becomes of tunnels and agents.
func TestSegmentsNetns(t *testing.T) {
	lab.Require(t, "ip")
	s := newSegmentsTest(t)
	defer s.speak()()
	s.await("each segment to be heard at the other end", s.allHeard)

	for _, segment := range []string{"corp", "iot"} {
		s.explained(segment, true)
		if _, err := s.fleet.RekeyTunnel(s.ctx, &swanherdv1.RekeyTunnelRequest{Name: network + "/tunnels/berlin--oslo." + segment}); err != nil {
			t.Fatal(err)
		}
	}
	s.hearAnew()
	s.await("each segment to be heard after rekeying", s.allHeard)

	// A segment without a tunnel.
	s.manifest.Sites[1].Segments = s.manifest.Sites[1].GetSegments()[:1] // corp
	s.apply()
	s.await("the tunnel of a segment to go", func() bool { return len(s.tunnels()) == 2 })
	s.explained("iot", false)
	s.await("the segment to fall silent, and no other", func() bool {
		s.hearAnew()
		s.saidMore(20)
		return !s.heard("oslo", "iot", 1) && s.heard("oslo", "", 10) && s.heard("oslo", "corp", 10)
	})

	// No end is there, then one that has no SA.
	s.kill("oslo")
	s.kill("berlin")
	s.saidMore(20)
	if err := s.runEdge(s.site("berlin"), s.options["berlin"]...); err != nil {
		t.Fatal(err)
	}
	s.await("the agent to lead what is of a segment into its tunnel", func() bool {
		out, err := s.inside["berlin corp"].Run(s.ctx, "ip", "route", "get", "10.2.0.2")
		return err == nil && strings.Contains(out, "dev swan0")
	})
	s.saidMore(20)
	s.kill("berlin")

	// An agent that is not told where a segment is does not run what it would mix.
	if err := s.runEdge(s.site("berlin")); err != nil {
		t.Fatal(err)
	}
	s.await("the intent to be refused", func() bool {
		b, err := os.ReadFile(filepath.Join(s.dir, "berlin.log"))
		return err == nil && strings.Contains(string(b), "segment corp has no place on this edge")
	})
	s.saidMore(20)
}

type segmentsTest struct {
	*fleetTest
	manifest *swanherdv1.Manifest
	lans     []*segmentLAN
	options  map[string][]string       // of agents, by the site
	inside   map[string]*lab.Namespace // of segments at their edges, by site and segment
	wan      *eavesdropper
}

// segmentLAN is a host in the LAN of one site and segment.
type segmentLAN struct {
	site, segment string
	host          *lab.Namespace
	ears          *eavesdropper
	word          string
	said          int
}

var segmentIDs = []string{"", "corp", "iot"}

func segmentsManifest() *swanherdv1.Manifest {
	m := &swanherdv1.Manifest{
		Networks: []*swanherdv1.Network{{Name: network}},
		Profiles: []*swanherdv1.Profile{{Name: network + "/profiles/default"}},
		Meshes: []*swanherdv1.Mesh{{
			Name: network + "/meshes/all", Profile: network + "/profiles/default",
			Topology: &swanherdv1.Mesh_FullMesh{FullMesh: &swanherdv1.FullMesh{Sites: &swanherdv1.SiteSelector{All: true}}},
		}},
	}
	for i, name := range []string{"berlin", "oslo"} {
		s := &swanherdv1.Site{Name: network + "/sites/" + name, Prefixes: []string{fmt.Sprintf("10.%d.0.0/24", i+1)}}
		for _, id := range segmentIDs[1:] {
			s.Segments = append(s.Segments, &swanherdv1.SiteSegment{Segment: network + "/segments/" + id, Prefixes: s.GetPrefixes()})
		}
		m.Sites = append(m.Sites, s)
	}
	for _, id := range segmentIDs[1:] {
		m.Segments = append(m.Segments, &swanherdv1.Segment{Name: network + "/segments/" + id})
	}
	return m
}

func newSegmentsTest(t *testing.T) *segmentsTest {
	t.Helper()
	s := &segmentsTest{fleetTest: newTest(t, options{}, 4*time.Minute), manifest: segmentsManifest(), options: map[string][]string{}, inside: map[string]*lab.Namespace{}}
	d, ctx := s.demo, s.ctx
	var err error
	if d.world, err = newWorld(s.manifest.GetSites(), ""); err != nil {
		t.Fatal(err)
	}
	if err := d.startController(ctx); err != nil {
		t.Fatal(err)
	}
	s.apply()
	for _, at := range d.world.sites {
		s.addSite(at)
	}
	s.wan = s.eavesdrop(d.world.wan)
	if _, err := d.awaitTunnels(ctx, 3); err != nil {
		t.Fatal(err)
	}
	return s
}

// kill ends the agent of a site at once.
func (s *segmentsTest) kill(name string) {
	at := s.site(name)
	at.agent.Kill()
	<-at.agent.Done()
	at.agent = nil
}

func (s *segmentsTest) apply() {
	s.Helper()
	if _, err := s.topology.Apply(s.ctx, &swanherdv1.ApplyRequest{Manifest: s.manifest}); err != nil {
		s.Fatal(err)
	}
}

// addSite gives a site the LANs of its segments, each in a namespace, and starts its agent.
func (s *segmentsTest) addSite(at *site) {
	s.Helper()
	gateway := netip.PrefixFrom(at.lanAddr4.Prev(), 24)
	args := []string{}
	for _, id := range segmentIDs {
		lan := &segmentLAN{site: at.name, segment: id, host: at.lan, word: fmt.Sprintf("<%s of %s>", id, at.name)}
		if id != "" {
			inside, err := s.world.net.Add(at.name + "-" + id)
			if err == nil {
				lan.host, err = s.world.net.Add(at.name + "-" + id + "-lan")
			}
			if err == nil {
				err = s.world.net.Link(
					lab.End{Host: inside, Interface: "lan0", Addresses: []netip.Prefix{gateway}},
					lab.End{Host: lan.host, Interface: "eth0", Addresses: []netip.Prefix{netip.PrefixFrom(at.lanAddr4, 24)}})
			}
			if err == nil {
				err = lan.host.Route(netip.MustParsePrefix("0.0.0.0/0"), gateway.Addr())
			}
			if err != nil {
				s.Fatal(err)
			}
			s.inside[at.name+" "+id] = inside
			args = append(args, "--segment", "name="+id+",netns="+inside.Path())
		}
		lan.ears = s.eavesdrop(lan.host)
		s.lans = append(s.lans, lan)
	}
	token, err := s.access.CreateEnrollmentToken(s.ctx, &swanherdv1.CreateEnrollmentTokenRequest{
		Parent: network, EnrollmentToken: &swanherdv1.EnrollmentToken{Site: network + "/sites/" + at.name},
	})
	if err == nil {
		s.options[at.name] = args
		err = s.runEdge(at, append(slices.Clone(args), "--token", token.GetSecret())...)
	}
	if err != nil {
		s.Fatal(err)
	}
}

// eavesdropper hears what passes a host.
type eavesdropper struct {
	mu     sync.Mutex
	frames [][]byte // that have words in them
}

// eavesdrop listens at all interfaces of a host, to what comes.
func (s *segmentsTest) eavesdrop(ns *lab.Namespace) *eavesdropper {
	s.Helper()
	e := &eavesdropper{}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	var file *os.File
	err := ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		if err == nil {
			file = os.NewFile(uintptr(fd), "eavesdropper")
		}
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { file.Close() })
	go e.listen(file)
	return e
}

func (e *eavesdropper) listen(file *os.File) {
	conn, err := file.SyscallConn()
	b := make([]byte, 65536)
	for err == nil {
		var n int
		var from unix.Sockaddr
		var failed error
		err = conn.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		ll, _ := from.(*unix.SockaddrLinklayer)
		if err != nil || failed != nil || ll == nil || ll.Pkttype == unix.PACKET_OUTGOING || !bytes.Contains(b[:n], []byte(" of ")) {
			continue
		}
		e.mu.Lock()
		e.frames = append(e.frames, bytes.Clone(b[:n]))
		e.mu.Unlock()
	}
}

// count is how often it heard a word, and what else it heard.
func (e *eavesdropper) count(word string) (n int, others []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, f := range e.frames {
		if bytes.Contains(f, []byte(word)) {
			n++
		} else {
			others = append(others, fmt.Sprintf("%q", f[max(0, len(f)-24):]))
		}
	}
	return n, others
}

// speak has each host say its word to the host of the other site, until it is stopped.
// Then it is seen who heard what was not for it.
func (s *segmentsTest) speak() (stop func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	var speakers sync.WaitGroup
	for _, lan := range s.lans {
		var c net.Conn
		err := lan.host.Do(func() (err error) {
			to := s.world.sites[0].lanAddr4
			if lan.site == s.world.sites[0].name {
				to = s.world.sites[1].lanAddr4
			}
			c, err = net.Dial("udp", netip.AddrPortFrom(to, 9).String())
			return err
		})
		if err != nil {
			s.Fatal(err)
		}
		speakers.Go(func() {
			defer c.Close()
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				c.Write([]byte(lan.word)) // the host may say that nobody listens at that port
				lan.ears.mu.Lock()
				lan.said++
				lan.ears.mu.Unlock()
			}
		})
	}
	return func() {
		cancel()
		speakers.Wait()
		for _, lan := range s.lans {
			// What the peer's host says to it comes back to it too, that nobody listens.
			if _, others := lan.ears.count("<" + lan.segment + " of "); len(others) > 0 {
				s.Errorf("in segment %q at %s there were %d packets that are not for it, such as %s", lan.segment, lan.site, len(others), others[0])
			}
		}
		if _, all := s.wan.count("nothing of it"); len(all) > 0 {
			s.Errorf("on the WAN there were %d packets in clear, such as %s", len(all), all[0])
		}
	}
}

func (s *segmentsTest) peer(of *segmentLAN) *segmentLAN {
	i := slices.IndexFunc(s.lans, func(x *segmentLAN) bool { return x.segment == of.segment && x.site != of.site })
	return s.lans[i]
}

func (s *segmentsTest) lan(site, segment string) *segmentLAN {
	return s.lans[slices.IndexFunc(s.lans, func(x *segmentLAN) bool { return x.segment == segment && x.site == site })]
}

// heard says whether the LAN heard so much of the other site's.
func (s *segmentsTest) heard(site, segment string, n int) bool {
	lan := s.lan(site, segment)
	got, _ := lan.ears.count(s.peer(lan).word)
	return got >= n
}

func (s *segmentsTest) allHeard() bool {
	for _, lan := range s.lans {
		if !s.heard(lan.site, lan.segment, 5) {
			return false
		}
	}
	return true
}

// hearAnew forgets what was heard that was for who heard it.
func (s *segmentsTest) hearAnew() {
	for _, lan := range s.lans {
		word := []byte(s.peer(lan).word)
		lan.ears.mu.Lock()
		lan.ears.frames = slices.DeleteFunc(lan.ears.frames, func(f []byte) bool { return bytes.Contains(f, word) })
		lan.ears.mu.Unlock()
	}
}

// saidMore waits until each host has said so much more.
func (s *segmentsTest) saidMore(n int) {
	s.Helper()
	said := func(lan *segmentLAN) int {
		lan.ears.mu.Lock()
		defer lan.ears.mu.Unlock()
		return lan.said
	}
	for _, lan := range s.lans {
		before := said(lan)
		s.await("hosts to speak", func() bool { return said(lan) >= before+n })
	}
}

// explained wants to be told that the two sites are connected in a segment, or are not.
func (s *segmentsTest) explained(segment string, want bool) {
	s.Helper()
	e, err := s.topology.Explain(s.ctx, &swanherdv1.ExplainRequest{
		Parent: network, Source: "10.1.0.2", Destination: "10.2.0.2", Segment: network + "/segments/" + segment,
	})
	if err != nil {
		s.Fatal(err)
	}
	if e.GetReachable() != want {
		s.Errorf("in segment %s it is explained: %v, %s", segment, e.GetReachable(), e.GetReason())
	}
	for _, h := range e.GetHops() {
		if !strings.HasSuffix(h.GetTunnel(), "."+segment) {
			s.Errorf("in segment %s the way is over %s", segment, h.GetTunnel())
		}
	}
}
