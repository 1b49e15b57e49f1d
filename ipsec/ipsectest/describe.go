package ipsectest

import (
	"fmt"
	"strings"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// Describe renders a message in one line, payloads in the notation of
// RFC 7296, Section 1.2:
//
//	CREATE_CHILD_SA req{N(REKEY_SA) SA Ni KEi TSi TSr}
//
// The i or r of nonces and key exchanges says who sent them in this exchange.
// For a protected message the payloads are the decrypted ones; an Encrypted
// payload among them is shown as "SK(92)" with the length of its body.
func Describe(h wire.Header, payloads []wire.Payload) string {
	words := make([]string, len(payloads))
	for i, p := range payloads {
		words[i] = notation(h, p)
	}
	return fmt.Sprintf("%s %s{%s}", h.Exchange, direction(h), strings.Join(words, " "))
}

// DescribeMessage renders octets as they are on the wire, without decrypting
// them, and says so if they are not an IKE message.
func DescribeMessage(b []byte) string {
	m, err := wire.Parse(b)
	if err != nil {
		return fmt.Sprintf("malformed(%d) %v", len(b), err)
	}
	return Describe(m.Header, m.Payloads)
}

func direction(h wire.Header) string {
	if h.IsResponse() {
		return "resp"
	}
	return "req"
}

// notation returns one payload in short.
func notation(h wire.Header, p wire.Payload) string {
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
		if len(p.SPIs) > 1 {
			return fmt.Sprintf("D(%s*%d)", p.Protocol, len(p.SPIs))
		}
		return "D(" + p.Protocol.String() + ")"
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
