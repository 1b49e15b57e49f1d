package esp

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// ahFixedLen is the AH without its ICV (RFC 4302, Section 2).
const ahFixedLen = 12

// AHLen returns how long the AH of suite s is in octets, padding included: a multiple
// of 32 bits in IPv4 and of 64 in IPv6 (RFC 4302, Section 3.3.3.2.1).
func AHLen(s suite.ESPSuite, v6 bool) int { return ahLen(s.IVLen()+s.ICVLen(), v6) }

func ahLen(variable int, v6 bool) int {
	n := ahFixedLen + variable
	if v6 {
		return (n + 7) &^ 7
	}
	return (n + 3) &^ 3
}

// AHOutbound is the sending side of an AH SA.
type AHOutbound struct {
	spi  uint32
	esn  bool
	seq  uint64 // last one used
	last uint64 // last one there is
	sum  *ahSum
}

// NewAHOutbound makes the sending side of an SA whose suite is of AH. Its first
// packet has sequence number 1.
func NewAHOutbound(c Config) (*AHOutbound, error) {
	sum, err := newAHSum(c)
	if err != nil {
		return nil, fmt.Errorf("make outbound SA: %w", err)
	}
	o := &AHOutbound{spi: c.SPI, esn: c.Suite.ESN, last: math.MaxUint32, sum: sum}
	if o.esn {
		o.last = math.MaxUint64
	}
	return o, nil
}

// SPI returns the SPI that the SA's packets carry.
func (o *AHOutbound) SPI() uint32 { return o.spi }

// Sequence returns the sequence number last used, 0 before the first packet.
func (o *AHOutbound) Sequence() uint64 { return o.seq }

// Seal appends the IP packet to dst with an AH in it, and returns it. The AH comes
// behind those extension headers that are processed on the way (RFC 4302, Section
// 3.1.1); Protocol or Next Header, length and checksum of the IP header are made
// anew. In transport mode packet is that of the sender; in tunnel mode the caller has
// put the outer header before it. dst and packet must not overlap. packet is changed
// only if it has a Fragment header that is to be taken off (Appendix A2).
//
// Errors: ErrSequenceExhausted, ErrMalformed, ErrFragment, ErrRoute, and
// ErrTooLong where the packet with its AH passes 65,535 octets.
func (o *AHOutbound) Seal(dst, packet []byte) ([]byte, error) {
	packet, h, err := parseAHPacket(packet)
	if err != nil {
		return dst, err
	}
	if o.seq >= o.last {
		return dst, ErrSequenceExhausted
	}
	at, n := h.insert, o.sum.headerLen(h.v6)
	start, whole := len(dst), len(packet)+n
	if whole-h.lengthBase() > math.MaxUint16 {
		return dst, ErrTooLong
	}
	dst = slices.Grow(dst, whole)[:start+whole]
	b := dst[start:]
	copy(b, packet[:at])
	copy(b[at+n:], packet[at:])

	ah := b[at : at+n]
	clear(ah)
	ah[0], ah[1] = b[h.insertNext], byte(n/4-2)
	b[h.insertNext] = protocolAH
	binary.BigEndian.PutUint32(ah[4:], o.spi)
	binary.BigEndian.PutUint32(ah[8:], uint32(o.seq+1))
	h.setLength(b)

	prepared, err := o.sum.prepare(b, h, at+n, true)
	if err != nil {
		return dst[:start], err
	}
	o.seq++
	if o.sum.gmac != nil {
		// Unique for the key, because it never wraps (RFC 4543, Section 3.1).
		binary.BigEndian.PutUint64(ah[ahFixedLen:], o.seq)
	}
	copy(ah[ahFixedLen+o.sum.ivLen:], o.sum.icv(prepared, b[at+n:], ah[ahFixedLen:], o.seq, o.esn))
	return dst, nil
}

// SetSequenceForTest makes seq the number last used.
func (o *AHOutbound) SetSequenceForTest(seq uint64) { o.seq = seq }

// AHPacket is what a packet with an AH carried.
type AHPacket struct {
	// Whole is the packet without its AH: in transport mode what the sender
	// had. It lies in the memory of the packet opened.
	Whole []byte
	// Payload is the part of Whole that was behind the AH: in tunnel mode the
	// inner packet.
	Payload []byte
	// NextHeader is the protocol of Payload.
	NextHeader uint8
	// Sequence is the whole sequence number, also of an SA without ESN.
	Sequence uint64
}

// AHInbound is the receiving side of an AH SA.
type AHInbound struct {
	spi    uint32
	esn    bool
	window window
	sum    *ahSum
}

// NewAHInbound makes the receiving side of an SA whose suite is of AH.
func NewAHInbound(c Config) (*AHInbound, error) {
	sum, err := newAHSum(c)
	if err != nil {
		return nil, fmt.Errorf("make inbound SA: %w", err)
	}
	size := c.ReplayWindow
	if size == 0 {
		size = DefaultReplayWindow
	}
	return &AHInbound{spi: c.SPI, esn: c.Suite.ESN, window: newWindow(size), sum: sum}, nil
}

// SPI returns the SPI of the SA.
func (in *AHInbound) SPI() uint32 { return in.spi }

// Highest returns the highest sequence number that was authenticated.
func (in *AHInbound) Highest() uint64 { return in.window.top }

// Missing is as Inbound.Missing.
func (in *AHInbound) Missing() uint64 { return in.window.missing }

// Open checks the IP packet b, which has an AH of this SA, and takes the AH out of
// it in place. The order is that of RFC 4302, Section 3.4: sequence number,
// integrity, and only then does the window move. On an error b holds nothing of use.
//
// Errors: ErrMalformed, ErrFragment, ErrRoute, ErrReplayed, ErrAuthentication.
func (in *AHInbound) Open(b []byte) (AHPacket, error) {
	b, h, err := parseAHPacket(b)
	if err != nil {
		return AHPacket{}, err
	}
	at, n := h.ah, 0
	if at == 0 || len(b) < at+ahFixedLen {
		return AHPacket{}, ErrMalformed
	}
	if n = (int(b[at+1]) + 2) * 4; !in.sum.fits(n, h.v6) || len(b) < at+n {
		return AHPacket{}, ErrMalformed
	}
	ah := b[at : at+n]
	seq := uint64(binary.BigEndian.Uint32(ah[8:]))
	if in.esn {
		var ok bool
		if seq, ok = in.window.extend(uint32(seq)); !ok {
			return AHPacket{}, ErrReplayed
		}
	}
	if !in.window.fresh(seq) {
		return AHPacket{}, ErrReplayed
	}
	prepared, err := in.sum.prepare(b, h, at+n, false)
	if err != nil {
		return AHPacket{}, err
	}
	clear(prepared[at+ahFixedLen:][:in.sum.ivLen+in.sum.icvLen])
	sum := in.sum.icv(prepared, b[at+n:], ah[ahFixedLen:], seq, in.esn)
	if subtle.ConstantTimeCompare(sum, ah[ahFixedLen+in.sum.ivLen:][:in.sum.icvLen]) != 1 {
		return AHPacket{}, ErrAuthentication
	}
	in.window.accept(seq)

	p := AHPacket{Payload: b[at+n:], NextHeader: ah[0], Sequence: seq}
	b[h.ahNext] = p.NextHeader
	copy(b[n:], b[:at]) // over the AH
	p.Whole = b[n:]
	h.setLength(p.Whole)
	return p, nil
}

// SetHighestForTest moves the window as if seq had arrived.
func (in *AHInbound) SetHighestForTest(seq uint64) { in.window.accept(seq) }
