package ident

import (
	"slices"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// Octets is what a peer signs: RealMessage | Nonce | MACedID of RFC 7296,
// Section 2.15, and IntAuth of RFC 9242, Section 3.3.2, with the PRF that
// pre-shared keys are mixed in by.
type Octets struct {
	prf suite.PRF
	b   []byte
}

// SignedOctets builds the octets that one side signs: its own IKE_SA_INIT
// message as it was sent last, the nonce of the other side, and prf(SK_p,
// ID'). idBody is its ID payload less the generic header, as it was sent
// (wire.ID.Body). intAuth is IntAuth of RFC 9242, Section 3.3.2, empty if there
// was no IKE_INTERMEDIATE exchange.
func SignedOctets(message, peerNonce []byte, prf suite.PRF, skP, idBody, intAuth []byte) Octets {
	return Octets{prf: prf, b: slices.Concat(message, peerNonce, prf.Sum(skP, idBody), intAuth)}
}

// keyPad is 17 ASCII characters without terminator (RFC 7296, Section 2.15).
const keyPad = "Key Pad for IKEv2"

// sharedKeyAuth is AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"),
// octets).
func (o Octets) sharedKeyAuth(psk PSK) []byte {
	padded := o.prf.Sum(psk, []byte(keyPad))
	defer clear(padded)
	return o.prf.Sum(padded, o.b)
}

// ResumedAuth is the AUTH of a resumed IKE SA, prf(SK_p, octets), with SK_pi or
// SK_pr of the end that makes it (RFC 5723, Section 4.3.3).
func (o Octets) ResumedAuth(skP []byte) []byte { return o.prf.Sum(skP, o.b) }
