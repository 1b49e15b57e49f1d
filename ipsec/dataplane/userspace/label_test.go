package userspace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

// TestLabels: what two SAs with the same selectors carry comes from the interface of their
// label and goes to that of it, in another network namespace; what is sent while a label has
// no SA goes nowhere, and never to the other.
func TestLabels(t *testing.T) {
	nsA, nsB := joined(t)
	corpA, corpB := newNamespace(t), newNamespace(t)
	label := func(ns *namespace) Config {
		return Config{Workers: 2, Labels: []dataplane.Label{{Name: "corp", Interface: "swan0", Enter: func(f func() error) (err error) {
			ns.do(func() { err = f() })
			return err
		}}}}
	}
	x := newTunnelIn(t, nsA, nsB, outerA, outerB, gcm128, label(corpA), label(corpB))
	plainB, labelledB := nsB.tap(t, x.b.Interface()), corpB.tap(t, "swan0")
	plainA, labelledA := nsA.tap(t, x.a.Interface()), corpA.tap(t, "swan0")
	send := func(from *tap, word string) {
		t.Helper()
		if err := from.send(plainUDP(siteA.Addr(), siteB.Addr(), []byte(word))); err != nil {
			t.Fatal(err)
		}
	}
	// wanted waits for the word at one, and wants nothing of it at the other.
	wanted := func(word string, at, not *tap) {
		t.Helper()
		limit := time.After(patience)
		for {
			select {
			case b := <-at.packets:
				if bytes.Contains(b, []byte(word)) {
					return
				}
			case b := <-not.packets:
				if bytes.Contains(b, []byte(word)) {
					t.Fatalf("%q came to the other interface", word)
				}
			case <-limit:
				t.Fatalf("%q did not come", word)
			}
		}
	}
	absent := func(word string, at ...*tap) {
		t.Helper()
		for _, where := range at {
			for {
				var b []byte
				select {
				case b = <-where.packets:
				default:
				}
				if b == nil {
					break
				}
				if bytes.Contains(b, []byte(word)) {
					t.Errorf("%q came to an interface", word)
				}
			}
		}
	}

	// The label has no policy yet: its packets find none of the others'.
	send(labelledA, "corp-too-early")
	send(plainA, "plain-1")
	wanted("plain-1", plainB, labelledB)
	absent("corp-too-early", plainB, labelledB)

	policy := func(g, other *gateway) dataplane.Op {
		return dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: "l", Child: "c", Label: "corp", LocalTS: g.local, RemoteTS: other.local}}
	}
	x.apply(x.a, policy(x.a, x.b))
	x.apply(x.b, policy(x.b, x.a))
	send(labelledA, "corp-kept") // waits for its SA
	send(plainA, "plain-2")
	wanted("plain-2", plainB, labelledB)
	absent("corp-kept", plainB, labelledB)
	x.labelled("l", "corp")
	wanted("corp-kept", labelledB, plainB)
	for _, word := range []string{"one", "two", "three"} {
		send(labelledA, "corp-"+word)
		wanted("corp-"+word, labelledB, plainB)
		send(plainA, "plain-"+word)
		wanted("plain-"+word, plainB, labelledB)
	}

	// Without its SA the label's packets go nowhere.
	for _, sa := range x.a.Counters() {
		if sa.Tunnel == "l" {
			x.apply(x.a, dataplane.RemoveSA{Tunnel: "l", SPI: sa.SPI, Direction: sa.Direction})
		}
	}
	send(labelledA, "corp-late")
	send(plainA, "plain-late")
	wanted("plain-late", plainB, labelledB)
	absent("corp-late", plainB, labelledB)

	// An interface that takes nothing stalls nobody but its own, and goes on later.
	x.labelled("l", "corp")
	corpB.ip("link set swan0 down")
	for n := range 200 {
		send(labelledA, "corp-down")
		if n%20 == 0 {
			send(plainA, "plain-up")
			wanted("plain-up", plainB, labelledB)
		}
	}
	corpB.ip("link set swan0 up")
	labelledB = corpB.tap(t, "swan0") // the other one ended
	send(labelledA, "corp-again")
	wanted("corp-again", labelledB, plainB)
}

// An SA of another label than its policy's sends nothing.
func TestLabelOfPolicyAndSA(t *testing.T) {
	ns := newNamespace(t)
	needNamespaces(t)
	p := ns.plane(t, Config{Labels: []dataplane.Label{{Name: "corp", Interface: "corp0"}, {Name: "iot", Interface: "iot0"}}})
	c := p.child(childKey{"t", "c"})
	c.policy, c.spec = &policy{child: c}, dataplane.Policy{Label: "iot"}
	sa := &outboundSA{}
	sa.config.Label = "corp"
	c.outbound = append(c.outbound, sa)
	if c.choose(); c.carrier(0) != nil {
		t.Error("a policy of the label iot is served by an SA of the label corp")
	}
	sa.config.Label = "iot"
	if c.choose(); c.carrier(0) != sa {
		t.Error("a policy is not served by the SA of its label")
	}
}

func TestLabelsRefused(t *testing.T) {
	needNamespaces(t)
	ns := newNamespace(t)
	for _, labels := range [][]dataplane.Label{{{Name: "", Interface: "x0"}}, {{Name: "a", Interface: "x0"}, {Name: "a", Interface: "x1"}}, make([]dataplane.Label, dataplane.MaxLabels+1)} {
		var err error
		ns.do(func() {
			var p *Plane
			if p, err = New(Config{Labels: labels}); err == nil {
				p.Close()
			}
		})
		if err == nil {
			t.Errorf("labels %v are taken", labels)
		}
	}
	ns.plane(t, Config{}) // nothing of it is left
}

// labelled installs SAs of a label with the selectors of the tunnel's.
func (x *tunnel) labelled(tunnel, label string) {
	x.t.Helper()
	spiA, err1 := x.a.AllocateSPI(0)
	spiB, err2 := x.b.AllocateSPI(0)
	if err := errors.Join(err1, err2); err != nil {
		x.t.Fatal(err)
	}
	sa := func(d dataplane.Direction, spi uint32, key byte, here, there *gateway) dataplane.Op {
		return dataplane.InstallSA{SA: dataplane.SA{
			SPI: spi, Direction: d, Tunnel: tunnel, Child: "c", Label: label, Local: here.outer, Remote: there.outer,
			Suite: x.suite, Key: bytes.Repeat([]byte{key}, x.suite.KeyLen()), LocalTS: here.local, RemoteTS: there.local,
		}}
	}
	x.apply(x.b, sa(dataplane.Inbound, spiB, 0xb0, x.b, x.a), sa(dataplane.Outbound, spiA, 0xa0, x.b, x.a))
	x.apply(x.a, sa(dataplane.Inbound, spiA, 0xa0, x.a, x.b), sa(dataplane.Outbound, spiB, 0xb0, x.a, x.b))
}

// plainUDP is a datagram of IPv4 without a UDP checksum.
func plainUDP(from, to netip.Addr, payload []byte) []byte {
	b := make([]byte, ipv4HeaderLen+udpHeaderLen, ipv4HeaderLen+udpHeaderLen+len(payload))
	b = append(b, payload...)
	b[0], b[8], b[9] = 0x45, 64, protoUDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^checksum.Fold(checksum.Add(b[:ipv4HeaderLen], 0)))
	udp := b[ipv4HeaderLen:]
	binary.BigEndian.PutUint16(udp, 1234)
	binary.BigEndian.PutUint16(udp[2:], 4321)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return b
}
