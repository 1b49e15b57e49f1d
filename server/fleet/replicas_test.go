package fleet_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/fleet"
)

// peer is a replica as its fleet sees it.
type peer struct {
	name    string
	fleet   *fleet.Fleet
	journal *journal
	leads   bool
	// seen is how far it has followed each other one.
	seen map[string]uint64
}

func newPeers(n int) []*peer {
	var peers []*peer
	for i := range n {
		p := &peer{name: fmt.Sprintf("replicas/%c", 'a'+i), journal: &journal{}, seen: map[string]uint64{}}
		rec := fleet.NewRecorder(p.journal, slog.New(slog.DiscardHandler))
		p.fleet = fleet.New(fleet.Config{Recorder: rec, Leads: func() bool { return p.leads }})
		peers = append(peers, p)
	}
	peers[0].leads = true
	return peers
}

// run runs what the fleets do by themselves, until the test ends.
func run(t *testing.T, peers []*peer) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, p := range peers {
		rec := fleet.NewRecorder(p.journal, slog.New(slog.DiscardHandler))
		p.fleet = fleet.New(fleet.Config{Recorder: rec, Leads: func() bool { return p.leads }})
		wg.Go(func() { _ = rec.Run(ctx) })
		wg.Go(func() { _ = p.fleet.Run(ctx) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// follow takes in what changed at other since the last time.
func (p *peer) follow(other *peer) {
	share, seq := other.fleet.ShareSince(p.seen[other.name], -1)
	p.seen[other.name] = seq
	for _, over := range p.fleet.Adopt(other.name, share) {
		p.fleet.Disconnect(over.Edge, over.Session, "replaced")
	}
}

func followAll(peers []*peer) {
	for _, p := range peers {
		for _, other := range peers {
			if p != other {
				p.follow(other)
			}
		}
	}
}

func (p *peer) status() (swanherdv1.TunnelStatus, string) {
	v, _ := p.fleet.Tunnel(tunnel)
	return v.GetStatus(), v.GetReason()
}

func TestReplicasSeeOneFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := newPeers(3)
		run(t, peers)
		a, b, c := peers[0], peers[1], peers[2]
		// a learns of the edges only after the others spoke of them.
		b.fleet.Apply(topology())
		c.fleet.Apply(topology())
		b.fleet.Connect(berlin, fleet.SessionStart{ID: "1"})
		c.fleet.Connect(oslo, fleet.SessionStart{ID: "2"})
		b.fleet.Report(berlin, report(up, ""))
		c.fleet.Report(oslo, report(up, ""))
		followAll(peers)
		a.fleet.Apply(topology())
		for _, p := range peers {
			if got, why := p.status(); got != swanherdv1.TunnelStatus_TUNNEL_STATUS_UP {
				t.Errorf("%s: the tunnel is %v, %s", p.name, got, why)
			}
			if n := p.fleet.Counts("networks/demo").GetEdgesConnected(); n != 2 {
				t.Errorf("%s: %d edges are connected", p.name, n)
			}
		}

		// One end fails: everybody sees it, the home of the first end records it.
		c.fleet.Report(oslo, report(failed, "AUTHENTICATION_FAILED"))
		followAll(peers)
		synctest.Wait()
		for _, p := range peers {
			if got, _ := p.status(); got != swanherdv1.TunnelStatus_TUNNEL_STATUS_DEGRADED {
				t.Errorf("%s: the tunnel is %v", p.name, got)
			}
		}
		for p, want := range map[*peer]string{a: "", b: "edge.connect tunnel.degraded", c: "edge.connect"} {
			if got := p.journal.actions(); got != want {
				t.Errorf("%s recorded %q, want %q", p.name, got, want)
			}
		}
		// What changes nothing costs nothing.
		followAll(peers)
		for _, p := range peers {
			for _, other := range peers {
				if share, _ := other.fleet.ShareSince(p.seen[other.name], -1); p != other && len(share.Edges)+len(share.Ends) > 0 {
					t.Errorf("%s tells %s of %d edges and %d ends again", other.name, p.name, len(share.Edges), len(share.Ends))
				}
			}
		}
	})
}

// An edge that opens a session at another replica has it there, also when the old one
// has not noticed yet.
func TestEdgeMovesToAnotherReplica(t *testing.T) {
	peers := newPeers(2)
	a, b := peers[0], peers[1]
	for _, p := range peers {
		p.fleet.Apply(topology())
	}
	a.fleet.Connect(berlin, fleet.SessionStart{ID: "1"})
	followAll(peers)
	b.fleet.Connect(berlin, fleet.SessionStart{ID: "2"})
	share, _ := b.fleet.ShareSince(0, -1)
	over := a.fleet.Adopt(b.name, share)
	if len(over) != 1 || over[0] != (fleet.Superseded{Edge: berlin, Session: "1"}) {
		t.Fatalf("sessions that are over: %v", over)
	}
	// The old session ends late, and what a says of it says nothing.
	a.fleet.Disconnect(berlin, "1", "replaced")
	followAll(peers)
	for _, p := range peers {
		if !p.fleet.EdgeStatus(berlin).GetConnected() {
			t.Errorf("%s: the edge counts as not connected", p.name)
		}
	}
	// a's clock stands behind b's: coming back to it still is the newest session.
	a.fleet.Connect(berlin, fleet.SessionStart{ID: "3"})
	share, _ = a.fleet.ShareSince(0, -1)
	if over := b.fleet.Adopt(a.name, share); len(over) != 1 || over[0].Session != "2" {
		t.Errorf("sessions that are over: %v", over)
	}
}

// A replica that cannot be followed but lives tells nothing about its edges: their
// tunnels are stale, and nothing is recorded. When it is gone, the leader records what
// did not come back.
func TestUnreachableReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := newPeers(2)
		run(t, peers)
		a, b := peers[0], peers[1]
		for _, p := range peers {
			p.fleet.Apply(topology())
		}
		a.fleet.Connect(oslo, fleet.SessionStart{ID: "1"})
		b.fleet.Connect(berlin, fleet.SessionStart{ID: "2"})
		a.fleet.Report(oslo, report(up, ""))
		b.fleet.Report(berlin, report(up, ""))
		followAll(peers)
		synctest.Wait()
		before := a.journal.actions()

		if c := a.fleet.Changes(0); len(c.Edges) != 2 || len(c.Unreachable) != 0 {
			t.Errorf("of %d edges it is unknown what becomes of %v", len(c.Edges), c.Unreachable)
		}
		if seen, other := a.fleet.Seen(), b.fleet.Seen(); len(seen)+len(other) != 1 {
			t.Errorf("%d replicas keep the history of one tunnel", len(seen)+len(other))
		}
		a.fleet.Unreachable(b.name)
		if c := a.fleet.Changes(0); len(c.Unreachable) != 1 {
			t.Errorf("of the edge whose replica cannot be reached it is known what becomes of it: %v", c.Unreachable)
		} else if _, ok := c.Unreachable[berlin]; !ok {
			t.Errorf("%v cannot be reached, want %s", c.Unreachable, berlin)
		}
		if got, why := a.status(); got != swanherdv1.TunnelStatus_TUNNEL_STATUS_UP {
			t.Errorf("at once the tunnel is %v: %s", got, why)
		}
		time.Sleep(fleet.DefaultStaleAfter + 2*time.Second)
		synctest.Wait()
		got, why := a.status()
		if got != swanherdv1.TunnelStatus_TUNNEL_STATUS_STALE || !strings.Contains(why, "cannot be reached, b") {
			t.Errorf("the tunnel is %v: %s", got, why)
		}
		if now := a.journal.actions(); now != before {
			t.Errorf("recorded %q of what cannot be seen", strings.TrimPrefix(now, before))
		}

		// It can be followed again: as it was, and no transition.
		a.seen = map[string]uint64{}
		a.follow(b)
		synctest.Wait()
		if got, why := a.status(); got != swanherdv1.TunnelStatus_TUNNEL_STATUS_UP || a.journal.actions() != before {
			t.Errorf("the tunnel is %v: %s; recorded %q", got, why, a.journal.actions())
		}

		// It is gone: its edges have as long to come to another as if it had been reached.
		a.fleet.Unreachable(b.name)
		time.Sleep(fleet.DefaultStaleAfter + 2*time.Second)
		a.fleet.Gone(b.name)
		time.Sleep(fleet.DefaultStaleAfter - 2*time.Second)
		synctest.Wait()
		if now := a.journal.actions(); now != before {
			t.Errorf("recorded %q of an edge that may come yet", strings.TrimPrefix(now, before))
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if now := strings.TrimPrefix(a.journal.actions(), before); now != " edge.disconnect tunnel.stale" {
			t.Errorf("after the replica is gone recorded %q", now)
		}
	})
}

// Whatever edges do at whichever replica, and however late replicas hear of it: once
// they have heard everything they agree.
func TestReplicasConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peers := newPeers(3)
		for _, p := range peers {
			p.fleet.Apply(topology())
		}
		sessions := map[string]int{} // edge → number of its newest session
		homes := map[string]*peer{}
		edge := rapid.SampledFrom([]string{berlin, oslo})
		at := rapid.SampledFrom(peers)
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				e, p := edge.Draw(t, "edge"), at.Draw(t, "replica")
				sessions[e]++
				homes[e] = p
				p.fleet.Connect(e, fleet.SessionStart{ID: fmt.Sprint(sessions[e])})
			},
			"disconnect": func(t *rapid.T) {
				if e := edge.Draw(t, "edge"); homes[e] != nil {
					homes[e].fleet.Disconnect(e, fmt.Sprint(sessions[e]), "")
				}
			},
			"report": func(t *rapid.T) {
				if e := edge.Draw(t, "edge"); homes[e] != nil && homes[e].fleet.EdgeStatus(e).GetConnected() {
					r := report(rapid.SampledFrom([]swanherdv1.TunnelState{up, failed, connecting}).Draw(t, "state"), "")
					r.Full = rapid.Bool().Draw(t, "full")
					homes[e].fleet.Report(e, r)
				}
			},
			"follow": func(t *rapid.T) {
				if p, other := at.Draw(t, "replica"), at.Draw(t, "other"); p != other {
					p.follow(other)
				}
			},
			"lose": func(t *rapid.T) {
				if p, other := at.Draw(t, "replica"), at.Draw(t, "other"); p != other {
					p.fleet.Unreachable(other.name)
					p.seen[other.name] = 0
				}
			},
		})
		for e, home := range homes { // as each edge does when its session begins
			r := report(up, "")
			r.Full = true
			home.fleet.Report(e, r)
		}
		followAll(peers)
		followAll(peers)
		want, _ := peers[0].fleet.Tunnel(tunnel)
		for _, p := range peers {
			have, _ := p.fleet.Tunnel(tunnel)
			for _, pair := range [][2]*swanherdv1.TunnelEnd{{want.GetA(), have.GetA()}, {want.GetB(), have.GetB()}} {
				if !proto.Equal(pair[0].GetReport(), pair[1].GetReport()) || pair[0].GetStale() != pair[1].GetStale() {
					t.Errorf("%s has of %s %v, %s has %v", peers[0].name, pair[0].GetEdge(), pair[0], p.name, pair[1])
				}
			}
			for e, home := range homes {
				if got, want := p.fleet.EdgeStatus(e).GetConnected(), home.fleet.EdgeStatus(e).GetConnected(); got != want {
					t.Errorf("%s says that %s is connected: %v, its home %v", p.name, e, got, want)
				}
			}
		}
	})
}

// What an edge confirmed at a replica that ended before it wrote that down is written down by
// the one that the edge comes to: who waits for what edges confirmed looks there.
func TestConfirmedRevisionIsWrittenDownByWhoeverHasTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := newPeers(2)
		run(t, peers)
		ends, stays := peers[0], peers[1]
		for _, p := range peers {
			p.fleet.Apply(topology())
		}
		confirmed := func(p *peer, revision int64) {
			p.fleet.SetIntent(berlin, fleet.IntentProgress{
				PlannedRevision: revision, AppliedRevision: revision, State: swanherdv1.IntentState_INTENT_STATE_CONFIRMED,
			})
		}
		ends.fleet.Connect(berlin, fleet.SessionStart{ID: "1"})
		confirmed(ends, 5)
		followAll(peers)
		confirmed(ends, 7) // and nobody heard of it
		stays.fleet.Connect(berlin, fleet.SessionStart{ID: "2"})
		confirmed(stays, 7)
		synctest.Wait()
		written := stays.journal.record.Statuses
		if n := len(written); n == 0 || written[n-1].GetStatus().GetAppliedRevision() != 7 {
			t.Errorf("written down is %v", written)
		}
		before := len(written)
		confirmed(stays, 7)
		synctest.Wait()
		if n := len(stays.journal.record.Statuses); n != before {
			t.Errorf("%d statuses are written for nothing new", n-before)
		}
	})
}
