package userspace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/swanherd/swanherd/ipsec/dataplane"
	"github.com/swanherd/swanherd/ipsec/dataplane/internal/checksum"
)

// TestOuterRule: DSCP, ECN and DF of the outer header by those of the inner one
// (RFC 4301, Section 5.1.2; RFC 6040, Section 4.1).
func TestOuterRule(t *testing.T) {
	v4 := &endpoint{remote: netip.MustParseAddrPort("192.0.2.1:4500")}
	v6 := &endpoint{remote: netip.MustParseAddrPort("[2001:db8::1]:4500")}
	const ef, af = 0x2e, 0x12
	for _, tt := range []struct {
		outer    dataplane.Outer
		want     uint8   // for an inner class of EF and CE
		fragment [2]bool // inner DF clear, set
	}{
		{dataplane.Outer{}, ef<<2 | ecnCE, [2]bool{true, false}},
		{dataplane.Outer{DF: dataplane.DFSet}, ef<<2 | ecnCE, [2]bool{false, false}},
		{dataplane.Outer{DF: dataplane.DFClear}, ef<<2 | ecnCE, [2]bool{true, true}},
		{dataplane.Outer{FixDSCP: true, DSCP: af}, af<<2 | ecnCE, [2]bool{true, false}},
		{dataplane.Outer{FixDSCP: true}, ecnCE, [2]bool{true, false}},
		{dataplane.Outer{NoECN: true}, ef << 2, [2]bool{true, false}},
		{dataplane.Outer{FixDSCP: true, DSCP: af, NoECN: true}, af << 2, [2]bool{true, false}},
	} {
		if err := tt.outer.Validate(); err != nil {
			t.Fatal(err)
		}
		r := compileOuter(tt.outer)
		for df, fragment := range tt.fragment {
			b := ipv4Packet(ef<<2 | ecnCE)
			b[6] = byte(df) << 6
			if got, want := r.header(v4, b, false), (outerHeader{v4, tt.want, fragment}); got != want {
				t.Errorf("%+v, inner DF %d: %+v, want %+v", tt.outer, df, got, want)
			}
			if got, want := r.header(v6, b, false), (outerHeader{to: v6, class: tt.want}); got != want {
				t.Errorf("%+v over IPv6, inner DF %d: %+v, want %+v", tt.outer, df, got, want)
			}
		}
		b := make([]byte, ipv6HeaderLen)
		b[0], b[1] = 0x60|(ef<<2|ecnCE)>>4, (ef<<2|ecnCE)<<4&0xff
		if got, want := r.header(v4, b, true), (outerHeader{v4, tt.want, tt.fragment[1]}); got != want {
			t.Errorf("%+v, inner IPv6: %+v, want %+v", tt.outer, got, want)
		}
	}
}

func TestOuterValidate(t *testing.T) {
	for _, o := range []dataplane.Outer{{FixDSCP: true, DSCP: 64}, {DSCP: 1}, {DF: 3}} {
		if o.Validate() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// datagram4 is a UDP datagram of IPv4 from site A to site B.
func datagram4(class uint8, df bool, payload int) []byte {
	b := append(ipv4Packet(class), make([]byte, udpHeaderLen+payload)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	if df {
		b[6] = 0x40
	}
	a, to := siteA.Addr().As4(), siteB.Addr().As4()
	copy(b[12:], a[:])
	copy(b[16:], to[:])
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ^checksum.Fold(checksum.Add(b[:ipv4HeaderLen], 0)))
	binary.BigEndian.PutUint16(b[22:], 9)
	binary.BigEndian.PutUint16(b[24:], uint16(udpHeaderLen+payload))
	return b
}

// TestOuterOnTheWire captures what each policy makes of packets whose inner
// headers differ, interleaved so that the socket changes its mind again and
// again.
func TestOuterOnTheWire(t *testing.T) {
	for _, outer := range []dataplane.Outer{
		{}, {DF: dataplane.DFSet}, {DF: dataplane.DFClear}, {FixDSCP: true, DSCP: 10, NoECN: true},
	} {
		t.Run(fmt.Sprintf("%+v", outer), func(t *testing.T) {
			x := newTunnel(t, outerA, outerB, gcm128)
			x.outer = outer
			x.rekey()
			site, wire := x.a.ns.tap(t, x.a.Interface()), x.b.ns.tap(t, "wire")
			rule, e := compileOuter(outer), &endpoint{remote: x.b.outer}
			for n := range 8 {
				inner := datagram4(uint8(n&1)*0xb8|uint8(n&3), n&2 != 0, 100+8*n) // each of its own length
				if err := site.send(inner); err != nil {
					t.Fatal(err)
				}
				want := rule.header(e, inner, false)
				length := ipv4HeaderLen + udpHeaderLen + len(inner) + 8 + 8 + 2 + 2 + 16
				got := wire.find(t, func(b []byte) bool {
					return b[9] == protoUDP && int(binary.BigEndian.Uint16(b[2:])) == length
				})
				if fragment := got[6]&0x40 == 0; got[1] != want.class || fragment != want.fragment {
					t.Errorf("packet %d: class %#x, DF clear %v, want %+v", n, got[1], fragment, want)
				}
			}
		})
	}
}

// find returns the next IPv4 packet that is wanted.
func (p *tap) find(t *testing.T, wanted func([]byte) bool) []byte {
	t.Helper()
	return p.findAny(t, func(b []byte) bool { return b[0]>>4 == 4 && wanted(b) })
}

// findAny returns the next packet that is wanted.
func (p *tap) findAny(t *testing.T, wanted func([]byte) bool) []byte {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case b := <-p.packets:
			if len(b) >= ipv4HeaderLen && wanted(b) {
				return b
			}
		case <-late:
			t.Fatal("the packet does not come")
		}
	}
}
