package ike

import "github.com/swanherd/swanherd/ipsec/wire"

// maxGrowth is by how much of the request the response to IKE_SA_INIT may be
// longer for the sake of a list of authentication methods: its source address may
// be forged, and the peer can do without.
const maxGrowth = 4 // a quarter

// announceMethods returns what the response to IKE_SA_INIT, of size octets so
// far, says about the authentication methods that are accepted: all of them, or,
// if that is too much, that the list comes in IKE_INTERMEDIATE, where there is
// one (RFC 9593, Section 3.1).
func (h *HalfOpen) announceMethods(request *message, size int) []wire.Payload {
	if h.cfg.Methods == 0 {
		return nil
	}
	n := h.cfg.Methods.Notify()
	switch most := len(request.raw) + len(request.raw)/maxGrowth; {
	case size+notifyLen+len(n.Data) <= most:
		return []wire.Payload{n}
	case len(h.sa.init.pending) > 0 && size+notifyLen <= most:
		h.sa.init.announce = h.cfg.Methods
		return []wire.Payload{&wire.Notify{Kind: n.Kind}}
	}
	return nil
}

// notifyLen is the length of a Notify payload without SPI and data.
const notifyLen = 8

// lateMethods returns the list that announceMethods has promised, for the last
// response to IKE_INTERMEDIATE. It refers to no authority, so CERTREQ need not be
// repeated.
func (i *initState) lateMethods() []wire.Payload {
	if i.announce == 0 || len(i.pending) > 1 {
		return nil
	}
	return []wire.Payload{i.announce.Notify()}
}
