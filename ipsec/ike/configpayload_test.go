package ike

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/swanherd/swanherd/ipsec/wire"
)

func attribute(kind wire.CPAttributeType, value ...byte) wire.CPAttribute {
	return wire.CPAttribute{Kind: kind, Value: value}
}

// What a peer gives is taken attribute by attribute; one that makes no sense is
// passed over (RFC 7296, Section 3.15.1).
func TestReadInternal(t *testing.T) {
	v6 := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	good := []wire.CPAttribute{
		attribute(wire.CPInternalIP4Address, 10, 9, 0, 1),
		attribute(wire.CPInternalIP6Address, append(v6("2001:db8::1"), 64)...),
		attribute(wire.CPInternalIP6Address, v6("2001:db8::2")...),
		attribute(wire.CPInternalIP4DNS, 10, 2, 0, 53),
		attribute(wire.CPInternalIP6DNS, v6("2001:db8::53")...),
		attribute(wire.CPInternalIP4Subnet, 10, 2, 3, 4, 255, 255, 0, 0),
		attribute(wire.CPInternalIP4Subnet, 0, 0, 0, 0, 0, 0, 0, 0),
		attribute(wire.CPInternalIP6Subnet, append(v6("2001:db8::"), 48)...),
	}
	const want = "has 10.9.0.1 2001:db8::1 2001:db8::2, name server 10.2.0.53, name server 2001:db8::53, network 10.2.0.0/16, network 0.0.0.0/0, network 2001:db8::/48"
	if got := readInternal(&wire.CP{Attributes: good}).String(); got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	bad := []wire.CPAttribute{
		attribute(wire.CPInternalIP4Address), attribute(wire.CPInternalIP4Address, 10, 9, 0), attribute(wire.CPInternalIP4Address, 10, 9, 0, 1, 1),
		attribute(wire.CPInternalIP4Address, 0, 0, 0, 0), attribute(wire.CPInternalIP4Address, 127, 0, 0, 1), attribute(wire.CPInternalIP4Address, 224, 0, 0, 1),
		attribute(wire.CPInternalIP4Address, 255, 255, 255, 255), attribute(wire.CPInternalIP4Address, 169, 254, 1, 1),
		attribute(wire.CPInternalIP6Address), attribute(wire.CPInternalIP6Address, v6("::")...), attribute(wire.CPInternalIP6Address, v6("::1")...),
		attribute(wire.CPInternalIP6Address, v6("ff02::1")...), attribute(wire.CPInternalIP6Address, v6("fe80::1")...),
		attribute(wire.CPInternalIP6Address, v6("::ffff:10.0.0.1")...), attribute(wire.CPInternalIP6Address, 1, 2, 3, 4),
		attribute(wire.CPInternalIP4DNS), attribute(wire.CPInternalIP4DNS, 1), attribute(wire.CPInternalIP6DNS, append(v6("2001:db8::1"), 64)...),
		attribute(wire.CPInternalIP4Subnet), attribute(wire.CPInternalIP4Subnet, 10, 2, 0, 0, 255, 0, 255, 0), attribute(wire.CPInternalIP4Subnet, 10, 2, 0, 0),
		attribute(wire.CPInternalIP6Subnet, append(v6("2001:db8::"), 129)...), attribute(wire.CPInternalIP6Subnet, v6("2001:db8::")...),
		attribute(wire.CPInternalIP6Subnet, append(v6("::ffff:10.0.0.0"), 104)...),
		attribute(wire.CPInternalIP4Netmask, 255, 255, 255, 0), attribute(wire.CPApplicationVersion, 'x'), attribute(0x7fff, 1, 2, 3), attribute(wire.CPSupportedAttributes, 1),
	}
	for _, a := range bad {
		if got := readInternal(&wire.CP{Attributes: []wire.CPAttribute{a}}).String(); got != "has" {
			t.Errorf("%s of %d octets %x: read %s", a.Kind, len(a.Value), a.Value, got)
		}
	}
	// Nothing is read twice, and nothing without bounds.
	var many []wire.CPAttribute
	for i := range 200 {
		many = append(many, attribute(wire.CPInternalIP4Address, 10, 9, 0, byte(i)), attribute(wire.CPInternalIP4DNS, 10, 8, 0, byte(i)),
			attribute(wire.CPInternalIP4Subnet, 10, 7, byte(i), 0, 255, 255, 255, 0), attribute(wire.CPInternalIP4Address, 10, 9, 0, byte(i)))
	}
	if c := readInternal(&wire.CP{Attributes: many}); len(c.Addresses) != maxInternal || len(c.DNS) != maxInternal || len(c.Subnets) != maxSubnets {
		t.Errorf("read %d addresses, %d name servers and %d networks", len(c.Addresses), len(c.DNS), len(c.Subnets))
	}
}

// What is written is read again.
func TestAttributesRoundTrip(t *testing.T) {
	offer := &InternalOffer{
		DNS:     addrs("10.2.0.53", "2001:db8::53"),
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.3.0.1/32"), netip.MustParsePrefix("2001:db8::/48")},
	}
	request := &wire.CP{Attributes: []wire.CPAttribute{attribute(wire.CPInternalIP4DNS), attribute(wire.CPInternalIP6DNS), attribute(wire.CPSupportedAttributes)}}
	addresses := addrs("10.9.0.1", "2001:db8::9")
	reply := offer.reply(request, addresses)
	got := readInternal(reply)
	if !slices.Equal(got.Addresses, addresses) || !slices.Equal(got.DNS, offer.DNS) || !slices.Equal(got.Subnets, offer.Subnets) {
		t.Errorf("wrote %v, read %s", reply, got)
	}
	last := reply.Attributes[len(reply.Attributes)-1]
	if last.Kind != wire.CPSupportedAttributes || len(last.Value) != 2*len(supportedAttributes) {
		t.Errorf("supported attributes: %v", last)
	}
}

// configured is a world that is up, in which a has an internal address of b.
func configured(t *testing.T, change func(a, b *Config)) *world {
	t.Helper()
	w := pair(3, func(a, b *Config) {
		a.InternalRequest = &InternalRequest{Addresses: addrs("0.0.0.0"), DNS: true, Subnets: true}
		a.Children[0].LocalTS, b.Children[0].RemoteTS = mustTS("0.0.0.0/0"), mustTS("0.0.0.0/0")
		b.InternalOffer = &InternalOffer{Pool: mustPool(t, "10.9.0.0/28"), DNS: addrs("10.2.0.53")}
		if change != nil {
			change(a, b)
		}
	})
	w.b.step(Connect{})
	w.a.step(Connect{})
	w.settle()
	w.check(t)
	return w
}

// asks has an authenticated peer send a request, and returns the answer.
func (w *world) asks(t *testing.T, from *node, exchange wire.ExchangeType, payloads ...wire.Payload) []wire.Payload {
	t.Helper()
	sa := from.t.primary()
	datagrams, err := sa.protect(wire.Header{Exchange: exchange, MessageID: sa.window.nextSend}, payloads)
	if err != nil {
		t.Fatal(err)
	}
	sa.window.nextSend++
	from.peer().receive(Datagram{Local: from.peer().cfg.Local, Remote: from.cfg.Local, Data: datagrams[0]})
	defer func() { w.flight = nil }()
	for _, p := range w.flight {
		if h, err := wire.ParseHeader(p.data); err == nil && h.IsResponse() {
			return w.plain(p.data)
		}
	}
	t.Fatal("no answer")
	return nil
}

// Configuration payloads in INFORMATIONAL requests of an authenticated peer.
func TestConfigurePeer(t *testing.T) {
	request := func(attributes ...wire.CPAttribute) *wire.CP {
		return &wire.CP{Kind: wire.CPRequest, Attributes: attributes}
	}
	var many []wire.CPAttribute
	for i := range 60 { // one datagram
		many = append(many, attribute(wire.CPInternalIP4Address, 10, 9, 0, byte(i)))
	}
	for _, tt := range []struct {
		name string
		to   string
		cp   *wire.CP
		want string // the answer
	}{
		{"the same address again", "b", request(attribute(wire.CPInternalIP4Address)), "[CP(CFG_REPLY INTERNAL_IP4_ADDRESS=0a090001)]"},
		{"another address", "b", request(attribute(wire.CPInternalIP4Address, 10, 9, 0, 9)), "[CP(CFG_REPLY INTERNAL_IP4_ADDRESS=0a090001)]"},
		{"malformed address", "b", request(attribute(wire.CPInternalIP4Address, 10)), "[CP(CFG_REPLY INTERNAL_IP4_ADDRESS=0a090001)]"},
		{"as many addresses as fit", "b", request(many...), "[CP(CFG_REPLY" +
			" INTERNAL_IP4_ADDRESS=0a090002 INTERNAL_IP4_ADDRESS=0a090001 INTERNAL_IP4_ADDRESS=0a090003 INTERNAL_IP4_ADDRESS=0a090004" +
			" INTERNAL_IP4_ADDRESS=0a090005 INTERNAL_IP4_ADDRESS=0a090006 INTERNAL_IP4_ADDRESS=0a090007 INTERNAL_IP4_ADDRESS=0a090008)]"},
		{"a family that is not there", "b", request(attribute(wire.CPInternalIP6Address)), "[CP(CFG_REPLY)]"},
		{"name servers", "b", request(attribute(wire.CPInternalIP4DNS), attribute(wire.CPInternalIP6DNS)), "[CP(CFG_REPLY INTERNAL_IP4_DNS=0a020035)]"},
		{"version", "b", request(attribute(wire.CPApplicationVersion)), "[CP(CFG_REPLY)]"},
		{"unknown attribute", "b", request(attribute(0x7000, 1, 2, 3)), "[CP(CFG_REPLY)]"},
		{"nothing", "b", request(), "[CP(CFG_REPLY)]"},
		{"unasked reply", "b", &wire.CP{Kind: wire.CPReply, Attributes: many[:1]}, "[]"},
		{"unasked acknowledgement", "b", &wire.CP{Kind: wire.CPAck, Attributes: many[:1]}, "[]"},
		{"unknown type", "b", &wire.CP{Kind: 99, Attributes: many[:1]}, "[]"},
		{"set", "b", &wire.CP{Kind: wire.CPSet, Attributes: []wire.CPAttribute{attribute(wire.CPInternalIP4DNS, 10, 2, 0, 54)}}, "[CP(CFG_ACK)]"},
		{"request to who gives nothing", "a", request(attribute(wire.CPInternalIP4Address)), "[]"},
		{"reply to who has one", "a", &wire.CP{Kind: wire.CPReply, Attributes: many[5:6]}, "[]"},
		{"an address cannot be set", "a", &wire.CP{Kind: wire.CPSet, Attributes: many[5:6]}, "[CP(CFG_ACK)]"},
		{"set", "a", &wire.CP{Kind: wire.CPSet, Attributes: []wire.CPAttribute{
			attribute(wire.CPInternalIP4DNS, 10, 2, 0, 54), attribute(wire.CPInternalIP4DNS, 1), attribute(wire.CPInternalIP4Subnet, 10, 3, 0, 0, 255, 255, 0, 0), attribute(0x7000),
		}}, "[CP(CFG_ACK INTERNAL_IP4_DNS= INTERNAL_IP4_SUBNET=)]"},
	} {
		t.Run(tt.name+" "+tt.to, func(t *testing.T) {
			w := configured(t, nil)
			from := w.a
			if tt.to == "a" {
				from = w.b
			}
			got := fmt.Sprint(describeCP(w.asks(t, from, wire.ExchangeInformational, tt.cp)))
			if got != tt.want {
				t.Errorf("answer %s, want %s", got, tt.want)
			}
			for _, n := range w.nodes() {
				in := n.t.primary().internal
				if in.Addresses[0] != netip.MustParseAddr("10.9.0.1") || len(in.Addresses) > maxInternal {
					t.Errorf("%s %s", n.name, in)
				}
			}
			if s := w.findStrayLease(); s != "" {
				t.Error(s)
			}
		})
	}
}

func describeCP(payloads []wire.Payload) []string {
	out := []string{}
	for _, p := range payloads {
		cp, ok := p.(*wire.CP)
		if !ok {
			out = append(out, p.PayloadType().String())
			continue
		}
		s := "CP(" + cp.Kind.String()
		for _, a := range cp.Attributes {
			s += fmt.Sprintf(" %s=%x", a.Kind, a.Value)
		}
		out = append(out, s+")")
	}
	return out
}

// A responder that gives more than was asked for, nonsense, or nothing.
func TestTakeInternal(t *testing.T) {
	reply := func(attributes ...wire.CPAttribute) *wire.CP {
		return &wire.CP{Kind: wire.CPReply, Attributes: attributes}
	}
	for _, tt := range []struct {
		name string
		cp   *wire.CP
		want string
	}{
		{"one", reply(attribute(wire.CPInternalIP4Address, 10, 9, 0, 1)), "has 10.9.0.1"},
		{"more than asked for", reply(attribute(wire.CPInternalIP4Address, 10, 9, 0, 1), attribute(wire.CPInternalIP4Address, 10, 9, 0, 2)), "has 10.9.0.1"},
		{"a family not asked for", reply(attribute(wire.CPInternalIP6Address, netip.MustParseAddr("2001:db8::1").AsSlice()...)), "none"},
		{"nonsense and one", reply(attribute(wire.CPInternalIP4Address, 127, 0, 0, 1), attribute(wire.CPInternalIP4Address, 10, 9, 0, 2)), "has 10.9.0.2"},
		{"no address", reply(attribute(wire.CPInternalIP4DNS, 10, 2, 0, 53)), "none"},
		{"empty", reply(), "none"},
		{"another type", &wire.CP{Kind: wire.CPSet, Attributes: []wire.CPAttribute{attribute(wire.CPInternalIP4Address, 10, 9, 0, 1)}}, "none"},
	} {
		w := pair(1, func(a, _ *Config) { a.InternalRequest = &InternalRequest{Addresses: addrs("0.0.0.0")} })
		sa := &ikeSA{m: &w.a.t.machine, t: w.a.t}
		sa.takeInternal(&message{payloads: []wire.Payload{tt.cp}})
		if got := sa.internal.String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	// Nothing was asked for (RFC 7296, Section 2.19: MUST NOT).
	w := pair(1, nil)
	sa := &ikeSA{m: &w.a.t.machine, t: w.a.t}
	sa.takeInternal(&message{payloads: []wire.Payload{reply(attribute(wire.CPInternalIP4Address, 10, 9, 0, 1))}})
	if sa.internal != nil {
		t.Errorf("unasked: %s", sa.internal)
	}
}

// A peer with an address cannot get selectors of others, whatever it asks for (RFC
// 7296, Section 2.9), and neither can one without.
func TestNarrowedToAddress(t *testing.T) {
	for _, tt := range []struct{ offer, require, want string }{
		{"0.0.0.0/0", "", "[10.9.0.1/32]"},
		{"10.9.0.0/24", "", "[10.9.0.1/32]"},
		{"10.9.0.1/32", "", "[10.9.0.1/32]"},
		{"10.9.0.2/32", "", "TS_UNACCEPTABLE"},
		{"10.1.0.0/16", "", "TS_UNACCEPTABLE"},
		{"0.0.0.0/0", "required", "FAILED_CP_REQUIRED"},
	} {
		w := configured(t, func(a, b *Config) {
			if tt.require != "" {
				b.InternalOffer.Required = true
				a.InternalRequest.Required = true
			}
		})
		if tt.require != "" { // as if it had not asked
			w.b.t.primary().internal = nil
		}
		proposals := mustESP("aes128gcm16-esn")
		w.b.t.cfg.Children[0].Proposals = proposals
		payloads := childPayloads(proposals, 0x9999, bytes.Repeat([]byte{7}, 32), nil, mustTS(tt.offer), mustTS("10.2.0.0/16"), &ChildConfig{})
		answer := &message{payloads: w.asks(t, w.a, wire.ExchangeCreateChildSA, payloads...)}
		got := ""
		if n := answer.errorNotify(); n != nil {
			got = n.Kind.String()
		} else if narrow, err := selectors(answer, true); err == nil {
			got = fmt.Sprint(narrow)
		}
		if got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.offer, tt.require, got, tt.want)
		}
	}
}

func TestInternalConfigErrors(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"request of a responder": func(c *Config) {
			c.Role, c.InternalRequest = RoleResponder, &InternalRequest{Addresses: addrs("0.0.0.0")}
		},
		"request of nothing":       func(c *Config) { c.InternalRequest = &InternalRequest{DNS: true} },
		"request of a group":       func(c *Config) { c.InternalRequest = &InternalRequest{Addresses: addrs("224.0.0.1")} },
		"request of the zero Addr": func(c *Config) { c.InternalRequest = &InternalRequest{Addresses: []netip.Addr{{}}} },
		"request of nine":          func(c *Config) { c.InternalRequest = &InternalRequest{Addresses: slices.Repeat(addrs("0.0.0.0"), 9)} },
		"offer of an initiator":    func(c *Config) { c.InternalOffer = &InternalOffer{Pool: mustPool(t, "10.9.0.0/24")} },
		"offer without a pool":     func(c *Config) { c.Role, c.InternalOffer = RoleResponder, &InternalOffer{} },
		"offer of a group": func(c *Config) {
			c.Role, c.InternalOffer = RoleResponder, &InternalOffer{Pool: mustPool(t, "10.9.0.0/24"), DNS: addrs("224.0.0.1")}
		},
		"offer of a host in a network": func(c *Config) {
			c.Role, c.InternalOffer = RoleResponder, &InternalOffer{Pool: mustPool(t, "10.9.0.0/24"), Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.1/16")}}
		},
		"offer of the zero Prefix": func(c *Config) {
			c.Role, c.InternalOffer = RoleResponder, &InternalOffer{Pool: mustPool(t, "10.9.0.0/24"), Subnets: []netip.Prefix{{}}}
		},
		"offer of nine name servers": func(c *Config) {
			c.Role, c.InternalOffer = RoleResponder, &InternalOffer{Pool: mustPool(t, "10.9.0.0/24"), DNS: slices.Repeat(addrs("10.0.0.1"), 9)}
		},
	} {
		w := pair(1, nil)
		cfg := w.a.cfg
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "internal") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzInternal reads Configuration payloads of a peer in every role.
func FuzzInternal(f *testing.F) {
	for _, cp := range []*wire.CP{
		{Kind: wire.CPRequest, Attributes: []wire.CPAttribute{attribute(wire.CPInternalIP4Address), attribute(wire.CPInternalIP6Address, make([]byte, 17)...)}},
		{Kind: wire.CPReply, Attributes: []wire.CPAttribute{attribute(wire.CPInternalIP4Address, 10, 9, 0, 1), attribute(wire.CPInternalIP4Subnet, 10, 0, 0, 0, 255, 0, 0, 0)}},
		{Kind: wire.CPSet, Attributes: []wire.CPAttribute{attribute(wire.CPInternalIP4DNS, 10, 2, 0, 53)}},
	} {
		raw, err := (&wire.Message{Header: wire.Header{Major: 2, InitiatorSPI: wire.SPI{1}}, Payloads: []wire.Payload{cp}}).Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw[28:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		payloads, err := wire.ParsePayloads(wire.PayloadCP, bytes.Clone(body))
		if err != nil || len(payloads) == 0 {
			return
		}
		cp, ok := payloads[0].(*wire.CP)
		if !ok {
			return
		}
		given := readInternal(cp)
		for _, a := range append(slices.Clone(given.Addresses), given.DNS...) {
			if !assignable(a) {
				t.Errorf("read %s", a)
			}
		}
		pool := mustPool(t, "10.9.0.0/30", "2001:db8::/126")
		wanted := readWanted(cp, pool)
		got := pool.Lease("peer", wanted)
		if len(got) > 2+3 || len(wanted) > 2*maxInternal {
			t.Errorf("%d wanted, %d lent", len(wanted), len(got))
		}
		offer := &InternalOffer{Pool: pool, DNS: addrs("10.2.0.53"), Subnets: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}}
		if reply := readInternal(offer.reply(cp, got)); !slices.Equal(reply.Addresses, got) {
			t.Errorf("lent %v, the reply says %v", got, reply.Addresses)
		}
	})
}
