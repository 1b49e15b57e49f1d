package notation

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/swanherd/swanherd/ipsec/suite"
	"github.com/swanherd/swanherd/ipsec/ts"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Message renders a message in one line. For a protected message the payloads
// are the decrypted ones; an Encrypted payload among them is shown as "SK(92)"
// with the length of its body.
func Message(h wire.Header, payloads []wire.Payload) string { return message(h, payloads, Payload) }

// Detailed is Message with what is in the payloads:
//
//	CREATE_CHILD_SA req 2 {SA(ESP c0000001 aes256gcm16-x25519-esn) Ni KEi(CURVE25519) ...}
func Detailed(h wire.Header, payloads []wire.Payload) string { return message(h, payloads, detailed) }

func message(h wire.Header, payloads []wire.Payload, render func(wire.Header, wire.Payload) string) string {
	words := make([]string, len(payloads))
	for i, p := range payloads {
		words[i] = render(h, p)
	}
	return Head(h) + " {" + strings.Join(words, " ") + "}"
}

// Head renders what a header says without its SPIs: "CREATE_CHILD_SA req 2".
func Head(h wire.Header) string {
	direction := " req "
	if h.IsResponse() {
		direction = " resp "
	}
	return h.Exchange.String() + direction + strconv.FormatUint(uint64(h.MessageID), 10)
}

// Payload renders one payload in short. The i or r of nonces and key exchanges
// says who sent them in this exchange.
func Payload(h wire.Header, p wire.Payload) string {
	side := "i"
	if h.IsResponse() {
		side = "r"
	}
	switch p := p.(type) {
	case *wire.KE:
		return "KE" + side
	case *wire.Nonce:
		return "N" + side
	case *wire.Notify:
		return "N(" + p.Kind.String() + ")"
	case *wire.Delete:
		if p.Protocol == wire.ProtocolIKE {
			return "D"
		}
		return "D(" + strings.Join(spis(p.SPIs), " ") + ")"
	case *wire.CP:
		return "CP(" + p.Kind.String() + ")"
	case *wire.Encrypted:
		return fmt.Sprintf("SK(%d)", len(p.Body))
	case *wire.EncryptedFragment:
		return fmt.Sprintf("SKF(%d/%d %d)", p.Number, p.Total, len(p.Body))
	case *wire.Unknown:
		if p.Critical {
			return p.Kind.String() + "!"
		}
	}
	return p.PayloadType().String()
}

// spis are SPIs as numbers, those of ESP without leading zeros.
func spis(list [][]byte) []string {
	out := make([]string, len(list))
	for i, spi := range list {
		out[i] = strings.TrimLeft(hex.EncodeToString(spi), "0")
	}
	return out
}

// detailed renders one payload with its content.
func detailed(h wire.Header, p wire.Payload) string {
	var parts []string
	switch p := p.(type) {
	case *wire.SA:
		for i := range p.Proposals {
			parts = append(parts, proposal(&p.Proposals[i]))
		}
		return Payload(h, p) + "(" + strings.Join(parts, ", ") + ")"
	case *wire.TS:
		for _, s := range p.Selectors {
			parts = append(parts, Selector(s))
		}
	case *wire.KE:
		parts = append(parts, p.Group.String())
	case *wire.ID:
		parts = append(parts, Identity(p))
	case *wire.Cert:
		parts = append(parts, p.Encoding.String())
	case *wire.CertReq:
		parts = append(parts, p.Encoding.String())
	case *wire.Auth:
		parts = append(parts, p.Method.String())
	case *wire.Notify:
		return notify(p)
	case *wire.CP:
		parts = append(parts, p.Kind.String())
		for _, a := range p.Attributes {
			parts = append(parts, a.Kind.String())
		}
		return "CP(" + strings.Join(parts, " ") + ")"
	}
	if parts == nil {
		return Payload(h, p)
	}
	return Payload(h, p) + "(" + strings.Join(parts, " ") + ")"
}

func proposal(p *wire.Proposal) string {
	words := []string{p.Protocol.String()}
	if len(p.SPI) > 0 {
		words = append(words, spis([][]byte{p.SPI})...)
	}
	return strings.Join(append(words, suite.Describe(*p)), " ")
}

// notify shows the SPI, and of the data only what says which payload or key
// exchange method is wanted.
func notify(p *wire.Notify) string {
	s := p.Kind.String()
	if len(p.SPI) > 0 {
		s += " " + spis([][]byte{p.SPI})[0]
	}
	switch {
	case p.Kind == wire.NotifyInvalidKEPayload && len(p.Data) == 2:
		s += " " + wire.KeyExchangeID(uint16(p.Data[0])<<8|uint16(p.Data[1])).String()
	case p.Kind == wire.NotifyUnsupportedCriticalPayload && len(p.Data) == 1:
		s += " " + wire.PayloadType(p.Data[0]).String()
	}
	return "N(" + s + ")"
}

// Identity prints what is text as quoted text, and everything else with its
// kind in hexadecimal.
func Identity(p *wire.ID) string {
	if p.Kind == wire.IDFQDN || p.Kind == wire.IDRFC822 {
		return strconv.Quote(string(p.Data))
	}
	return p.Kind.String() + " " + hex.EncodeToString(p.Data)
}

// Selector prints a traffic selector, of an opaque one its kind and length.
func Selector(s wire.TrafficSelector) string {
	if s.Kind != wire.TSIPv4Range && s.Kind != wire.TSIPv6Range {
		return fmt.Sprintf("%s(%d)", s.Kind, len(s.Opaque))
	}
	return ts.Selector{
		Protocol: s.IPProtocol, StartPort: s.StartPort, EndPort: s.EndPort, First: s.First, Last: s.Last,
	}.String()
}
