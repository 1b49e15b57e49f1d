package esp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/swanherd/swanherd/ipsec/suite"
)

// Next Header values of tunnel mode and of dummy packets (RFC 4303, Section 2.6).
const (
	NextHeaderIPv4 = 4
	NextHeaderIPv6 = 41
	NextHeaderNone = 59 // a dummy packet: the receiver discards it
)

// TrailerRoom is how many octets behind a payload Seal uses for the ESP
// trailer while it works.
const TrailerRoom = 24

const (
	headerLen  = 8 // SPI and sequence number
	aeadIVLen  = 8 // RFC 4106, Section 3.1; RFC 7634, Section 2; RFC 4309, Section 3.1
	maxSaltLen = 4
)

// MinSPI is the lowest SPI that may be assigned (RFC 4303, Section 2.1).
const MinSPI = 256

// What can be wrong with a packet or an SA. None of them says more, because
// they arise once per hostile packet.
var (
	// ErrSequenceExhausted: the SA has used its last sequence number and
	// will never send again; it must be rekeyed (RFC 4303, Section 3.3.3).
	ErrSequenceExhausted = errors.New("sequence numbers of the SA are used up: rekey it")
	// ErrReplayed: the sequence number was seen before or lies left of the
	// window (RFC 4303, Section 3.4.3).
	ErrReplayed = errors.New("packet is replayed or older than the window")
	// ErrAuthentication: the integrity check value is wrong.
	ErrAuthentication = errors.New("packet fails its integrity check")
	// ErrMalformed: the packet is too short, its padding is wrong, or a header
	// says what cannot be.
	ErrMalformed = errors.New("packet is malformed")
	// ErrNoTrailerRoom: Seal was given a payload without TrailerRoom
	// octets of capacity behind it.
	ErrNoTrailerRoom = errors.New("payload has no room for the ESP trailer behind it")
	// ErrFragment: AH is of whole packets alone (RFC 4302, Sections 3.3.4
	// and 3.4.1).
	ErrFragment = errors.New("AH cannot be in a fragment: reassemble the packet first")
	// ErrRoute: how the routing header will look at the end of the way is not
	// known, or the packet has not come to its end yet (RFC 4302, Appendix A).
	ErrRoute = errors.New("AH cannot cover the route that is left in the packet")
	// ErrTooLong: the length does not fit into the IP header.
	ErrTooLong = errors.New("IP packet with its AH is longer than 65,535 octets")
)

// Config describes one direction of an SA of ESP or AH.
type Config struct {
	SPI   uint32
	Suite suite.ESPSuite
	// Key is the keying material as suite.DeriveChildKeys makes it: cipher
	// key, salt, integrity key. It is not kept; the caller zeroes it.
	Key []byte
	// ReplayWindow is in packets, from MinReplayWindow to MaxReplayWindow,
	// or 0 for DefaultReplayWindow. Inbound only.
	ReplayWindow int
}

// validate is for ESP, validateCommon for AH as well.
func (c Config) validate() error {
	if c.Suite.AH {
		return fmt.Errorf("%s is a suite of AH, not of ESP", c.Suite)
	}
	return c.validateCommon()
}

func (c Config) validateCommon() error {
	if c.SPI < MinSPI {
		return fmt.Errorf("SPI %d is reserved: assign one of %d or above", c.SPI, MinSPI)
	}
	if c.ReplayWindow != 0 && (c.ReplayWindow < MinReplayWindow || c.ReplayWindow > MaxReplayWindow) {
		return fmt.Errorf("replay window of %d packets: choose %d to %d", c.ReplayWindow, MinReplayWindow, MaxReplayWindow)
	}
	return c.Suite.Validate()
}

// Overhead returns by how many octets an ESP packet of suite s is longer than a
// payload of n octets: header, IV, padding, trailer and ICV.
func Overhead(s suite.ESPSuite, n int) int {
	align := alignment(s)
	pad := (align - (n+2)%align) % align
	return headerLen + s.IVLen() + pad + 2 + s.ICVLen()
}

// MaxPayload returns the longest payload whose ESP packet under suite s has at most
// limit octets, 0 if there is none.
func MaxPayload(s suite.ESPSuite, limit int) int {
	return maxPayload(limit, headerLen+s.IVLen()+2+s.ICVLen(), alignment(s))
}

// maxPayload: fixed are the octets beside payload and padding.
func maxPayload(limit, fixed, align int) int {
	return max(0, (limit-fixed+2)&^(align-1)-2)
}

// alignment is what the plaintext must be a multiple of (RFC 4303, Section 2.4).
func alignment(s suite.ESPSuite) int { return max(4, s.BlockLen()) }

// additional writes the data that a combined-mode cipher authenticates beside
// the ciphertext and returns its length (RFC 4106, Section 5).
func additional(aad *[12]byte, spi uint32, seq uint64, esn bool) int {
	binary.BigEndian.PutUint32(aad[:], spi)
	if esn {
		binary.BigEndian.PutUint64(aad[4:], seq)
		return 12
	}
	binary.BigEndian.PutUint32(aad[4:], uint32(seq))
	return 8
}
