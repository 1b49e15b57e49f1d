package lab_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/swanherd/swanherd/ipsec/ike"
	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// rekeyChild has one end rekey the Child SA.
func rekeyChild(by side) step {
	return step{fmt.Sprintf("rekey of the Child SA by %v", by), func(x *run) {
		mark := x.gateway.events.mark()
		name := x.children[0]
		if by == ours {
			x.must(x.gateway.engine.RekeyChild("theirs", name))
		} else {
			x.must(x.peer.rekeyChild(x.ctx, name))
		}
		awaitEvent[ike.ChildRekeyed](x, mark, "the Child SA to be rekeyed", nil)
		x.settle("one Child SA after rekeying")
	}}
}

// rekeyIKE has one end rekey the IKE SA.
func rekeyIKE(by side) step {
	return step{fmt.Sprintf("rekey of the IKE SA by %v", by), func(x *run) {
		mark := x.gateway.events.mark()
		if by == ours {
			x.must(x.gateway.engine.RekeyIKE("theirs"))
		} else {
			x.must(x.peer.rekeyIKE(x.ctx))
		}
		awaitEvent[ike.IKERekeyed](x, mark, "the IKE SA to be rekeyed", nil)
		x.settle("one IKE SA after rekeying")
	}}
}

// What an end can begin.
type act int

const (
	nothing act = iota
	rekeysChild
	rekeysIKE
)

func (a act) String() string {
	return [...]string{"nothing", "rekey of the Child SA", "rekey of the IKE SA"}[a]
}

// crossing has both ends begin, and their requests cross on the wire (RFC 7296,
// Sections 2.8.1, 2.8.2 and 2.25).
func crossing(our, their act) step {
	return step{fmt.Sprintf("%v by ours across %v by theirs", our, their), func(x *run) {
		mark := x.gateway.events.mark()
		x.cable.holdUp(ours, theirs)
		answered := x.begin(func(ctx context.Context) error { return x.theirAct(ctx, their) })
		x.ourAct(our)
		x.await("both requests to be on the wire", func() (bool, string) {
			return x.cable.has(ours) > 0 && x.cable.has(theirs) > 0, fmt.Sprintf("%d of ours, %d of theirs", x.cable.has(ours), x.cable.has(theirs))
		})
		x.cable.release()
		<-answered
		// One of the two may be refused for now (TEMPORARY_FAILURE).
		x.awaitAny(mark, "something to come of it", func(ev any) bool {
			switch ev.(type) {
			case ike.ChildRekeyed, ike.IKERekeyed:
				return true
			}
			return false
		})
		x.settle("one of each after crossing requests")
	}}
}

func (x *run) ourAct(a act) {
	switch a {
	case rekeysChild:
		x.must(x.gateway.engine.RekeyChild("theirs", x.children[0]))
	case rekeysIKE:
		x.must(x.gateway.engine.RekeyIKE("theirs"))
	default:
		x.t.Fatalf("our end does not know %v", a)
	}
}

func (x *run) theirAct(ctx context.Context, a act) error {
	switch a {
	case rekeysChild:
		return x.peer.rekeyChild(ctx, x.children[0])
	case rekeysIKE:
		return x.peer.rekeyIKE(ctx)
	default:
		return fmt.Errorf("their end does not know %v", a)
	}
}

// begin runs a command that waits for the other end.
func (x *run) begin(command func(context.Context) error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- command(x.ctx) }()
	return result
}

// theirLog wants words in the peer's log, each at least once.
func theirLog(words ...string) step {
	return step{"their log", func(x *run) {
		for _, w := range words {
			x.await("their log to say "+w, func() (bool, string) {
				return strings.Contains(x.peer.log(), w), "not said"
			})
		}
	}}
}

// closeIKE has one end delete the IKE SA, and then the tunnel made again.
func closeIKE(by side) step {
	return step{fmt.Sprintf("delete of the IKE SA by %v", by), func(x *run) {
		mark := x.gateway.events.mark()
		if by == ours {
			x.must(x.gateway.apply())
			awaitEvent[ike.Closed](x, mark, "our tunnel to be closed", nil)
			x.await("their SAs to go", func() (bool, string) {
				far, err := x.peer.sas(x.ctx)
				return err == nil && far.ike == 0 && len(far.children) == 0, fmt.Sprintf("%+v, %v", far, err)
			})
			x.must(x.gateway.apply(x.config))
		} else {
			x.must(x.peer.closeIKE(x.ctx))
			awaitEvent(x, mark, "our IKE SA to go", func(ev ike.IKEDown) bool { return ev.Reason == ike.ReasonDeletedByPeer })
		}
		x.again()
	}}
}

// again begins the tunnel anew where that is theirs to do, and waits for it. A
// peer that is about to drop its old IKE SA may still put the Child SA on that
// one, and begin by itself when it has noticed.
func (x *run) again() {
	if x.initiates == theirs {
		x.await("the peer to begin again", func() (bool, string) {
			err := x.peer.initiate(x.ctx)
			if err == nil {
				return true, ""
			}
			far, _ := x.peer.sas(x.ctx)
			return len(far.children) == x.childCount, err.Error()
		})
	}
	x.settle("the tunnel to come up again")
}

// closeChild has one end delete the last child alone. We take it out of our
// configuration; what they delete is made again.
func closeChild(by side) step {
	return step{fmt.Sprintf("delete of a Child SA by %v", by), func(x *run) {
		mark := x.gateway.events.mark()
		last := x.children[len(x.children)-1]
		want := ike.ReasonDeletedByPeer
		if by == ours {
			want = ike.ReasonReconfigured
			x.config.Children = x.config.Children[:len(x.config.Children)-1]
			x.childCount--
			x.must(x.gateway.apply(x.config))
		} else {
			x.must(x.peer.closeChild(x.ctx, last))
		}
		awaitEvent(x, mark, "our Child SA to go", func(ev ike.ChildDown) bool { return ev.SA.Name == last && ev.Reason == want })
		x.settle("the Child SAs that should be")
	}}
}

// killPeer ends the peer without a word, and starts it again when we have
// noticed.
func killPeer() step {
	return step{"death of the peer", func(x *run) {
		mark := x.gateway.events.mark()
		x.peer.kill()
		awaitEvent(x, mark, "our IKE SA to go", func(ev ike.IKEDown) bool { return ev.Reason == ike.ReasonPeerDead })
		x.peer.start()
		x.again()
	}}
}

// restartPeer ends the peer without a word and starts it at once; what it then
// begins replaces what we have (INITIAL_CONTACT, RFC 7296, Section 2.4).
func restartPeer() step {
	return step{"restart of the peer", func(x *run) {
		mark := x.gateway.events.mark()
		x.peer.kill()
		x.peer.start()
		x.must(x.peer.initiate(x.ctx))
		awaitEvent(x, mark, "our IKE SA to go", func(ev ike.IKEDown) bool { return ev.Reason == ike.ReasonPeerRestarted })
		x.settle("the tunnel to come up again")
	}}
}

// restartOurs ends our engine without a word and starts another, whose IKE SA
// replaces what the peer has.
func restartOurs() step {
	return step{"restart of ours", func(x *run) {
		unblock := x.block()
		x.gateway.stop()
		unblock()
		x.startOurs()
		x.must(x.gateway.apply(x.config))
		x.again()
	}}
}

// cutLink lets nothing pass until both ends have noticed.
func cutLink() step {
	return step{"cut of the link", func(x *run) {
		mark := x.gateway.events.mark()
		unblock := x.block()
		awaitEvent(x, mark, "our IKE SA to go", func(ev ike.IKEDown) bool { return ev.Reason == ike.ReasonPeerDead })
		x.await("their SAs to go", func() (bool, string) {
			far, err := x.peer.sas(x.ctx)
			return err == nil && far.ike == 0 && len(far.children) == 0, fmt.Sprintf("%+v, %v", far, err)
		})
		unblock()
		x.again()
	}}
}

// ikeRekeyed waits for the IKE SA to be rekeyed by itself, times times.
func ikeRekeyed(times int) step {
	return step{"rekeys of the IKE SA by itself", func(x *run) {
		for range times {
			mark := x.gateway.events.mark()
			awaitEvent[ike.IKERekeyed](x, mark, "the IKE SA to be rekeyed", nil)
		}
	}}
}

// ikeUp waits for new IKE SAs that replace none by rekeying, times times.
func ikeUp(times int) step {
	return step{"new IKE SAs", func(x *run) {
		for range times {
			mark := x.gateway.events.mark()
			awaitEvent[ike.IKEUp](x, mark, "a new IKE SA", nil)
		}
		x.settle("one IKE SA and one Child SA")
	}}
}

// reauthenticate has our end begin anew, and the old IKE SA go when the new one is
// there.
func reauthenticate() step {
	return step{"reauthentication by ours", func(x *run) {
		mark := x.gateway.events.mark()
		x.must(x.gateway.engine.Reauthenticate("theirs"))
		awaitEvent[ike.IKEUp](x, mark, "a new IKE SA", nil)
		awaitEvent[ike.IKEDown](x, mark, "the old IKE SA to go", nil)
		x.settle("one IKE SA and one Child SA")
	}}
}

// childRekeyed waits for the Child SA to be rekeyed by itself, times times.
func childRekeyed(times int) step {
	return step{"rekeys of the Child SA by itself", func(x *run) {
		for range times {
			mark := x.gateway.events.mark()
			awaitEvent[ike.ChildRekeyed](x, mark, "the Child SA to be rekeyed", nil)
		}
	}}
}

// awaitAny waits for an event of any kind.
func (x *run) awaitAny(mark int, what string, match func(any) bool) {
	x.t.Helper()
	for {
		events, more := x.gateway.events.since(mark)
		for _, ev := range events {
			if match(ev.What) {
				return
			}
		}
		select {
		case <-more:
		case <-x.ctx.Done():
			x.t.Fatalf("waited in vain for %s; events since: %+v", what, events)
		}
	}
}

// halfOpen begins handshakes with the peer that nobody goes on with, so that it
// demands cookies from the next.
func halfOpen(n int) step {
	return step{"half-open handshakes", func(x *run) {
		ke, err := suite.NewKeyExchange(wire.KeyExchangeCurve25519, rand.Reader)
		x.must(err)
		for i := range n {
			m := wire.Message{
				Header: wire.Header{InitiatorSPI: wire.SPI{0: 1, 7: byte(i)}, Major: 2, Exchange: wire.ExchangeIKESAInit, Flags: wire.FlagInitiator},
				Payloads: []wire.Payload{
					&wire.SA{Proposals: suite.OfferIKE([]suite.IKEProposal{x.parseIKE(x.theirIKE)}, nil)},
					&wire.KE{Group: ke.Group(), Data: ke.Public()},
					&wire.Nonce{Data: make([]byte, 32)},
				},
			}
			b, err := m.Append(nil)
			x.must(err)
			x.exchange(b)
		}
	}}
}

// exchange sends a datagram to the peer's port 500 and waits for an answer.
func (x *run) exchange(b []byte) {
	x.must(x.hosts["ours"].Do(func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(x.addr[theirs], 500).String())
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err = c.Read(make([]byte, 2048))
		return err
	}))
}

// initiateTogether has both ends begin at once.
func initiateTogether() step {
	return step{"crossing initiations", func(x *run) {
		x.cable.holdUp(ours, theirs)
		x.must(x.gateway.apply(x.config))
		answered := x.begin(x.peer.initiate)
		x.await("both ends to begin", func() (bool, string) {
			return x.cable.has(ours) > 0 && x.cable.has(theirs) > 0, "not begun"
		})
		x.cable.release()
		<-answered
	}}
}

// selectors wants the selectors of the Child SA to be these.
func selectors(local, remote string) step {
	return step{"selectors", func(x *run) {
		for _, c := range x.gateway.tunnel().Children {
			if got := fmt.Sprint(c.LocalTS, c.RemoteTS); got != fmt.Sprintf("[%s] [%s]", local, remote) {
				x.t.Errorf("the selectors are %s, want [%s] [%s]", got, local, remote)
			}
		}
	}}
}

// sendTraffic has a host behind ours send until something comes back: the
// first packets ask for the Child SA.
func sendTraffic() step {
	return step{"traffic that wants a Child SA", func(x *run) {
		x.must(x.gateway.apply(x.config))
		l := lans[x.children[0]]
		x.await("a ping", func() (bool, string) {
			_, err := x.hosts["our-lan"].Ping(x.ctx, lanHost(l.ours), lanHost(l.theirs), 1)
			return err == nil, fmt.Sprint(err)
		})
	}}
}

// internal wants one end to have been given this address and name server.
func internal(address, dns string) step {
	return step{"internal configuration", func(x *run) {
		for _, sa := range x.gateway.tunnel().IKE {
			if sa.Internal == nil || fmt.Sprint(sa.Internal.Addresses, sa.Internal.DNS) != fmt.Sprintf("[%s] [%s]", address, dns) {
				x.t.Errorf("the internal configuration is %+v, want address %s and name server %s", sa.Internal, address, dns)
			}
		}
	}}
}

// peerInside has a route lead the peer's own address into our interface, as one to all
// addresses does: only what our gateway itself sends goes past it.
func peerInside() step {
	return step{"route of the peer into the interface", func(x *run) {
		x.must(x.hosts["ours"].Intercept(netip.MustParseAddr(theirPublic), "swan0", gatewayMark))
	}}
}

// theirRoute gives the peer's kernel a route to our LAN, as it asks its policies
// only where there is one.
func theirRoute() step {
	return step{"a route of theirs", func(x *run) {
		x.must(x.hosts["theirs"].RouteDevice(netip.MustParsePrefix(lans[x.children[0]].ours), "wan1"))
	}}
}
