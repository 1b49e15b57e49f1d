package ipsectest

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/swanherd/swanherd/ipsec/notation"
	"github.com/swanherd/swanherd/ipsec/wire"
)

// Dump renders a message in many lines: the header, and each payload with what
// is in it, of secret or random octets only how many there are. It is for the
// eyes of somebody who looks for a difference between two peers.
func Dump(h wire.Header, payloads []wire.Payload) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, SPIs %s %s, flags %s\n", notation.Head(h), h.InitiatorSPI, h.ResponderSPI, h.Flags)
	for _, p := range payloads {
		fmt.Fprintf(&b, "  %s", notation.Payload(h, p))
		dumpPayload(&b, p)
		b.WriteByte('\n')
	}
	return b.String()
}

func dumpPayload(b *strings.Builder, p wire.Payload) {
	switch p := p.(type) {
	case *wire.SA:
		for i := range p.Proposals {
			dumpProposal(b, &p.Proposals[i])
		}
	case *wire.KE:
		fmt.Fprintf(b, " %s, %d octets", p.Group, len(p.Data))
	case *wire.ID:
		fmt.Fprintf(b, " %s %s", p.Kind, identity(p))
	case *wire.Cert:
		fmt.Fprintf(b, " %s, %d octets", p.Encoding, len(p.Data))
	case *wire.CertReq:
		fmt.Fprintf(b, " %s, %d octets", p.Encoding, len(p.Data))
	case *wire.Auth:
		fmt.Fprintf(b, " %s, %d octets", p.Method, len(p.Data))
	case *wire.Nonce:
		fmt.Fprintf(b, " %d octets", len(p.Data))
	case *wire.Notify:
		if len(p.SPI) > 0 {
			fmt.Fprintf(b, " %s SPI %s", p.Protocol, hex.EncodeToString(p.SPI))
		}
		if len(p.Data) > 0 {
			fmt.Fprintf(b, " %d octets", len(p.Data))
		}
	case *wire.VendorID:
		fmt.Fprintf(b, " %s", hex.EncodeToString(p.Data))
	case *wire.TS:
		for _, s := range p.Selectors {
			fmt.Fprintf(b, " %s", notation.Selector(s))
		}
	case *wire.CP:
		for _, a := range p.Attributes {
			fmt.Fprintf(b, " %s(%d)", a.Kind, len(a.Value))
		}
	case *wire.EAP:
		fmt.Fprintf(b, " %d octets", len(p.Data))
	case *wire.Unknown:
		fmt.Fprintf(b, " %d octets", len(p.Data))
	}
}

func dumpProposal(b *strings.Builder, p *wire.Proposal) {
	fmt.Fprintf(b, "\n    %d %s", p.Number, p.Protocol)
	if len(p.SPI) > 0 {
		fmt.Fprintf(b, " SPI %s", hex.EncodeToString(p.SPI))
	}
	for _, t := range p.Transforms {
		fmt.Fprintf(b, " %s", t)
		if t.Unsupported != "" {
			b.WriteString("(unsupported attributes)")
		}
	}
}

// identity prints what is text as text, and everything else in hexadecimal.
func identity(p *wire.ID) string {
	if p.Kind == wire.IDFQDN || p.Kind == wire.IDRFC822 {
		return fmt.Sprintf("%q", p.Data)
	}
	return hex.EncodeToString(p.Data)
}
