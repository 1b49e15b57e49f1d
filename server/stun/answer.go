package stun

import (
	"net/netip"

	"github.com/pion/stun/v3"
)

const (
	// headerLen is the length of a STUN header (RFC 8489, Section 5).
	headerLen = 20
	// maxRequest is the longest request that is looked at, in octets: that of RFC 8489,
	// Section 6.1, for paths whose MTU is not known, less the IPv4 and UDP headers.
	maxRequest = 576 - 28
	// markerLen is the length of the non-ESP marker (RFC 3948, Section 2.2).
	markerLen = 4
)

// Result is what became of a datagram.
type Result uint8

// The results.
const (
	Answered   Result = iota
	Malformed         // no Binding request, or one that is cut short or has octets left over
	NoRoom            // the answer would be longer than the request
	Limited           // the source asks more often than it may
	SendFailed        // this host did not take the answer
	results
)

var resultNames = [results]string{"answered", "malformed", "no_room", "limited", "send_failed"}

// String returns the result as a label for metrics.
func (r Result) String() string { return resultNames[r] }

// binding is a Binding request (RFC 8489, Section 3), and the only thing that is answered.
var binding = stun.BindingRequest

// known are the attributes that have to be understood and are, or are none of this
// server's business: it asks for no credentials (RFC 8489, Section 9), so those that
// come are as good as any.
var known = map[stun.AttrType]bool{
	stun.AttrUsername: true, stun.AttrMessageIntegrity: true, stun.AttrMessageIntegritySHA256: true,
	stun.AttrRealm: true, stun.AttrNonce: true, stun.AttrUserhash: true, stun.AttrPasswordAlgorithm: true,
}

// An Answerer answers requests. It is for one goroutine, as what it returns is valid until
// the next call.
type Answerer struct {
	request, answer stun.Message
	out             []byte
}

// Answer returns the answer to a datagram that came from an endpoint, or nil and why there
// is none. It begins with the non-ESP marker if the request did.
func (a *Answerer) Answer(from netip.AddrPort, b []byte) ([]byte, Result) {
	if len(b) > maxRequest || from.Port() == 0 {
		return nil, Malformed
	}
	message := b
	marked := len(b) >= markerLen+headerLen && [markerLen]byte(b) == [markerLen]byte{}
	if marked {
		message = b[markerLen:]
	}
	if !a.parse(message) {
		return nil, Malformed
	}
	if !a.build(from) || len(a.answer.Raw) > len(message) {
		return nil, NoRoom
	}
	a.out = a.out[:0]
	if marked {
		a.out = append(a.out, make([]byte, markerLen)...)
	}
	a.out = append(a.out, a.answer.Raw...)
	return a.out, Answered
}

// parse reads a request into a.request, and reports whether it is one.
func (a *Answerer) parse(b []byte) bool {
	// Before the parser, whose errors cost memory.
	if !stun.IsMessage(b) || len(b) != headerLen+int(b[2])<<8+int(b[3]) {
		return false
	}
	a.request.Raw = append(a.request.Raw[:0], b...)
	if a.request.Decode() != nil || a.request.Type != binding {
		return false
	}
	if a.request.Contains(stun.AttrFingerprint) {
		return stun.Fingerprint.Check(&a.request) == nil // RFC 8489, Section 14.7
	}
	return true
}

// build makes the answer in a.answer: where the request came from, or which of its
// attributes are not known (RFC 8489, Section 6.3.1).
func (a *Answerer) build(from netip.AddrPort) bool {
	var unknown stun.UnknownAttributes
	for _, attr := range a.request.Attributes {
		if attr.Type.Required() && !known[attr.Type] {
			unknown = append(unknown, attr.Type)
		}
	}
	id := stun.NewTransactionIDSetter(a.request.TransactionID)
	if len(unknown) > 0 {
		return a.answer.Build(id, stun.BindingError, stun.ErrorCodeAttribute{Code: stun.CodeUnknownAttribute}, unknown) == nil
	}
	addr := from.Addr().Unmap()
	return a.answer.Build(id, stun.BindingSuccess, &stun.XORMappedAddress{IP: addr.AsSlice(), Port: int(from.Port())}) == nil
}
