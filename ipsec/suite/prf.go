package suite

import (
	"fmt"

	"github.com/swanherd/swanherd/ipsec/wire"
)

// ID returns the Transform ID of p.
func (p PRF) ID() wire.PRFID { return wire.PRFID(p) }

// String returns the keyword of p, such as "prfsha256".
func (p PRF) String() string {
	if h, ok := findMAC(prfs, uint16(p)); ok {
		return h.keyword
	}
	return wire.PRFID(p).String()
}

// Size returns the length of the output in octets, which is also the preferred
// key length (RFC 7296, Section 2.13). It is 0 for an unknown PRF.
func (p PRF) Size() int {
	h, _ := findMAC(prfs, uint16(p))
	return h.size
}

func (p PRF) spec() macSpec {
	h, ok := findMAC(prfs, uint16(p))
	if !ok {
		panic(fmt.Sprintf("suite: PRF %d is not implemented; a suite from Choose, Accept or Parse never holds it", uint16(p)))
	}
	return h
}

// Sum returns prf(key, parts[0] | parts[1] | ...) of RFC 7296, Section 2.13.
// It panics on a PRF that this package does not implement.
func (p PRF) Sum(key []byte, parts ...[]byte) []byte {
	h := p.spec()
	mac := h.new(key)
	for _, part := range parts {
		mac.Write(part)
	}
	return mac.Sum(make([]byte, 0, h.size))
}

// Plus returns the first n octets of prf+(key, seed) of RFC 7296, Section
// 2.13. It panics beyond 255 times Size, where prf+ is not defined; n comes
// from the key lengths of a suite and never from a peer.
func (p PRF) Plus(key, seed []byte, n int) []byte {
	h := p.spec()
	if n < 0 || n > 255*h.size {
		panic(fmt.Sprintf("suite: prf+ of %d octets is not defined for %s", n, p))
	}
	blocks := (n + h.size - 1) / h.size
	out := make([]byte, 0, blocks*h.size)
	mac := h.new(key)
	for i := 1; i <= blocks; i++ {
		mac.Reset()
		if i > 1 {
			mac.Write(out[len(out)-h.size:])
		}
		mac.Write(seed)
		mac.Write([]byte{byte(i)})
		out = mac.Sum(out)
	}
	clear(out[n:]) // what is not handed out is still key material
	return out[:n:n]
}
