package nat

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v3"
	"google.golang.org/protobuf/proto"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	unknown     = swanherdv1.NatMapping_NAT_MAPPING_UNSPECIFIED
	none        = swanherdv1.NatMapping_NAT_MAPPING_NONE
	independent = swanherdv1.NatMapping_NAT_MAPPING_ENDPOINT_INDEPENDENT
	dependent   = swanherdv1.NatMapping_NAT_MAPPING_ADDRESS_DEPENDENT
)

var (
	inside  = netip.MustParseAddrPort("192.168.1.2:4500")
	outside = netip.MustParseAddrPort("203.0.113.7:31022")
	server  = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:3478"), netip.MustParseAddrPort("198.51.100.1:3479"), netip.MustParseAddrPort("198.51.100.2:3478")}
	server6 = netip.MustParseAddrPort("[2001:db8::1]:3478")
)

// plug is a Prober in a network that is simulated: nat says where a datagram seems to come
// from, and is not valid where it is lost.
type plug struct {
	t     *testing.T
	p     *Prober
	now   time.Time
	delay time.Duration
	nat   func(from, to netip.AddrPort) netip.AddrPort
	sent  []time.Duration // since began, of each request
	began time.Time
}

func newPlug(t *testing.T, nat func(from, to netip.AddrPort) netip.AddrPort) *plug {
	n := uint64(0)
	w := &plug{t: t, now: time.Unix(1e9, 0), nat: nat, delay: 20 * time.Millisecond}
	w.began = w.now
	w.p = NewProber(Config{
		Transaction: func() (id [12]byte) { n++; binary.BigEndian.PutUint64(id[:], n); return id },
		Vary:        func(d time.Duration) time.Duration { return d / 2 },
	})
	w.p.SetServers(w.now, server)
	w.p.SetSources(w.now, []netip.AddrPort{inside}, nil)
	return w
}

// run lets time pass.
func (w *plug) run(d time.Duration) {
	w.t.Helper()
	type arrival struct {
		at time.Time
		b  []byte
	}
	var coming []arrival
	for end := w.now.Add(d); ; {
		for _, r := range w.p.Step(w.now) {
			w.sent = append(w.sent, w.now.Sub(w.began))
			if !r.Until.After(w.now) {
				w.t.Fatalf("an answer is of no use from %v on, sent at %v", r.Until, w.now)
			}
			if m := w.nat(r.Local, r.Remote); m.IsValid() {
				answer := stun.MustBuild(stun.NewTransactionIDSetter([12]byte(r.Message[8:20])), stun.BindingSuccess,
					&stun.XORMappedAddress{IP: m.Addr().AsSlice(), Port: int(m.Port())}).Raw
				if len(answer) > len(r.Message) {
					w.t.Errorf("a request of %d octets has no room for its answer of %d", len(r.Message), len(answer))
				}
				coming = append(coming, arrival{w.now.Add(w.delay), answer})
			}
		}
		next, ok := w.p.Deadline()
		if !ok || next.After(end) {
			next = end
		}
		if len(coming) > 0 && !coming[0].at.After(next) {
			w.now = coming[0].at
			w.p.Receive(w.now, coming[0].b)
			coming = coming[1:]
			continue
		}
		if next.Before(w.now) || next.Equal(w.now) && next != end {
			w.t.Fatalf("Step leaves something to do at %v, now is %v", next, w.now)
		}
		if w.now = next; !w.now.Before(end) {
			return
		}
	}
}

func (w *plug) known() *swanherdv1.UplinkNat {
	if k := w.p.Known(); len(k) > 0 {
		return k[0]
	}
	return nil
}

// lost is a NAT that nothing passes.
func lost(netip.AddrPort, netip.AddrPort) netip.AddrPort { return netip.AddrPort{} }

func TestClassification(t *testing.T) {
	same := func(netip.AddrPort, netip.AddrPort) netip.AddrPort { return outside }
	for name, test := range map[string]struct {
		nat   func(from, to netip.AddrPort) netip.AddrPort
		local netip.AddrPort
		want  *swanherdv1.UplinkNat
	}{
		"no NAT":               {func(from, _ netip.AddrPort) netip.AddrPort { return from }, inside, &swanherdv1.UplinkNat{Mapping: none, MappedAddress: "192.168.1.2", MappedPort: 4500}},
		"endpoint-independent": {same, inside, &swanherdv1.UplinkNat{Mapping: independent, MappedAddress: "203.0.113.7", MappedPort: 31022}},
		"the address is the same, the port is not": {func(from, _ netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(from.Addr(), 1024)
		}, inside, &swanherdv1.UplinkNat{Mapping: independent, MappedAddress: "192.168.1.2", MappedPort: 1024}},
		"by address and port": {func(_, to netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(outside.Addr(), to.Port()+uint16(to.Addr().As4()[3])<<8)
		}, inside, &swanherdv1.UplinkNat{Mapping: dependent, MappedAddress: "203.0.113.7"}},
		"by address": {func(_, to netip.AddrPort) netip.AddrPort {
			return netip.AddrPortFrom(outside.Addr(), uint16(to.Addr().As4()[3])+5000)
		}, inside, &swanherdv1.UplinkNat{Mapping: dependent, MappedAddress: "203.0.113.7"}},
		"one server answers": {func(_, to netip.AddrPort) netip.AddrPort {
			if to == server[1] {
				return outside
			}
			return netip.AddrPort{}
		}, inside, &swanherdv1.UplinkNat{Mapping: unknown, MappedAddress: "203.0.113.7", MappedPort: 31022}},
		"a carrier's":             {same, netip.MustParseAddrPort("100.72.3.4:4500"), &swanherdv1.UplinkNat{Mapping: independent, MappedAddress: "203.0.113.7", MappedPort: 31022, CarrierGrade: true}},
		"nothing passes":          {lost, inside, nil},
		"no server of the family": {same, netip.MustParseAddrPort("[2001:db8::2]:4500"), nil},
		"a lie":                   {func(netip.AddrPort, netip.AddrPort) netip.AddrPort { return netip.MustParseAddrPort("0.0.0.0:1") }, inside, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newPlug(t, test.nat)
			w.p.SetSources(w.now, []netip.AddrPort{test.local}, nil)
			w.run(45 * time.Second)
			if test.want != nil {
				test.want.Address = test.local.Addr().String()
			}
			if got := w.known(); !proto.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// RFC 8489, Section 6.2.1: with an RTO of 500 ms a request goes at 0, 500, 1500, 3500, 7500,
// 15500 and 31500 ms, and is given up at 39500 ms.
func TestRetransmission(t *testing.T) {
	w := newPlug(t, lost)
	w.p.SetServers(w.now, server[:1])
	w.run(39400 * time.Millisecond)
	want := []time.Duration{0, 500, 1500, 3500, 7500, 15500, 31500}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if !slices.Equal(w.sent, want) {
		t.Errorf("sent at %v", w.sent)
	}
	if at, ok := w.p.Deadline(); !ok || at.Sub(w.began) != 39500*time.Millisecond {
		t.Errorf("given up at %v", at.Sub(w.began))
	}
	w.run(time.Second)
	if at, _ := w.p.Deadline(); at.Sub(w.began) != askBehindNAT {
		t.Errorf("asks again at %v", at.Sub(w.began))
	}
}

// A server that does not answer holds up the first word for two seconds, and no longer.
func TestFirstWord(t *testing.T) {
	w := newPlug(t, func(_, to netip.AddrPort) netip.AddrPort {
		if to == server[2] {
			return netip.AddrPort{}
		}
		return outside
	})
	w.run(settle - time.Millisecond)
	if w.known() != nil {
		t.Errorf("%v is known before the third could answer", w.known())
	}
	w.run(2 * time.Millisecond)
	if w.known().GetMapping() != independent {
		t.Errorf("%v is known", w.known())
	}
}

// How often it is asked: seldom, and more often where the answer may change; at once after
// what may have changed it, and never in a hurry.
func TestIntervals(t *testing.T) {
	mapping := inside
	w := newPlug(t, func(netip.AddrPort, netip.AddrPort) netip.AddrPort { return mapping })
	w.run(time.Hour)
	if n := len(w.sent); n != 3*6 {
		t.Errorf("%d requests in an hour without a NAT", n)
	}
	mapping = outside
	w.p.AskNow(w.now)
	w.run(time.Second)
	if w.known().GetMapping() != independent {
		t.Errorf("not asked at once: %v", w.known())
	}
	w.sent = nil
	for range 100 { // a session that comes and goes
		w.p.AskNow(w.now)
		w.run(100 * time.Millisecond)
	}
	if n := len(w.sent); n != 3 {
		t.Errorf("%d requests in 10 s of new sessions", n)
	}
	w.run(20 * time.Second)
	w.sent = nil
	w.run(time.Hour)
	if n := len(w.sent); n != 3*30 {
		t.Errorf("%d requests in an hour behind a NAT", n)
	}
	before := w.known()
	w.nat = lost
	w.run(time.Hour)
	if w.known() != before {
		t.Errorf("without answers %v became %v", before, w.known())
	}
}

// Whatever a NAT does with its mapping, what is told of it does not change for long; and it
// is believed again when it keeps still.
func TestANATThatWandersDoesNotMakeTheEdgeOscillate(t *testing.T) {
	for name, wander := range map[string]func(rounds int) netip.AddrPort{
		"ports": func(n int) netip.AddrPort { return netip.AddrPortFrom(outside.Addr(), uint16(2000+n)) },
		"addresses": func(n int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}), 31022)
		},
		"between two": func(n int) netip.AddrPort { return netip.AddrPortFrom(outside.Addr(), uint16(2000+n%2)) },
		"and none at times": func(n int) netip.AddrPort {
			if n%2 == 0 {
				return inside
			}
			return outside
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			w := newPlug(t, func(netip.AddrPort, netip.AddrPort) netip.AddrPort {
				asked++
				return wander((asked - 1) / len(server))
			})
			told, changes := (*swanherdv1.UplinkNat)(nil), 0
			for range 200 {
				w.run(time.Minute)
				if !proto.Equal(w.known(), told) {
					told, changes = w.known(), changes+1
				}
			}
			if changes > unstable+2 || told.GetMapping() != dependent || told.GetMappedPort() != 0 {
				t.Errorf("told %d times of something else, at last %v", changes, told)
			}
			w.nat = func(netip.AddrPort, netip.AddrPort) netip.AddrPort { return outside }
			w.run(15 * time.Minute)
			if got := w.known(); got.GetMapping() != independent || got.GetMappedPort() != uint32(outside.Port()) {
				t.Errorf("it keeps still, and %v is told", got)
			}
		})
	}
}

// What is known of an address stays while others come and go, and is what was known before a
// restart until it is asked.
func TestSources(t *testing.T) {
	w := newPlug(t, func(from, _ netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(outside.Addr(), uint16(from.Addr().As4()[3])+1000)
	})
	other := netip.MustParseAddrPort("192.168.1.9:4500")
	before := map[string]*swanherdv1.UplinkNat{"192.168.1.9": {Address: "192.168.1.9", Mapping: independent, MappedPort: 77}}
	w.run(time.Second)
	first := w.known()
	w.p.SetSources(w.now, []netip.AddrPort{other, inside}, before)
	if k := w.p.Known(); len(k) != 2 || k[0].GetMappedPort() != 77 || k[1] != first {
		t.Errorf("known: %v", k)
	}
	w.run(time.Second)
	if k := w.p.Known(); len(k) != 2 || k[0].GetMappedPort() != 1009 || k[1] != first {
		t.Errorf("known: %v", k)
	}
	w.p.SetSources(w.now, []netip.AddrPort{inside}, before)
	if k := w.p.Known(); len(k) != 1 || k[0] != first {
		t.Errorf("known: %v", k)
	}
	w.p.SetServers(w.now, nil)
	if k := w.p.Known(); len(k) != 0 {
		t.Errorf("nobody is to be asked, and known: %v", k)
	}
	w.sent = nil
	w.run(time.Hour)
	if len(w.sent) > 0 {
		t.Error("somebody is asked")
	}
	w.p.SetServers(w.now, []netip.AddrPort{server6})
	w.run(time.Minute)
	if len(w.sent) > 0 {
		t.Error("a server of another family is asked")
	}
}

func TestOpener(t *testing.T) {
	now := time.Unix(1e9, 0)
	a := Opening{"a", inside, outside}
	moved := Opening{"a", inside, netip.AddrPortFrom(outside.Addr(), 9)}
	var o Opener
	count := func(seconds int) (n int) {
		for range seconds {
			n += len(o.Step(now))
			now = now.Add(time.Second)
		}
		return n
	}
	o.Set(now, []Opening{a})
	if n := count(1); n != 1 {
		t.Errorf("%d at once", n)
	}
	if n := count(9); n != 9 {
		t.Errorf("%d in the ten seconds after", n)
	}
	for range 3600 {
		o.Set(now, []Opening{a})
		now = now.Add(time.Second)
	}
	if n := count(3600); n != 180 {
		t.Errorf("%d in a later hour", n)
	}
	o.Set(now, []Opening{moved})
	if n := count(10); n != 10 {
		t.Errorf("%d in ten seconds to where the peer has moved", n)
	}
	o.Set(now, nil)
	if n := count(100); n != 0 {
		t.Errorf("%d to nobody", n)
	}
}

// Nothing that comes in the place of an answer makes an address that cannot be.
func FuzzAnswer(f *testing.F) {
	ask := requestOf([12]byte{1})
	f.Add(stun.MustBuild(stun.NewTransactionIDSetter([12]byte{1}), stun.BindingSuccess, &stun.XORMappedAddress{IP: outside.Addr().AsSlice(), Port: 9}).Raw)
	f.Add(stun.MustBuild(stun.NewTransactionIDSetter([12]byte{1}), stun.BindingError, stun.CodeUnknownAttribute).Raw)
	f.Add(ask)
	f.Fuzz(func(t *testing.T, b []byte) {
		if mapped, ok := mappedIn(b); ok && (!mapped.IsValid() || mapped.Port() == 0 || mapped.Addr().Is4In6() || mapped.Addr().IsUnspecified()) {
			t.Errorf("%v", mapped)
		}
		p := NewProber(Config{Transaction: func() [12]byte { return [12]byte{1} }, Vary: rand.N[time.Duration]})
		p.SetServers(time.Unix(1, 0), server[:1])
		p.SetSources(time.Unix(1, 0), []netip.AddrPort{inside}, nil)
		p.Step(time.Unix(1, 0))
		p.Receive(time.Unix(1, 0), b)
		p.Step(time.Unix(60, 0))
		for _, k := range p.Known() {
			if _, err := netip.ParseAddr(k.GetMappedAddress()); err != nil {
				t.Errorf("%v", k)
			}
		}
	})
}
