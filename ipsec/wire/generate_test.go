package wire

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// octets generates nil or between one and most octets, for an empty field is
// parsed to nil.
func octets(least, most int) *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		b := rapid.SliceOfN(rapid.Byte(), least, most).Draw(t, "octets")
		if len(b) == 0 {
			return nil
		}
		return b
	})
}

func generateSPI(t *rapid.T, p ProtocolID, orNone bool) []byte {
	var n int
	switch p {
	case ProtocolIKE:
		n = 8
	case ProtocolAH, ProtocolESP:
		n = 4
	default:
		n = rapid.IntRange(1, 255).Draw(t, "SPI length")
	}
	if orNone && rapid.Bool().Draw(t, "no SPI") {
		n = 0
	}
	return octets(n, n).Draw(t, "SPI")
}

func generateSA(t *rapid.T) Payload {
	transform := rapid.Custom(func(t *rapid.T) Transform {
		return Transform{
			Type:        TransformType(rapid.Uint8().Draw(t, "type")),
			ID:          rapid.Uint16().Draw(t, "ID"),
			KeyLength:   rapid.Uint16().Draw(t, "key length"),
			Unsupported: rapid.SampledFrom([]string{"", "\x80\x01\x00\x01", "\x00\x10\x00\x02hi\x80\x0e\x00\x00"}).Draw(t, "unsupported"),
		}
	})
	sa := &SA{}
	first := rapid.IntRange(0, 200).Draw(t, "first number")
	for i := range rapid.IntRange(1, 5).Draw(t, "proposals") {
		p := Proposal{Number: uint8(first + i), Protocol: ProtocolID(rapid.Uint8Range(0, 4).Draw(t, "protocol"))}
		p.SPI = generateSPI(t, p.Protocol, p.Protocol < ProtocolAH)
		p.Transforms = rapid.SliceOfN(transform, 1, 20).Draw(t, "transforms")
		sa.Proposals = append(sa.Proposals, p)
	}
	return sa
}

func generateTS(t *rapid.T) Payload {
	selector := rapid.Custom(func(t *rapid.T) TrafficSelector {
		s := TrafficSelector{
			Kind:       rapid.SampledFrom([]TSType{TSIPv4Range, TSIPv6Range, TSSecurityLabel, 1}).Draw(t, "kind"),
			IPProtocol: rapid.Uint8().Draw(t, "protocol"),
		}
		n := s.addrLen()
		if n == 0 {
			s.Opaque = string(octets(0, 30).Draw(t, "content"))
			return s
		}
		s.First, _ = netip.AddrFromSlice(octets(n, n).Draw(t, "first"))
		s.Last, _ = netip.AddrFromSlice(octets(n, n).Draw(t, "last"))
		if s.Last.Less(s.First) {
			s.First, s.Last = s.Last, s.First
		}
		s.StartPort = rapid.Uint16().Draw(t, "start port")
		s.EndPort = rapid.Uint16Range(s.StartPort, 65535).Draw(t, "end port")
		if rapid.Bool().Draw(t, "opaque ports") {
			s.StartPort, s.EndPort = 65535, 0
		}
		return s
	})
	return &TS{
		Initiator: rapid.Bool().Draw(t, "initiator"),
		Selectors: rapid.SliceOfN(selector, 1, 10).Draw(t, "selectors"),
	}
}

func generateCP(t *rapid.T) Payload {
	p := &CP{Kind: CPType(rapid.Uint8().Draw(t, "kind"))}
	for range rapid.IntRange(0, 6).Draw(t, "attributes") {
		p.Attributes = append(p.Attributes, CPAttribute{
			Kind:  CPAttributeType(rapid.Uint16Range(0, 0x7fff).Draw(t, "type")),
			Value: octets(0, 20).Draw(t, "value"),
		})
	}
	return p
}

func generateNotify(t *rapid.T) Payload {
	p := &Notify{Kind: NotifyType(rapid.Uint16().Draw(t, "kind")), Data: octets(0, 40).Draw(t, "data")}
	p.Protocol = ProtocolID(rapid.Uint8Range(0, 4).Draw(t, "protocol"))
	if p.Protocol != ProtocolNone {
		p.SPI = generateSPI(t, p.Protocol, false)
	}
	return p
}

func generateDelete(t *rapid.T) Payload {
	p := &Delete{Protocol: ProtocolID(rapid.Uint8Range(1, 4).Draw(t, "protocol"))}
	if p.Protocol == ProtocolIKE {
		return p
	}
	n := 4
	if p.Protocol > ProtocolESP {
		n = rapid.IntRange(1, 255).Draw(t, "SPI length")
	}
	for range rapid.IntRange(0, 10).Draw(t, "SPIs") {
		p.SPIs = append(p.SPIs, octets(n, n).Draw(t, "SPI"))
	}
	return p
}

func generateEAP(t *rapid.T) Payload {
	data := octets(1, 50).Draw(t, "type and data")
	n := eapHeaderLen + len(data)
	code := rapid.Uint8Range(eapRequest, eapResponse).Draw(t, "code")
	return &EAP{Data: append([]byte{code, 1, byte(n >> 8), byte(n)}, data...)}
}

// generators make one valid payload each; those of the encrypted payloads are
// in generateMessage.
var generators = []func(t *rapid.T) Payload{
	generateSA, generateTS, generateCP, generateNotify, generateDelete, generateEAP,
	func(t *rapid.T) Payload {
		return &KE{Group: KeyExchangeID(rapid.Uint16().Draw(t, "group")), Data: octets(1, 100).Draw(t, "data")}
	},
	func(t *rapid.T) Payload {
		return &ID{Initiator: rapid.Bool().Draw(t, "initiator"), Kind: IDFQDN, Data: octets(1, 50).Draw(t, "data")}
	},
	func(t *rapid.T) Payload {
		return &Cert{Encoding: CertEncoding(rapid.Uint8().Draw(t, "encoding")), Data: octets(1, 100).Draw(t, "data")}
	},
	func(t *rapid.T) Payload {
		return &CertReq{Encoding: CertEncoding(rapid.Uint8().Draw(t, "encoding")), Data: octets(0, 100).Draw(t, "data")}
	},
	func(t *rapid.T) Payload {
		return &Auth{Method: AuthMethod(rapid.Uint8().Draw(t, "method")), Data: octets(1, 100).Draw(t, "data")}
	},
	func(t *rapid.T) Payload { return &Nonce{Data: octets(16, 256).Draw(t, "nonce")} },
	func(t *rapid.T) Payload { return &VendorID{Data: octets(0, 30).Draw(t, "vendor")} },
	func(t *rapid.T) Payload {
		kind := PayloadType(rapid.SampledFrom([]uint8{1, 32, 49, 52, 54, 255}).Draw(t, "kind"))
		return &Unknown{Kind: kind, Data: octets(0, 30).Draw(t, "data")}
	},
}

// generatePayloads makes a chain within the limits.
func generatePayloads(t *rapid.T) []Payload {
	var ps []Payload
	var seen [256]int
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(generators)-1), 0, 12).Draw(t, "payloads") {
		p := generators[i](t)
		if k := p.PayloadType(); seen[k] < payloadLimit(k) {
			seen[k]++
			ps = append(ps, p)
		}
	}
	return ps
}

func generateMessage(t *rapid.T) *Message {
	m := &Message{
		Header: Header{
			InitiatorSPI: SPI(octets(8, 8).Draw(t, "initiator's SPI")),
			ResponderSPI: SPI(octets(8, 8).Draw(t, "responder's SPI")),
			Major:        2, Minor: rapid.Uint8Range(0, 15).Draw(t, "minor version"),
			Exchange:  ExchangeType(rapid.Uint8().Draw(t, "exchange")),
			Flags:     Flags(rapid.Uint8().Draw(t, "flags")) & flagsSent,
			MessageID: rapid.Uint32().Draw(t, "message ID"),
		},
		Payloads: generatePayloads(t),
	}
	m.InitiatorSPI[7] |= 1
	first := PayloadType(rapid.SampledFrom([]uint8{0, 33, 41, 200}).Draw(t, "first inner payload"))
	switch rapid.IntRange(0, 2).Draw(t, "encryption") {
	case 1:
		m.Payloads = append(m.Payloads, &Encrypted{FirstInner: first, Body: octets(0, 100).Draw(t, "body")})
	case 2:
		p := &EncryptedFragment{Number: rapid.Uint16Range(1, 65535).Draw(t, "number"), Body: octets(0, 100).Draw(t, "body")}
		p.Total = rapid.Uint16Range(p.Number, 65535).Draw(t, "total")
		if p.Number == 1 {
			p.FirstInner = first
		}
		m.Payloads = append(m.Payloads, p)
	}
	return m
}

func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := generateMessage(t)
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != m.size() {
			t.Fatalf("%d octets, size says %d", len(b), m.size())
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		want := &Message{Header: m.Header, Payloads: m.Payloads, Raw: b}
		want.NextPayload, want.Length = firstType(m.Payloads), uint32(len(b))
		if len(want.Payloads) == 0 {
			want.Payloads = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%x:\n got %+v\nwant %+v", b, got, want)
		}
		again, err := got.Append(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("appended again:\n got %x, %v\nwant %x", again, err, b)
		}
		for n := range b {
			if _, err := Parse(b[:n]); err == nil {
				t.Fatalf("the first %d of %d octets parse", n, len(b))
			}
		}
	})
}

func TestPayloadsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ps := generatePayloads(t)
		first, b, err := AppendPayloads(nil, ps)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParsePayloads(first, b)
		if err != nil {
			t.Fatal(err)
		}
		if len(got)+len(ps) > 0 && !reflect.DeepEqual(got, ps) {
			t.Fatalf("%x:\n got %+v\nwant %+v", b, got, ps)
		}
		for n := range b {
			if _, err := ParsePayloads(first, b[:n]); err == nil {
				t.Fatalf("the first %d of %d octets parse", n, len(b))
			}
		}
	})
}
