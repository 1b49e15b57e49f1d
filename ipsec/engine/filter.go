package engine

import (
	"encoding/binary"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// route is where a datagram belongs.
type route uint8

const (
	routeDrop      route = iota
	routeInit            // IKE_SA_INIT request: no SPI of ours yet
	routeSPI             // to the owner of our SPI
	routeComplaint       // a complaint outside of any IKE SA
	routeVersion         // to who answers other major versions
)

// classify decides by the header alone where a datagram goes. It keeps no
// state, allocates nothing and costs the same for any garbage.
func classify(b []byte) (r route, ours wire.SPI, reason DropReason) {
	if len(b) < wire.HeaderLen {
		return routeDrop, ours, DropTooShort // without the parser's error, which costs memory
	}
	h, err := wire.ParseHeader(b)
	switch {
	case err != nil:
		return routeDrop, ours, DropTooShort
	case uint64(h.Length) != uint64(len(b)):
		return routeDrop, ours, DropLength
	case h.Major != 2:
		return routeVersion, ours, DropVersion
	case h.InitiatorSPI.IsZero(): // RFC 7296, Section 3.1
		if isComplaint(h) {
			return routeComplaint, ours, 0
		}
		return routeDrop, ours, DropSPI
	case h.Exchange == wire.ExchangeIKESAInit || h.Exchange == wire.ExchangeIKESessionResume:
		return classifyInit(h)
	case h.ResponderSPI.IsZero(): // Section 2.6: only IKE_SA_INIT may
		return routeDrop, ours, DropSPI
	case h.FromInitiator(): // Section 2.6: the flag says which SPI is ours
		return routeSPI, h.ResponderSPI, 0
	}
	return routeSPI, h.InitiatorSPI, 0
}

// isComplaint reports whether a header is that of a message about an unknown ESP
// SPI, which may have zero IKE SPIs (RFC 7296, Section 1.5).
func isComplaint(h wire.Header) bool {
	return h.Exchange == wire.ExchangeInformational && !h.IsResponse() && h.NextPayload == wire.PayloadNotify
}

// classifyInit checks what the first exchange must look like (RFC 7296,
// Sections 2.2, 2.6 and 3.1).
func classifyInit(h wire.Header) (r route, ours wire.SPI, reason DropReason) {
	switch {
	case h.MessageID != 0 || h.FromInitiator() == h.IsResponse():
		return routeDrop, ours, DropFlags
	case h.IsResponse():
		return routeSPI, h.InitiatorSPI, 0
	case !h.ResponderSPI.IsZero():
		return routeDrop, ours, DropSPI
	}
	return routeInit, ours, 0
}

// scanInit finds the nonce and the cookie, if there is one, of an IKE_SA_INIT
// request that passed classify, without allocating: it runs while strangers
// flood this host. The slices are parts of b. Everything else about the
// message is checked by the parser, once it is worth the work.
func scanInit(b []byte) (nonce, cookie []byte, ok bool) {
	const genericHeader, notifyHeader = 4, 4
	next := wire.PayloadType(b[16])
	rest := b[wire.HeaderLen:]
	for first := true; next != wire.PayloadNone; first = false {
		if len(rest) < genericHeader {
			return nil, nil, false
		}
		n := int(binary.BigEndian.Uint16(rest[2:]))
		if n < genericHeader || n > len(rest) {
			return nil, nil, false
		}
		body := rest[genericHeader:n]
		switch {
		case next == wire.PayloadNonce && nonce == nil:
			nonce = body
		case next == wire.PayloadNotify && first && len(body) >= notifyHeader:
			// The cookie comes first (RFC 7296, Section 2.6), without an SPI.
			kind := wire.NotifyType(binary.BigEndian.Uint16(body[2:]))
			if kind == wire.NotifyCookie && body[1] == 0 {
				cookie = body[notifyHeader:]
			}
		}
		next, rest = wire.PayloadType(rest[0]), rest[n:]
	}
	// RFC 7296, Section 3.9: 16 to 256 octets.
	return nonce, cookie, len(nonce) >= 16 && len(nonce) <= 256
}
