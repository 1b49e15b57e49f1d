package userspace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/esp"
	"github.com/swanherd/swanherd/ipsec/ts"
)

// soakTimeEnv is how long TestChurn runs, as "30m"; two seconds if it is not set.
const soakTimeEnv = "SWANHERD_SOAK_TIME"

// churn is a plane whose tunnels come and go.
type churn struct {
	*pathBench
	t     *testing.T
	local []ts.Selector
	spis  [churnTunnels][]uint32
}

const churnTunnels = 100

// round makes the tunnels, rekeys and moves them while packets pass both ways, and
// removes them.
func (c *churn) round() {
	for n := range churnTunnels {
		c.apply(dataplane.SetPolicy{Policy: dataplane.Policy{Tunnel: c.name(n), Child: "c", LocalTS: c.local, RemoteTS: c.remote(n)}})
		c.pass(n) // without an SA: an acquire, and the packet waits
		for range 3 {
			c.rekey(n)
			c.pass(n)
		}
		c.apply(dataplane.UpdateEndpoints{Tunnel: c.name(n), Local: c.plane.socket.local, Remote: c.sink.local})
		c.pass(n)
	}
	for n := range churnTunnels {
		for _, spi := range c.spis[n] {
			c.apply(dataplane.RemoveSA{Tunnel: c.name(n), SPI: spi, Direction: dataplane.Inbound},
				dataplane.RemoveSA{Tunnel: c.name(n), SPI: spi, Direction: dataplane.Outbound})
		}
		c.spis[n] = c.spis[n][:0]
		c.apply(dataplane.RemovePolicy{Tunnel: c.name(n), Child: "c"})
		c.pass(n)
	}
	for len(c.plane.events) > 0 {
		<-c.plane.events
	}
}

func (c *churn) name(n int) string { return fmt.Sprintf("churn%d", n) }

func (c *churn) remote(n int) []ts.Selector {
	return []ts.Selector{ts.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{11, 0, byte(n), 0}), 24))}
}

func (c *churn) apply(ops ...dataplane.Op) {
	c.t.Helper()
	for _, err := range c.plane.Apply(ops) {
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *churn) rekey(n int) {
	spi, err := c.plane.AllocateSPI(0)
	if err != nil {
		c.t.Fatal(err)
	}
	c.spis[n] = append(c.spis[n], spi)
	sa := dataplane.SA{
		SPI: spi, Direction: dataplane.Inbound, Tunnel: c.name(n), Child: "c", Suite: gcm128, Key: make([]byte, gcm128.KeyLen()),
		Local: c.plane.socket.local, Remote: c.sink.local, LocalTS: c.local, RemoteTS: c.remote(n),
	}
	binary.BigEndian.PutUint32(sa.Key, spi)
	out := sa
	out.Direction = dataplane.Outbound
	c.apply(dataplane.InstallSA{SA: sa}, dataplane.InstallSA{SA: out})
	far, err := esp.NewOutbound(esp.Config{SPI: sa.SPI, Suite: sa.Suite, Key: sa.Key})
	if err != nil {
		c.t.Fatal(err)
	}
	packet := datagram4(0, false, 100)
	copy(packet[12:], []byte{11, 0, byte(n), 1, 10, 0, 0, 1})
	sealed, err := far.Seal(nil, append(packet, make([]byte, esp.TrailerRoom)...)[:len(packet)], esp.NextHeaderIPv4)
	if err != nil {
		c.t.Fatal(err)
	}
	c.receive(sealed, len(sealed))
}

// pass sends a packet into tunnel n.
func (c *churn) pass(n int) {
	packet := append(make([]byte, vnetHeaderLen), datagram4(0, false, 100)...)
	copy(packet[vnetHeaderLen+12:], []byte{10, 0, 0, 1, 11, 0, byte(n), 1})
	c.transmit(packet)
}

// TestChurn: memory is flat while SAs come and go. SWANHERD_SOAK_TIME=30m makes a
// soak of it.
func TestChurn(t *testing.T) {
	soak := 2 * time.Second
	if s := os.Getenv(soakTimeEnv); s != "" {
		var err error
		if soak, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", soakTimeEnv, err)
		}
	}
	c := &churn{pathBench: newPathBench(t), t: t, local: []ts.Selector{ts.FromPrefix(netip.MustParsePrefix("10.0.0.0/24"))}}
	c.rx.source = &c.rx.in.names[0]
	c.apply(dataplane.RemovePolicy{Tunnel: "t", Child: "c"},
		dataplane.RemoveSA{Tunnel: "t", SPI: 0x1000, Direction: dataplane.Inbound},
		dataplane.RemoveSA{Tunnel: "t", SPI: 0x1000, Direction: dataplane.Outbound})
	heap := func() uint64 {
		for range 5 { // pools and finalizers take several
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for range 5 {
		c.round()
	}
	before, rounds := heap(), 5
	for end := time.Now().Add(soak); time.Now().Before(end); rounds++ {
		c.round()
	}
	// Maps and tables grow to the size that churn needs. In two seconds there are
	// 100,000 SAs of several KB each, in half an hour some 80 million.
	const slack = 1 << 20
	if after := heap(); after > before+slack {
		t.Errorf("the heap grew from %d to %d KB over %d rounds", before>>10, after>>10, rounds)
	}
	p := c.plane
	if n := len(p.sas) + len(p.children) + len(p.reserved); n != 0 || p.inbound.live != 0 {
		t.Errorf("%d SAs, children and SPIs are left, %d in the table", n, p.inbound.live)
	}
	if n := len(*p.inbound.slots.Load()); n > 4096 {
		t.Errorf("the table of SPIs has %d slots", n)
	}
	if d := p.Drops(); d.NoPolicy != uint64(churnTunnels*rounds) || d.NoSA != 0 || len(c.tx.kept.waiting)+c.tx.kept.packets+c.tx.kept.octets != 0 || d.Malformed+d.UnknownSPI+d.DeliverErrors > 0 {
		t.Errorf("over %d rounds: %+v", rounds, d)
	}
	t.Logf("%d rounds, %d SAs, heap %d KB before and %d KB after", rounds, 6*churnTunnels*rounds, before>>10, heap()>>10)
	runtime.KeepAlive(c.pathBench)
}
