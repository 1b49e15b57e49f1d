package ike

import (
	"encoding/binary"
	"net/netip"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// redact appends what may be kept of payloads: their types, algorithms,
// identities, selectors and SPIs. Somewhat before limit it stops, and says so by
// a last octet of zero. The form is that of restore alone.
func redact(b []byte, payloads []wire.Payload, limit int) []byte {
	const most = 3 + maxKeptID + 1 // of a payload that is not a list
	cut := false
	for _, p := range payloads {
		if cut = cut || len(b)+most > limit; cut {
			break
		}
		head := len(b)
		b = append(b, byte(p.PayloadType()), 0, 0)
		b, cut = redactBody(b, p, limit-1)
		binary.BigEndian.PutUint16(b[head+1:], uint16(len(b)-head-3))
	}
	if cut {
		b = append(b, byte(wire.PayloadNone))
	}
	return b
}

// redactBody appends the body of one payload, of a list as much as there is
// room for; cut says that it was not all.
func redactBody(b []byte, p wire.Payload, limit int) (_ []byte, cut bool) {
	switch p := p.(type) {
	case *wire.SA:
		return redactSA(b, p, limit)
	case *wire.Delete:
		b = append(b, byte(p.Protocol))
		for _, spi := range p.SPIs {
			if len(b)+1+len(spi) > limit {
				return b, true
			}
			b = append(append(b, byte(len(spi))), spi...)
		}
		return b, false
	case *wire.TS:
		return redactTS(b, p, limit)
	case *wire.CP:
		b = append(b, byte(p.Kind))
		for _, a := range p.Attributes {
			if len(b)+2 > limit {
				return b, true
			}
			b = binary.BigEndian.AppendUint16(b, uint16(a.Kind))
		}
		return b, false
	}
	return redactSingle(b, p), false
}

// redactSingle appends the body of a payload that is not a list.
func redactSingle(b []byte, p wire.Payload) []byte {
	switch p := p.(type) {
	case *wire.KE:
		return binary.BigEndian.AppendUint16(b, uint16(p.Group))
	case *wire.ID:
		return append(append(b, byte(p.Kind)), p.Data[:min(len(p.Data), maxKeptID)]...)
	case *wire.Cert:
		return append(b, byte(p.Encoding))
	case *wire.CertReq:
		return append(b, byte(p.Encoding))
	case *wire.Auth:
		return append(b, byte(p.Method))
	case *wire.Notify:
		b = binary.BigEndian.AppendUint16(append(b, byte(p.Protocol)), uint16(p.Kind))
		spi := p.SPI[:min(len(p.SPI), 8)]
		b = append(append(b, byte(len(spi))), spi...)
		if p.Kind == wire.NotifyInvalidKEPayload || p.Kind == wire.NotifyUnsupportedCriticalPayload {
			b = append(b, p.Data[:min(len(p.Data), 2)]...)
		}
		return b
	case *wire.Unknown:
		if p.Critical {
			return append(b, 1)
		}
	}
	return b
}

// maxKeptID is how much of an identity is kept.
const maxKeptID = 128

func redactSA(b []byte, p *wire.SA, limit int) (_ []byte, cut bool) {
	const head, each = 4, 5
	for _, o := range p.Proposals {
		room := (limit - len(b) - head - len(o.SPI)) / each
		if room <= 0 {
			return b, true
		}
		n := min(len(o.Transforms), room, 255)
		b = append(b, o.Number, byte(o.Protocol), byte(len(o.SPI)), byte(n))
		b = append(b, o.SPI...)
		for _, t := range o.Transforms[:n] {
			b = append(b, byte(t.Type), byte(t.ID>>8), byte(t.ID), byte(t.KeyLength>>8), byte(t.KeyLength))
		}
		if n < len(o.Transforms) {
			return b, true
		}
	}
	return b, false
}

func redactTS(b []byte, p *wire.TS, limit int) (_ []byte, cut bool) {
	const most = 7 + 2*16
	for _, s := range p.Selectors {
		if len(b)+most > limit {
			return b, true
		}
		b = append(b, byte(s.Kind), s.IPProtocol, byte(s.StartPort>>8), byte(s.StartPort), byte(s.EndPort>>8), byte(s.EndPort))
		switch {
		case s.First.Is4():
			first, last := s.First.As4(), s.Last.As4()
			b = append(append(append(b, 4), first[:]...), last[:]...)
		case s.First.Is6():
			first, last := s.First.As16(), s.Last.As16()
			b = append(append(append(b, 16), first[:]...), last[:]...)
		default:
			b = append(b, 0)
		}
	}
	return b, false
}

// restore returns the payloads that redact made b of, without what it left out,
// and whether it had to stop early.
func restore(b []byte) (payloads []wire.Payload, cut bool) {
	for len(b) >= 3 {
		n := int(binary.BigEndian.Uint16(b[1:]))
		payloads = append(payloads, restorePayload(wire.PayloadType(b[0]), b[3:3+n]))
		b = b[3+n:]
	}
	return payloads, len(b) > 0
}

func restorePayload(t wire.PayloadType, b []byte) wire.Payload {
	switch t {
	case wire.PayloadSA:
		return restoreSA(b)
	case wire.PayloadKE:
		return &wire.KE{Group: wire.KeyExchangeID(binary.BigEndian.Uint16(b))}
	case wire.PayloadIDi, wire.PayloadIDr:
		return &wire.ID{Initiator: t == wire.PayloadIDi, Kind: wire.IDType(b[0]), Data: b[1:]}
	case wire.PayloadCert:
		return &wire.Cert{Encoding: wire.CertEncoding(b[0])}
	case wire.PayloadCertReq:
		return &wire.CertReq{Encoding: wire.CertEncoding(b[0])}
	case wire.PayloadAuth:
		return &wire.Auth{Method: wire.AuthMethod(b[0])}
	case wire.PayloadNonce:
		return &wire.Nonce{}
	case wire.PayloadNotify:
		spi := 4 + int(b[3])
		return &wire.Notify{
			Protocol: wire.ProtocolID(b[0]), Kind: wire.NotifyType(binary.BigEndian.Uint16(b[1:])), SPI: b[4:spi], Data: b[spi:],
		}
	case wire.PayloadDelete:
		d := &wire.Delete{Protocol: wire.ProtocolID(b[0])}
		for b = b[1:]; len(b) > 0; b = b[1+int(b[0]):] {
			d.SPIs = append(d.SPIs, b[1:1+int(b[0])])
		}
		return d
	case wire.PayloadTSi, wire.PayloadTSr:
		return restoreTS(t == wire.PayloadTSi, b)
	case wire.PayloadCP:
		cp := &wire.CP{Kind: wire.CPType(b[0])}
		for b = b[1:]; len(b) > 0; b = b[2:] {
			cp.Attributes = append(cp.Attributes, wire.CPAttribute{Kind: wire.CPAttributeType(binary.BigEndian.Uint16(b))})
		}
		return cp
	case wire.PayloadVendorID:
		return &wire.VendorID{}
	case wire.PayloadEAP:
		return &wire.EAP{}
	}
	return &wire.Unknown{Kind: t, Critical: len(b) > 0}
}

func restoreSA(b []byte) *wire.SA {
	sa := &wire.SA{}
	for len(b) > 0 {
		p := wire.Proposal{Number: b[0], Protocol: wire.ProtocolID(b[1]), SPI: b[4 : 4+b[2]]}
		n := int(b[3])
		for b = b[4+int(b[2]):]; n > 0; n-- {
			p.Transforms = append(p.Transforms, wire.Transform{
				Type: wire.TransformType(b[0]), ID: binary.BigEndian.Uint16(b[1:]), KeyLength: binary.BigEndian.Uint16(b[3:]),
			})
			b = b[5:]
		}
		sa.Proposals = append(sa.Proposals, p)
	}
	return sa
}

func restoreTS(initiator bool, b []byte) *wire.TS {
	p := &wire.TS{Initiator: initiator}
	for len(b) > 0 {
		s := wire.TrafficSelector{
			Kind: wire.TSType(b[0]), IPProtocol: b[1], StartPort: binary.BigEndian.Uint16(b[2:]), EndPort: binary.BigEndian.Uint16(b[4:]),
		}
		n := int(b[6])
		s.First, _ = netip.AddrFromSlice(b[7 : 7+n])
		s.Last, _ = netip.AddrFromSlice(b[7+n : 7+2*n])
		b = b[7+2*n:]
		p.Selectors = append(p.Selectors, s)
	}
	return p
}
