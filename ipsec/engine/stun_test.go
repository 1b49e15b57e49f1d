package engine

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane/memory"
	"github.com/swanherd/swanherd/ipsec/ike"
)

// stunMessage is a message without attributes.
func stunMessage(kind uint16, transaction byte) []byte {
	b := make([]byte, stunHeaderLen)
	binary.BigEndian.PutUint16(b, kind)
	binary.BigEndian.PutUint32(b[4:], stunCookie)
	for i := range b[8:] {
		b[8+i] = transaction
	}
	return b
}

// An answer comes to who asked, once, and from whom was asked; all others are dropped,
// counted, and never taken for IKE.
func TestSTUNAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		n := startNode(t, sw, "a.example", addrA)
		synctest.Wait()
		server, other := netip.MustParseAddrPort("198.51.100.1:3478"), netip.MustParseAddrPort("198.51.100.1:3479")
		var asked [][]byte
		sw.SetFilter(func(d *memory.Datagram) []time.Duration {
			if d.To == server {
				asked = append(asked, slices.Clone(d.IKE))
			}
			return []time.Duration{0}
		})
		var got [][]byte
		ask := func(transaction byte, wait time.Duration) {
			t.Helper()
			err := n.SendSTUN(addrA, server, stunMessage(stunBinding, transaction), time.Now().Add(wait), func(b []byte) { got = append(got, slices.Clone(b)) })
			if err != nil {
				t.Fatal(err)
			}
		}
		inject := func(from netip.AddrPort, b []byte) {
			sw.Inject(from, addrA, b)
			synctest.Wait()
		}
		ask(1, time.Minute)
		ask(1, time.Minute) // again
		ask(2, time.Minute)
		ask(3, time.Second)
		synctest.Wait()
		if len(asked) != 4 || !slices.Equal(asked[0], stunMessage(stunBinding, 1)) {
			t.Errorf("the server was asked %x", asked)
		}
		cut := stunMessage(stunSuccess, 1)
		cut[3] = 4
		request := stunMessage(stunBinding, 1)
		inject(other, stunMessage(stunSuccess, 1))
		inject(server, cut)
		inject(server, request)
		inject(server, stunMessage(stunSuccess, 9))
		if len(got) > 0 {
			t.Fatalf("%x were taken for answers", got)
		}
		inject(server, stunMessage(stunSuccess, 1))
		inject(server, stunMessage(stunSuccess, 1))
		inject(server, stunMessage(stunError, 2))
		time.Sleep(2 * time.Second)
		inject(server, stunMessage(stunSuccess, 3))
		if len(got) != 2 || !slices.Equal(got[0], stunMessage(stunSuccess, 1)) || !slices.Equal(got[1], stunMessage(stunError, 2)) {
			t.Errorf("got %x", got)
		}
		drops := n.Counters().Drops
		// The others are as short as noise is.
		if drops[DropSTUN] != 4 || drops[DropTooShort] != 2 {
			t.Errorf("dropped: %v", drops)
		}
		for i := range 2 * maxSTUNRequests {
			b := stunMessage(stunBinding, 0)
			binary.BigEndian.PutUint32(b[8:], uint32(i))
			if err := n.SendSTUN(addrA, server, b, time.Now().Add(time.Second), func([]byte) {}); (err != nil) != (i >= maxSTUNRequests) {
				t.Fatalf("request %d: %v", i, err)
			}
		}
		time.Sleep(2 * time.Second)
		ask(4, time.Second) // those before have ended
		if err := n.SendSTUN(addrA, server, stunMessage(stunSuccess, 4), time.Now().Add(time.Second), nil); err == nil {
			t.Error("sends what is no request")
		}
	})
}

// What looks like STUN by its cookie alone is IKE.
func TestCookieInAnSPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := memory.NewSwitch()
		a, b := startNode(t, sw, "a.example", addrA), startNode(t, sw, "b.example", addrB)
		var first []byte
		sw.SetFilter(func(d *memory.Datagram) []time.Duration {
			if first == nil {
				first = slices.Clone(d.IKE)
			}
			return []time.Duration{0}
		})
		b.apply([]TunnelConfig{b.tunnelConfig("to-a", ike.RoleResponder, a, lan(2, 0), lan(1, 0))}, Added)
		a.apply([]TunnelConfig{a.tunnelConfig("to-b", ike.RoleInitiator, b, lan(1, 0), lan(2, 0))}, Added)
		a.waitState("to-b", ike.StateUp, time.Minute)
		before := b.Counters()
		binary.BigEndian.PutUint32(first[4:], stunCookie)
		sw.Inject(netip.MustParseAddrPort("203.0.113.9:4500"), addrB, first)
		time.Sleep(time.Second)
		if after := b.Counters(); after.Handshakes != before.Handshakes+1 {
			t.Errorf("no handshake began: %+v", after)
		}
	})
}
