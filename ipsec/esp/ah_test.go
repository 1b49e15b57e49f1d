package esp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/wire"
)

var ahSuites = func() (all []suite.ESPSuite) {
	for id := range wire.IntegrityID(32) {
		s := suite.ESPSuite{AH: true, Integrity: id}
		if s.Validate() == nil {
			all = append(all, s, esn(s))
		}
	}
	return all
}()

var ahSHA256 = suite.ESPSuite{AH: true, Integrity: wire.IntegrityHMACSHA256}

func newAHPair(t testing.TB, c Config) (*AHOutbound, *AHInbound) {
	t.Helper()
	out, err := NewAHOutbound(c)
	if err != nil {
		t.Fatal(err)
	}
	in, err := NewAHInbound(c)
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

// ipv4 makes a packet of UDP with these options, whose length is a multiple of 4.
func ipv4(options ...byte) []byte {
	b := append([]byte{
		0x40 | byte(5+len(options)/4), 0x2e, 0, 0, 0x12, 0x34, 0x40, 0, 63, 17, 0, 0,
		192, 0, 2, 1, 198, 51, 100, 7,
	}, options...)
	b = append(b, "\x13\x88\x13\x89\x00\x10\x00\x00payload."...)
	ahHeaders{options: 20 + len(options)}.setLength(b)
	return b
}

// ipv6 makes a packet of UDP with these extension headers, each beginning with its own
// protocol in the place of the next one's.
func ipv6(extensions ...[]byte) []byte {
	b := make([]byte, ipv6Len)
	b[0], b[1], b[2], b[3], b[7] = 0x62, 0xe1, 0x23, 0x45, 64
	for i := range 16 {
		b[8+i], b[ipv6Dest+i] = byte(0x20+i), byte(0x30+i)
	}
	next := 6
	for _, e := range extensions {
		b[next] = e[0]
		next = len(b)
		b = append(b, e...)
	}
	b[next] = 17
	b = append(b, "\x13\x88\x13\x89\x00\x10\x00\x00payload."...)
	ahHeaders{v6: true}.setLength(b)
	return b
}

// The first option may change on the way, the second may not (RFC 8200, Section 4.2).
func optionsHeader(kind byte) []byte {
	return []byte{kind, 1, 0x3e, 2, 0xaa, 0xbb, 0x1e, 2, 0xcc, 0xdd, 1, 4, 0, 0, 0, 0}
}

func routingHeader(kind, left byte, addresses ...byte) []byte {
	b := []byte{protocolRouting, byte(2 * len(addresses)), kind, left, 0, 0, 0, 0}
	for _, a := range addresses {
		b = append(b, bytes.Repeat([]byte{a}, 16)...)
	}
	return b
}

var (
	timestamp  = []byte{68, 8, 5, 0, 1, 2, 3, 4}
	security   = []byte{130, 4, 9, 9}
	ahMaterial = map[string][]byte{
		"IPv4":                       ipv4(),
		"IPv4 with options":          ipv4(append(bytes.Clone(security), append(timestamp, 1, 1, 1, 0)...)...),
		"IPv6":                       ipv6(),
		"IPv6, Hop-by-Hop":           ipv6(optionsHeader(protocolHopByHop)),
		"IPv6, Routing, passed":      ipv6(routingHeader(2, 0, 0x77)),
		"IPv6, all":                  ipv6(optionsHeader(protocolHopByHop), optionsHeader(protocolDestinations), routingHeader(0, 0, 1, 2), optionsHeader(protocolDestinations)),
		"IPv6, Destination Options ": ipv6(optionsHeader(protocolDestinations)),
	}
)

func TestAHRoundTrip(t *testing.T) {
	// Three of GMAC, HMAC with SHA-1 and three of SHA-2, and XCBC.
	if want := 2 * (3 + 4 + 1); len(ahSuites) != want {
		t.Fatalf("%d suites are tested, want %d: %v", len(ahSuites), want, ahSuites)
	}
	for _, s := range ahSuites {
		for name, packet := range ahMaterial {
			out, in := newAHPair(t, config(s))
			for i := range 3 {
				prefix := []byte("before")
				sealed, err := out.Seal(prefix, packet)
				if err != nil {
					t.Fatalf("%s, %s: %v", s, name, err)
				}
				sealed = sealed[len(prefix):]
				align := 4
				if packet[0]>>4 == 6 {
					align = 8
				}
				if added := len(sealed) - len(packet); added%align != 0 {
					t.Fatalf("%s, %s: the AH has %d octets", s, name, added)
				}
				p, err := in.Open(sealed)
				if err != nil {
					t.Fatalf("%s, %s: %v", s, name, err)
				}
				if !bytes.Equal(p.Whole, packet) || !bytes.HasSuffix(packet, p.Payload) || p.Sequence != uint64(i+1) {
					t.Fatalf("%s, %s: opened\n%x, sequence %d, want\n%x", s, name, p.Whole, p.Sequence, packet)
				}
			}
		}
	}
}

// The place of the AH: RFC 4302, Section 3.1.1.
func TestAHPlace(t *testing.T) {
	for name, want := range map[string]int{"IPv4": 20, "IPv4 with options": 36, "IPv6": 40, "IPv6, Hop-by-Hop": 56, "IPv6, all": 40 + 16 + 16 + 40, "IPv6, Destination Options ": 40} {
		out, _ := newAHPair(t, config(ahSHA256))
		sealed, err := out.Seal(nil, ahMaterial[name])
		if err != nil {
			t.Fatal(err)
		}
		_, h, err := parseAHPacket(sealed)
		if err != nil || h.ah != want {
			t.Errorf("%s: AH at %d, error %v; want %d", name, h.ah, err, want)
		}
	}
}

// mutable says which octets of a packet with an AH in it the network may change: Appendix A
// of RFC 4302 written down once more, for the packets of ahMaterial.
func mutable(name string, sealed []byte) map[int]bool {
	m := map[int]bool{}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			m[i] = true
		}
	}
	if sealed[0]>>4 == 4 {
		add(1, 2)
		add(6, 7) // the octet after it would make a fragment of the packet
		add(8, 9)
		add(10, 12)
		if name == "IPv4 with options" {
			add(24, 32)
		}
		return m
	}
	add(1, 4)
	add(7, 8)
	switch name {
	case "IPv6, Hop-by-Hop":
		add(44, 46)
	case "IPv6, all":
		add(44, 46)
		add(60, 62)
	}
	return m
}

// TestAHRefuses flips every octet: it must not pass, or must be one that may change.
func TestAHRefuses(t *testing.T) {
	for _, s := range ahSuites {
		for name, packet := range ahMaterial {
			out, in := newAHPair(t, config(s))
			sealed, err := out.Seal(nil, packet)
			if err != nil {
				t.Fatal(err)
			}
			for i := range sealed {
				b := bytes.Clone(sealed)
				b[i] ^= 0x40
				if i == 0 && packet[0]>>4 == 6 {
					b[i] = 0x6d // the DSCP
				}
				_, fresh := newAHPair(t, config(s))
				_, err := fresh.Open(b)
				if may := mutable(name, sealed)[i] || i == 0 && packet[0]>>4 == 6; may != (err == nil) && !isOptionFrame(name, i) {
					t.Fatalf("%s, %s: octet %d changed from %#x to %#x: %v", s, name, i, sealed[i], b[i], err)
				}
			}
			for n := range sealed {
				if _, err := in.Open(bytes.Clone(sealed[:n])); err == nil {
					t.Fatalf("%s, %s: cut to %d octets: opened", s, name, n)
				}
			}
			if in.Highest() != 0 {
				t.Error("a forged packet moved the window")
			}
			if _, err := in.Open(bytes.Clone(sealed)); err != nil {
				t.Errorf("%s, %s: the true packet after the forged ones: %v", s, name, err)
			}
			if _, err := in.Open(sealed); !errors.Is(err, ErrReplayed) {
				t.Errorf("%s, %s: the same again: %v", s, name, err)
			}
		}
	}
}

// isOptionFrame: the type and length of the timestamp option are zeroed with it, but the
// options are no longer well-formed, or known, with other ones.
func isOptionFrame(name string, i int) bool {
	return name == "IPv4 with options" && (i == 24 || i == 25)
}

func TestAHExtendedSequenceAcrossSubspace(t *testing.T) {
	for _, s := range ahSuites {
		if !s.ESN {
			continue
		}
		out, in := newAHPair(t, config(s))
		out.SetSequenceForTest(1<<32 - 4)
		in.SetHighestForTest(1<<32 - 4)
		var packets [][]byte
		for range 8 {
			b, err := out.Seal(nil, ipv4())
			if err != nil {
				t.Fatal(err)
			}
			packets = append(packets, b)
		}
		for _, i := range []int{0, 5, 2, 1, 7, 3, 4, 6} {
			p, err := in.Open(bytes.Clone(packets[i]))
			if want := uint64(1<<32 - 3 + i); err != nil || p.Sequence != want {
				t.Fatalf("%s: packet %d: sequence %d, error %v, want %d", s, i, p.Sequence, err, want)
			}
			if _, err := in.Open(bytes.Clone(packets[i])); !errors.Is(err, ErrReplayed) {
				t.Fatalf("%s: packet %d again: %v", s, i, err)
			}
		}
	}
}

func TestAHSequenceNeverWraps(t *testing.T) {
	for s, last := range map[suite.ESPSuite]uint64{ahSHA256: math.MaxUint32, esn(ahSHA256): math.MaxUint64} {
		out, in := newAHPair(t, config(s))
		out.SetSequenceForTest(last - 1)
		in.SetHighestForTest(last - 1)
		sealed, err := out.Seal(nil, ipv4())
		if err != nil {
			t.Fatal(err)
		}
		if p, err := in.Open(sealed); err != nil || p.Sequence != last {
			t.Errorf("%s: last packet: sequence %d, error %v", s, p.Sequence, err)
		}
		for range 2 {
			got, err := out.Seal(nil, ipv4())
			if !errors.Is(err, ErrSequenceExhausted) || len(got) != 0 {
				t.Errorf("%s: packet after the last: %d octets, error %v", s, len(got), err)
			}
		}
	}
}

// TestAHRoute has a packet with its route before it arrive at the end of the route.
func TestAHRoute(t *testing.T) {
	fill := func(a byte) []byte { return bytes.Repeat([]byte{a}, 16) }
	for _, kind := range []byte{0, 2} {
		sent := ipv6(routingHeader(kind, 2, 1, 2, 3))
		out, in := newAHPair(t, config(ahSHA256))
		b, err := out.Seal(nil, sent)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Open(bytes.Clone(b)); !errors.Is(err, ErrRoute) {
			t.Errorf("type %d: opened on the way: %v", kind, err)
		}
		first := bytes.Clone(b[ipv6Dest:ipv6Len])
		copy(b[ipv6Len+8+16:], first) // via 2 to 3
		copy(b[ipv6Len+8+32:], fill(2))
		copy(b[ipv6Dest:], fill(3))
		b[ipv6Len+3] = 0
		if _, err := in.Open(b); err != nil {
			t.Errorf("type %d: at its end: %v", kind, err)
		}
	}
	out, _ := newAHPair(t, config(ahSHA256))
	if _, err := out.Seal(nil, ipv6(routingHeader(4, 1, 1))); !errors.Is(err, ErrRoute) {
		t.Errorf("a route of another type: %v", err)
	}
	if out.Sequence() != 0 {
		t.Error("a refused packet used a sequence number")
	}

	route := []byte{131, 11, 4, 10, 0, 0, 1, 10, 0, 0, 2, 0}
	in := must(NewAHInbound(config(ahSHA256)))
	b, err := out.Seal(nil, ipv4(route...))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Open(bytes.Clone(b)); !errors.Is(err, ErrRoute) {
		t.Errorf("IPv4: opened on the way: %v", err)
	}
	b[22] = 12
	copy(b[ipv4Dest:], []byte{10, 0, 0, 2})
	if _, err := in.Open(b); err != nil {
		t.Errorf("IPv4: at its end: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A Fragment header that divides nothing is taken off on either side (Appendix A2).
func TestAHFragments(t *testing.T) {
	whole := ipv6(optionsHeader(protocolHopByHop), []byte{protocolFragment, 0, 0, 0, 1, 2, 3, 4})
	want := ipv6(optionsHeader(protocolHopByHop))
	out, in := newAHPair(t, config(ahSHA256))
	b, err := out.Seal(nil, bytes.Clone(whole))
	if err != nil {
		t.Fatal(err)
	}
	at := ipv6Len + 16 // as a reassembly may leave it
	left := append(append(bytes.Clone(b[:at]), protocolAH, 0, 0, 0, 1, 2, 3, 4), b[at:]...)
	left[ipv6Len] = protocolFragment
	ahHeaders{v6: true}.setLength(left)
	for _, packet := range [][]byte{left, b} {
		_, in := newAHPair(t, config(ahSHA256))
		if p, err := in.Open(packet); err != nil || !bytes.Equal(p.Whole, want) {
			t.Errorf("opened %x, error %v; want %x", p.Whole, err, want)
		}
	}
	for name, packet := range map[string][]byte{
		"IPv6, more": ipv6([]byte{protocolFragment, 0, 0, 1, 1, 2, 3, 4}),
		"IPv6, last": ipv6([]byte{protocolFragment, 0, 0, 8, 1, 2, 3, 4}),
		"IPv4, more": func() []byte { b := ipv4(); b[6] = 0x20; return b }(),
		"IPv4, last": func() []byte { b := ipv4(); b[7] = 1; return b }(),
	} {
		if _, err := out.Seal(nil, packet); !errors.Is(err, ErrFragment) {
			t.Errorf("%s: sealed: %v", name, err)
		}
		if _, err := in.Open(packet); !errors.Is(err, ErrFragment) {
			t.Errorf("%s: opened: %v", name, err)
		}
	}
}

func TestAHTooLong(t *testing.T) {
	out, _ := newAHPair(t, config(ahSHA256))
	for n, want := range map[int]error{math.MaxUint16 - 28: nil, math.MaxUint16 - 27: ErrTooLong} {
		b := append(ipv4(), make([]byte, n-len(ipv4()))...)
		binary.BigEndian.PutUint16(b[2:], uint16(n))
		if _, err := out.Seal(nil, b); !errors.Is(err, want) {
			t.Errorf("%d octets: %v, want %v", n, err, want)
		}
	}
}

func TestAHConfigErrors(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"suite of ESP": func(c *Config) { c.Suite = aes128 },
		"short key":    func(c *Config) { c.Key = c.Key[1:] },
		"reserved SPI": func(c *Config) { c.SPI = 1 },
	} {
		c := config(ahSHA256)
		change(&c)
		if _, err := NewAHInbound(c); err == nil {
			t.Errorf("%s: inbound accepted", name)
		}
		if _, err := NewAHOutbound(c); err == nil {
			t.Errorf("%s: outbound accepted", name)
		}
	}
	if _, err := NewOutbound(config(ahSHA256)); err == nil {
		t.Error("ESP with a suite of AH was accepted")
	}
}

func TestAHNoAllocations(t *testing.T) {
	for _, s := range ahSuites {
		for name, packet := range ahMaterial {
			out, in := newAHPair(t, config(s))
			dst := make([]byte, 0, 2048)
			allocs := testing.AllocsPerRun(100, func() {
				sealed, err := out.Seal(dst, packet)
				if err == nil {
					_, err = in.Open(sealed)
				}
				if err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("%s, %s: %v allocations per packet", s, name, allocs)
			}
		}
	}
}

// FuzzAHOpen: whatever comes, Open does not panic, does not read outside, and accepts
// nothing that was not sealed.
func FuzzAHOpen(f *testing.F) {
	for i, s := range ahSuites {
		for _, packet := range ahMaterial {
			out, _ := newAHPair(f, config(s))
			sealed, err := out.Seal(nil, packet)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), sealed[:len(sealed)-1])
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		c := config(ahSuites[int(which)%len(ahSuites)])
		c.Key[0] ^= 0xff // not the key that the seeds are sealed with
		_, in := newAHPair(t, c)
		if p, err := in.Open(bytes.Clone(b)); err == nil {
			t.Fatalf("accepted %x as %x", b, p.Whole)
		}
		if in.Highest() != 0 {
			t.Fatal("the window moved")
		}
	})
}

// FuzzAHSeal: what Seal takes, Open gives back as it was; and with one octet changed,
// it is refused or the payload and the addresses are what they were.
func FuzzAHSeal(f *testing.F) {
	for _, packet := range ahMaterial {
		f.Add(uint8(0), packet, uint16(30), uint8(0x40))
	}
	f.Add(uint8(1), ipv6([]byte{protocolFragment, 0, 0, 0, 1, 2, 3, 4}), uint16(0), uint8(1))
	f.Fuzz(func(t *testing.T, which uint8, packet []byte, at uint16, change uint8) {
		c := config(ahSuites[int(which)%len(ahSuites)])
		out, in := newAHPair(t, c)
		want, h, err := parseAHPacket(bytes.Clone(packet))
		if err != nil {
			return
		}
		sealed, err := out.Seal(nil, bytes.Clone(packet))
		if err != nil {
			return
		}
		h.setLength(want) // as its checksum may be wrong
		altered := bytes.Clone(sealed)
		altered[int(at)%len(altered)] ^= change
		p, err := in.Open(sealed)
		if errors.Is(err, ErrRoute) {
			return
		}
		if err != nil || !bytes.Equal(p.Whole, want) {
			t.Fatalf("sealed %x, opened %x: %v", want, p.Whole, err)
		}
		_, second := newAHPair(t, c)
		q, err := second.Open(altered)
		if err != nil {
			return
		}
		if !bytes.Equal(q.Payload, p.Payload) || q.NextHeader != p.NextHeader || !bytes.Equal(addresses(q.Whole), addresses(p.Whole)) {
			t.Fatalf("octet %d changed by %#x was accepted: %x, was %x", at, change, q.Whole, p.Whole)
		}
	})
}

func addresses(b []byte) []byte {
	if b[0]>>4 == 4 {
		return b[12:20]
	}
	return b[8:ipv6Len]
}
